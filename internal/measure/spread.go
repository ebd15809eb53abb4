// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"math"
	"slices"
)

// A Spread is what came out of several runs of one measurement.
type Spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
	N      int     `json:"n"` // runs
}

// SpreadOf returns the Spread of v. Values that are not numbers are left out.
func SpreadOf(v ...float64) Spread {
	s := make([]float64, 0, len(v))
	for _, x := range v {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			s = append(s, x)
		}
	}
	if len(s) == 0 {
		return Spread{}
	}
	slices.Sort(s)
	m := s[len(s)/2]
	if len(s)%2 == 0 {
		m = (m + s[len(s)/2-1]) / 2
	}
	return Spread{Median: m, Least: s[0], Most: s[len(s)-1], N: len(s)}
}

// Ratio returns the Spread of a[i]/b[i], for runs that took turns.
func Ratio(a, b []float64) Spread {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return SpreadOf(r...)
}

// String writes the median, and least and most if they differ from it.
func (s Spread) String() string {
	switch {
	case s.N == 0:
		return "not measured"
	case s.Least == s.Most:
		return short(s.Median)
	}
	return fmt.Sprintf("%s [%s to %s]", short(s.Median), short(s.Least), short(s.Most))
}

// short writes a number with three digits or, if it is large, without a
// fraction.
func short(x float64) string {
	switch a := math.Abs(x); {
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3g", x)
}
