// SPDX-License-Identifier: Apache-2.0

package crypto

// windowSize is how many counters, back from the highest accepted one, are
// told apart. Chosen: many times what a path with several links reorders, and
// 520 bytes a stream.
const windowSize = 4096

const windowWords = windowSize/64 + 1

// A window remembers which of the last windowSize counters were accepted: the
// ring of RFC 6479, in which one word more than the window needs spares
// shifting bits.
type window struct {
	next uint64 // highest counter accepted + 1; 0 if none was. Stays at 2^64-1.
	seen [windowWords]uint64
}

// check says whether counter may be accepted: nil, or why not.
func (w *window) check(counter uint64) error {
	switch {
	case counter >= w.next:
		if counter == 1<<64-1 {
			return ErrEpoch // none could follow it
		}
		return nil
	case w.next-counter > windowSize:
		return ErrOld
	case w.seen[counter/64%windowWords]&(1<<(counter%64)) != 0:
		return ErrReplay
	}
	return nil
}

// accept marks counter, which check let pass, as seen.
func (w *window) accept(counter uint64) {
	word := counter / 64
	if counter >= w.next {
		// The words from the one after the last used up to counter's are reused.
		last := (w.next - 1) / 64
		if w.next == 0 {
			last = word // nothing was used yet
		}
		for n := min(word-last, windowWords); n > 0; n-- {
			w.seen[(word-n+1)%windowWords] = 0
		}
		w.next = counter + 1
	}
	w.seen[word%windowWords] |= 1 << (counter % 64)
}
