// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A stream is a TCP transfer: between whom, and what.
type stream struct {
	from, to netip.AddrPort // of the bytes
	size     int
	sum      [sha256.Size]byte
}

func (s stream) String() string { return fmt.Sprintf("%v to %v", s.from, s.to) }

// transfer sends size bytes over TCP from the peer to host in the sender's
// namespace.
func (w *world) transfer(host string, size int) stream {
	w.t.Helper()
	return w.bulk(w.peer, w.sender, host, size)
}

// bulk sends size random bytes over TCP from one namespace to host in another.
//
// Both ends run on one CPU, and so does all that the kernel does for them: a
// veth between two CPUs keeps no order, and then a segment would be missing for
// a while on the wire itself.
func (w *world) bulk(from, to, host string, size int) stream {
	w.t.Helper()
	var l net.Listener
	w.inside(to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
		return err
	})
	defer l.Close()
	testnet.Bound(w.t, l.(*net.TCPListener))
	sum := make(chan [sha256.Size]byte, 1)
	go func() {
		h := sha256.New()
		if err := onOneCPU(); err == nil {
			if c, err := l.Accept(); err == nil {
				c.SetDeadline(time.Now().Add(testnet.Patience))
				io.Copy(h, c)
				c.Close()
			}
		}
		sum <- [sha256.Size]byte(h.Sum(nil))
	}()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size), byte(l.Addr().(*net.TCPAddr).Port)}).Read(data)
	s := stream{to: l.Addr().(*net.TCPAddr).AddrPort(), size: size, sum: sha256.Sum256(data)}
	w.inside(from, func() error {
		if err := onOneCPU(); err != nil {
			return err
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(testnet.Patience))
		s.from = c.LocalAddr().(*net.TCPAddr).AddrPort()
		if _, err := c.Write(data); err != nil {
			return err
		}
		return c.Close()
	})
	if got := testnet.Receive(w.t, "the receiver's end", sum); got != s.sum {
		w.t.Errorf("the transfer itself went wrong")
	}
	return s
}

