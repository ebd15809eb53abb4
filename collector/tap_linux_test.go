// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// ownNet moves the calling test into a network namespace of its own, which
// ends with the test's goroutine.
func ownNet(tb testing.TB) {
	tb.Helper()
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		testnet.Missing(tb, fmt.Sprintf("no network namespace: %v; run: sudo make test", err))
	}
}

// openTaps returns a tapSet that the test closes. Warnings fail the test.
func openTaps(tb testing.TB, cfg tapConfig) *tapSet {
	tb.Helper()
	if cfg.Warn == nil {
		cfg.Warn = func(err error) { tb.Errorf("warning: %v", err) }
	}
	s, err := newTapSet(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// A packetSocket reads what passes one interface.
type packetSocket struct {
	tb        testing.TB
	fd        int
	buf       []byte
	lastIndex int // of the interface that the last frame passed
}

// listen opens a packet socket on every interface of the thread's namespace.
func listen(tb testing.TB) *packetSocket {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		tb.Fatal(err)
	}
	return &packetSocket{tb: tb, fd: fd, buf: make([]byte, 1<<18)}
}

func htons(x uint16) uint16 { return x<<8 | x>>8 }

func linkIndex(tb testing.TB, name string) int {
	tb.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	return l.Attrs().Index
}

// next returns the next frame that passes interface index (any, if 0) in the
// given direction, or nil if none comes within wait.
func (p *packetSocket) next(index int, outgoing bool, wait time.Duration) []byte {
	p.tb.Helper()
	for end := time.Now().Add(wait); ; {
		left := max(time.Until(end), time.Millisecond)
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(left.Milliseconds())); err != nil && err != unix.EINTR {
			p.tb.Fatal(err)
		}
		n, from, err := unix.Recvfrom(p.fd, p.buf, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN || err == unix.EINTR || err == unix.ENETDOWN {
			if time.Now().After(end) {
				return nil
			}
			continue
		}
		if err != nil {
			p.tb.Fatal(err)
		}
		a := from.(*unix.SockaddrLinklayer)
		if (index == 0 || a.Ifindex == index) && (a.Pkttype == unix.PACKET_OUTGOING) == outgoing {
			p.lastIndex = a.Ifindex
			return append([]byte(nil), p.buf[:n]...)
		}
	}
}

func TestTapNameTaken(t *testing.T) {
	ownNet(t)
	for _, line := range []string{
		"link add veth9 type veth peer name veth8",
		"tuntap add dev tun9 mode tun",
		"tuntap add dev multi9 mode tap multi_queue",
		"tuntap add dev idle9 mode tap",
	} {
		if out, err := testnet.Command(t, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", line, err, out)
		}
	}
	openTaps(t, tapConfig{Name: "ours9"})
	openTaps(t, tapConfig{Name: "ours2", Workers: 2})
	pid := "process " + func() string { s, _ := os.Readlink("/proc/self"); return s }()
	for name, want := range map[string]string{
		"veth9": "interface of another kind (veth)",
		"tun9":  "TUN device",
		"ours9": pid,
		"ours2": pid,
		"lo":    "interface of another kind",
	} {
		s, err := newTapSet(tapConfig{Name: name})
		if err == nil {
			s.Close()
			t.Errorf("%s: taken", name)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "collector: TAP "+name) {
			t.Errorf("%s: %v\nwant %q in it", name, err, want)
		}
	}
	if s, err := newTapSet(tapConfig{Name: "idle9", Workers: 2}); err == nil || !strings.Contains(err.Error(), "with multi_queue, for more than one worker") {
		s.Close()
		t.Errorf("one queue for two workers: %v", err)
	}
	// One that was made for us is used, and stays.
	for name, workers := range map[string]int{"idle9": 1, "multi9": 2} {
		for ; workers > 0; workers-- {
			if err := openTaps(t, tapConfig{Name: name, Workers: workers, Isolate: true}).Close(); err != nil {
				t.Error(err)
			}
		}
		linkIndex(t, name)
	}
}

func TestTapGoneAfterClose(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg} {
		for _, name := range []string{"gone0", "gone%t"} {
			t.Run(io+"/"+name, func(t *testing.T) {
				ownNet(t)
				devs := openTaps(t, tapConfig{Name: name, Workers: 2, Isolate: true})
				s := openSink(t, devs, 0, io)
				s.Write(&Origin{Tap: 0}, ethernet(make([]byte, 60)))
				if err := errors.Join(s.Flush(), s.Close()); err != nil {
					t.Fatal(err)
				}
				linkIndex(t, "gone0")
				if err := devs.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := netlink.LinkByName("gone0"); err == nil {
					t.Error("the device is still there")
				}
			})
		}
	}
}

