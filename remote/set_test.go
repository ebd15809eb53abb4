// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// However many interfaces come in a session, the announce stays within its
// bound and can be sent, and every frame has a place: what is too much goes
// under one name. What comes back as it was has its old place.
func TestInterfaceListIsBounded(t *testing.T) {
	tp := &tap{log: zerolog.Nop()}
	name := func(i int) string { return fmt.Sprintf("%s%d", strings.Repeat("<", 11), i) } // escaped sixfold in JSON
	places := map[uint32]int{}
	for i := range 5000 {
		at := tp.list(proto.Interface{Name: name(i), LinkType: proto.LinkTypeEthernet, MAC: "02:00:00:00:00:01", Speed: 1e10})
		if places[at]++; int(at) >= maxInterfaces || int(at) >= len(tp.interfaces) {
			t.Fatalf("interface %d has place %d of %d", i, at, len(tp.interfaces))
		}
	}
	last := uint32(len(tp.interfaces) - 1)
	if n := places[last]; tp.interfaces[last].Name != others || n+len(tp.interfaces)-1 != 5000 {
		t.Errorf("%d under %q, %d names", n, tp.interfaces[last].Name, len(tp.interfaces))
	}
	if at := tp.list(tp.interfaces[7]); at != 7 {
		t.Errorf("what came back has place %d, not 7", at)
	}
	a := proto.Announce{Tap: 1, Interfaces: tp.interfaces, Filter: strings.Repeat("<", maxAnnounced)}
	if _, err := a.Split(1, 1400); err != nil {
		t.Error(err)
	}
}

// An interface whose speed comes to be known, or is another when it is up again,
// has the place that it had, and is announced with that speed. It used to be
// listed twice. What is not known takes nothing back.
func TestSpeedIsNoOtherInterface(t *testing.T) {
	tp := &tap{log: zerolog.Nop()}
	i := proto.Interface{Name: "eth0", LinkType: proto.LinkTypeEthernet, MAC: "02:00:00:00:00:01"}
	for n, v := range []struct{ now, want, changes uint64 }{{0, 0, 1}, {1e10, 1e10, 2}, {0, 1e10, 2}, {1e10, 1e10, 2}, {1e9, 1e9, 3}} {
		before := tp.interfaces
		kept := slices.Clone(before)
		i.Speed = v.now
		if at := tp.list(i); at != 0 || len(tp.interfaces) != 1 || tp.interfaces[0].Speed != v.want || uint64(tp.known.Load()) != v.changes {
			t.Errorf("%d: place %d of %+v, %d changes", n, at, tp.interfaces, tp.known.Load())
		}
		if !slices.Equal(before, kept) {
			t.Errorf("%d: the list that an announce reads was changed: %+v", n, before)
		}
	}
	i.MAC = "02:00:00:00:00:02"
	if at := tp.list(i); at != 1 {
		t.Errorf("another card has place %d", at)
	}
}

// A table finds what it was made of, and nothing else.
func TestPlaceTable(t *testing.T) {
	for _, n := range []int{0, 1, 5, 100, maxMatching + maxStale} {
		want := map[int32]uint32{}
		var places []place
		for i := range n {
			index := int32(rand.Uint32()>>1) | 1
			if i%2 == 0 {
				index = int32(i + 1)
			}
			if _, twice := want[index]; !twice {
				want[index] = uint32(i)
				places = append(places, place{index, uint32(i)})
			}
		}
		table := newPlaceTable(places)
		for index, at := range want {
			if got, ok := table.find(index); !ok || got != at {
				t.Fatalf("%d: %d, %v, want %d", index, got, ok, at)
			}
		}
		for range 1000 {
			index := int32(rand.Uint32()>>1) | 1
			if _, there := want[index]; there {
				continue
			}
			if at, ok := table.find(index); ok {
				t.Fatalf("%d is not there, and found at %d", index, at)
			}
		}
		if got := table.all(); len(got) != len(places) {
			t.Fatalf("%d of %d", len(got), len(places))
		}
	}
}

// What is a pattern, and what it wants.
func TestPatterns(t *testing.T) {
	if got := Captures([]string{"eth0", "veth*", "eth1", "tap?"}); strings.Join(got, " ") != "veth*,tap? eth0 eth1" {
		t.Errorf("%q", got)
	}
	if _, err := newSet(&tap{}, []string{"veth["}); err == nil || !strings.Contains(err.Error(), "veth[") {
		t.Errorf("a bad pattern: %v", err)
	}
	named := &tap{captures: []*capture{{cfg: ring.Config{Interface: "eth9"}}}}
	for _, v := range []struct {
		patterns, name, alias string
		want                  bool
	}{
		{"any", "eth0", "", true}, {"any", "eth9", "", false}, {"any", "ntap0", "ntap collector", false},
		{"veth*,tap[0-3]", "veth12", "", true}, {"veth*,tap[0-3]", "tap3", "", true}, {"veth*,tap[0-3]", "tap4", "", false},
		{"veth*", "myveth", "", false}, {"eth*", "eth9", "", false},
	} {
		s, err := newSet(named, strings.Split(v.patterns, ","))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.wants(&ring.Interface{Name: v.name, Alias: v.alias}); got != v.want {
			t.Errorf("%s %s %q: %v", v.patterns, v.name, v.alias, got)
		}
	}
}

// A frame of an interface that went before anybody could look has a place of
// its own, once.
func TestUnknownInterfaceHasAPlace(t *testing.T) {
	tp := &tap{log: zerolog.Nop()}
	s, err := newSet(tp, []string{"any"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		at := s.learn(77, proto.LinkTypeRaw)
		if got, ok := s.table.Load().find(77); !ok || got != at || len(tp.interfaces) != 1 || tp.interfaces[at] != (proto.Interface{Name: "if77", LinkType: proto.LinkTypeRaw}) {
			t.Errorf("place %d, found %d, %v; %+v", at, got, ok, tp.interfaces)
		}
	}
}

// Whether a filter has ip broadcast is known without looking up its names. Each
// look used to ask, and a name with several addresses, which come in another
// order each time, was taken for one.
func TestMaskedAsksNobody(t *testing.T) {
	for text, want := range map[string]bool{
		"host no.such.name.invalid": false, "ip broadcast": true, "host no.such.name.invalid or ip broadcast": true, "ether broadcast": false, "": false,
		"ip6 host no.such.name.invalid": false,
	} {
		if got := (Filter{Text: text}).masked(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// A capture file's interfaces may be asked for while more of them come: with the race
// detector, as make race has it, this used to fail.
func TestInterfacesOfAFileAreRead(t *testing.T) {
	tp := &tap{log: zerolog.Nop()}
	s := &shard{filter: &choice{}}
	s.lane.tap = tp
	account := &Account{tap: tp, Shards: []*ShardAccount{{CaptureAccount: &CaptureAccount{Interfaces: make([]InterfaceCount, 100)}}}}
	account.Shards[0].Interfaces[99].Frames.Set(1)
	done := make(chan []InterfaceTotal)
	go func() {
		var got []InterfaceTotal
		for len(got) == 0 {
			got = account.Interfaces()
		}
		done <- got
	}()
	known := make([]proto.Interface, 100)
	for n := range known {
		known[n].Name = fmt.Sprint("eth", n)
		if err := s.meet(known[:n+1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := testnet.Receive(t, "the last interface's count", done); len(got) != 1 || got[0].Name != "eth99" {
		t.Errorf("%+v", got)
	}
}
