// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The median, quartiles and the ranks of the interval are those of the books: for 20
// values the 6th and the 15th.
func TestDifference(t *testing.T) {
	var v []float64
	for i := range 20 {
		v = append(v, float64((i*7)%20+1)) // 1 to 20, in another order
	}
	want := Difference{Median: 10.5, Lower: 5.75, Upper: 15.25, Low: 6, High: 15, N: 20}
	if got := DifferenceOf(append(v, math.NaN(), math.Inf(1))...); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	if got := DifferenceOf(); got != (Difference{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got := DifferenceOf(3); got != (Difference{3, 3, 3, 3, 3, 1}) {
		t.Errorf("of one: %+v", got)
	}
}

// The interval has the true median in it about 19 times out of 20.
func TestDifferenceCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	missed, all := 0, 2000
	for range all {
		v := make([]float64, 45)
		for i := range v {
			v[i] = random.ExpFloat64() // one-sided, as noise is
		}
		if d := DifferenceOf(v...); d.Low > math.Ln2 || d.High < math.Ln2 {
			missed++
		}
	}
	if missed < all/100 || missed > all/14 {
		t.Errorf("%d of %d intervals do not have the median", missed, all)
	}
}

// A difference is told only if it is clear; else what it is less than.
func TestDifferenceText(t *testing.T) {
	for _, c := range []struct {
		d     Difference
		noise float64
		want  string
	}{
		{Difference{Median: 48.4, Low: 40, High: 60, N: 40}, 5, "48"},
		{Difference{Median: -860.6, Low: -900, High: -800, N: 40}, 20, "-861"},
		{Difference{Median: 4, Low: -2, High: 9.2, N: 40}, 3, "less than 10"},
		{Difference{Median: -4, Low: -12, High: 1, N: 40}, 3, "less than 12"},
		{Difference{Median: 4, Low: 3, High: 5, N: 40}, 7, "less than 7"}, // two of the same are as far apart
		{Difference{Median: 4, Low: 3, High: 5, N: 2}, 1, "not measured"},
		{Difference{}, 1, "not measured"},
	} {
		if got := c.d.Text(c.noise); got != c.want {
			t.Errorf("%+v, noise %v: %q, not %q", c.d, c.noise, got, c.want)
		}
	}
}
