// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync/atomic"
	"time"
)

// A seenTable knows the frames that were seen lately, and where. Its size is
// fixed, all shards share it, and nobody waits for anybody; a bucket is one
// cache line. A frame is known by 64 bits of a hash of all its bytes under a random key.
type seenTable struct {
	buckets []seenBucket
	shift   uint8 // of a hash, to the number of a bucket
	window  int64 // ns
}

type seenBucket struct {
	hash [4]atomic.Uint64 // 0: none
	when [4]atomic.Uint64 // time in ns, and the place in the low bits
}

// Chosen.
const (
	seenPlaces = 64      // interfaces that are told apart; its logarithm:
	placeBits  = 6       // room for nine years of ns beside it
	seenTries  = 4       // to note a frame while others note theirs
	seenRate   = 4e6     // frames a second for which there is room
	seenBytes  = 64      // of a bucket
	leastSeen  = 1 << 13 // buckets: 512 KiB
	mostSeen   = 1 << 20 // 64 MiB
)

func newSeenTable(window time.Duration) *seenTable {
	n, bits := leastSeen, uint8(13)
	for float64(4*n) < seenRate*window.Seconds() && n < mostSeen {
		n *= 2
		bits++
	}
	return &seenTable{buckets: make([]seenBucket, n), shift: 64 - bits, window: int64(window)}
}

// twice notes a frame by its hash, and says whether it was seen on another interface
// within the window. One that comes again on the same interface was sent
// twice, and is no other.
func (t *seenTable) twice(hash uint64, ns int64, place uint32) bool {
	b := &t.buckets[hash>>t.shift]
	hash = max(hash, 1)
	entry := uint64(ns)<<placeBits | uint64(place%seenPlaces)
	for range seenTries {
		at, known := b.find(hash, entry)
		if !known {
			// Whoever meets the frame between the two sees the time of what was
			// here before. At the worst a frame is sent that need not be.
			if old := b.hash[at].Load(); old != hash && b.hash[at].CompareAndSwap(old, hash) {
				b.when[at].Store(entry)
				return false
			}
			continue
		}
		was := b.when[at].Load()
		if (was^entry)%seenPlaces != 0 && max(apart(entry, was), -apart(entry, was)) <= t.window {
			return true
		}
		if b.when[at].CompareAndSwap(was, entry) {
			return false
		}
	}
	return false
}

// find returns where a frame stands, or else where it belongs: in place of none,
// or of the oldest.
func (b *seenBucket) find(hash, entry uint64) (at int, known bool) {
	oldest := int64(-1 << 62)
	for i := range b.hash {
		switch h := b.hash[i].Load(); {
		case h == hash:
			return i, true
		case h == 0:
			return i, false
		}
		if age := apart(entry, b.when[i].Load()); age > oldest {
			at, oldest = i, age
		}
	}
	return at, false
}

// apart returns how much later a is than b, ns.
func apart(a, b uint64) int64 { return int64(a-b) >> placeBits }
