// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"io"
	"time"
)

// Chosen: at most so many frames of a capture file are packed before the
// shard looks at the clock and at whether it has to stop.
const replayTurn = 4096

// replay sends the frames of the capture file, in turns as a ring gives them
// in blocks. A file that ends in the middle of a packet is an error at the end:
// what came before it is sent.
func (s *shard) replay(ctx context.Context) error {
	p := pacer{real: s.tap.cfg.Pace == PaceReal}
	defer context.AfterFunc(ctx, func() { s.source.Close() })() // it may be waiting for a pipe
	for ctx.Err() == nil {
		wait, err := s.turn(&p)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			break
		} else if err != nil {
			return errors.Join(err, s.count())
		}
		if known := s.source.Interfaces(); len(known) > len(s.tap.interfaces) {
			if err := s.meet(known); err != nil {
				return errors.Join(err, s.count())
			}
			if err := s.announce(false); err != nil {
				return err
			}
		}
		if err := s.idle(ctx, wait); err != nil {
			return err
		}
	}
	return s.count()
}

// turn packs and sends frames of the file until one is not due yet: then it
// returns how long that one has to wait. It also stops before a frame of an
// interface that was not announced.
func (s *shard) turn(p *pacer) (wait time.Duration, err error) {
	s.begin()
	for n := range replayTurn {
		if !s.read {
			if n > 0 && !s.source.Ready() {
				break // the file may be a pipe: what came is sent before more is waited for
			}
			if err = s.source.Next(&s.rec); err != nil {
				break
			}
			s.read = true
		}
		if int(s.rec.Interface) >= len(s.tap.interfaces) {
			break
		}
		if !s.passes(&s.rec) {
			s.read = false
			s.account.LeftOut.Add(1)
			continue
		}
		if wait = p.wait(s.rec.Time); wait > 0 {
			break
		}
		s.read = false
		s.account.Captured.Add(1)
		if s.shaper != nil && !s.shaper.take(&s.rec) {
			continue
		}
		if s.tunnel != nil {
			s.tunnel.copyIn(&s.rec)
			continue
		}
		s.spread(&s.rec)
	}
	if s.tunnel != nil {
		s.tunnel.flush()
	}
	if e := s.finish(); e != nil {
		return 0, e
	}
	return wait, err
}

// idle waits, and reports meanwhile.
func (s *shard) idle(ctx context.Context, wait time.Duration) error {
	for until := time.Now().Add(wait); ; {
		now := time.Now()
		if err := s.tick(now); err != nil {
			return err
		}
		left := min(until.Sub(now), s.next.Sub(now))
		if !now.Before(until) || ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(left):
		}
	}
}

// A pacer says when frames of a capture file are due: as far apart as they
// were captured, if real.
type pacer struct {
	real  bool
	begun bool
	first int64     // time of the first frame, ns since 1970
	start time.Time // when that was sent
}

// wait returns how long a frame captured at ns has to wait; not more than 0 if
// it is due.
func (p *pacer) wait(ns int64) time.Duration {
	if !p.real {
		return 0
	}
	if !p.begun {
		p.begun, p.first, p.start = true, ns, time.Now()
	}
	return time.Duration(ns-p.first) - time.Since(p.start)
}
