// SPDX-License-Identifier: Apache-2.0

// Command flood is the attacker of the benchmarks: it sends datagrams that a
// collector has to refuse, as many as go or at a rate, and prints how many that
// were. It sits on the path: what it forges and plays back is made of what it
// sees of a tap.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/proto"
)

// Chosen.
const (
	sources  = 32      // sockets, each a flow of its own
	segments = 64      // datagrams in a train: UDP_MAX_SEGMENTS before Linux 6.10
	trainMax = 65507   // bytes in a train
	keep     = 4096    // datagrams recorded
	listen   = 5       // seconds, the longest
	htonsAll = 0x0300  // ETH_P_ALL, linux/if_ether.h, in network order
	sndbuf   = 8 << 20 // bytes
)

// kinds are the ways to attack: each writes one datagram over b, of the size
// of b, with what was recorded of the tap in a header.
var kinds = map[string]func(b []byte, h proto.Header, n uint64){
	"short":   func(b []byte, _ proto.Header, _ uint64) {},
	"random":  func(b []byte, _ proto.Header, _ uint64) { random(b) },
	"taps":    func(b []byte, h proto.Header, _ uint64) { h.Tap = rand.Uint32(); h.Put(b) },
	"session": func(b []byte, h proto.Header, n uint64) { h.Session += n; h.Put(b) },
	"shards":  func(b []byte, h proto.Header, n uint64) { h.Shard = 1 + uint16(n%60000); h.Put(b) },
	"old":     func(b []byte, h proto.Header, n uint64) { h.Session -= 1<<32 + n; h.Put(b) },
	"forged":  func(b []byte, h proto.Header, n uint64) { h.Counter += 1<<20 + n%4096; h.Put(b) },
	"epoch":   func(b []byte, h proto.Header, n uint64) { h.Counter += (2 + n%100) << 24; h.Put(b) },
}

func random(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.NativeEndian.PutUint64(b[i:], rand.Uint64())
	}
}

func main() {
	to := flag.String("to", "", "ADDRESS:PORT of the collector")
	device := flag.String("dev", "", "interface on which datagrams of the tap are seen")
	tap := flag.Uint("tap", 1, "tap whose datagrams are played back and forged")
	kind := flag.String("kind", "forged", "short, random, taps, session, shards, old, forged, epoch, replay, or mix")
	size := flag.Int("size", 508, "bytes of a datagram; of replayed ones their own")
	rate := flag.Float64("rate", 0, "datagrams a second; 0: as many as go")
	length := flag.Duration("for", 3*time.Second, "how long")
	trains := flag.Bool("trains", false, "with UDP_SEGMENT: many more, and each train takes the room of one")
	cpu := flag.Int("cpu", -1, "CPU to run on; -1: any")
	flag.Parse()
	if err := run(*to, *device, uint32(*tap), *kind, *size, *rate, *length, *trains, *cpu); err != nil {
		fmt.Fprintln(os.Stderr, "flood:", err)
		os.Exit(1)
	}
}

