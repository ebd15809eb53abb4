// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// One busy shard of two comes to have most of the rate and really sends faster
// than its half, which used to be all that it could; both together never send
// more than the rate; and when the traffic ends, each has its half again.
func TestPaceIsSharedByNeed(t *testing.T) {
	iface, peer := testnet.Veth(t)
	const rate = 4e6 // bytes a second
	tp := testTap(t, Config{Interfaces: []string{iface}, Workers: 2, SendRate: 8 * rate, RingBytes: 2 << 20})
	shards := openTap(t, tp)
	if got, _, _ := shards[0].out.Paced(); got != rate/2 {
		t.Fatalf("a shard of two begins with %d bytes a second of %d", got, int(rate))
	}
	wire, err := testnet.OpenWire(peer)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	ctx, stop := context.WithCancel(context.Background())
	flood, calm := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer testnet.Await(t, "the end of the shards", all.Wait)
	defer stop()
	for _, s := range shards {
		all.Go(func() {
			if err := s.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	frame := testnet.Numbered(0, 1000) // of one flow, hence one shard
	all.Go(func() {
		for flood.Err() == nil {
			_ = wire.Send(frame) // more than goes: what does not is dropped by the ring
		}
	})
	have := func() (busy, idle uint64) {
		tp.pace.mu.Lock()
		defer tp.pace.mu.Unlock()
		a, b := tp.pace.senders[0].rate, tp.pace.senders[1].rate
		return max(a, b), min(a, b)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				busy, idle := have()
				t.Fatalf("not within a minute: %s; they have %d and %d bytes a second", what, busy, idle)
			}
		}
	}
	until("the busy shard has nine tenths of the rate", func() bool { busy, idle := have(); return busy > rate*9/10 && busy+idle <= rate })
	spent := func() (sum uint64) {
		for _, s := range shards {
			st := s.out.Stats()
			sum += st.Bytes.Load() + 42*st.Datagrams.Load()
		}
		return sum
	}
	start := time.Now()
	before := spent()
	at, was := start, before
	until("a tenth of a second in which more is sent than half the rate", func() bool {
		if time.Since(at) < time.Second/10 { // a machine that stands still now and then leaves some of those whole
			return false
		}
		fast := float64(spent()-was) > 0.6*rate*time.Since(at).Seconds() // the clock is the last
		at = time.Now()
		was = spent()
		return fast
	})
	sent := spent() - before                   // before the clock: what is sent between the two has no time else
	took := time.Since(start).Seconds() + 0.01 // what a late thread may make up for, and a flight of each
	if float64(sent) > rate*took+2<<16 {
		t.Errorf("%d bytes in %.2f s, at %d a second at the most", sent, took, int(rate))
	}
	calm()
	until("both have their half again", func() bool { busy, idle := have(); return busy == rate/2 && idle == rate/2 })
}
