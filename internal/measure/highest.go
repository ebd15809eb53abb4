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
	Arrived  float64 `json:"arrived"`  // frames a second
	Lossless bool    `json:"lossless"` // all that was offered came out
}

// A Search is a search for the highest rate without loss (RFC 2544, section
// 26.1): trials of a fixed length, each at half of what is left between the
// highest rate that went without loss and the lowest that did not.
type Search struct {
	Attempts []Attempt `json:"attempts"`
	Rate     float64   `json:"rate"`            // frames a second; 0: none went without loss
	Bound    bool      `json:"bound,omitempty"` // by the source, which could not offer more
}

// Bounds of a Search.
const (
	// precision: it ends when what is left is this part of the rate.
	precision = 0.02
	// reached is the part of a rate that the source has to have offered: one
	// that could not is at its own limit.
	reached = 0.97
	// firstStep is how far from the first guess the second one is, at the most;
	// later ones twice as far each.
	firstStep = 0.08
	// mostTrials bounds it where no rate goes without loss.
	mostTrials = 14
)

// Highest searches, from what the source can offer downwards. try is called
// with a rate; 0 is as many as go.
func Highest(ctx context.Context, try func(rate float64) (Attempt, error)) (s Search, err error) {
	attempt := func(rate float64) (a Attempt, err error) {
		if err := ctx.Err(); err != nil {
			return a, err
		}
		if a, err = try(rate); err != nil {
			return a, err
		}
		if a.Offered <= 0 {
			return a, errors.New("the source offered nothing")
		}
		s.Attempts = append(s.Attempts, a)
		return a, nil
	}
	a, err := attempt(0)
	if err != nil {
		return s, err
	}
	if a.Lossless {
		s.Rate, s.Bound = a.Offered, true
		return s, nil
	}
	// What came through under overload is near the answer, and where it is not,
	// one trial is lost.
	low, high, next := 0.0, a.Offered, a.Arrived
	if next < high/64 || next > high*0.98 {
		next = high / 2
	}
	step := firstStep
	for len(s.Attempts) < mostTrials && high-low > precision*high {
		if a, err = attempt(next); err != nil {
			return s, err
		}
		switch {
		case a.Lossless && a.Offered < next*reached:
			// The source is at its limit here; the rates above it cannot be had.
			s.Rate, s.Bound = max(low, a.Offered), true
			return s, nil
		case a.Lossless:
			low = max(low, a.Offered)
		default:
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
	return s, nil
}
