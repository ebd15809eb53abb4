// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// immediate says that plenty is a ring that gives frames at once.
var immediate bool

// What holds for rings of blocks holds for those that give frames at once.
func TestImmediate(t *testing.T) {
	immediate = true
	defer func() { immediate = false }()
	for name, test := range map[string]func(*testing.T){
		"SeesEveryFrame": TestRingSeesEveryFrame, "Direction": TestRingDirection, "Overrun": TestRingOverrun, "Fanout": TestFanout,
		"FilterSwap": TestFilterSwap, "FanoutGroupsAreApart": TestFanoutGroupsAreApart, "LoopbackOnce": TestLoopbackOnce,
		"SnapLen": TestSnapLen, "Quiesce": TestQuiesce, "PutsTagsBack": TestRingPutsTagsBack, "PutsOffloadedTagsBack": TestRingPutsOffloadedTagsBack,
		"DownUp": TestInterfaceDownUp, "Gone": TestInterfaceGone, "GoneWhileDown": TestInterfaceGoneWhileDown, "RawIP": TestRawIP,
		"TakeTwice": TestTakeTwice, "Promiscuous": TestPromiscuous, "ExcludeLive": TestExcludeLive,
	} {
		t.Run(name, test)
	}
}

// Small frames and such that fit no slot come in the order in which they were
// sent, whole, in a ring that goes round many times, with tags put back; and
// nothing is allocated.
func TestImmediateMixesSizes(t *testing.T) {
	for _, spin := range []bool{false, true} {
		iface, peer := testnet.Veth(t)
		testnet.Run(t, "ip link set va mtu 65535")
		testnet.Run(t, "ip link set vb mtu 65535")
		cfg := plenty(iface)
		cfg.Blocks, cfg.Immediate, cfg.Spin = 8, true, spin // 64 slots
		r, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		sizes := []int{60, 1514, 1930, 1968, 1969, 2048, 4000, 9014, 60, 60, 65549, 100}
		next := 0
		for round := range 100 {
			var frames [][]byte
			want := next
			for i := range 12 {
				f := testnet.Numbered(want+i, sizes[(round+i)%len(sizes)])
				if i%5 == 4 {
					f = append(append(bytes.Clone(f[:12]), 0x81, 0, 0x20, 7), f[12:]...)
				}
				frames = append(frames, f)
			}
			testnet.SendFrames(t, peer, frames...)
			take(t, r, 12, func(f Frame) {
				if !bytes.Equal(f.Data, frames[next-want]) || int(f.WireLen) != len(f.Data) {
					t.Fatalf("spin %v: frame %d: %d of %d bytes, want %d", spin, next, len(f.Data), f.WireLen, len(frames[next-want]))
				}
				next++
			})
		}
		if s, err := r.Stats(); err != nil || s.Packets != uint64(next) || s.Drops != 0 {
			t.Errorf("spin %v: %d frames came, %+v, %v", spin, next, s, err)
		}
		for range 30 {
			testnet.Send(t, peer, 1, 9000)
			counted(t, 0, r)
		}
		if n := testing.AllocsPerRun(20, func() {
			b, err := r.Take(time.Minute)
			if b == nil || err != nil {
				t.Fatal("no frame", err)
			}
			for _, ok := b.Next(); ok; _, ok = b.Next() {
			}
			b.Release()
		}); n != 0 {
			t.Errorf("spin %v: %v allocations a frame", spin, n)
		}
	}
}

// A frame is there without a timer: with one that never comes, which a ring of
// blocks would wait for.
func TestImmediateDoesNotWait(t *testing.T) {
	for _, c := range []struct{ now, spin bool }{{true, true}, {true, false}, {false, false}} {
		iface, peer := testnet.Veth(t)
		cfg := plenty(iface)
		cfg.Immediate, cfg.Spin, cfg.Retire = c.now, c.spin, 60*time.Second
		r, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		testnet.Send(t, peer, 1, 100)
		wait := 30 * time.Second
		if !c.now {
			wait = 200 * time.Millisecond
		}
		if b, err := r.Take(wait); err != nil || (b != nil) != c.now {
			t.Errorf("%+v: %v, %v", c, b, err)
		}
	}
}

// A Take that spins ends in time, and is told what poll tells.
func TestSpin(t *testing.T) {
	iface, _ := testnet.Veth(t)
	cfg := plenty(iface)
	cfg.Immediate, cfg.Spin = true, true
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	start := time.Now()
	if b, err := r.Take(30 * time.Millisecond); b != nil || err != nil {
		t.Fatal(b, err)
	}
	if d := time.Since(start); d < 30*time.Millisecond {
		t.Errorf("waited %v of 30 ms", d)
	}
	testnet.Run(t, "ip link set "+iface+" down")
	if _, err := r.Take(10 * time.Second); err != ErrDown {
		t.Errorf("down: %v", err)
	}
}
