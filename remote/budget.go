// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A budget is a token bucket each for bits and for frames, that all shards of a
// tap share.
type budget struct {
	bits, frames bucket
}

// Chosen.
const (
	depth       = 100 * time.Millisecond // that a bucket holds: so long a burst passes
	leastFrames = 64                     // and at least so many frames,
	leastBits   = 8 * proto.MaxFrame     // or one of the longest
	portions    = 64                     // in which a bucket is emptied: a shard leaves some for others
)

func newBudget(r RateLimit, now time.Time) *budget {
	b := &budget{}
	b.bits.begin(r.Bits, leastBits, now)
	b.frames.begin(r.Frames, leastFrames, now)
	return b
}

func (b *budget) refill(now time.Time) {
	b.bits.refill(now)
	b.frames.refill(now)
}

// draw takes a portion of each kind of which something is needed.
func (b *budget) draw(bits, frames int64) (int64, int64) {
	if bits > 0 {
		bits = b.bits.draw(bits)
	} else {
		bits = 0
	}
	if frames > 0 {
		frames = b.frames.draw(frames)
	} else {
		frames = 0
	}
	return bits, frames
}

// A bucket holds tokens. Any number of goroutines use it.
type bucket struct {
	rate  float64 // tokens a ns; 0: there is no end of them
	most  int64
	start time.Time // by a clock that nobody sets, as are all that follow it
	left  atomic.Int64
	added atomic.Int64 // until when tokens were added, ns since start
}

func (b *bucket) begin(rate uint64, least int64, now time.Time) {
	b.rate = float64(rate) / 1e9
	b.most = max(least, int64(min(float64(rate)*depth.Seconds(), math.MaxInt64/4)))
	b.start = now
	b.left.Store(b.most)
}

// refill adds what came in since the last time. Of several at once, one does; one
// that looked at the clock before another, and comes behind it, adds nothing.
func (b *bucket) refill(now time.Time) {
	if b.rate == 0 {
		return
	}
	from, to := b.added.Load(), int64(now.Sub(b.start))
	if to <= from {
		return
	}
	n := int64(min(float64(to-from)*b.rate, float64(b.most)))
	if n < b.most {
		to = min(to, from+int64(math.Ceil(float64(n)/b.rate))) // what is less than a token waits for the next time
	}
	if n < 1 || !b.added.CompareAndSwap(from, to) {
		return
	}
	for {
		left := b.left.Load()
		if b.left.CompareAndSwap(left, min(b.most, left+n)) {
			return
		}
	}
}

// draw takes at least n tokens, or what is left if that is less: nothing then,
// of what would not do.
func (b *bucket) draw(n int64) int64 {
	if b.rate == 0 {
		return math.MaxInt64 / 4
	}
	for {
		left := b.left.Load()
		if left < n {
			return 0
		}
		portion := min(left, max(n, b.most/portions))
		if b.left.CompareAndSwap(left, left-portion) {
			return portion
		}
	}
}
