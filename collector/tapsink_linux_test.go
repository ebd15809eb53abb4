// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// openSink returns worker's sink, which the test closes.
func openSink(tb testing.TB, devs *tapSet, worker int, io string) *tapSink {
	tb.Helper()
	s, err := newTapSink(devs, worker, io)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func ethernet(f []byte) *proto.Record {
	return &proto.Record{Data: f, LinkType: proto.LinkTypeEthernet, OrigLen: uint32(len(f))}
}

// numbered returns a frame of size bytes with a number and a pattern in it, of
// an EtherType for experiments (IEEE 802, local experimental 1).
func numbered(size, number int) []byte {
	f := make([]byte, max(size, 20))
	for i := range f {
		f[i] = byte(i*7 + number)
	}
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
	binary.BigEndian.PutUint32(f[16:], uint32(number))
	return f[:size]
}

func number(f []byte) int { return int(binary.BigEndian.Uint32(f[16:])) }

func TestTapSinkDeliversEveryByteInOrder(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg, ioAuto} {
		for _, workers := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/workers=%d", io, workers), func(t *testing.T) {
				ownNet(t)
				devs := openTaps(t, tapConfig{Name: "order0", Workers: workers, Isolate: true})
				p := listen(t)
				index := linkIndex(t, "order0")
				sizes := []int{60, 61, 64, 65, 300, 1300, 1514, 1518, 4096, 9000, 65535, 65549, 20}
				var want [][]byte
				var bytesIn uint64
				for worker := range workers {
					s := openSink(t, devs, worker, io)
					for i := range 200 {
						f := numbered(sizes[i%len(sizes)], i)
						s.Write(&Origin{}, ethernet(f))
						want = append(want, f)
						bytesIn += uint64(len(f))
						if i%150 == 149 { // inside a batch, too
							if err := s.Flush(); err != nil {
								t.Fatal(err)
							}
						}
					}
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
					c := s.Counts()
					if c.Delivered.Load() != 200 || c.Refused.Load() != 0 || c.DeliveredBytes.Load() != bytesIn {
						t.Errorf("delivered %d of 200, refused %d, %d bytes of %d", c.Delivered.Load(), c.Refused.Load(), c.DeliveredBytes.Load(), bytesIn)
					}
					bytesIn = 0
				}
				for i, f := range want {
					got := p.next(index, false, time.Minute)
					if !bytes.Equal(got, f) {
						t.Fatalf("frame %d: %d bytes came, want %d; first %x, want %x", i, len(got), len(f), got[:min(40, len(got))], f[:20])
					}
				}
			})
		}
	}
}

func TestTapSinkCountsEveryRefusal(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg} {
		t.Run(io, func(t *testing.T) {
			ownNet(t)
			var warnings []string
			devs := openTaps(t, tapConfig{Name: "short0", Warn: func(err error) { warnings = append(warnings, err.Error()) }})
			s := openSink(t, devs, 0, io)
			c := s.Counts()
			check := func(what string, delivered, refused, other uint64) {
				t.Helper()
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				if c.Delivered.Load() != delivered || c.Refused.Load() != refused || c.NotEthernet.Load() != other || c.Full.Load() != 0 {
					t.Fatalf("%s: delivered %d, refused %d, not Ethernet %d; want %d, %d, %d", what,
						c.Delivered.Load(), c.Refused.Load(), c.NotEthernet.Load(), delivered, refused, other)
				}
			}
			for size := range 21 { // 14 bytes, a header alone, is the least a TAP takes
				s.Write(&Origin{}, ethernet(numbered(20, 0)[:size]))
			}
			s.Write(&Origin{}, ethernet(nil))
			raw := ethernet(numbered(60, 0))
			raw.LinkType = proto.LinkTypeRaw
			s.Write(&Origin{}, raw)
			s.Write(&Origin{}, raw)
			check("short frames", 7, 15, 2)
			if len(warnings) != 1 || !strings.Contains(warnings[0], "TAP short0: frames of link type 101 fit no Ethernet") {
				t.Errorf("short frames: warnings %q, want one, of the packet that is none of IP", warnings)
			}
			warnings = nil
			send := func(n int) {
				for i := range n {
					s.Write(&Origin{}, ethernet(numbered(100, i)))
				}
			}
			l, err := netlink.LinkByName("short0")
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetDown(l); err != nil {
				t.Fatal(err)
			}
			send(130)
			check("down", 7, 145, 2)
			if len(warnings) != 1 || !strings.Contains(warnings[0], "ip link set short0 up") {
				t.Errorf("down: warnings %q, want one with the cure", warnings)
			}
			if err := netlink.LinkSetUp(l); err != nil {
				t.Fatal(err)
			}
			send(130)
			check("up again", 137, 145, 2)
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
			send(130)
			check("deleted, and made anew", 267, 145, 2)
			if len(warnings) != 2 || !strings.Contains(warnings[1], "deleted") || c.Remade.Load() != 1 {
				t.Errorf("deleted: %d times made anew, warnings %q, want two", c.Remade.Load(), warnings)
			}
		})
	}
}

