// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync"

	"github.com/ntap-project/ntap/proto"
)

// A tally says how many frames a shard with a ring of its own captured on its
// interface, and on those that were in its place before: one that has another
// name by now, or one that was deleted. Shard 0 reads it for the announce.
type tally struct {
	mu    sync.Mutex         // never taken per frame
	past  map[uint32]counted // by number in the announce
	at    uint32             // of the interface now
	since counted            // when it took that place
	now   counted
}

// counted are frames as the kernel counts them: all that came behind the filter,
// and those of them that found the ring full.
type counted struct{ captured, dropped uint64 }

func (c *counted) add(now, since counted) {
	c.captured += now.captured - since.captured
	c.dropped += now.dropped - since.dropped
}

// count brings the tally up to date with the shard's counts.
func (y *tally) count(now counted) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.now = now
}

// move gives the interface of that number the place of the one before, to which
// all that was counted by then belongs.
func (y *tally) move(at uint32, now counted) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.past == nil {
		y.past = map[uint32]counted{}
	}
	before := y.past[y.at]
	before.add(now, y.since)
	y.past[y.at] = before
	y.at, y.since, y.now = at, now, now
}

// sum adds what was counted by interface, of those that are known to whoever asks.
func (y *tally) sum(to []counted, own []bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	add := func(at uint32, now, since counted) {
		if int(at) < len(to) {
			to[at].add(now, since)
			own[at] = true
		}
	}
	for at, c := range y.past {
		add(at, c, counted{})
	}
	add(y.at, y.now, y.since)
}

// turnTo has the frames to come be those of the interface of that number. What
// waits in the ring is among them; what the kernel counted of it by now is what
// the shard has taken and what was dropped.
func (s *shard) turnTo(at uint32) {
	if at == s.rec.Interface {
		return
	}
	s.rec.Interface = at
	if s.tunnel != nil {
		return // nobody is told
	}
	if s.shaper != nil {
		s.shaper.count()
	}
	taken := s.account.TooLong.Load() + s.account.shed() + s.sealed()
	dropped := s.account.KernelDrops.Load()
	s.tally.move(at, counted{taken + dropped, dropped})
}

// sealed returns the frames that some collector got, each once.
func (s *shard) sealed() (n uint64) {
	if s.tap.shares == nil {
		return s.pack.Packed().Frames
	}
	for _, l := range s.all {
		n += l.pack.Packed().Frames
	}
	return n
}

// captured returns what the announce says of each of so many interfaces, and of
// the rings that some have in common; nil: nothing, of a capture file.
func (t *tap) captured(interfaces int) (all []proto.InterfaceCount, dropped uint64) {
	if t.cfg.File != "" {
		return nil, 0
	}
	sums, own := make([]counted, interfaces), make([]bool, interfaces)
	common := false
	taken := make([]uint64, interfaces)
	for _, s := range t.all {
		if s.places == nil {
			s.tally.sum(sums, own)
			continue
		}
		common = true
		dropped += s.account.KernelDrops.Load()
		for i := range taken {
			taken[i] += s.account.Interfaces[i].Frames.Load()
		}
	}
	numbers := make([]uint64, 0, 2*interfaces)
	for i, c := range sums {
		from := len(numbers)
		switch {
		case own[i] && taken[i] > 0: // captured by name, and then by a pattern
		case own[i] || !common:
			numbers = append(numbers, c.captured, c.dropped)
		default:
			numbers = append(numbers, taken[i])
		}
		all = append(all, numbers[from:len(numbers):len(numbers)])
	}
	return all, dropped
}
