// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

// plenty is a ring with more blocks than a test sends frames: the timer closes
// blocks half empty, but never one for less than a frame. So none is dropped,
// however slow the machine is.
func plenty(iface string) Config {
	return Config{Interface: iface, Blocks: 1024, BlockSize: 1 << 14, Retire: 5 * time.Millisecond, Immediate: immediate}
}

func testRing(t *testing.T, change func(*Config)) (r *Ring, iface, peer string) {
	t.Helper()
	iface, peer = testnet.Veth(t)
	cfg := plenty(iface)
	if change != nil {
		change(&cfg)
	}
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, iface, peer
}

// take calls f for each frame until n came; none for a minute is a failure.
func take(t *testing.T, r *Ring, n int, f func(Frame)) {
	t.Helper()
	for got := 0; got < n; {
		b, err := r.Take(time.Minute)
		if err != nil || b == nil {
			s, _ := r.Stats()
			t.Fatalf("%d frames of %d, then nothing (%v); the kernel counts %+v, blocks hold %d\n%s", got, n, err, s, r.taken, testnet.Run(t, "ip -s link"))
		}
		for fr, ok := b.Next(); ok; fr, ok = b.Next() {
			f(*fr)
			got++
		}
		b.Release()
	}
}

// counted waits until the kernel has counted n frames, on all rings together:
// sent is not yet received.
func counted(t *testing.T, n uint64, rings ...*Ring) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		got := uint64(0)
		for _, r := range rings {
			s, err := r.Stats()
			if err != nil {
				t.Fatal(err)
			}
			got += s.Packets
		}
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the kernel counts %d frames of %d\n%s", got, n, testnet.Run(t, "ip -s link"))
		}
	}
}

// rest ends the capture, calls f for each frame that is left, and returns how
// many those are.
func rest(t *testing.T, r *Ring, f func(Frame)) (n int) {
	t.Helper()
	if err := r.Quiesce(); err != nil {
		t.Fatal(err)
	}
	for {
		b, err := r.Take(10 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			return n
		}
		for fr, ok := b.Next(); ok; fr, ok = b.Next() {
			f(*fr)
			n++
		}
		b.Release()
	}
}

func ignore(Frame) {}