// A device that is deleted is made anew with the next frame, which no frame is
// lost by, once for all workers; and if it cannot be, frames are refused until
// it can.
func TestTapDeletedIsMadeAnew(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg} {
		for _, name := range []string{"anew0", "anew%t"} {
			t.Run(io+"/"+name, func(t *testing.T) {
				ownNet(t)
				var warnings []string
				devs := openTaps(t, tapConfig{Name: name, Workers: 2, Isolate: true, Warn: func(err error) { warnings = append(warnings, err.Error()) }})
				sinks := []*tapSink{openSink(t, devs, 0, io), openSink(t, devs, 1, io)}
				give := func(w, n int) {
					t.Helper()
					for i := range n {
						sinks[w].Write(&Origin{}, ethernet(numbered(100, i)))
					}
					if err := sinks[w].Flush(); err != nil {
						t.Fatalf("worker %d: %v", w, err)
					}
				}
				send := func(n int) {
					t.Helper()
					for w := range sinks {
						give(w, n)
					}
				}
				counts := func() (delivered, refused, remade uint64) {
					for _, s := range sinks {
						delivered += s.counts.Delivered.Load()
						refused += s.counts.Refused.Load()
						remade += s.counts.Remade.Load()
					}
					return
				}
				remove := func() {
					t.Helper()
					l, err := netlink.LinkByName("anew0")
					if err != nil {
						t.Fatal(err)
					}
					if err := netlink.LinkDel(l); err != nil {
						t.Fatal(err)
					}
				}
				send(100)
				remove()
				p := listen(t)
				send(100)
				if d, r, m := counts(); d != 400 || r != 0 || m != 1 {
					t.Fatalf("%d delivered of 400, %d refused, made anew %d times; %q", d, r, m, warnings)
				}
				index := linkIndex(t, "anew0")
				for range 2 {
					for i := range 100 {
						if f := p.next(index, false, time.Minute); f == nil || number(f) != i {
							t.Fatalf("frame %d: %x", i, f)
						}
					}
				}
				if l, err := netlink.LinkByName("anew0"); err != nil || l.Attrs().RawFlags&unix.IFF_NOARP == 0 || l.Attrs().MTU != 1500 {
					t.Errorf("the new one is not passive: %v", err)
				}
				// The name is taken meanwhile; and a second attempt has to wait.
				d := devs.one
				if devs.perTap() {
					d = devs.taps[0]
				}
				tried := func(at time.Time) {
					devs.mu.Lock()
					defer devs.mu.Unlock()
					d.tried = at
				}
				tried(time.Time{})
				remove()
				if out, err := testnet.Command(t, "ip", "link", "add", "anew0", "type", "veth", "peer", "name", "other").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				give(0, 1)
				tried(time.Now().Add(time.Hour)) // just now, however long this stands still
				give(0, 99)
				give(1, 100)
				if d, r, m := counts(); d != 400 || r != 200 || m != 1 {
					t.Errorf("name taken: %d delivered, %d refused, made anew %d times", d, r, m)
				}
				if n := len(warnings); n != 2 || !strings.Contains(warnings[1], "veth") {
					t.Errorf("warnings %q", warnings)
				}
				if out, err := testnet.Command(t, "ip", "link", "del", "anew0").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				tried(time.Time{})
				send(100)
				if d, r, m := counts(); d != 600 || r != 200 || m != 2 {
					t.Errorf("name free again: %d delivered, %d refused, made anew %d times; %q", d, r, m, warnings)
				}
			})
		}
	}
}

// denyUring makes the kernel refuse a system call of io_uring with EPERM on the
// calling thread, as the seccomp filter of a container does.
func denyUring(tb testing.TB, call uint32) {
	tb.Helper()
	if err := testnet.Deny(call, call, unix.EPERM); err != nil {
		testnet.Missing(tb, fmt.Sprintf("no seccomp filters in this kernel: %v; run it on another", err))
	}
}