func run(to, device string, tap uint32, kind string, size int, rate float64, length time.Duration, trains bool, cpu int) error {
	addr, err := netip.ParseAddrPort(to)
	if err != nil || !addr.Addr().Is4() {
		return fmt.Errorf("-to %q: an IPv4 address and a port", to)
	}
	if _, known := kinds[kind]; !known && kind != "replay" && kind != "mix" {
		return fmt.Errorf("-kind %q is not known", kind)
	}
	if size < 1 || size > trainMax {
		return fmt.Errorf("datagrams of %d bytes: 1 to %d", size, trainMax)
	}
	runtime.LockOSThread()
	if cpu >= 0 {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("cpu %d: %w", cpu, err)
		}
	}
	seen, err := overhear(device, addr.Port(), tap)
	if err != nil {
		return err
	}
	all, err := build(kind, size, seen)
	if err != nil {
		return err
	}
	var fds []int
	for range sources {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sndbuf)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	if trains {
		all = join(all)
	}
	fmt.Println("flooding")
	var sent, bytes, failed int
	start := time.Now()
	for i := 0; ; i++ {
		if i%16 == 0 {
			gone := time.Since(start)
			if gone >= length {
				break
			}
			if rate > 0 {
				if ahead := time.Duration(float64(sent)/rate*1e9) - gone; ahead > 100*time.Microsecond {
					ts := unix.NsecToTimespec(int64(ahead))
					unix.Nanosleep(&ts, nil)
				}
			}
		}
		m := &all[i%len(all)]
		fd := fds[i/64%len(fds)]
		if m.segment > 0 && m.n > 1 {
			if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, m.segment); err != nil {
				return fmt.Errorf("UDP_SEGMENT: %w", err)
			}
		} else if trains {
			unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0)
		}
		if _, err := unix.Write(fd, m.b); err != nil {
			failed += m.n
			continue
		}
		sent += m.n
		bytes += len(m.b)
	}
	took := time.Since(start)
	fmt.Printf("flood %s sent %d failed %d seconds %.3f mpps %.3f gbps %.3f\n", kind, sent, failed, took.Seconds(),
		float64(sent)/took.Seconds()/1e6, float64(bytes)*8/took.Seconds()/1e9)
	return nil
}

// A message is what one call sends: n datagrams of segment bytes.
type message struct {
	b          []byte
	n, segment int
}

// build returns the datagrams of an attack, which are sent again and again.
func build(kind string, size int, seen [][]byte) ([]message, error) {
	newest, _, _ := proto.ParseHeader(seen[len(seen)-1])
	newest.Kind = proto.Data
	make1 := func(name string, n uint64) message {
		if name == "replay" {
			b := seen[n%uint64(len(seen))]
			return message{b, 1, len(b)}
		}
		room := size
		if name == "short" {
			room = 20
		} else {
			room = max(room, proto.Overhead)
		}
		b := make([]byte, room)
		random(b)
		kinds[name](b, newest, n)
		return message{b, 1, len(b)}
	}
	mix := []string{"short", "random", "taps", "session", "shards", "old", "forged", "epoch", "replay"}
	var out []message
	for n := range uint64(keep) {
		name := kind
		if kind == "mix" {
			name = mix[n/segments%uint64(len(mix))]
		}
		out = append(out, make1(name, n))
	}
	return out, nil
}

// join makes trains of neighbours of one size.
func join(all []message) (out []message) {
	for _, m := range all {
		if n := len(out) - 1; n >= 0 && out[n].segment == m.segment && out[n].n < segments && len(out[n].b)+len(m.b) <= trainMax {
			out[n].b = append(out[n].b, m.b...)
			out[n].n++
			continue
		}
		m.b = append(make([]byte, 0, len(m.b)), m.b...)
		out = append(out, m)
	}
	return out
}

// overhear records datagrams of the tap to that port, from the interface.
func overhear(device string, port uint16, tap uint32) ([][]byte, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, htonsAll)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	defer unix.Close(fd)
	link := &unix.SockaddrLinklayer{Protocol: htonsAll}
	if device != "" {
		req, err := unix.NewIfreq(device)
		if err != nil {
			return nil, err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return nil, fmt.Errorf("%s: %w", device, err)
		}
		link.Ifindex = int(req.Uint32())
	}
	if err := unix.Bind(fd, link); err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	tv := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	var seen [][]byte
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(listen * time.Second); time.Now().Before(end) && len(seen) < 128; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := buf[:n]
		if n < 28+proto.Overhead || p[0] != 0x45 || p[9] != 17 || binary.BigEndian.Uint16(p[22:]) != port {
			continue
		}
		d := p[28:]
		if h, version, ok := proto.ParseHeader(d); ok && version == proto.Version && h.Tap == tap && len(d) <= 9000 {
			seen = append(seen, append([]byte(nil), d...)) // a train's datagrams after the first are left out
		}
	}
	if len(seen) == 0 {
		return nil, fmt.Errorf("nothing of tap %d was seen on %q in %d s", tap, device, listen)
	}
	return seen, nil
}
