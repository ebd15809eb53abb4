// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// flowOf makes a UDP frame of a flow, there or back.
func flowOf(n int, back bool) []byte {
	f := make([]byte, 100)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	copy(f[14:], []byte{0x45, 0, 0, 86, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, byte(n >> 8), byte(n), 10, 9, 0, 1})
	binary.BigEndian.PutUint16(f[34:], uint16(1024+n))
	binary.BigEndian.PutUint16(f[36:], 53)
	if back {
		for i := range 4 {
			f[26+i], f[30+i] = f[30+i], f[26+i]
		}
		f[34], f[35], f[36], f[37] = f[36], f[37], f[34], f[35]
	}
	return f
}

// Of the flows about one in N is kept, both directions of it, and those kept are
// spread evenly over what shares flows by the same hash behind the tap.
func TestSampled(t *testing.T) {
	for _, n := range []uint64{2, 10, 100} {
		kept, high := 0, 0
		for i := range 60000 {
			r := proto.Record{LinkType: proto.LinkTypeEthernet, Data: flowOf(i, false)}
			is := sampled(&r, n)
			r.Data = flowOf(i, true)
			if sampled(&r, n) != is {
				t.Fatalf("flow %d: one direction is kept, the other is not", i)
			}
			raw := proto.Record{LinkType: proto.LinkTypeRaw, Data: r.Data[14:]}
			if sampled(&raw, n) != is {
				t.Fatalf("flow %d: it is kept on one interface, and not on another", i)
			}
			if Kept(r.Data, uint32(n)) != is || !Kept(r.Data, 1) || !Kept(r.Data, 0) {
				t.Fatalf("flow %d: whoever asks beforehand is told something else", i)
			}
			if is {
				kept++
				if proto.FlowHash(r.Data) >= 1<<31 {
					high++
				}
			}
		}
		want := 60000 / float64(n)
		if part := float64(kept) / want; part < 0.85 || part > 1.15 {
			t.Errorf("1/%d: %d flows kept, not %.0f", n, kept, want)
		}
		if part := float64(high) / float64(kept); part < 0.4 || part > 0.6 {
			t.Errorf("1/%d: %.2f of those kept have a high hash", n, part)
		}
	}
	if r := (proto.Record{LinkType: 105, Data: []byte{1, 2}}); !sampled(&r, 1000) {
		t.Error("a frame without flows is left out")
	}
}

// A seenTable says what a map without bounds says.
func TestSeenAgainstMap(t *testing.T) {
	const window = 10 * time.Millisecond
	table := newSeenTable(window)
	type seen struct {
		at    int64
		place uint32
	}
	known := map[uint64]seen{}
	random := rand.New(rand.NewPCG(3, 4))
	now, twice := int64(1_700_000_000_000_000_000), 0
	for range 300000 {
		now += seenUnit * (int64(random.IntN(250)) - 62) // rings are not in step
		hash := uint64(random.IntN(5000)+1) * 0x9E3779B97F4A7C15
		place := uint32(random.IntN(3))
		was, ok := known[hash]
		age := max(now-was.at, was.at-now)
		want := ok && age <= int64(window) && was.place != place
		if got := table.twice(hash, now, place); got != want {
			t.Fatalf("hash %x at place %d, %v after place %d: %v", hash, place, time.Duration(age), was.place, got)
		}
		if want {
			twice++
		} else {
			known[hash] = seen{now, place}
		}
	}
	if twice < 1000 {
		t.Errorf("only %d seen twice", twice)
	}
}

// Two shards that meet the same frames at the same time send each once.
func TestSeenByTwoShards(t *testing.T) {
	table := newSeenTable(time.Second)
	const n = 200000
	var dropped atomic.Int64
	var wg sync.WaitGroup
	for place := range uint32(2) {
		wg.Go(func() {
			for i := range uint64(n) {
				if table.twice((i+1)*0xD1B54A32D192ED03, int64(i)*100, place) {
					dropped.Add(1)
				}
			}
		})
	}
	testnet.Await(t, "both shards' end", wg.Wait)
	// A shard may be so far ahead that buckets have forgotten what it saw; none is
	// dropped that was not sent.
	if d := dropped.Load(); d > n || d < n*9/10 {
		t.Errorf("%d of %d frames were sent once", d, n)
	}
}

