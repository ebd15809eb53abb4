// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// marker returns a frame that stands before or after those that a test
// compares; under an experimental EtherType (IEEE 802, 0x88B5).
func marker(text string) []byte {
	f := append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xB5}, "ntap test marker "+text...)
	return append(f, make([]byte, 60-min(60, len(f)))...)
}

// between returns the packets of a file from one marker to the other.
func between(t *testing.T, file string) []testnet.Packet {
	t.Helper()
	all := testnet.ReadCapture(t, file)
	from, to := -1, -1
	for i, p := range all {
		if bytes.Equal(p.Data, marker("begin")) {
			from = i
		}
		if bytes.Equal(p.Data, marker("end")) {
			to = i
		}
	}
	if from < 0 || to < from {
		t.Fatalf("%s: %d packets, begin %d, end %d", file, len(all), from, to)
	}
	return all[from : to+1]
}

// mixedFrames returns raw frames of the kinds a tap meets: sizes from 60 to
// 9,000 bytes, VLAN, priority tag, QinQ, 802.1ad, ARP, IPv6, and no IP at all.
func mixedFrames() (frames [][]byte) {
	mac := []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8}
	add := func(tags []byte, etherType uint16, size int) {
		f := append(bytes.Clone(mac), tags...)
		f = binary.BigEndian.AppendUint16(f, etherType)
		for i := len(f); i < size; i++ {
			f = append(f, byte(i*7))
		}
		frames = append(frames, f)
	}
	for _, size := range []int{60, 61, 64, 128, 594, 1413, 1414, 1415, 1514, 2000, 2860, 4096, 8000, 9000} {
		add(nil, 0x88B6, size)
		add([]byte{0x81, 0, 0x20, 100}, 0x88B6, size)                  // VLAN 100, priority 1
		add([]byte{0x81, 0, 0xE0, 0}, 0x88B6, size)                    // priority tag, VLAN 0
		add([]byte{0x88, 0xA8, 0, 200}, 0x88B6, size)                  // 802.1ad
		add([]byte{0x88, 0xA8, 0, 200, 0x81, 0, 0, 100}, 0x88B6, size) // QinQ
		add([]byte{0x81, 0, 0, 200, 0x81, 0, 0, 100}, 0x88B6, size)
	}
	return frames
}

// What tcpdump records on the collector's TAP is byte for byte what it records
// on the tapped interface, and no datagram between is an IP fragment.
func TestTapEqualsTappedInterface(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ name, host, collector string }{
		{"IPv4", "10.99.0.2", "10.99.0.2:5678"}, {"IPv6", "fd99::2", "[fd99::2]:5678"},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			for ns, iface := range map[string]string{w.sender: "t0", w.peer: "p0"} {
				w.in(ns, "ip", "link", "set", iface, "mtu", "9000")
				w.in(ns, "ethtool", "-K", iface, "gro", "off", "gso", "off", "tso", "off", "tx", "off", "rx", "off")
			}
			w.in(w.sender, "ping", "-q", "-c", "1", "-w", "60", v.host) // the neighbour is known then
			c := w.startCollector("-i", "ntap0")
			tapFile, wireFile, outerFile := filepath.Join(w.dir, "tap.pcap"), filepath.Join(w.dir, "wire.pcap"), filepath.Join(w.dir, "outer.pcap")
			onTap := w.startTcpdump(w.collector, "ntap0", tapFile)
			onWire := w.startTcpdump(w.sender, "t0", wireFile)
			outer := w.startTcpdump(w.collector, "up1", outerFile)
			r := w.start(w.sender, ntapBinary, "remote", "-i", "t0", "-c", v.collector, "--key-file", w.key, "--tap", "1")
			r.wait("remote started")

			w.inject(w.peer, "p0", marker("begin"))
			w.in(w.peer, "ping", "-q", "-c", "3", "-i", "0.05", "-s", "8000", "10.98.0.1")
			w.in(w.peer, "ping", "-q", "-c", "3", "-i", "0.05", "-s", "1000", "fd98::1")
			w.httpAndUDP()
			w.inject(w.peer, "p0", mixedFrames()...)
			w.inject(w.sender, "t0", mixedFrames()...)
			w.inject(w.peer, "p0", marker("end"))

			onWire.until("the end was captured", func() bool { return fileHas(wireFile, marker("end")) })
			onTap.until("the end came out", func() bool { return fileHas(tapFile, marker("end")) })
			rText := r.stop()
			onWire.stop()
			onTap.stop()
			outer.until("it recorded the path", func() bool { return packets(outerFile) > 10 })
			outer.stop()
			cText := c.stop()

			want, got := between(t, wireFile), between(t, tapFile)
			kinds := map[string]int{}
			for _, p := range want {
				kinds[etherKind(p.Data)]++
			}
			for _, kind := range []string{"TCP", "UDP", "ICMP", "ARP", "ICMPv6", "VLAN", "QinQ", "802.1ad"} {
				if kinds[kind] == 0 {
					t.Errorf("no %s among the frames: %v", kind, kinds)
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d frames on the wire, %d on the TAP", len(want), len(got))
			}
			sameFrames(t, want, got)
			captured := account(rText, "frames captured")
			if n := account(cText, "frames written to TAP"); captured < len(want) || n != captured || account(cText, "frames lost") != 0 {
				t.Errorf("%d captured, %d written:\n%s%s", captured, n, rText, cText)
			}
			datagrams := 0
			for _, p := range testnet.ReadCapture(t, outerFile) {
				switch ip := p.Data[14:]; {
				case ip[0]>>4 == 4 && binary.BigEndian.Uint16(ip[6:])&0x3FFF != 0, ip[0]>>4 == 6 && ip[6] == 44:
					t.Fatal("an outer datagram is an IP fragment")
				case ip[0]>>4 == 4 && ip[9] == 17, ip[0]>>4 == 6 && ip[6] == 17:
					datagrams++
				}
			}
			if datagrams == 0 {
				t.Error("no datagrams seen on the path")
			}
		})
	}
}

