// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"math"
	"testing"
)

// The search finds the highest rate of a system that carries no more, and says
// so where the source, or nothing, is the limit. What rings and sockets hold
// does not count as carried: at rates that they had hidden for a trial, the
// search used to end at what the source could offer.
func TestHighest(t *testing.T) {
	for _, c := range []struct {
		name                string
		limit, source, want float64
		bound               bool
		collapse            float64 // part that comes through under overload
		hidden              float64 // part beyond the limit that is lost by nobody in a trial, but comes late
		tired               float64 // limit of long trials, as part of the limit; 0: the same
	}{
		{name: "sharp", limit: 500e3, source: 1e6, want: 500e3, collapse: 1},
		{name: "collapses", limit: 500e3, source: 1e6, want: 500e3, collapse: 0.1},
		{name: "near the source", limit: 990e3, source: 1e6, want: 990e3, collapse: 1},
		{name: "source", limit: 2e6, source: 1e6, want: 1e6, bound: true, collapse: 1},
		{name: "low", limit: 20e3, source: 1e6, want: 20e3, collapse: 0.01},
		{name: "never", limit: 0, source: 1e6, want: 0, collapse: 0.5},
		{name: "late", limit: 500e3, source: 1e6, want: 500e3, collapse: 1, hidden: 1},
		{name: "does not last", limit: 500e3, source: 1e6, want: 460e3, collapse: 1, hidden: 1, tired: 0.94},
	} {
		n := 0
		s, err := Highest(t.Context(), func(rate float64, times int) (Attempt, error) {
			n++
			offered, limit := rate, c.limit
			if rate == 0 || rate > c.source {
				offered = c.source
			}
			if times > 1 && c.tired > 0 {
				limit *= c.tired
			}
			a := Attempt{Asked: rate, Offered: offered, Arrived: offered, Through: offered, Lossless: true, Carried: true}
			if offered > limit {
				a.Through = limit * c.collapse
				a.Behind, a.Carried = 0.8*(1-a.Through/offered), false
				if a.Lossless = offered <= limit*(1+c.hidden); !a.Lossless {
					a.Arrived = a.Through
				}
			}
			return a, nil
		})
		if err != nil || s.Bound != c.bound || math.Abs(s.Rate-c.want) > 2*precision*c.want || n > mostTrials+2*mostLower || n != len(s.Attempts) {
			t.Errorf("%s: %+v after %d, %v", c.name, s, n, err)
		}
	}
	// What was behind once, and not again, was held up by something else.
	n := 0
	s, err := Highest(t.Context(), func(rate float64, times int) (Attempt, error) {
		n++
		return Attempt{Offered: 1e6, Through: 0.95e6, Behind: 0.04, Lossless: true, Carried: n > 1}, nil
	})
	if err != nil || s.Rate != 1e6 || n != 3 {
		t.Errorf("%+v after %d, %v", s, n, err)
	}
	broken := errors.New("broken")
	if _, err := Highest(t.Context(), func(float64, int) (Attempt, error) { return Attempt{}, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Highest(ctx, func(float64, int) (Attempt, error) { t.Error("tried"); return Attempt{}, nil }); err == nil {
		t.Error("not cancelled")
	}
}
