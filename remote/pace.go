// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync"
	"time"
)

// leastShare is the part of its even share, one in so many, that a sender keeps
// of the rate when it sends nothing: enough to begin with. Chosen.
const leastShare = 16

// A paceShare shares a rate out among senders, each a lane of a shard: evenly,
// until some need more than that and others less. What those leave, for as long
// as they do, these have. All together never have more than the rate. Senders
// look at it with each tick, so it takes a few of those to change.
type paceShare struct {
	mu      sync.Mutex
	even    uint64 // bytes a second of each at the start
	free    uint64 // that nobody has
	senders []paceSender
}

type paceSender struct {
	rate   uint64 // bytes a second that it has
	hungry bool   // it needs more
}

// newPaceShare shares out rate, in bytes a second. Nil: there is nothing to share.
func newPaceShare(rate uint64, senders int) *paceShare {
	if rate == 0 || senders < 2 {
		return nil
	}
	p := &paceShare{even: max(rate/uint64(senders), 1), senders: make([]paceSender, senders)}
	for i := range p.senders {
		p.senders[i].rate = p.even
	}
	return p
}

// turn says what a sender has from now on. It used so much of what it had, in
// bytes a second, and waited for the rate so much of the time, 0 to 1.
func (p *paceShare) turn(i int, used uint64, waited float64) (rate uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.senders[i]
	s.hungry = used > s.rate/4*3 || waited > 0.5
	hungry, theirs := 0, p.free
	for _, o := range p.senders {
		if o.hungry {
			hungry++
			theirs += o.rate
		}
	}
	var want uint64
	switch {
	case s.hungry:
		want = max(theirs/uint64(hungry), 1)
	case hungry > 0:
		want = min(s.rate, max(2*used, p.even/leastShare, 1))
	default:
		want = p.even
	}
	want = min(want, s.rate+p.free) // others give back at their own turns
	p.free += s.rate - want
	s.rate = want
	return want
}

// A laneShare is a lane's place in a paceShare, and what it had used at its last
// turn.
type laneShare struct {
	share  *paceShare // nil: the lane's rate stays what it is
	at     int
	used   uint64        // bytes
	waited time.Duration // of the time since the start
	turned time.Time     // zero: not yet
}

// repace takes the lane's turn. Nothing is queued.
func (l *lane) repace(now time.Time) {
	r := &l.pace
	if r.share == nil {
		return
	}
	used, waited := l.out.Spent()
	if d := now.Sub(r.turned); !r.turned.IsZero() && d > 0 {
		l.out.Pace(r.share.turn(r.at, uint64(float64(used-r.used)/d.Seconds()), float64(waited-r.waited)/float64(d)))
	}
	r.used, r.waited, r.turned = used, waited, now
}