// TestTapIsPassive watches a TAP, and a plain one beside it that shows what
// the kernel sends if it is let: router solicitations and multicast reports.
func TestTapIsPassive(t *testing.T) {
	for _, workers := range []int{1, 2} {
		ownNet(t)
		// A router joins groups that it reports.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0)
		_ = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
		p := listen(t)
		devs := openTaps(t, tapConfig{Name: "quiet0", Workers: workers})
		plain, err := openQueue("plain0", unix.IFF_TAP|unix.IFF_NO_PI)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(plain)
		l, err := netlink.LinkByName("plain0")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		quiet := linkIndex(t, "quiet0")
		seen := map[bool]int{}
		begun := time.Now() // 2 s, and until the plain TAP has sent
		for d := time.Duration(0); d < 2*time.Second || d < time.Minute && seen[false] == 0 && ipv6On(); d = time.Since(begun) {
			if f := p.next(0, true, 100*time.Millisecond); f != nil {
				seen[p.lastIndex == quiet]++
				if p.lastIndex == quiet {
					t.Errorf("%d workers: sent to the TAP: %x", workers, f)
				}
			}
		}
		if seen[false] == 0 && ipv6On() {
			t.Error("nothing was sent to the plain TAP either: this test sees nothing")
		}
		if l, err = netlink.LinkByName("quiet0"); err != nil {
			t.Fatal(err)
		}
		a := l.Attrs()
		if a.Statistics.TxPackets+a.Statistics.TxDropped != 0 {
			t.Errorf("tx %d, tx dropped %d; want none", a.Statistics.TxPackets, a.Statistics.TxDropped)
		}
		if a.MTU != 1500 || a.RawFlags&unix.IFF_NOARP == 0 || a.RawFlags&unix.IFF_UP == 0 || a.Promisc != 0 {
			t.Errorf("mtu %d, flags %x", a.MTU, a.RawFlags)
		}
		if list, err := netlink.AddrList(l, netlink.FAMILY_ALL); err != nil || len(list) != 0 {
			t.Errorf("addresses %v, %v; want none", list, err)
		}
		devs.Close()
	}
}

func ipv6On() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// echo returns an ICMP echo request from 10.9.0.2 to 10.9.0.1 at mac.
func echo(mac []byte) []byte {
	f := make([]byte, 60)
	copy(f, mac)
	copy(f[6:], []byte{2, 0, 0, 0, 0, 2, 8, 0})
	copy(f[14:], []byte{0x45, 0, 0, 46, 0, 1, 0, 0, 64, 1, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1, 8, 0, 0, 0, 0, 1, 0, 1})
	sum := func(b []byte) uint16 {
		var s uint32
		for ; len(b) > 0; b = b[2:] {
			s += uint32(binary.BigEndian.Uint16(b))
		}
		for s>>16 != 0 {
			s = s&0xffff + s>>16
		}
		return ^uint16(s)
	}
	binary.BigEndian.PutUint16(f[24:], sum(f[14:34]))
	binary.BigEndian.PutUint16(f[36:], sum(f[34:60]))
	return f
}

// arpRequest returns a question for the MAC address of 10.9.0.1.
func arpRequest() []byte {
	f := make([]byte, 60)
	copy(f, []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1})
	return f
}

