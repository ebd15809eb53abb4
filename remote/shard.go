// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"time"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
	"github.com/ntap-project/ntap/ring/filter"
)

// Chosen.
const (
	poll     = 100 * time.Millisecond // an idle shard looks this often whether it has to stop
	interval = time.Second            // between reports, and between announces
	again    = interval / 4           // between tries to open a ring on what is gone
	recount  = interval / 5           // between looks at the kernel's counts
	farewell = 3                      // times that the end is told: nobody can ask again
	pause    = 20 * time.Millisecond  // between those
	slack    = 50 * time.Millisecond  // beyond twice Retire, for the last block: timers have the granularity of jiffies
)

// A shard is one source of frames with lanes to the collectors. One goroutine
// owns it while the remote runs.
type shard struct {
	lane                       // to the first collector
	more     []*lane           // to further ones
	all      []*lane           // these together
	tunnel   *tunnel           // in place of lanes; nil: there is a collector
	capture  *capture          // nil: the source is a file
	source   *fileReader       // nil: the source is a ring
	read     bool              // rec was read from source and is not yet packed
	filter   *choice           // that is in use
	machines []*filter.Machine // of the file's interfaces; nil: there is no filter
	ring     *ring.Ring        // nil: its interface is gone
	member   int               // of the capture's fanout group
	epoch    int               // of the capture, when ring was taken from it
	moved    uint64            // the tap's moves, when it was
	base     ring.Stats        // counts of earlier rings on the same interface
	down     bool              // the interface is
	places   *placer           // of a set; nil: rec says which interface it is,
	tally    tally             // and this what was captured on it
	shaper   *shaper           // nil: every frame is sent, whole
	rec      proto.Record
	recount  time.Time // when the account is to be brought up to date,
	next     time.Time // and when the next report is due
}

// run takes blocks from the ring until ctx is done, and then what is left.
func (s *shard) run(ctx context.Context) error {
	for ctx.Err() == nil { // once per block, never per frame
		s.introduce()
		b, err := s.ring.Take(poll)
		if err == nil && b != nil {
			s.up()
			err = s.forward(b)
		} else if err != nil {
			err = s.trouble(ctx, err)
		}
		if err == nil && s.moved != s.tap.moves.Load() {
			err = s.trouble(ctx, ring.ErrGone) // the namespace did
		}
		if err == nil {
			err = s.tick(time.Now())
		}
		if err != nil {
			return err
		}
	}
	return s.drain()
}

// drain stops the capture and forwards what it has caught.
func (s *shard) drain() error {
	if s.ring == nil {
		return s.count()
	}
	if err := s.ring.Quiesce(); err != nil && !errors.Is(err, ring.ErrGone) {
		return err
	}
	for {
		b, err := s.ring.Take(2*s.tap.cfg.Retire + slack)
		if b == nil || err != nil {
			return s.count() // a ring that fails now has nothing more to give
		}
		if err := s.forward(b); err != nil {
			return err
		}
	}
}

// tick sends what is due: reports, and from shard 0 announces. It is called
// between blocks, when no datagram is being packed.
func (s *shard) tick(now time.Time) error {
	if now.Before(s.recount) {
		return nil
	}
	s.recount = now.Add(recount)
	for _, l := range s.all {
		if err := l.rekey(now); err != nil {
			return err
		}
		l.locate()
		l.lending()
		l.repace(now)
	}
	s.follow()
	if err := s.refilter(); err != nil {
		return err
	}
	if err := s.count(); err != nil || now.Before(s.next) {
		return err
	}
	s.next = now.Add(interval)
	if err := s.report(now, false); err != nil {
		return err
	}
	if s.number != 0 {
		return nil
	}
	for _, l := range s.all {
		l.look(now)
	}
	return s.announce(false)
}