// Every frame comes, in order, with every byte (which testnet.Number checks).
func TestRingSeesEveryFrame(t *testing.T) {
	for _, size := range []int{60, 61, 1514, 9014} {
		r, _, peer := testRing(t, nil)
		testnet.Run(t, "ip link set va mtu 9000")
		testnet.Run(t, "ip link set vb mtu 9000")
		const sent = 400
		testnet.Send(t, peer, sent, size)
		want, before := 0, time.Now().Add(-10*time.Second).UnixNano()
		take(t, r, sent, func(f Frame) {
			if n, ours := testnet.Number(f.Data); !ours || n != want || len(f.Data) != size || int(f.WireLen) != size || f.Outgoing || f.Time < before {
				t.Fatalf("frame %d came, want %d; ours %v, %d of %d bytes, outgoing %v", n, want, ours, len(f.Data), f.WireLen, f.Outgoing)
			}
			want++
		})
		if s, err := r.Stats(); err != nil || s.Packets != sent || s.Drops != 0 {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

// Frames that the host sends are seen too, and known for it.
func TestRingDirection(t *testing.T) {
	r, iface, peer := testRing(t, nil)
	testnet.SendFrames(t, iface, testnet.Numbered(1, 100))
	testnet.SendFrames(t, peer, testnet.Numbered(2, 100))
	take(t, r, 2, func(f Frame) {
		if n, _ := testnet.Number(f.Data); f.Outgoing != (n == 1) {
			t.Errorf("frame %d: outgoing %v", n, f.Outgoing)
		}
	})
}

// With the ring full every frame is in exactly one of the two counts, and
// asking twice adds nothing: the kernel forgets what it told.
func TestRingOverrun(t *testing.T) {
	r, _, peer := testRing(t, func(c *Config) { c.Blocks = 2 })
	const sent = 5000
	testnet.Send(t, peer, sent, 200)
	counted(t, sent, r)
	seen := uint64(rest(t, r, ignore))
	s, err := r.Stats()
	if err != nil || s.Packets != sent || seen+s.Drops != sent || s.Drops == 0 || s.Freezes == 0 && !immediate { // TPACKET_V2 does not count those
		t.Errorf("%d sent, %d seen, %+v, %v", sent, seen, s, err)
	}
	if again, _ := r.Stats(); again != s {
		t.Errorf("asked again the counts are %+v", again)
	}
}

// Members of a group see each frame once, a flow always on the same member,
// and its other direction there too.
func TestFanout(t *testing.T) {
	iface, peer := testnet.Veth(t)
	rings, err := OpenFanout(plenty(iface), 2)
	if err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for range 6 {
		for f := range uint16(64) {
			a, b := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
			frames = append(frames, udp4(1000+f, 53, a, b, 60), udp4(53, 1000+f, b, a, 60))
		}
	}
	testnet.SendFrames(t, peer, frames...)
	counted(t, uint64(len(frames)), rings...)
	member, total, used := map[uint16]int{}, 0, [2]int{}
	for m, r := range rings {
		defer r.Close()
		used[m] = rest(t, r, func(f Frame) {
			flow := max(binary.BigEndian.Uint16(f.Data[34:]), binary.BigEndian.Uint16(f.Data[36:]))
			if was, known := member[flow]; known && was != m {
				t.Errorf("flow %d on members %d and %d", flow, was, m)
			}
			member[flow] = m
		})
		total += used[m]
	}
	if total != len(frames) || used[0] == 0 || used[1] == 0 {
		t.Errorf("%d frames of %d, by member %v", total, len(frames), used)
	}
}

// A filter is swapped between two frames.
func TestFilterSwap(t *testing.T) {
	only := func(n uint32) []bpf.RawInstruction {
		raw, err := bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 18, Size: 4}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: 1}, bpf.RetConstant{Val: 1 << 20}, bpf.RetConstant{},
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	r, _, peer := testRing(t, func(c *Config) { c.Filter = only(3) })
	testnet.Send(t, peer, 10, 100)
	if err := r.SetFilter(only(7)); err != nil {
		t.Fatal(err)
	}
	testnet.Send(t, peer, 10, 100)
	var got []int
	take(t, r, 2, func(f Frame) { n, _ := testnet.Number(f.Data); got = append(got, n) })
	if len(got) != 2 || got[0] != 3 || got[1] != 7 {
		t.Errorf("frames %v", got)
	}
}

func TestTakeAllocates(t *testing.T) {
	r, _, peer := testRing(t, nil)
	testnet.Send(t, peer, 500, 1000) // at least 31 blocks
	if n := testing.AllocsPerRun(20, func() {
		b, err := r.Take(time.Minute)
		if b == nil || err != nil {
			t.Fatal("no block", err)
		}
		for _, ok := b.Next(); ok; _, ok = b.Next() {
		}
		b.Release()
	}); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
	for {
		b, err := r.Take(50 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		b.Release()
	}
	if n := testing.AllocsPerRun(5, func() { r.Take(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations while idle", n)
	}
}

// Two groups on one interface do not share their frames.
func TestFanoutGroupsAreApart(t *testing.T) {
	iface, peer := testnet.Veth(t)
	var groups [2][]*Ring
	for i := range groups {
		rings, err := OpenFanout(plenty(iface), 2)
		if err != nil {
			t.Fatal(err)
		}
		groups[i] = rings
		for _, r := range rings {
			defer r.Close()
		}
	}
	testnet.Send(t, peer, 100, 100)
	for i, rings := range groups {
		counted(t, 100, rings...)
		if n := rest(t, rings[0], ignore) + rest(t, rings[1], ignore); n != 100 {
			t.Errorf("group %d has %d frames of 100", i, n)
		}
	}
}

// On a loopback each frame is seen once, though the kernel shows it twice, and
// as received. A group used to see it twice: the group does not have the
// PACKET_IGNORE_OUTGOING of its members.
func TestLoopbackOnce(t *testing.T) {
	testnet.Namespace(t)
	for members := 1; members <= 2; members++ {
		rings, err := OpenFanout(plenty("lo"), members)
		if err != nil {
			t.Fatal(err)
		}
		testnet.Send(t, "lo", 10, 100)
		counted(t, 10, rings...)
		n := 0
		for _, r := range rings {
			n += rest(t, r, func(f Frame) {
				if f.Outgoing || len(f.Data) != 100 {
					t.Errorf("%+v", f)
				}
			})
			r.Close()
		}
		if n != 10 {
			t.Errorf("%d members: %d frames of 10", members, n)
		}
	}
}

// The snap length holds for frames whose tag was put back, and for programs
// that return what they computed.
func TestSnapLen(t *testing.T) {
	loads, err := bpf.Assemble([]bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: 500}, bpf.RetA{}})
	if err != nil {
		t.Fatal(err)
	}
	for name, filter := range map[string][]bpf.RawInstruction{"all": nil, "constant": {{Op: bpfReturn, K: 100}}, "accumulator": loads} {
		r, _, peer := testRing(t, func(c *Config) { c.SnapLen, c.Filter = 68, filter })
		f := testnet.Numbered(1, 1000)
		testnet.SendFrames(t, peer, f, append(append(bytes.Clone(f[:12]), 0x81, 0, 0, 5), f[12:]...))
		wire := uint32(1000)
		take(t, r, 2, func(f Frame) {
			if len(f.Data) != 68 || f.WireLen != wire {
				t.Errorf("%s: %d of %d bytes", name, len(f.Data), f.WireLen)
			}
			wire += 4
		})
	}
}

// Nothing that the filter does not want gets in while a ring opens on an
// interface with traffic.
func TestOpenLetsNothingUnfilteredIn(t *testing.T) {
	iface, peer := testnet.Veth(t)
	flood(t, peer, testnet.Numbered(1, 100))
	for range 10 {
		rings, err := OpenFanout(Config{Interface: iface, Blocks: 4, Filter: []bpf.RawInstruction{{Op: bpfReturn}}}, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rings {
			if s, err := r.Stats(); err != nil || s != (Stats{}) {
				t.Errorf("%+v, %v", s, err)
			}
			r.Close()
		}
	}
}

// Behind a dense block the ring sleeps for a time that it sets itself, and gives
// everything all the same; where frames are few it never does.
func TestDenseBlocksAreWorthASleep(t *testing.T) {
	r, _, peer := testRing(t, func(c *Config) { c.BlockSize, c.Blocks, c.Retire = 1<<18, denseBlocks, 50*time.Millisecond })
	for _, c := range []struct {
		frames int
		sleeps bool
	}{{denseFrames / 2, false}, {4 * denseFrames, true}} {
		for range 3 {
			testnet.Send(t, peer, c.frames, 100)
			take(t, r, c.frames, ignore)
			if b, err := r.Take(time.Millisecond); b != nil || err != nil {
				t.Fatalf("%d frames and more: %v, %v", c.frames, b, err)
			}
		}
		if slept := !r.woke.IsZero(); slept != c.sleeps {
			t.Errorf("%d frames: it slept: %v", c.frames, slept)
		}
	}
}

// After Quiesce come the frames that were counted, to the last, and no others,
// with traffic that does not stop. Idle is told late enough even where the wait
// is shorter than the time that a block is held.
func TestQuiesce(t *testing.T) {
	for _, retire := range []time.Duration{time.Millisecond, 60 * time.Millisecond} {
		r, _, peer := testRing(t, func(c *Config) { c.Retire = retire })
		flood(t, peer, testnet.Numbered(1, 100))
		seen := uint64(0)
		take(t, r, 1000, func(Frame) { seen++ })
		if err := r.Quiesce(); err != nil {
			t.Fatal(err)
		}
		for {
			b, err := r.Take(time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if b == nil {
				break
			}
			seen += uint64(b.Len())
			b.Release()
		}
		s, err := r.Stats()
		if err != nil || seen != s.Packets-s.Drops {
			t.Errorf("retire %v: %d frames came, %+v, %v", retire, seen, s, err)
		}
		if n := rest(t, r, ignore); n != 0 {
			t.Errorf("retire %v: %d frames came after idle", retire, n)
		}
		if err := r.SetFilter(nil); err != nil { // and on it goes
			t.Fatal(err)
		}
		take(t, r, 10, func(Frame) {})
	}
}