// Two shards that begin with the same frames at the same moment, again and again:
// one of them that meets a frame while the other notes it knows it by that. It used
// to send it again: always, and then if the other was interrupted for some µs.
func TestSeenInStep(t *testing.T) {
	const rounds, frames = 3000, 50
	table := newSeenTable(time.Second)
	var dropped, ready atomic.Int64
	var wg sync.WaitGroup
	for place := range uint32(2) {
		wg.Go(func() {
			for round := range int64(rounds) {
				for ready.Add(1); ready.Load() < 2*(round+1); {
					runtime.Gosched()
				}
				for i := range int64(frames) {
					n := round*frames + i
					if table.twice(uint64(n+1)*0xD1B54A32D192ED03, n*100, place) {
						dropped.Add(1)
					}
				}
			}
		})
	}
	testnet.Await(t, "both shards' end", wg.Wait)
	if again := rounds*frames - dropped.Load(); again != 0 {
		t.Errorf("%d of %d frames were sent again", again, rounds*frames)
	}
}

// A table's memory does not depend on the traffic.
func TestSeenTableBounds(t *testing.T) {
	for window, most := range map[time.Duration]int{minDedup: leastSeen, 10 * time.Millisecond: 1 << 14, 100 * time.Millisecond: 1 << 17, maxDedup: mostSeen} {
		if n := len(newSeenTable(window).buckets); n != most {
			t.Errorf("%v: %d buckets, not %d", window, n, most)
		}
	}
}

// However shards draw, no more than the rate and one bucket goes out, and not
// noticeably less if there is enough to send.
func TestBudget(t *testing.T) {
	for _, c := range []RateLimit{{Frames: 1000}, {Frames: 2_000_000}, {Bits: 10_000_000}, {Bits: 8e9, Frames: 300_000}} {
		start := time.Unix(1_700_000_000, 0)
		b := newBudget(c, start)
		var shards [3]shaper
		for i := range shards {
			shards[i].budget = b
		}
		var frames, bits float64
		const size = 500 * 8
		random := rand.New(rand.NewPCG(5, 6))
		const seconds = 3
		now := start
		for now.Before(start.Add(seconds * time.Second)) {
			now = now.Add(time.Duration(random.IntN(4_000_000)))
			s := &shards[random.IntN(len(shards))]
			s.dry = false
			b.refill(now)
			for range 8000 {
				if s.spend(size) {
					frames++
					bits += size
				}
			}
		}
		check := func(what string, got float64, rate uint64, least float64) {
			most := float64(rate)*seconds + max(float64(rate)*depth.Seconds(), least)
			if rate > 0 && got > most*1.001 {
				t.Errorf("%+v: %.0f %s in %d s, at most %.0f", c, got, what, seconds, most)
			}
		}
		check("frames", frames, c.Frames, leastFrames)
		check("bits", bits, c.Bits, leastBits)
		if low := 0.93 * seconds; !(c.Frames > 0 && frames > low*float64(c.Frames) || c.Bits > 0 && bits > low*float64(c.Bits)) {
			t.Errorf("%+v: only %.0f frames and %.0f bits", c, frames, bits)
		}
	}
}

// A frame of the greatest length passes the lowest limit, some time.
func TestBudgetTakesTheLongest(t *testing.T) {
	s := shaper{budget: newBudget(RateLimit{Bits: 1}, time.Now())}
	if !s.spend(8 * proto.MaxFrame) {
		t.Error("it never passes")
	}
}

// A shard that was interrupted between its look at the clock and the budget adds
// nothing: it was taken for a clock that is set back, and then the next one added
// what had been added already, up to a whole bucket.
func TestBudgetOfALateShard(t *testing.T) {
	now := time.Now()
	b := newBudget(RateLimit{Frames: 1000}, now)
	b.frames.left.Store(0)
	for _, v := range []struct {
		at   time.Duration
		want int64 // tokens from then on
	}{{50 * time.Millisecond, 50}, {10 * time.Millisecond, 50}, {60 * time.Millisecond, 60}, {60 * time.Millisecond, 60}} {
		if b.refill(now.Add(v.at)); b.frames.left.Load() != v.want {
			t.Errorf("looked after %v: %d tokens, not %d", v.at, b.frames.left.Load(), v.want)
		}
	}
}

