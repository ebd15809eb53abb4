// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"math"
	"slices"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A merger puts frames of all taps and workers in the order of their capture
// times. They come in batches, each of which waits for the window:
//
//	batches ──add──▶ heap, by the time of their next frame ──due──▶ give
//
// When a batch has waited, all frames that are not later than its latest one go
// on, whatever batch they are in. So a frame is late, and goes on behind a later
// one, only if that came more than the window before it: no clock of a tap
// decides when frames go on, only what is earlier. Where there is no room,
// frames go on before they have waited.
type merger struct {
	window time.Duration
	limit  int // bytes of batches that wait
	give   func(o *Origin, r *proto.Record)
	counts *SinkCounts

	heap  []*mergeBatch
	waits []mergeWait // in the order in which they came
	first int         // of those, the first that waits still
	seq   uint64
	held  int           // bytes of frames that wait
	spent []*mergeBatch // of which all is given; their memory is on loan still
	bound int64         // frames of this time, and of earlier ones, go on at once
	last  int64         // the latest time given

	late, hurried uint64 // frames: counts is brought up to date with each look
}

// A mergeBatch is frames that one worker had at once, with their bytes.
type mergeBatch struct {
	frames []mergeFrame // in the order of their times
	mem    []byte
	next   int // of frames
	seq    uint64
	sorted bool
}

// A mergeFrame is one frame that waits.
type mergeFrame struct {
	from *Origin // the merge's own, see mergeMark
	lost uint64  // of the worker's, when the frame came
	at   int     // of its bytes in mem
	proto.Record
}

// mergeOverhead is what a frame takes besides its bytes.
const mergeOverhead = 128

// A mergeEnd says how many datagrams an origin had lost at its end.
type mergeEnd struct {
	of   *Origin // the merge's own
	lost uint64
}

// A mergeWait says when a batch came, and of what time its latest frame is.
type mergeWait struct {
	came   time.Time
	latest int64
}

func newMerger(window time.Duration, limit int, counts *SinkCounts, give func(*Origin, *proto.Record)) *merger {
	return &merger{window: window, limit: limit, give: give, counts: counts, bound: math.MinInt64, last: math.MinInt64}
}

// put copies a record into the batch, of an Origin of the merge's own, in whose
// place so many datagrams were lost by now.
func (b *mergeBatch) put(own *Origin, lost uint64, r *proto.Record) {
	if n := len(b.frames); n == 0 {
		b.sorted = true
	} else if r.Time < b.frames[n-1].Time {
		b.sorted = false
	}
	b.frames = append(b.frames, mergeFrame{from: own, lost: lost, at: len(b.mem), Record: *r})
	b.mem = append(b.mem, r.Data...)
}

// size returns the bytes that the batch takes.
func (b *mergeBatch) size() int { return len(b.mem) + len(b.frames)*mergeOverhead }

// time returns that of the next frame.
func (b *mergeBatch) time() int64 { return b.frames[b.next].Time }

// before says that b's next frame goes before c's.
func (b *mergeBatch) before(c *mergeBatch) bool {
	s, t := b.time(), c.time()
	return s < t || s == t && b.seq < c.seq
}

// reset empties the batch.
func (b *mergeBatch) reset() {
	clear(b.frames) // of Origins, which may be gone
	b.frames, b.mem, b.next = b.frames[:0], b.mem[:0], 0
}

// add takes a batch that came now, which is not empty.
func (m *merger) add(b *mergeBatch, now time.Time) {
	if !b.sorted {
		slices.SortStableFunc(b.frames, func(x, y mergeFrame) int {
			switch {
			case x.Time < y.Time:
				return -1
			case x.Time > y.Time:
				return 1
			}
			return 0
		})
	}
	m.seq++
	b.seq = m.seq
	m.held += b.size()
	m.waits = append(m.waits, mergeWait{now, b.frames[len(b.frames)-1].Time})
	m.heap = append(m.heap, b)
	for i := len(m.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !m.heap[i].before(m.heap[up]) {
			break
		}
		m.heap[i], m.heap[up] = m.heap[up], m.heap[i]
		i = up
	}
}

// due gives what has waited, and what there is no room for.
func (m *merger) due(now time.Time) {
	for m.first < len(m.waits) && now.Sub(m.waits[m.first].came) >= m.window {
		m.bound = max(m.bound, m.waits[m.first].latest)
		m.first++
	}
	if m.first > len(m.waits)/2 {
		m.waits = slices.Delete(m.waits, 0, m.first)
		m.first = 0
	}
	for len(m.heap) > 0 && m.heap[0].time() <= m.bound {
		m.pop()
	}
	for m.held > m.limit && len(m.heap) > 0 {
		m.bound = max(m.bound, m.heap[0].time())
		m.hurried++
		m.pop()
	}
	m.account()
}

// all gives all there is.
func (m *merger) all() {
	for len(m.heap) > 0 {
		m.pop()
	}
	m.waits, m.first = m.waits[:0], 0
	m.account()
}

func (m *merger) account() {
	m.counts.Late.Set(m.late)
	m.counts.Hurried.Set(m.hurried)
}

// wait returns how long it is until more is due; ok is false if nothing waits.
func (m *merger) wait(now time.Time) (d time.Duration, ok bool) {
	if m.first == len(m.waits) {
		return 0, false
	}
	return m.window - now.Sub(m.waits[m.first].came), true
}

// pop gives the first frame of the heap.
func (m *merger) pop() {
	b := m.heap[0]
	f := &b.frames[b.next]
	b.next++
	if b.next == len(b.frames) {
		m.spent = append(m.spent, b)
		last := len(m.heap) - 1
		m.heap[0], m.heap[last] = m.heap[last], nil
		m.heap = m.heap[:last]
	}
	m.sink()
	if f.Time < m.last {
		m.late++
	} else {
		m.last = f.Time
	}
	n := len(f.Data)
	m.held -= n + mergeOverhead
	f.Data = b.mem[f.at : f.at+n : f.at+n]
	f.from.lost = f.lost
	m.give(f.from, &f.Record)
}

// end notes what was lost by the end, behind the last frame.
func (m *merger) end(ends []mergeEnd) {
	for _, e := range ends {
		e.of.lost = e.lost
	}
}

// sink puts the heap's first batch where it belongs.
func (m *merger) sink() {
	for i := 0; ; {
		least := i
		for down := 2*i + 1; down <= 2*i+2 && down < len(m.heap); down++ {
			if m.heap[down].before(m.heap[least]) {
				least = down
			}
		}
		if least == i {
			return
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}

// release hands back the batches that were given: nothing of them is in use any
// more.
func (m *merger) release(take func(*mergeBatch)) {
	for i, b := range m.spent {
		m.spent[i] = nil
		take(b)
	}
	m.spent = m.spent[:0]
}
