// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A tally is what the remote of one session says that its kernel captured on each
// interface. Files have it in their statistics, and may have it for longer than the
// session is known. Of announces only the counts are kept.
type tally struct {
	came   time.Time                      // when the session was first heard
	late   bool                           // in its middle: what was before is not for this collector to tell,
	first  atomic.Pointer[proto.Announce] // but what came after this announce
	newest atomic.Pointer[proto.Announce]
	gone   atomic.Bool // the session is: no announce comes any more
}

// learn notes an announce. One worker does: that of shard 0.
func (y *tally) learn(a *proto.Announce) {
	counts := &proto.Announce{Captured: a.Captured, Dropped: a.Dropped, Bye: a.Bye}
	if y.late && y.first.Load() == nil {
		y.first.Store(counts)
	}
	y.newest.Store(counts)
}

// final says that nothing more is going to be counted.
func (y *tally) final() bool {
	a := y.newest.Load()
	return y.gone.Load() || a != nil && a.Bye
}

// An ifCount says what was captured on an interface since its session began.
type ifCount struct {
	known    bool
	common   bool   // it has a ring in common with others:
	captured uint64 // frames, then without those that were dropped
	dropped  uint64 // frames, then of all of them
}

// countOf returns what an announce says of an interface. There may be none, nil.
func countOf(a *proto.Announce, number uint32) ifCount {
	if a == nil || uint64(number) >= uint64(len(a.Captured)) {
		return ifCount{}
	}
	switch c := a.Captured[number]; len(c) {
	case 0:
		return ifCount{}
	case 1:
		return ifCount{true, true, c[0], a.Dropped}
	default:
		return ifCount{true, false, c[0], c[1]}
	}
}

// now returns what is known of an interface by now.
func (y *tally) now(number uint32) ifCount { return countOf(y.newest.Load(), number) }

// begin returns what was counted of an interface before this collector heard of
// the session; like is how it is counted now.
func (y *tally) begin(number uint32, like ifCount) ifCount {
	first := &proto.Announce{Captured: []proto.InterfaceCount{}}
	if y.late {
		first = y.first.Load()
	}
	switch {
	case first == nil || first.Captured == nil:
		return ifCount{} // the remote does not say
	case uint64(number) < uint64(len(first.Captured)):
		return countOf(first, number)
	case like.common: // it was not there yet, others were
		return ifCount{true, true, 0, first.Dropped}
	}
	return ifCount{known: like.known}
}

// since returns what was captured after before; not known where that cannot be
// told from the two.
func (c ifCount) since(before ifCount) ifCount {
	if !c.known || !before.known || c.common != before.common || c.captured < before.captured || c.dropped < before.dropped {
		return ifCount{}
	}
	c.captured -= before.captured
	c.dropped -= before.dropped
	return c
}

// An ifKey is one interface of one session.
type ifKey struct {
	tap     uint32
	session uint64
	number  uint32 // in the announce
}

// A period says from when on the statistics of an interface are to count.
type period struct {
	start   int64   // ns since 1970
	before  ifCount // what was counted by then,
	session bool    // or: what the session had counted when it was first heard
}

// periods are those of the interfaces of one output, over its files: each begins
// where the one before ended, so that nothing is told twice, or left out between two
// files that have frames of the interface.
type periods struct {
	opened time.Time // the output was
	of     map[ifKey]period
	quiet  []pcapngSource // of a recording: interfaces that may have no frame in the file under way, but had in one before
	left   int            // of those, how many there were no places for
}

// maxPeriods bounds the interfaces whose periods are known. Chosen.
const maxPeriods = 1 << 16

// meet is called when an interface gets its block in a file.
func (p *periods) meet(k ifKey, y *tally) {
	if _, known := p.of[k]; known || y == nil {
		return
	}
	next := period{start: y.came.UnixNano(), session: true}
	if y.came.Before(p.opened) {
		next = period{start: time.Now().UnixNano(), before: y.now(k.number)}
	}
	p.put(k, next)
}

func (p *periods) put(k ifKey, next period) {
	if p.of == nil || len(p.of) == maxPeriods {
		p.of = make(map[ifKey]period)
	}
	p.of[k] = next
}

// end ends the period of an interface in a file that began at start, and returns
// when the period began and what was captured in it.
func (p *periods) end(k ifKey, y *tally, start, end int64) (int64, ifCount) {
	if y == nil {
		return start, ifCount{}
	}
	was, known := p.of[k]
	if !known { // there were too many
		was.start = start
	}
	now := y.now(k.number)
	p.put(k, period{start: end, before: now})
	return was.start, was.upTo(k, y, now)
}

// upTo returns what was captured in a period that ends now.
func (p period) upTo(k ifKey, y *tally, now ifCount) ifCount {
	if p.session {
		p.before = y.begin(k.number, now)
	}
	return now.since(p.before)
}

// put has the statistics say what was captured, where that is known.
func (c ifCount) put(s *proto.PcapngStatistics) {
	switch {
	case !c.known:
	case c.common && c.dropped > 0:
		s.Comment = more(s.Comment, fmt.Sprintf("ntap: %d frames were dropped by the kernel of the interfaces that share a ring with this one: how many of this one is not known", c.dropped))
	default:
		s.Counted, s.Received, s.Dropped = true, c.captured, c.dropped
	}
}