// Shards that are interrupted anywhere, each with a clock that it has just looked at,
// together get no more than the rate and one bucket.
func TestBudgetOfInterruptedShards(t *testing.T) {
	const rate, shards = 100_000_000, 4
	start := time.Now()
	b := newBudget(RateLimit{Frames: rate}, start)
	var drawn atomic.Int64
	var wg sync.WaitGroup
	for range shards {
		wg.Go(func() {
			for range 200_000 {
				b.refill(time.Now())
				_, n := b.draw(0, 1)
				drawn.Add(n)
			}
		})
	}
	testnet.Await(t, "the shards' end", wg.Wait)
	if n, most := drawn.Load(), rate/1e9*float64(time.Since(start))+float64(b.frames.most); float64(n) > most {
		t.Errorf("%d frames, at most %.0f", n, most)
	}
}

// With everything on, a frame allocates nothing, and the account adds up.
func TestTakeOfAShaper(t *testing.T) {
	a := &CaptureAccount{}
	s := &shaper{sample: 3, mask: true, seen: newSeenTable(time.Millisecond), budget: newBudget(RateLimit{Frames: 1000, Bits: 1e9}, time.Now()),
		seed: maphash.MakeSeed(), account: a}
	frames := make([][]byte, 512)
	for i := range frames {
		frames[i] = flowOf(i/2, i%2 == 1)
	}
	n, taken := 0, 0
	if allocs := testing.AllocsPerRun(50, func() {
		s.begin()
		for i, f := range frames {
			r := proto.Record{Data: f, OrigLen: uint32(len(f)), LinkType: proto.LinkTypeEthernet, Time: int64(n), Interface: uint32(i % 2)}
			n++
			if s.take(&r) {
				taken++
			}
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	s.count()
	if got := taken + int(a.shed()); got != n || a.Sampled.Load() == 0 || a.OverRate.Load() == 0 || a.Masked.Load() < uint64(taken) {
		t.Errorf("%d frames, %d taken, %d shed, %d masked", n, taken, a.shed(), a.Masked.Load())
	}
	s.open = true
	r := proto.Record{Data: frames[0]}
	open := s.take(&r)
	if s.count(); open || a.Broken.Load() != 1 {
		t.Error("a breaker that is open lets frames through")
	}
	shed := a.shed()
	if s.count(); a.shed() != shed {
		t.Error("what was counted is counted again")
	}
}

func TestShapeRefuses(t *testing.T) {
	for want, s := range map[string]Shape{
		"choose one of both":         {Headers: true, Mask: true},
		"at most one of":             {Sample: 1 << 30},
		"a window of 1h0m0s":         {Dedup: time.Hour},
		"a window of 1ns":            {Dedup: 1},
		"a part of all CPUs":         {Breaker: Breaker{CPU: 2}},
		"a part of its speed, up":    {Breaker: Breaker{NIC: -1}},
		"or bits a second, not both": {Breaker: Breaker{NIC: 0.5, NICBits: 5}},
	} {
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	var none Shape
	if none.any() || none.Check() != nil {
		t.Error("nothing to do is something")
	}
}

// What each option costs a frame: go test ./remote -run none -bench Shape.
func BenchmarkShape(b *testing.B) {
	for _, size := range []int{60, 300, 1300} {
		frame := append(flowOf(1, false), make([]byte, 1300)...)[:size]
		for name, s := range map[string]*shaper{
			"sample": {sample: 2}, "dedup": {seen: newSeenTable(time.Millisecond), seed: maphash.MakeSeed()}, "slice": {headers: true}, "mask": {mask: true},
			"rate": {budget: newBudget(RateLimit{Frames: 1e10}, time.Now())},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				s.account = &CaptureAccount{}
				at := int64(0)
				for b.Loop() {
					r := proto.Record{Data: frame, OrigLen: uint32(size), LinkType: proto.LinkTypeEthernet, Time: at}
					at += 100
					s.take(&r)
				}
			})
		}
	}
}