// count brings the account up to date with the kernel's counts.
func (s *shard) count() error {
	if a := s.account; s.source == nil {
		var k ring.Stats
		if s.ring != nil {
			var err error
			if k, err = s.ring.Stats(); err != nil {
				return err
			}
		}
		a.Captured.Set(s.base.Packets + k.Packets)
		a.KernelDrops.Set(s.base.Drops + k.Drops)
		a.Freezes.Set(s.base.Freezes + k.Freezes)
		s.stamped(s.base.Unstamped + k.Unstamped)
		s.tally.count(counted{a.Captured.Load(), a.KernelDrops.Load()})
	}
	if s.shaper != nil {
		s.shaper.count()
	}
	if s.places != nil {
		s.places.settle()
	}
	if s.tunnel != nil {
		s.tunnel.count()
	}
	for _, l := range s.all {
		l.count()
		if s.tap.shares != nil {
			l.account.Elsewhere.Set(s.sealed() - l.pack.Packed().Frames)
		}
	}
	return nil
}

// follow takes up another name of the interface that is captured by name.
// Frames go on under the one before until the new one is announced.
func (s *shard) follow() {
	if s.places != nil || s.ring == nil {
		return
	}
	if s.member == 0 {
		s.capture.follow(s.ring)
	}
	s.account.renamed.Store(s.capture.renamed.Load())
	if at := s.capture.place(); at != s.rec.Interface && s.tap.known.Load() == s.tap.introduced.Load() {
		s.turnTo(at)
	}
}

// stamped counts frames that the card did not stamp, and says once that there
// are any.
func (s *shard) stamped(not uint64) {
	if not > 0 && s.account.Unstamped.Load() == 0 {
		s.tap.log.Warn().Str("interface", s.account.Interface).Uint16("shard", s.number).Uint64("frames", not).
			Msg("the network card does not stamp every frame that it receives: those have the kernel's time, and are counted")
	}
	s.account.Unstamped.Set(not)
}

// report sends the shard's account to each collector.
func (s *shard) report(now time.Time, final bool) error {
	for _, l := range s.all {
		if err := s.tolerate(l, l.report(s.rec.Interface, now, final)); err != nil {
			return err
		}
	}
	return nil
}

// announce tells each collector who the tap is. Only shard 0 does.
func (s *shard) announce(bye bool) error {
	for _, l := range s.all {
		if err := s.tolerate(l, l.announce(bye)); err != nil {
			return err
		}
	}
	return nil
}

// up notes that frames come again.
func (s *shard) up() {
	if s.down {
		s.down = false
		s.tap.log.Info().Str("interface", s.account.Interface).Uint16("shard", s.number).Msg("capture goes on")
	}
}

// trouble deals with an interface that went down, which needs patience, or was
// deleted, which needs a new ring once there is one of its name again.
func (s *shard) trouble(ctx context.Context, err error) error {
	log := s.tap.log.With().Str("interface", s.account.Interface).Uint16("shard", s.number).Logger()
	switch {
	case errors.Is(err, ring.ErrDown):
		s.down = true
		log.Warn().Msg("the interface is down: waiting for it to come up")
		return nil
	case errors.Is(err, ring.ErrGone):
		s.down = true
		log.Warn().Msg("the interface is gone: waiting for it to come again")
		if err := s.drain(); err != nil {
			return err
		}
		return s.reopen(ctx)
	}
	return err
}

// reopen waits for an interface of the same name, in the same namespace or the
// one that took its place, and captures there. The reports go on meanwhile. The
// old ring is closed first: a socket keeps a network namespace alive.
func (s *shard) reopen(ctx context.Context) error {
	k, err := s.ring.Stats()
	if err != nil {
		return err
	}
	s.base.Packets += k.Packets
	s.base.Drops += k.Drops
	s.base.Freezes += k.Freezes
	s.base.Unstamped += k.Unstamped
	s.ring.Close()
	s.ring = nil
	s.capture.lost(s.epoch)
	if s.moved != s.tap.moves.Load() {
		s.capture.leave(s.epoch)
	}
	for ctx.Err() == nil {
		moved := s.tap.moves.Load()
		r, epoch, err := s.capture.reopen(s.member, s.epoch)
		if err == nil {
			s.ring, s.epoch, s.moved = r, epoch, moved
			if s.places == nil {
				s.turnTo(s.capture.place())
			}
			s.account.Reopened.Add(1)
			return nil
		}
		s.tap.log.Debug().Err(err).Uint16("shard", s.number).Msg("not there yet")
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
		if err := s.tick(time.Now()); err != nil {
			return err
		}
	}
	return nil
}
