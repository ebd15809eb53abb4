// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"hash/maphash"
	"testing"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// Every two of the interfaces that a session can name are two. Those 64 apart
// used to count as one, so that what both saw was sent twice.
func TestSeenTellsInterfacesApart(t *testing.T) {
	table := newSeenTable(time.Second)
	hash, now := uint64(0), int64(1_700_000_000_000_000_000)
	for first := range uint32(maxInterfaces) {
		for apart := uint32(1); first+apart < maxInterfaces; apart *= 2 {
			hash += 0x9E3779B97F4A7C15
			if table.twice(hash, now, first) || !table.twice(hash, now, first+apart) || table.twice(hash, now, first) {
				t.Fatalf("interfaces %d and %d count as one", first, first+apart)
			}
		}
	}
	// Those beyond are one with the last, which is that of (others).
	hash++
	if table.twice(hash, now, maxInterfaces-1) || table.twice(hash, now, 1<<20) || !table.twice(hash, now, 0) {
		t.Error("an interface beyond the last counts as another")
	}
}

// Frames with equal bytes are not the same where the wire saw other lengths, or
// where other frames are made of them. With -s, two that began alike used to be
// one, and the second was lost.
func TestDedupTellsFramesApart(t *testing.T) {
	data := flowOf(1, false)
	base := proto.Record{Data: data, OrigLen: 1000, LinkType: proto.LinkTypeEthernet, Time: 5}
	variants := []proto.Record{base, base, base, base, base, base}
	variants[1].OrigLen = 1001
	variants[2].NeedsCsum = true
	variants[3].GSOType, variants[3].GSOSize = 1, 500
	variants[4].GSOType, variants[4].GSOSize = 1, 501
	variants[5].GSOType, variants[5].GSOSize = 4, 500
	s := &shaper{seen: newSeenTable(time.Second), seed: maphash.MakeSeed(), account: &CaptureAccount{}}
	for round := range uint32(2) { // in the second, each on another interface than in the first
		for i, r := range variants {
			if r.Interface = round + uint32(i); s.take(&r) != (round == 0) {
				t.Errorf("round %d: variant %d is not known as what it is", round, i)
			}
		}
	}
	// What the ring leaves undefined makes no difference.
	again := base
	again.Interface, again.GSOSize, again.CsumStart, again.CsumOffset = 1, 9, 9, 9
	if s.take(&again) {
		t.Error("a frame without GSO is known by a GSO size")
	}
	if s.count(); s.account.Duplicates.Load() != uint64(len(variants))+1 {
		t.Errorf("%d duplicates counted", s.account.Duplicates.Load())
	}
}