// TestTapIsolation sends the host questions that it would answer, and looks
// whether it does: captured traffic must not make the collector's host speak.
func TestTapIsolation(t *testing.T) {
	for _, how := range []string{"open", "isolated", "clsact"} {
		t.Run(how, func(t *testing.T) {
			ownNet(t)
			devs := openTaps(t, tapConfig{Name: "iso0", Isolate: how == "isolated"})
			l := devs.one.link
			if how == "clsact" { // what isolate falls back to
				p, err := program(ebpf.SchedCLS, 2)
				if err != nil {
					t.Fatal(err)
				}
				c, err := isolateClsact(l, p)
				if err != nil {
					t.Fatal(err)
				}
				p.Close()
				defer func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			addr, _ := netlink.ParseAddr("10.9.0.1/24")
			if err := errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetARPOn(l)); err != nil {
				t.Fatal(err)
			}
			if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: []byte{10, 9, 0, 2},
				HardwareAddr: []byte{2, 0, 0, 0, 0, 2}, State: netlink.NUD_PERMANENT}); err != nil {
				t.Fatal(err)
			}
			p, answers := listen(t), listen(t)
			s := openSink(t, devs, 0, ioAuto)
			for _, q := range [][]byte{echo(l.Attrs().HardwareAddr), arpRequest()} {
				s.Write(&Origin{}, ethernet(q))
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				if f := p.next(l.Attrs().Index, false, time.Minute); string(f) != string(q) {
					t.Errorf("a packet socket saw %x, want %x", f, q)
				}
				wait := 300 * time.Millisecond
				if how == "open" {
					wait = time.Minute
				}
				a := answers.next(l.Attrs().Index, true, wait)
				if (a != nil) != (how == "open") {
					t.Errorf("question %x: answer %x", q, a)
				}
			}
			if n := s.Counts().Delivered.Load(); n != 2 {
				t.Errorf("delivered %d, want 2", n)
			}
		})
	}
}

// TestTapPerTapFromAnyThread makes devices from workers whose threads are in
// another namespace than the collector's: they used to appear over there.
func TestTapPerTapFromAnyThread(t *testing.T) {
	ownNet(t)
	var warnings []string
	devs := openTaps(t, tapConfig{Name: "nt%t", Workers: 2, Isolate: true, Warn: func(err error) { warnings = append(warnings, err.Error()) }})
	p := listen(t)
	if out, err := testnet.Command(t, "ip", "link", "add", "nt9", "type", "veth", "peer", "name", "other").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var wg sync.WaitGroup
	for worker := range 2 {
		wg.Go(func() {
			ownNet(t)
			s := openSink(t, devs, worker, ioAuto)
			for i := range 30 {
				f := numbered(60, i)
				f[14] = byte(worker)
				s.Write(&Origin{Tap: uint32(i%3 + 1), Shard: uint16(worker)}, ethernet(f))
			}
			s.Write(&Origin{Tap: 9}, ethernet(numbered(60, 0)))
			if err := s.Flush(); err != nil {
				t.Error(err)
			}
			if d, r := s.Counts().Delivered.Load(), s.Counts().Refused.Load(); d != 30 || r != 1 {
				t.Errorf("worker %d: delivered %d, refused %d; want 30 and 1", worker, d, r)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	testnet.Await(t, "the workers' end", wg.Wait)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "nt9") || !strings.Contains(warnings[0], "the frames of tap 9 are refused") {
		t.Errorf("warnings %q, want one, of nt9", warnings)
	}
	type place struct{ index, worker int }
	next := map[place]int{}
	for i, name := range []string{"nt1", "nt2", "nt3"} {
		index := linkIndex(t, name)
		next[place{index, 0}], next[place{index, 1}] = i, i
	}
	for range 60 {
		f := p.next(0, false, time.Minute)
		if f == nil {
			t.Fatalf("too few frames came; next are %v", next)
		}
		at := place{p.lastIndex, int(f[14])}
		if got := number(f); got != next[at] {
			t.Fatalf("frame %d at %v, want %d", got, at, next[at])
		}
		next[at] += 3
	}
}
