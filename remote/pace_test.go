// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"testing"
)

// A rate is shared out by what senders need: one alone has nearly all of it,
// two that are busy among idle ones half each, all that are busy the same; one
// that wakes up has its even share soon; and all together never have more than
// the rate, at no moment. A busy one of four used to have a quarter.
func TestPaceShare(t *testing.T) {
	const rate, n = 1 << 30, 4
	p := newPaceShare(rate, n)
	have := [n]uint64{}
	for i := range have {
		have[i] = rate / n
	}
	for _, phase := range []struct {
		name   string
		demand [n]uint64 // bytes a second that come
		want   [n]uint64 // at least
	}{
		{"nothing", [n]uint64{}, [n]uint64{rate / 4, rate / 4, rate / 4, rate / 4}},
		{"one", [n]uint64{9 << 30}, [n]uint64{rate / 16 * 15, rate / 128, rate / 128, rate / 128}},
		{"another wakes", [n]uint64{9 << 30, 9 << 30}, [n]uint64{rate / 100 * 45, rate / 100 * 45}},
		{"the first rests", [n]uint64{0, 9 << 30}, [n]uint64{rate / 128, rate / 16 * 15}},
		{"all", [n]uint64{9 << 30, 9 << 30, 9 << 30, 9 << 30}, [n]uint64{rate / 100 * 24, rate / 100 * 24, rate / 100 * 24, rate / 100 * 24}},
		{"one of them needs a little", [n]uint64{9 << 30, 1 << 20, 9 << 30, 9 << 30}, [n]uint64{rate / 100 * 25, 1 << 20, rate / 100 * 25, rate / 100 * 25}},
		{"one alone again", [n]uint64{2: 9 << 30}, [n]uint64{2: rate / 16 * 15}},
		{"nothing again", [n]uint64{}, [n]uint64{rate / 100 * 24, rate / 100 * 24, rate / 100 * 24, rate / 100 * 24}},
	} {
		for range 12 { // turns, 0.2 s each
			for i := range have {
				have[i] = p.turn(i, min(phase.demand[i], have[i]), 0)
				sum := uint64(0)
				for _, h := range have {
					sum += h
				}
				if sum > rate || have[i] == 0 {
					t.Fatalf("%s: %v make %d of %d", phase.name, have, sum, rate)
				}
			}
		}
		for i := range have {
			if have[i] < phase.want[i] {
				t.Errorf("%s: sender %d has %d, want %d at least: %v", phase.name, i, have[i], phase.want[i], have)
			}
		}
	}
	// One that mostly waits needs more, however little it gets through for it.
	for range 4 {
		for i := range have {
			waited := 0.
			if i == 3 {
				waited = 0.9
			}
			have[i] = p.turn(i, 0, waited)
		}
	}
	if have[3] < rate/16*15 {
		t.Errorf("one that waits has %d of %d", have[3], rate)
	}
	if newPaceShare(rate, 1) != nil || newPaceShare(0, 4) != nil {
		t.Error("something is shared where there is nothing, or nobody, to share it")
	}
}
