// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync/atomic"
	"time"
)

// A seenTable knows the frames that were seen lately, and where. Its size is
// fixed, and all shards share it: one waits for another for the time of two
// stores, if they note a frame in the same bucket at the same moment. A bucket is one
// cache line. A frame is known by 64 bits of a hash of all its bytes under a random key.
type seenTable struct {
	buckets []seenBucket
	shift   uint8 // of a hash, to the number of a bucket
	window  int64 // in units of seenUnit
}

type seenBucket struct {
	hash [4]atomic.Uint64 // 0: none
	when [4]atomic.Uint64 // time in units of seenUnit, and the place in the low bits
}

// Chosen.
const (
	placeBits  = 10        // of the number of an interface; its power:
	seenPlaces = 1 << 10   // as many interfaces are told apart as a session names
	seenUnit   = 16        // ns: beside the place there is room for nine years of them
	seenLooks  = 1000      // at a bucket in which others note frames: some µs
	seenRate   = 4e6       // frames a second for which there is room
	seenBytes  = 64        // of a bucket
	seenBusy   = 1<<64 - 1 // a time that is being written, and its hash
	leastSeen  = 1 << 13   // buckets: 512 KiB
	mostSeen   = 1 << 20   // 64 MiB
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
	entry := uint64(ns/seenUnit)<<placeBits | uint64(min(place, seenPlaces-1))
	for range seenLooks {
		at, was, known := b.find(hash, entry)
		switch {
		case was == seenBusy: // another shard notes a frame here, which may be this one
		case !known:
			if b.when[at].CompareAndSwap(was, seenBusy) {
				b.hash[at].Store(hash)
				b.when[at].Store(entry)
				return false
			}
		case (was^entry)%seenPlaces != 0 && max(apart(entry, was), apart(was, entry)) <= t.window:
			return true
		case b.when[at].CompareAndSwap(was, entry):
			return false
		}
	}
	return false // whoever notes it was stopped meanwhile: at the worst this frame is sent and need not be
}

// find returns where a frame stands and when it was seen, or else where it
// belongs and what is there: in place of none, or of the oldest. While another
// shard notes a frame in the bucket, that one's time is seenBusy.
func (b *seenBucket) find(hash, entry uint64) (at int, was uint64, known bool) {
	oldest := int64(-1 << 62)
	for i := range b.hash {
		when := b.when[i].Load()
		h := b.hash[i].Load()
		switch {
		case h == hash && b.when[i].Load() != when: // it was written between the two
			return i, seenBusy, true
		case h == hash || when == seenBusy:
			return i, when, h == hash
		case h == 0:
			return i, when, false
		}
		if age := apart(entry, when); age > oldest {
			at, was, oldest = i, when, age
		}
	}
	return at, was, false
}

// apart returns how much later a is than b, in units of seenUnit.
func apart(a, b uint64) int64 { return int64(a-b) >> placeBits }
