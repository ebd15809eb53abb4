// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
)

// An Attempt is what came of a trial at a rate.
type Attempt struct {
	Asked    float64 `json:"asked"`    // frames a second; 0: as many as go
	Offered  float64 `json:"offered"`  // frames a second
	Arrived  float64 `json:"arrived"`  // frames a second, all that came out in the end
	Through  float64 `json:"through"`  // frames a second that had come out when the source ended
	Behind   float64 `json:"behind"`   // s of the rate that was still on its way then
	Lossless bool    `json:"lossless"` // all that was offered came out
	Carried  bool    `json:"carried"`  // and what was on its way was no more than backlogMost
}

// A Search is a search for the highest rate without loss (RFC 2544, section
// 26.1): trials of a fixed length, each at half of what is left between the
// highest rate that was carried and the lowest that was not. A ring and a
// socket's buffer hold what comes in half a second: a trial shorter than that
// loses nothing at any rate, so that a rate is carried only if what comes out
// keeps up with what goes in; and what is found has to hold for longer.
type Search struct {
	Attempts []Attempt `json:"attempts"`
	Rate     float64   `json:"rate"`            // frames a second; 0: none was carried
	Bound    bool      `json:"bound,omitempty"` // by the source, which could not offer more
}

// Bounds of a Search.
const (
	// precision: it ends when what is left is this part of the rate.
	precision = 0.03
	// reached is the part of a rate that the source has to have offered: one
	// that could not is at its own limit.
	reached = 0.97
	// firstStep is how far from the first guess the second one is, at the most;
	// later ones twice as far each.
	firstStep = 0.08
	// mostTrials bounds it, but for the last ones, where no rate goes without loss.
	mostTrials = 14
	// holds is how many times as long as a trial the last one is, at the rate that
	// was found; and lower is the part of the rate that is tried next where it does
	// not hold, mostLower times at the most.
	holds     = 3
	lower     = 0.96
	mostLower = 6
	// backlogMost is what a system may have on its way when the source ends: 3 ms of
	// a remote's timer, and several slices of the scheduler (3 ms each) where threads
	// share CPUs. That is of the rate in s.
	backlogMost = 0.025
)

// Highest searches, from what the source can offer downwards. try is called
// with a rate, of which 0 is as many as go, and how many times the length of a trial it
// is to be.
func Highest(ctx context.Context, try func(rate float64, times int) (Attempt, error)) (s Search, err error) {
	attempt := func(rate float64, times int) (a Attempt, err error) {
		for again := range 2 {
			if err := ctx.Err(); err != nil {
				return a, err
			}
			if a, err = try(rate, times); err != nil {
				return a, err
			}
			if a.Offered <= 0 {
				return a, errors.New("the source offered nothing")
			}
			s.Attempts = append(s.Attempts, a)
			// On a machine that others share everything stands still now and then: what
			// was behind for that is not twice.
			if a.Carried || again > 0 || !a.Lossless || a.Behind > 4*backlogMost {
				break
			}
		}
		return a, nil
	}
	a, err := attempt(0, 1)
	if err != nil {
		return s, err
	}
	if a.Carried {
		s.Rate, s.Bound = a.Offered, true
		return s, s.hold(attempt)
	}
	// What came through under overload is near the answer, and where it is not,
	// one trial is lost.
	low, high, next := 0.0, a.Offered, a.Through
	if next < high/64 || next > high*0.98 {
		next = high / 2
	}
	step := firstStep
	for len(s.Attempts) < mostTrials && high-low > precision*high {
		if a, err = attempt(next, 1); err != nil {
			return s, err
		}
		if a.Carried && a.Offered < next*reached {
			// The source is at its limit here; the rates above it cannot be had.
			low, s.Bound = max(low, a.Offered), true
			break
		}
		if a.Carried {
			low = max(low, a.Offered)
		} else {
			high = min(high, next)
		}
		// Half way; but not so far from where the answer probably is, at first.
		next = (low + high) / 2
		if low > 0 {
			next = min(next, low*(1+step))
		} else {
			next = max(next, high*(1-step))
		}
		step = min(2*step, 1)
	}
	s.Rate = low
	return s, s.hold(attempt)
}

// hold tries what was found for longer, and takes what holds.
func (s *Search) hold(attempt func(rate float64, times int) (Attempt, error)) error {
	found := s.Rate
	for i := range mostLower + 1 {
		if found == 0 {
			break
		}
		a, err := attempt(found, holds)
		if err != nil {
			return err
		}
		if a.Carried {
			s.Rate, s.Bound = min(found, a.Offered), s.Bound && i == 0
			return nil
		}
		found *= lower
	}
	s.Rate, s.Bound = 0, false
	return nil
}
