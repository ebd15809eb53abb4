// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/proto"
)

// A mergeTwin merges as the text has it, slowly: it sorts.
type mergeTwin struct {
	window time.Duration
	came   []mergeTwinFrame
	bound  int64
	out    []uint32
	late   uint64
	last   int64
}

type mergeTwinFrame struct {
	number uint32
	time   int64
	came   time.Time
	given  bool
}

func (m *mergeTwin) due(now time.Time, all bool) {
	for _, f := range m.came {
		if all || now.Sub(f.came) >= m.window {
			m.bound = max(m.bound, f.time)
		}
	}
	var due []*mergeTwinFrame
	for i := range m.came {
		if f := &m.came[i]; !f.given && f.time <= m.bound {
			due = append(due, f)
		}
	}
	slices.SortStableFunc(due, func(a, b *mergeTwinFrame) int { return int(a.time - b.time) })
	for _, f := range due {
		f.given = true
		m.out = append(m.out, f.number)
		if f.time < m.last {
			m.late++
		}
		m.last = max(m.last, f.time)
	}
}

// Whatever comes when, the merger gives what the twin gives, once; a frame is
// late only if a later one came more than the window before it; and the bytes of
// each are its own.
func TestMergeIsSorting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := time.Duration(rapid.IntRange(0, 50).Draw(t, "window"))
		twin := &mergeTwin{window: window, bound: math.MinInt64, last: math.MinInt64}
		var counts SinkCounts
		var got []uint32
		origins := []*Origin{{Tap: 1}, {Tap: 2}}
		m := newMerger(window, 1<<20, &counts, func(o *Origin, r *proto.Record) {
			n := binary.BigEndian.Uint32(r.Data)
			if o.Tap != 1+n%2 || o.lost != uint64(n) || int(r.OrigLen) != len(r.Data) {
				t.Fatalf("frame %d of tap %d, with %d lost and %d of %d bytes", n, o.Tap, o.lost, len(r.Data), r.OrigLen)
			}
			got = append(got, n)
		})
		now := time.Unix(1_700_000_000, 0)
		number := uint32(0)
		for range rapid.IntRange(0, 40).Draw(t, "batches") {
			b := new(mergeBatch)
			for range rapid.IntRange(0, 6).Draw(t, "frames") {
				at := rapid.Int64Range(-60, 60).Draw(t, "time")
				o := origins[number%2]
				r := proto.Record{Time: at, Data: make([]byte, 4+number%9)}
				binary.BigEndian.PutUint32(r.Data, number)
				r.OrigLen = uint32(len(r.Data))
				b.put(o, uint64(number), &r)
				clear(r.Data) // which was on loan
				twin.came = append(twin.came, mergeTwinFrame{number: number, time: at, came: now})
				number++
			}
			if len(b.frames) > 0 {
				m.add(b, now)
			}
			m.due(now)
			twin.due(now, false)
			if fmt.Sprint(got) != fmt.Sprint(twin.out) {
				t.Fatalf("given %v, want %v", got, twin.out)
			}
			m.release(func(b *mergeBatch) { b.reset() })
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "pause")))
		}
		m.all()
		twin.due(now, true)
		if fmt.Sprint(got) != fmt.Sprint(twin.out) || len(got) != int(number) {
			t.Fatalf("given %v, want %v", got, twin.out)
		}
		if counts.Late.Load() != twin.late || counts.Hurried.Load() != 0 || m.held != 0 {
			t.Fatalf("%d late, want %d; %d hurried; %d bytes held", counts.Late.Load(), twin.late, counts.Hurried.Load(), m.held)
		}
		possible := uint64(0)
		for i, f := range twin.came {
			if slices.ContainsFunc(twin.came[:i], func(g mergeTwinFrame) bool { return g.time > f.time && f.came.Sub(g.came) >= window }) {
				possible++
			}
		}
		if counts.Late.Load() > possible {
			t.Fatalf("%d late, and only %d came more than the window behind a later one", counts.Late.Load(), possible)
		}
	})
}

// With no room the earliest frames go on before they have waited, which is
// counted, and memory stays within its bound.
func TestMergeIsBounded(t *testing.T) {
	var counts SinkCounts
	var times []int64
	const limit = 100 * (1000 + mergeOverhead)
	m := newMerger(time.Hour, limit, &counts, func(_ *Origin, r *proto.Record) { times = append(times, r.Time) })
	o := new(Origin)
	now := time.Now()
	const frames = 5000
	for i := range frames / 10 {
		b := new(mergeBatch)
		for k := range 10 {
			b.put(o, 0, &proto.Record{Time: int64(i*10 + 9 - k), Data: make([]byte, 1000)}) // backwards within a batch
		}
		m.add(b, now)
		if m.due(now); m.held > limit {
			t.Fatalf("%d bytes wait, at most %d may", m.held, limit)
		}
		m.release(func(*mergeBatch) {})
	}
	if n := counts.Hurried.Load(); n != frames-100 || len(times) != frames-100 {
		t.Errorf("%d frames hurried, %d given", n, len(times))
	}
	m.all()
	if !slices.IsSorted(times) || len(times) != frames || counts.Late.Load() != 0 {
		t.Errorf("%d frames given, %d late, in order: %v", len(times), counts.Late.Load(), slices.IsSorted(times))
	}
	// What comes now is late, and goes on at once.
	b := new(mergeBatch)
	b.put(o, 0, &proto.Record{Time: 5})
	m.add(b, now)
	if m.due(now.Add(2 * time.Hour)); counts.Late.Load() != 1 || len(times) != frames+1 {
		t.Errorf("%d late, %d given", counts.Late.Load(), len(times))
	}
}

// What a frame costs, copied, merged and given on, with many batches waiting.
func BenchmarkMerge(b *testing.B) {
	for _, size := range []int{60, 1514} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			var counts SinkCounts
			m := newMerger(100, 1<<30, &counts, func(*Origin, *proto.Record) {})
			origins := []*Origin{{Tap: 1}, {Tap: 2}, {Tap: 3}}
			data := make([]byte, size)
			var free []*mergeBatch
			now := time.Unix(0, 0)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; i < b.N; {
				var next *mergeBatch
				if n := len(free); n > 0 {
					next, free = free[n-1], free[:n-1]
				} else {
					next = new(mergeBatch)
				}
				for range 64 {
					next.put(origins[i/64%3], 0, &proto.Record{Time: int64(i%64)*100 + int64(i), Data: data})
					i++
				}
				now = now.Add(1)
				m.add(next, now)
				m.due(now)
				m.release(func(b *mergeBatch) { b.reset(); free = append(free, b) })
			}
		})
	}
}