// onOneCPU has the goroutine run on the first CPU that the test may use, on a
// thread that ends with it.
func onOneCPU() error {
	runtime.LockOSThread()
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	for cpu := range 1024 {
		if may.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	return unix.SchedSetaffinity(0, &one)
}

// How much of the frames of streams is to be there.
const (
	whole   = iota
	masked  // zeros for payload
	headers // up to their end, and the lengths
)

// judge wants the streams in a recording, from SYN to FIN, as a wire would have
// seen them, or what of it there is to be: to gopacket no byte is missing and
// those that came are those that were sent; to tshark every checksum is right,
// none is left out, and no segment is missing. It returns the number of frames.
func (w *world) judge(file string, what int, streams ...stream) int {
	w.t.Helper()
	packets := testnet.ReadCapture(w.t, file)
	ways := map[[2]netip.AddrPort]*way{}
	for _, s := range streams {
		ways[[2]netip.AddrPort{s.from, s.to}] = &way{size: s.size, seen: make([]bool, s.size), data: make([]byte, s.size)}
		ways[[2]netip.AddrPort{s.to, s.from}] = &way{}
	}
	n := 0
	for i, p := range packets {
		if p.OrigLen > 1514 {
			w.t.Fatalf("%s: frame %d has %d bytes", filepath.Base(file), i+1, p.OrigLen)
		}
		ends, tcp, size := segment(p.Data)
		if tcp == nil {
			continue
		}
		n++
		if to := ways[ends]; to == nil {
			w.t.Errorf("%s: frame %d is from %v, to %v", filepath.Base(file), i+1, ends[0], ends[1])
		} else if wrong := to.take(tcp, size, what); wrong != "" {
			w.t.Errorf("%s: frame %d, %v: %s", filepath.Base(file), i+1, ends, wrong)
		}
		if w.t.Failed() {
			w.t.FailNow()
		}
	}
	for _, s := range streams {
		there, back := ways[[2]netip.AddrPort{s.from, s.to}], ways[[2]netip.AddrPort{s.to, s.from}]
		if wrong := there.end(what, s.sum); wrong != "" {
			w.t.Errorf("%s: %v: %s", filepath.Base(file), s, wrong)
		}
		if wrong := back.end(headers, s.sum); wrong != "" || back.acked-there.isn != uint32(s.size)+2 {
			w.t.Errorf("%s: %v, the way back: %s; %d bytes were acknowledged", filepath.Base(file), s, wrong, back.acked-there.isn)
		}
	}
	w.tshark(file, what, n)
	return n
}

// segment returns the two ends of a TCP frame, its TCP header, which has the
// payload that was captured behind it, and the length of the payload on the
// wire, bytes. IPv6 has to have no extension header.
func segment(frame []byte) (ends [2]netip.AddrPort, tcp *layers.TCP, size int) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	var from, to net.IP
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		from, to, size = ip.SrcIP, ip.DstIP, int(ip.Length)-int(ip.IHL)*4
	case *layers.IPv6:
		from, to, size = ip.SrcIP, ip.DstIP, int(ip.Length)
		if ip.NextHeader != layers.IPProtocolTCP {
			return ends, nil, 0
		}
	default:
		return ends, nil, 0
	}
	tcp, _ = p.TransportLayer().(*layers.TCP)
	if tcp == nil {
		return ends, nil, 0
	}
	a, _ := netip.AddrFromSlice(from)
	b, _ := netip.AddrFromSlice(to)
	ends = [2]netip.AddrPort{netip.AddrPortFrom(a, uint16(tcp.SrcPort)), netip.AddrPortFrom(b, uint16(tcp.DstPort))}
	return ends, tcp, size - int(tcp.DataOffset)*4
}

// A way is one direction of a stream.
type way struct {
	size     int
	isn      uint32 // of the SYN
	syn, fin bool
	seen     []bool // of each byte
	data     []byte
	acked    uint32
}

// take takes a segment, and says what is wrong with it.
func (y *way) take(tcp *layers.TCP, size, what int) string {
	if tcp.SYN {
		y.syn, y.isn = true, tcp.Seq
		return ""
	}
	if tcp.ACK {
		y.acked = tcp.Ack
	}
	at := int(tcp.Seq - y.isn - 1)
	switch {
	case y.fin && size == 0 && at == y.size+1:
		return "" // it acknowledges what comes behind its own end
	case !y.syn || at < 0 || at+size > y.size:
		return fmt.Sprintf("%d bytes at %d of %d; a SYN was there: %v", size, at, y.size, y.syn)
	case tcp.FIN && at+size != y.size:
		return fmt.Sprintf("the end is at %d of %d", at+size, y.size)
	case what == headers && len(tcp.Payload) > 0:
		return fmt.Sprintf("%d bytes of payload", len(tcp.Payload))
	case what != headers && len(tcp.Payload) != size:
		return fmt.Sprintf("%d bytes of payload, of %d", len(tcp.Payload), size)
	case what == masked && len(bytes.Trim(tcp.Payload, "\x00")) > 0:
		return fmt.Sprintf("payload: %x", head(tcp.Payload))
	}
	y.fin = y.fin || tcp.FIN
	for i := range size {
		if what == whole && y.seen[at+i] && y.data[at+i] != tcp.Payload[i] {
			return fmt.Sprintf("byte %d was sent twice, with two values", at+i)
		}
		y.seen[at+i] = true
	}
	copy(y.data[at:], tcp.Payload)
	return ""
}