// sameFrames wants the frames of want, in their order. Those that two CPUs
// handed to the two captures at the same time may have passed each other: not
// those of mixedFrames, which come from one.
func sameFrames(t *testing.T, want, got []testnet.Packet) {
	t.Helper()
	const passing = 16
	came := make([]bool, len(got))
	mixed := -1 // where the last of mixedFrames was found
	for i, p := range want {
		at := i
		for n := -passing; came[at] || !bytes.Equal(got[at].Data, p.Data); n++ {
			if n > passing {
				t.Fatalf("frame %d of the wire, %d bytes %x, is not among those of the TAP; there is %d bytes %x",
					i, len(p.Data), head(p.Data), len(got[i].Data), head(got[i].Data))
			}
			at = min(max(i+n, 0), len(got)-1)
		}
		came[at] = true
		if fromMixed := p.Data[5] == 9 && p.Data[11] == 8; fromMixed {
			if at < mixed {
				t.Fatalf("frame %d of the wire, %d bytes %x, comes before one that it followed", i, len(p.Data), head(p.Data))
			}
			mixed = at
		}
	}
}

func head(b []byte) []byte { return b[:min(len(b), 40)] }

// etherKind names what a frame carries.
func etherKind(f []byte) string {
	switch t := binary.BigEndian.Uint16(f[12:]); {
	case t == 0x88A8 && binary.BigEndian.Uint16(f[16:]) == 0x8100, t == 0x8100 && binary.BigEndian.Uint16(f[16:]) == 0x8100:
		return "QinQ"
	case t == 0x88A8:
		return "802.1ad"
	case t == 0x8100:
		return "VLAN"
	case t == 0x0806:
		return "ARP"
	case t == 0x0800:
		return map[byte]string{1: "ICMP", 6: "TCP", 17: "UDP"}[f[23]]
	case t == 0x86DD:
		return map[byte]string{58: "ICMPv6", 6: "TCP", 17: "UDP"}[f[20]]
	}
	return "other"
}

// httpAndUDP makes a small HTTP transfer and a few UDP datagrams between peer
// and sender.
func (w *world) httpAndUDP() {
	w.t.Helper()
	w.http(100_000, 1, func() {})
	w.udp(50)
}

// http transfers size bytes from sender to peer, several times, and calls
// between after each. There is one listener: that of a port which was closed just
// now can still be open in a program that is being started meanwhile.
func (w *world) http(size, times int, between func()) {
	w.t.Helper()
	var l net.Listener
	w.inside(w.sender, func() (err error) { l, err = net.Listen("tcp", "10.98.0.1:8080"); return })
	body := bytes.Repeat([]byte("ntap "), size/5)
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(body) })}
	go srv.Serve(l)
	defer srv.Close()
	for range times {
		w.get(body)
		between()
	}
}

