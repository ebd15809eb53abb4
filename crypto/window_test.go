// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"testing"

	"pgregory.net/rapid"
)

// plainWindow is the window as one would explain it: every counter ever
// accepted, and the rule.
type plainWindow struct {
	seen map[uint64]bool
	next uint64
}

func (w *plainWindow) take(counter uint64) error {
	switch {
	case counter == 1<<64-1:
		return ErrEpoch
	case w.next > windowSize && counter < w.next-windowSize:
		return ErrOld
	case w.seen[counter]:
		return ErrReplay
	}
	w.seen[counter] = true
	w.next = max(w.next, counter+1)
	return nil
}

func (w *window) take(counter uint64) error {
	err := w.check(counter)
	if err == nil {
		w.accept(counter)
	}
	return err
}

// TestWindowIsThePlainOne holds the window against its plain twin, with steps
// of all sizes around the borders of words and of the window.
func TestWindowIsThePlainOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		plain := plainWindow{seen: make(map[uint64]bool)}
		at := rapid.SampledFrom([]uint64{0, 1, 63, 64, 4095, 4096, 4160, 1<<24 - 100, 1<<63 - 5, 1<<64 - 6000, 1<<64 - 3}).Draw(t, "start")
		steps := rapid.SliceOfN(rapid.OneOf(
			rapid.Int64Range(-3, 3),
			rapid.Int64Range(-130, 130),
			rapid.Int64Range(-windowSize-70, windowSize+70),
			rapid.Int64Range(-3*windowSize, 3*windowSize),
			rapid.SampledFrom([]int64{-windowSize - 1, -windowSize, -windowSize + 1, windowSize - 1, windowSize, windowSize + 1, 64 * windowWords, 1 << 30}),
		), 1, 200).Draw(t, "steps")
		for i, step := range steps {
			if i > 0 {
				at = w.next - 1 + uint64(step) // from the newest; wraps at both ends, which is a try too
			}
			got, want := w.take(at), plain.take(at)
			if got != want {
				t.Fatalf("counter %d, highest %d: %v, want %v", at, plain.next-1, got, want)
			}
			if w.next != plain.next {
				t.Fatalf("next is %d, want %d", w.next, plain.next)
			}
		}
	})
}

// TestWindowTakesEachCounterOnce goes through every counter of several windows
// in two interleaved orders.
func TestWindowTakesEachCounterOnce(t *testing.T) {
	var w window
	const n, behind = 5 * windowSize, windowSize - 1
	for i := range uint64(n) {
		if i%2 == 0 {
			if err := w.take(i); err != nil {
				t.Fatalf("counter %d: %v", i, err)
			}
		}
		if i >= behind && i%2 == 0 { // the odd ones come as late as they may
			late := i - behind
			if err := w.take(late); err != nil {
				t.Fatalf("counter %d, %d behind: %v", late, behind, err)
			}
			if err := w.take(late); err != ErrReplay {
				t.Fatalf("counter %d again: %v", late, err)
			}
			if late > 0 {
				if err := w.take(late - 1); err != ErrOld {
					t.Fatalf("counter %d, behind the window: %v", late-1, err)
				}
			}
		}
	}
}

// TestNothingIsLeftAfterAJump fills the whole ring, jumps by each distance
// around its size, and finds every counter between free.
func TestNothingIsLeftAfterAJump(t *testing.T) {
	const full = 3*64*windowWords + 17
	for _, jump := range []uint64{windowSize - 1, windowSize, windowSize + 1, 64*windowWords - 1, 64 * windowWords, 64*windowWords + 1, 64*windowWords + 46, 5 * 64 * windowWords, 1<<40 + 5} {
		var w window
		for c := range uint64(full) {
			w.accept(c)
		}
		top := uint64(full - 1 + jump)
		if err := w.take(top); err != nil {
			t.Fatal(err)
		}
		for c := max(top-windowSize+1, full); c < top; c++ {
			if err := w.take(c); err != nil {
				t.Fatalf("jump of %d: counter %d below the highest: %v", jump, top-c, err)
			}
		}
	}
}

func BenchmarkWindow(b *testing.B) {
	var w window
	b.ReportAllocs()
	for b.Loop() {
		if w.check(w.next) == nil {
			w.accept(w.next)
		}
	}
}
