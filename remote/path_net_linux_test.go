// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// forward allocates nothing: blocks of a real ring go through packing and
// sealing to a real socket.
func TestForwardAllocates(t *testing.T) {
	iface, peer := testnet.Veth(t)
	shards := openShards(t, iface)
	s := shards[0]
	const sent = 5000
	testnet.Send(t, peer, sent, 900)
	blocks := 0
	if n := testing.AllocsPerRun(20, func() {
		b, err := s.ring.Take(time.Minute)
		if err != nil || b == nil {
			t.Fatal("no block", err)
		}
		if err := s.forward(b); err != nil {
			t.Fatal(err)
		}
		blocks++
	}); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
	if err := s.drain(); err != nil {
		t.Fatal(err)
	}
	a := s.account
	if in, out := a.Captured.Load(), a.KernelDrops.Load()+a.Sealed.Load(); in != sent || in != out || blocks < 20 {
		t.Errorf("%d captured of %d in more than %d blocks, %d accounted for", in, sent, blocks, out)
	}
	if d := s.out.Stats().Datagrams.Load(); d != s.seal.data.Counter() {
		t.Errorf("%d datagrams sent, %d sealed", d, s.seal.data.Counter())
	}
}

// openShards returns the shards of a tap of an interface, with a ring that holds
// what a test sends.
func openShards(t *testing.T, iface string) []*shard {
	t.Helper()
	return openTap(t, testTap(t, Config{Interfaces: []string{iface}, Retire: 50 * time.Millisecond, RingBytes: 16 << 20}))
}

// The times of a shard never go back, though CPUs put frames into its ring in
// another order than they stamped them; each that had to be changed is counted.
func TestTimesAreMonotone(t *testing.T) {
	iface, peer := testnet.Veth(t)
	s := openShards(t, iface)[0]
	const sent = 20000
	var senders sync.WaitGroup
	frame := testnet.Numbered(0, 100)
	for _, from := range []string{iface, peer} { // at the same time, on several CPUs if there are
		wire, err := testnet.OpenWire(from)
		if err != nil {
			t.Fatal(err)
		}
		defer wire.Close()
		senders.Go(func() {
			for range sent {
				if err := wire.Send(frame); err != nil {
					t.Error(err)
				}
			}
		})
	}
	testnet.Await(t, "all frames are sent", senders.Wait)
	if err := s.ring.Quiesce(); err != nil {
		t.Fatal(err)
	}
	var frames int
	var back uint64
	last := int64(0)
	for {
		b, err := s.ring.Take(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		for f, ok := b.Next(); ok; f, ok = b.Next() {
			if f.Time < last {
				back++
			}
			now := s.record(f).Time
			if now < last {
				t.Fatalf("frame %d of %d ns, after one of %d", frames, now, last)
			}
			last = now
			frames++
		}
		b.Release()
	}
	if n := s.account.Evened.Load(); n != back || s.account.SetBack.Load() != 0 {
		t.Errorf("%d frames were stamped before the one ahead of them, counted are %d, and %d steps", back, n, s.account.SetBack.Load())
	}
	if frames < sent { // those of this side: the other's may find no room in the kernel's backlog
		t.Errorf("%d frames of %d", frames, 2*sent)
	}
	t.Logf("%d frames of %d were stamped before the one ahead of them", back, frames)
}

// A clock that is set back by more than NTP slews is followed: times would
// stand still until it has caught up.
func TestClockSetBack(t *testing.T) {
	s := &shard{lane: lane{account: &ShardAccount{CaptureAccount: new(CaptureAccount)}}}
	const ms = int64(time.Millisecond)
	for _, f := range []struct{ stamp, want int64 }{
		{1000 * ms, 1000 * ms}, {1000*ms - 1, 1000 * ms}, {1000 * ms, 1000 * ms}, {873 * ms, 1000 * ms}, {1001 * ms, 1001 * ms},
		{873 * ms, 873 * ms}, {872 * ms, 873 * ms}, {5, 5}, {2000 * ms, 2000 * ms},
	} {
		if got := s.record(&ring.Frame{Time: f.stamp}).Time; got != f.want {
			t.Errorf("stamped %d: %d, want %d", f.stamp, got, f.want)
		}
	}
	if evened, steps := s.account.Evened.Load(), s.account.SetBack.Load(); evened != 3 || steps != 2 {
		t.Errorf("%d evened, %d steps", evened, steps)
	}
}
