// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"math"
	"slices"
)

// A Difference is what came out of pairs of runs: how much more one of a pair was
// than the other.
type Difference struct {
	Median float64 `json:"median"`
	Lower  float64 `json:"lower"` // quartile
	Upper  float64 `json:"upper"` // quartile
	// Low and High are where the median is with a confidence of 95 %, whatever the
	// distribution is: by the ranks that a binomial distribution leaves (W. J. Conover,
	// "Practical Nonparametric Statistics", section 3.2).
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	N    int     `json:"n"` // pairs
}

// leastPairs is how many give an interval: of fewer the least and the most are not
// it with that confidence.
const leastPairs = 6

// DifferenceOf returns the Difference of v. Values that are not numbers are left out.
func DifferenceOf(v ...float64) Difference {
	s := slices.DeleteFunc(slices.Clone(v), func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
	n := len(s)
	if n == 0 {
		return Difference{}
	}
	slices.Sort(s)
	// The normal approximation of the binomial distribution's 2.5 %.
	rank := max(0, int((float64(n)-1.96*math.Sqrt(float64(n)))/2))
	return Difference{quantile(s, 0.5), quantile(s, 0.25), quantile(s, 0.75), s[rank], s[n-1-rank], n}
}

// quantile returns that of sorted values, linearly between two of them.
func quantile(s []float64, q float64) float64 {
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// Clear says that there is a difference: the median is not 0, with confidence, and
// farther from it than noise, which is how far two of the same are apart.
func (d Difference) Clear(noise float64) bool {
	return d.N >= leastPairs && (d.Low > 0 || d.High < 0) && math.Abs(d.Median) > noise
}

// Most returns what the difference is below where it is not clear: nothing is known
// to be less than noise.
func (d Difference) Most(noise float64) float64 {
	return max(noise, math.Abs(d.Low), math.Abs(d.High))
}

// Text writes the median, or what it is less than, in whole ns.
func (d Difference) Text(noise float64) string {
	switch {
	case d.N < leastPairs:
		return "not measured"
	case d.Clear(noise):
		return fmt.Sprintf("%.0f", d.Median)
	}
	return fmt.Sprintf("less than %.0f", math.Ceil(d.Most(noise)))
}