func TestTapSinkWithoutUring(t *testing.T) {
	ownNet(t)
	var warnings []string
	devs := openTaps(t, tapConfig{Name: "denied0", Workers: 2, Warn: func(err error) { warnings = append(warnings, err.Error()) }})
	denyUring(t, unix.SYS_IO_URING_SETUP)
	if s, err := newTapSink(devs, 0, ioUring); err == nil {
		s.Close()
		t.Error("io uring: no error")
	} else if !strings.Contains(err.Error(), "seccomp") || !strings.Contains(err.Error(), "--io mmsg") {
		t.Errorf("io uring: %v", err)
	}
	s := openSink(t, devs, 0, ioAuto)
	if s.io != ioMmsg || !strings.Contains(s.reason, "seccomp") {
		t.Errorf("io auto: became %q because %q", s.io, s.reason)
	}
	openSink(t, devs, 1, ioAuto)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "seccomp") {
		t.Errorf("warnings %q, want one for both workers", warnings)
	}
	s.Write(&Origin{}, ethernet(numbered(60, 0)))
	if err := s.Flush(); err != nil || s.Counts().Delivered.Load() != 1 {
		t.Errorf("delivered %d, %v", s.Counts().Delivered.Load(), err)
	}
	if _, err := newTapSink(devs, 0, "mmap"); err == nil || !strings.Contains(err.Error(), "auto, uring, mmsg") {
		t.Errorf("io mmap: %v", err)
	}
}

// TestTapSinkAfterTheRingFailed takes io_uring_enter away under the sink.
func TestTapSinkAfterTheRingFailed(t *testing.T) {
	ownNet(t)
	s := openSink(t, openTaps(t, tapConfig{Name: "broken0"}), 0, ioUring)
	s.Write(&Origin{}, ethernet(numbered(60, 0)))
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	denyUring(t, unix.SYS_IO_URING_ENTER)
	for i := range 200 {
		s.Write(&Origin{}, ethernet(numbered(60, i)))
	}
	if err := s.Flush(); err == nil {
		t.Error("no error")
	}
	if d, r := s.Counts().Delivered.Load(), s.Counts().Refused.Load(); d != 1 || r != 200 {
		t.Errorf("delivered %d, refused %d; want 1 and 200", d, r)
	}
}

func TestTapSinkDoesNotAllocate(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg} {
		for _, name := range []string{"alloc0", "alloc%t"} {
			t.Run(io+"/"+name, func(t *testing.T) {
				ownNet(t)
				s := openSink(t, openTaps(t, tapConfig{Name: name, Isolate: true}), 0, io)
				r, a, b := ethernet(numbered(300, 0)), &Origin{Tap: 1}, &Origin{Tap: 2}
				if n := testing.AllocsPerRun(20, func() {
					for range 100 {
						s.Write(a, r)
						s.Write(b, r)
					}
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
				}); n != 0 {
					t.Errorf("%v allocations for 200 frames", n)
				}
			})
		}
	}
}

// BenchmarkTapSink writes frames that lie one behind the other, as records in
// a receive buffer do, into an isolated TAP. One operation is one frame.
func BenchmarkTapSink(b *testing.B) {
	ownNet(b)
	for _, workers := range []int{1, 2} {
		devs := openTaps(b, tapConfig{Name: fmt.Sprintf("bench%d", workers), Workers: workers, Isolate: true})
		for _, io := range []string{ioMmsg, ioUring} {
			for _, size := range []int{60, 300, 1300} { // bytes of a frame
				b.Run(fmt.Sprintf("io=%s/queues=%d/frame=%d", io, workers, size), func(b *testing.B) {
					s := openSink(b, devs, 0, io)
					const frames = 512 // in a batch of the receiver's, a Flush behind it
					arena := make([]byte, 0, frames*(size+6))
					records := make([]*proto.Record, frames)
					for i := range records {
						arena = append(arena[:len(arena)+6], numbered(size, i)...)
						records[i] = ethernet(arena[len(arena)-size:])
					}
					o := &Origin{}
					b.SetBytes(int64(size))
					b.ReportAllocs()
					i := 0
					for b.Loop() {
						s.Write(o, records[i%frames])
						if i++; i%frames == 0 {
							if err := s.Flush(); err != nil {
								b.Fatal(err)
							}
						}
					}
					if err := s.Flush(); err != nil || s.Counts().Delivered.Load() != uint64(i) {
						b.Fatalf("delivered %d of %d, %v", s.Counts().Delivered.Load(), i, err)
					}
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
				})
			}
		}
	}
}