// end says what is missing.
func (y *way) end(what int, sum [sha256.Size]byte) string {
	if !y.syn || !y.fin {
		return fmt.Sprintf("SYN: %v, FIN: %v", y.syn, y.fin)
	}
	for i, seen := range y.seen {
		if !seen {
			return fmt.Sprintf("byte %d of %d, and perhaps others, did not come", i, y.size)
		}
	}
	if what == whole && sha256.Sum256(y.data) != sum {
		return "other bytes came than were sent"
	}
	return ""
}

// tshark wants n TCP frames in a recording, with all that judge says of tshark.
func (w *world) tshark(file string, what, n int) {
	w.t.Helper()
	var errs bytes.Buffer
	cmd := testnet.Command(w.t, "tshark", "-r", file, "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "tcp.desegment_tcp_streams:FALSE",
		"-Y", "tcp", "-T", "fields", "-E", "separator=,", "-e", "frame.number", "-e", "ip.version", "-e", "ip.checksum.status", "-e", "tcp.checksum.status",
		"-e", "frame.len", "-e", "frame.cap_len", "-e", "tcp.analysis.lost_segment", "-e", "tcp.analysis.ack_lost_segment")
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("tshark -r %s: %v\n%s", file, err, &errs)
	}
	lines, wrong := strings.Split(strings.TrimSpace(string(out)), "\n"), 0
	for _, line := range lines {
		f := strings.Split(line, ",")
		if len(f) != 8 {
			w.t.Fatalf("tshark said %q", line)
		}
		tcp := "1" // good; 2: not looked at
		if what == headers && f[4] != f[5] {
			tcp = "2"
		}
		if f[1] == "4" && f[2] != "1" || f[3] != tcp || f[6]+f[7] != "" {
			if wrong++; wrong < 10 {
				w.t.Errorf("%s: tshark says of frame %s: IPv%s, checksums %s and %s, %s of %s bytes, a lost segment %q, an acknowledged one %q",
					filepath.Base(file), f[0], f[1], f[2], f[3], f[5], f[4], f[6], f[7])
			}
		}
	}
	if wrong > 0 || len(lines) != n {
		w.t.Errorf("%s: tshark looked at %d TCP frames, of %d, and found %d of them wrong", filepath.Base(file), len(lines), n, wrong)
	}
}

// offloaded wants in a recording of the tapped interface frames of more bytes
// than so of every stream, and returns how many frames of TCP there are, and how
// many of them have a payload.
func offloaded(t *testing.T, file string, more func(stream) int, streams ...stream) (frames, loaded int) {
	t.Helper()
	longest := map[[2]netip.AddrPort]int{}
	for _, p := range testnet.ReadCapture(t, file) {
		if p.Data[12] == 0x88 {
			continue // a marker
		}
		ends, size := endsOf(p.Data, int(p.OrigLen))
		longest[ends] = max(longest[ends], int(p.OrigLen))
		frames++
		if size > 0 {
			loaded++
		}
	}
	for _, s := range streams {
		if n := longest[[2]netip.AddrPort{s.from, s.to}]; n <= more(s) {
			t.Errorf("%v: the longest frame has %d bytes, not more than %d: this kernel did not offload", s, n, more(s))
		}
	}
	return frames, loaded
}

// endsOf is segment for a TCP frame that may be of BIG TCP, which gopacket does
// not know: with lengths of 0, and a hop-by-hop header. It had length bytes.
func endsOf(d []byte, length int) (ends [2]netip.AddrPort, size int) {
	at, from, to := 14+20, d[26:30], d[30:34]
	if d[12] == 0x86 {
		if at, from, to = 14+40, d[22:38], d[38:54]; d[20] == 0 {
			at += 8
		}
	}
	a, _ := netip.AddrFromSlice(from)
	b, _ := netip.AddrFromSlice(to)
	port := func(i int) uint16 { return uint16(d[at+i])<<8 | uint16(d[at+i+1]) }
	return [2]netip.AddrPort{netip.AddrPortFrom(a, port(0)), netip.AddrPortFrom(b, port(2))}, length - at - int(d[at+12]>>4)*4
}