// get has peer ask sender for body.
func (w *world) get(body []byte) {
	w.t.Helper()
	var tcp net.Conn
	w.inside(w.peer, func() (err error) { tcp, err = net.Dial("tcp", "10.98.0.1:8080"); return })
	defer tcp.Close()
	testnet.Bound(w.t, tcp)
	fmt.Fprintf(tcp, "GET / HTTP/1.0\r\n\r\n")
	got, err := io.ReadAll(tcp)
	if err != nil || !bytes.HasSuffix(got, body) {
		w.t.Fatalf("HTTP: %d bytes, %v", len(got), err)
	}
}

// udp sends n datagrams, each 100 bytes longer than the last.
func (w *world) udp(n int) {
	w.t.Helper()
	var udp net.Conn
	w.inside(w.peer, func() (err error) { udp, err = net.Dial("udp", "10.98.0.1:9"); return })
	defer udp.Close()
	for i := range n {
		udp.Write(make([]byte, i*100))
	}
}

// The tap never captures its own datagrams, on the interface that it sends on,
// and leaves out nothing else that goes to the collector. Without the rule
// each datagram would make another, without end.
func TestNeverTapsItself(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ name, mark string }{{"mark", "0x3074"}, {"content", "0"}} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			c := w.startCollector("-i", "ntap0")
			tapFile := filepath.Join(w.dir, "tap.pcap")
			onTap := w.startTcpdump(w.collector, "ntap0", tapFile)
			r := w.startRemote("-i", "up0", "--mark", v.mark)
			w.tapItself(t, w.sender, "up0", tapFile, onTap)
			checkNotItself(t, r.stop(), c.stop(), tapFile)
		})
	}
}

// The same on the other end of the sending interface: a veth whose peer is a
// port of a bridge, where the datagrams pass as anybody's.
func TestNeverTapsItselfAtTheOtherEnd(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ name, mark string }{{"mark", "0x3074"}, {"content", "0"}} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			w.in(w.sender, "ip", "addr", "flush", "dev", "up0")
			w.in(w.sender, "ip", "link", "add", "br0", "type", "bridge")
			w.in(w.sender, "ip", "link", "add", "own0", "type", "veth", "peer", "name", "own1")
			for _, iface := range []string{"own1", "up0"} {
				w.in(w.sender, "ip", "link", "set", iface, "master", "br0")
			}
			w.in(w.sender, "ip", "addr", "add", "10.99.0.1/24", "dev", "own0")
			for _, iface := range []string{"br0", "own0", "own1"} {
				w.in(w.sender, "ip", "link", "set", iface, "up")
			}
			w.in(w.sender, "ping", "-q", "-c", "1", "-w", "60", "10.99.0.2")
			c := w.startCollector("-i", "ntap0")
			tapFile := filepath.Join(w.dir, "tap.pcap")
			onTap := w.startTcpdump(w.collector, "ntap0", tapFile)
			r := w.startRemote("-i", "own1", "--mark", v.mark)
			w.tapItself(t, w.sender, "own0", tapFile, onTap)
			checkNotItself(t, r.stop(), c.stop(), tapFile)
		})
	}
}

// tapItself makes traffic to the collector's host that is not ntap's, also to
// ntap's own port, for longer than reports and announces need to go out.
func (w *world) tapItself(t *testing.T, ns, iface, tapFile string, onTap *proc) {
	t.Helper()
	w.inject(ns, iface, marker("begin"))
	w.in(ns, "ping", "-q", "-c", "20", "-i", "0.1", "10.99.0.2")
	var udp net.Conn
	w.inside(ns, func() (err error) { udp, err = net.Dial("udp", "10.99.0.2:5678"); return })
	defer udp.Close()
	for range 10 {
		udp.Write([]byte("not a datagram of ntap, but to its port"))
	}
	w.inject(ns, iface, marker("end"))
	onTap.until("the end came out", func() bool { return fileHas(tapFile, marker("end")) })
	onTap.stop()
}

