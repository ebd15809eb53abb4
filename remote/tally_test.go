// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/proto"
)

// Whatever shards count, and however often their interface changes its place, each
// frame is counted for the interface that had the place then.
func TestTallyIsByInterface(t *testing.T) {
	const interfaces = 5
	want := make([]counted, interfaces)
	shards := make([]tally, 3)
	totals := make([]counted, len(shards))
	for range 2000 {
		i := rand.IntN(len(shards))
		y, total := &shards[i], &totals[i]
		more := counted{captured: rand.Uint64N(100)}
		more.dropped = rand.Uint64N(more.captured + 1)
		total.add(more, counted{})
		want[y.at].add(more, counted{})
		if y.count(*total); rand.IntN(10) == 0 {
			y.move(rand.Uint32N(interfaces), *total)
		}
	}
	got, own := make([]counted, interfaces), make([]bool, interfaces)
	for i := range shards {
		shards[i].sum(got, own)
	}
	if !slices.Equal(got, want) || slices.Contains(own, false) {
		t.Errorf("counted %v, want %v; of all: %v", got, want, own)
	}
	few := make([]counted, 1) // an announce of a list that has grown meanwhile
	shards[0].sum(few, make([]bool, 1))
}

// What a shard left out and has not put into its account yet is of the interface
// before, too.
func TestTallyHasWhatWasLeftOut(t *testing.T) {
	_, s, _ := laneTap(t, 1, nil)
	s.shaper = &shaper{account: s.account.CaptureAccount, since: shapeCounts{sampled: 3, duplicates: 2}}
	if s.turnTo(1); s.tally.past[0] != (counted{captured: 5}) {
		t.Errorf("of the interface before: %+v", s.tally.past[0])
	}
}

// An announce whose numbers find no room is sent without them.
func TestAnnounceWithoutRoomForNumbers(t *testing.T) {
	tp, s, _ := laneTap(t, 1, nil)
	for i := 0; len(tp.interfaces) < maxInterfaces; i++ {
		tp.list(proto.Interface{Name: fmt.Sprintf("%s%d", strings.Repeat("<", 11), i), LinkType: 65535, MAC: "02:00:00:00:00:01", Speed: 1e19})
		if tp.interfaces[len(tp.interfaces)-1].Name == others {
			break
		}
	}
	last := uint32(len(tp.interfaces) - 1)
	for range tp.interfaces {
		s.tally.move(last, counted{s.tally.now.captured + 1<<60, s.tally.now.dropped + 1<<59})
		last--
	}
	announced := func() *proto.Announce {
		t.Helper()
		parts, err := tp.announce(tp.destinations[0], false, 1400)
		if err != nil {
			t.Fatal(err)
		}
		var j proto.AnnounceJoiner
		for _, p := range parts {
			if a, err := j.Add(p); a != nil || err != nil {
				return a
			}
		}
		t.Fatal("not whole")
		return nil
	}
	tp.filter.Store(&choice{})
	if a := announced(); len(a.Captured) != len(a.Interfaces) || a.Captured[7][0] != 1<<60 || a.Captured[7][1] != 1<<59 {
		t.Errorf("numbers of %d interfaces of %d", len(a.Captured), len(a.Interfaces))
	}
	tp.filter.Store(&choice{Filter: Filter{Text: strings.Repeat("<", maxAnnounced)}})
	if a := announced(); a.Captured != nil || a.Filter == "" || len(a.Interfaces) != len(tp.interfaces) {
		t.Errorf("numbers of %d interfaces, and %d names of %d", len(a.Captured), len(a.Interfaces), len(tp.interfaces))
	}
}
