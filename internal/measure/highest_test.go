// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"math"
	"testing"
)

// The search finds the highest rate of a system that loses above it, and says
// so where the source, or nothing, is the limit.
func TestHighest(t *testing.T) {
	for _, c := range []struct {
		name                string
		limit, source, want float64
		bound               bool
		collapse            float64 // part that comes through under overload
	}{
		{"sharp", 500e3, 1e6, 500e3, false, 1},
		{"collapses", 500e3, 1e6, 500e3, false, 0.1},
		{"near the source", 990e3, 1e6, 990e3, false, 1},
		{"source", 2e6, 1e6, 1e6, true, 1},
		{"low", 20e3, 1e6, 20e3, false, 0.01},
		{"never", 0, 1e6, 0, false, 0.5},
	} {
		n := 0
		s, err := Highest(t.Context(), func(rate float64) (Attempt, error) {
			n++
			offered := rate
			if rate == 0 || rate > c.source {
				offered = c.source
			}
			a := Attempt{Asked: rate, Offered: offered, Arrived: offered, Lossless: offered <= c.limit}
			if !a.Lossless {
				a.Arrived = c.limit * c.collapse
			}
			return a, nil
		})
		if err != nil || s.Bound != c.bound || math.Abs(s.Rate-c.want) > 2*precision*c.want || n > mostTrials || n != len(s.Attempts) {
			t.Errorf("%s: %+v after %d, %v", c.name, s, n, err)
		}
	}
	broken := errors.New("broken")
	if _, err := Highest(t.Context(), func(float64) (Attempt, error) { return Attempt{}, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Highest(ctx, func(float64) (Attempt, error) { t.Error("tried"); return Attempt{}, nil }); err == nil {
		t.Error("not cancelled")
	}
}