func checkNotItself(t *testing.T, rText, cText, tapFile string) {
	t.Helper()
	pings, others := 0, 0
	for _, p := range between(t, tapFile) {
		ip := p.Data[14:]
		switch {
		case etherKind(p.Data) == "ICMP":
			pings++
		case etherKind(p.Data) == "UDP" && bytes.Contains(ip, []byte("not a datagram of ntap")):
			others++
		case etherKind(p.Data) == "UDP" && binary.BigEndian.Uint16(ip[22:]) == 5678:
			t.Fatalf("the tap captured its own datagram: %x", head(p.Data))
		}
	}
	if pings != 40 || others != 10 {
		t.Errorf("%d of 40 ICMP frames, %d of 10 others to the collector's port", pings, others)
	}
	if n := account(rText, "frames captured"); n > 100 {
		t.Errorf("%d frames captured", n)
	}
	if account(cText, "frames lost") != 0 || !strings.Contains(cText, "10 short") {
		t.Errorf("the collector says:\n%s", cText)
	}
}

// The collector sends nothing, whatever happens: started, flooded with junk,
// killed, started again. Its host's own ICMP is kept back by the firewall line
// that doctor gives, and its ARP by a permanent entry.
func TestOneWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	testnet.RequireTool(t, "nft", "ping")
	mac := strings.TrimSpace(w.in(w.collector, "cat", "/sys/class/net/up1/address"))
	w.in(w.collector, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/up1/disable_ipv6")
	w.in(w.collector, "ip", "link", "set", "up1", "arp", "off")
	w.in(w.sender, "ip", "neigh", "replace", "10.99.0.2", "lladdr", mac, "dev", "up0", "nud", "permanent")
	w.in(w.collector, "nft", "add table inet filter; add chain inet filter output { type filter hook output priority 0; }; add rule inet filter output icmp code port-unreachable drop")
	before, came := w.counter(w.collector, "up1", "tx_packets"), w.counter(w.collector, "up1", "rx_packets")

	c := w.startCollector("-i", "ntap0")
	r := w.startRemote("-i", "t0")
	junk := func() {
		var udp net.Conn
		w.inside(w.sender, func() (err error) { udp, err = net.Dial("udp", "10.99.0.2:5678"); return })
		defer udp.Close()
		for n := range 200 {
			udp.Write(bytes.Repeat([]byte{0x10, 1, byte(n)}, n))
		}
	}
	junk()
	w.in(w.peer, "ping", "-q", "-c", "5", "-i", "0.05", "10.98.0.1")
	c.cmd.Process.Kill()
	testnet.Receive(t, "the end of the collector that was killed", c.done)
	w.in(w.peer, "ping", "-q", "-c", "5", "-i", "0.05", "10.98.0.1")
	junk()
	c = w.startCollector("-i", "ntap0")
	w.in(w.peer, "ping", "-q", "-c", "5", "-i", "0.05", "10.98.0.1")
	junk()
	r.stop()
	c.stop()
	if n := w.counter(w.collector, "up1", "rx_packets") - came; n < 600 {
		t.Errorf("only %d packets came", n)
	}
	if n := w.counter(w.collector, "up1", "tx_packets") - before; n != 0 {
		t.Errorf("%d packets left the collector towards the remote", n)
	}
}

// A collector that is killed and started again goes on with the running
// session; a remote that is killed and started again is a new session.
func TestRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.startCollector("-i", "ntap0")
	r := w.startRemote("-i", "t0")
	ping := func() { w.in(w.peer, "ping", "-q", "-c", "10", "-i", "0.02", "10.98.0.1") }
	ping()
	c.until("frames came", func() bool { return w.counter(w.collector, "ntap0", "rx_packets") >= 20 })
	time.Sleep(6 * time.Second) // the session is then older than one that is taken to be new
	c.cmd.Process.Kill()
	testnet.Receive(t, "the end of the collector that was killed", c.done)
	ping()
	c = w.startCollector("-i", "ntap0")
	ping()
	c.until("frames came", func() bool { return w.counter(w.collector, "ntap0", "rx_packets") >= 20 })
	r.cmd.Process.Kill()
	testnet.Receive(t, "the end of the remote that was killed", r.done)
	r = w.startRemote("-i", "t0")
	ping()
	rText := r.stop()
	cText := c.stop()
	if got := account(cText, "frames delivered"); got < 40 || account(cText, "frames lost") != 0 || !strings.Contains(cText, "ended") {
		t.Errorf("%d frames delivered:\n%s\n%s", got, rText, cText)
	}
}
