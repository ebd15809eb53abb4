// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync/atomic"
	"time"
)

// A seenTable knows the frames that were seen lately, and where. Its size is
// fixed, and all shards share it; none waits for another. A bucket is one cache
// line. A frame is known by 64 bits of a hash under a random key (fingerprint).
type seenTable struct {
	buckets []seenBucket
	shift   uint8 // of a hash, to the number of a bucket
	window  int64 // in units of seenUnit
}

// A seenBucket holds four frames. What is written as when is, in order of the bits:
//
//	time in units of seenUnit (53) | place (10) | 0   a frame, whose hash stands beside it
//	low bits of a hash (53)        | place (10) | 1   a frame that a shard is writing there
type seenBucket struct {
	hash [4]atomic.Uint64 // 0: none
	when [4]atomic.Uint64
}

// Chosen.
const (
	placeBits  = 10            // of the number of an interface; its power:
	seenPlaces = 1 << 10       // as many interfaces are told apart as a session names
	seenBelow  = placeBits + 1 // bits below the time: the place, and whether a shard is writing
	seenUnit   = 16            // ns: there is room for four years of them
	seenLooks  = 1000          // at a bucket in which others note frames at the same time
	seenRate   = 4e6           // frames a second for which there is room
	seenBytes  = 64            // of a bucket
	leastSeen  = 1 << 13       // buckets: 512 KiB
	mostSeen   = 1 << 20       // 64 MiB
)

var _ [seenPlaces - maxInterfaces]struct{} // each interface that has a name has a place

func newSeenTable(window time.Duration) *seenTable {
	n, bits := leastSeen, uint8(13)
	for float64(4*n) < seenRate*window.Seconds() && n < mostSeen {
		n *= 2
		bits++
	}
	return &seenTable{buckets: make([]seenBucket, n), shift: 64 - bits, window: int64(window) / seenUnit}
}

// twice notes a frame by its hash, and says whether it was seen on another interface
// within the window. One that comes again on the same interface was sent
// twice, and is no other. Of a file with more interfaces than have a place, the
// last of them count as one, as do those that come under the name (others).
func (t *seenTable) twice(hash uint64, ns int64, place uint32) bool {
	b := &t.buckets[hash>>t.shift]
	hash = max(hash, 1)
	below := uint64(min(place, seenPlaces-1)) << 1
	// Never what stands in an empty slot: one that was seen empty before another shard
	// wrote a frame there would still pass for empty after.
	entry, writing := uint64(max(ns/seenUnit, 1))<<seenBelow|below, hash<<seenBelow|below|1
	for range seenLooks {
		at, was, state := b.find(hash, entry)
		other := (was^entry)%(1<<seenBelow)>>1 != 0
		switch {
		case state == seenWriting: // at this moment: so they are one, if the place is another
			return other
		case state == seenNot && b.when[at].CompareAndSwap(was, writing):
			b.hash[at].Store(hash)
			b.when[at].Store(entry)
			return false
		case state == seenBefore && other && max(apart(entry, was), apart(was, entry)) <= t.window:
			return true
		case state == seenBefore && b.when[at].CompareAndSwap(was, entry):
			return false
		case state == seenFull:
			return false
		}
	}
	return false // others note frames here all the time: at the worst this one is sent and need not be
}

// What find found.
const (
	seenNot     = iota // the frame is not there
	seenBefore         // it is
	seenWriting        // another shard is writing it
	seenChanged        // what is there changed meanwhile
	seenFull           // others are writing four other frames
)

// find returns where a frame stands and what is written there, or else where it
// belongs and what is there: in place of none, or of the oldest.
func (b *seenBucket) find(hash, entry uint64) (at int, was uint64, state int) {
	oldest := int64(-1 << 62)
	state = seenFull
	for i := range b.hash {
		when := b.when[i].Load()
		if when&1 != 0 {
			if when>>seenBelow == hash<<seenBelow>>seenBelow { // the other bits of the hash chose the bucket
				return i, when, seenWriting
			}
			continue
		}
		switch h := b.hash[i].Load(); {
		case h == hash && b.when[i].Load() != when:
			return i, when, seenChanged
		case h == hash:
			return i, when, seenBefore
		case h == 0:
			return i, when, seenNot
		}
		if age := apart(entry, when); age > oldest {
			at, was, oldest, state = i, when, age, seenNot
		}
	}
	return at, was, state
}

// apart returns how much later a is than b, in units of seenUnit.
func apart(a, b uint64) int64 { return int64(a-b) >> seenBelow }
