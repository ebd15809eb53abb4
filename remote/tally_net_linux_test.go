// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// catchUp takes from the ring all that the kernel has counted.
func (s *shard) catchUp(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if err := s.count(); err != nil {
			t.Fatal(err)
		}
		if s.account.Captured.Load() == s.account.left()+s.account.Sealed.Load() {
			return
		}
		b, err := s.ring.Take(100 * time.Millisecond)
		if err != nil && !errors.Is(err, ring.ErrDown) || time.Now().After(deadline) {
			t.Fatalf("%d frames captured, %d taken, %v", s.account.Captured.Load(), s.account.Sealed.Load(), err)
		}
		if b == nil {
			continue
		}
		if err := s.forward(b); err != nil {
			t.Fatal(err)
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	for _, line := range []string{"ip link set " + from + " down", "ip link set " + from + " name " + to, "ip link set " + to + " up"} {
		testnet.Run(t, line)
	}
	testnet.WaitUp(t, to)
}

// Of an interface by name the announce says what the kernel captured there, and what
// it dropped, under each of its names: under the new one what the shard had not taken
// yet when it took that up.
func TestCapturedByName(t *testing.T) {
	iface, peer := testnet.Veth(t)
	s := openShards(t, iface)[0]
	const many, waiting, later = 30000, 20, 50
	testnet.Send(t, peer, many, 900)
	s.catchUp(t)
	testnet.Send(t, peer, waiting, 900)
	if err := s.count(); err != nil { // they are counted, and not taken
		t.Fatal(err)
	}
	rename(t, iface, "vc")
	for range 2 { // once it is announced, frames are of it
		s.follow()
		s.tap.introduced.Store(s.tap.known.Load())
	}
	s.catchUp(t)
	testnet.Send(t, peer, later, 900)
	s.catchUp(t)
	got, common := s.tap.captured(len(s.tap.interfaces))
	drops := s.account.KernelDrops.Load()
	want := []proto.InterfaceCount{{many, drops}, {waiting + later, 0}}
	if drops == 0 || common != 0 || !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("captured %v and %d in common; want %v, and drops", got, common, want)
	}
}

// Of a pattern's interfaces the announce says what was taken of each, under each of
// its names, and what they lost together.
func TestCapturedByPattern(t *testing.T) {
	iface, peer := testnet.Veth(t)
	s := openShards(t, "v*")[0]
	places := map[string]int{}
	got := func() (counts []proto.InterfaceCount, common uint64) {
		for i := range s.tap.interfaces {
			places[s.tap.interfaces[i].Name] = i
		}
		return s.tap.captured(len(s.tap.interfaces))
	}
	testnet.Send(t, peer, 100, 900)
	s.catchUp(t)
	counts, common := got()
	if a, b := counts[places[iface]], counts[places[peer]]; !slices.Equal(a, proto.InterfaceCount{100}) || !slices.Equal(b, a) || common != 0 {
		t.Errorf("captured %v and %v, and %d in common", a, b, common)
	}
	rename(t, iface, "vc")
	if err := s.places.set.refresh(); err != nil {
		t.Fatal(err)
	}
	const many = 20000
	testnet.Send(t, peer, many, 900)
	s.catchUp(t)
	counts, common = got()
	drops := s.account.KernelDrops.Load()
	a, b, c := counts[places[iface]], counts[places[peer]], counts[places["vc"]]
	if len(a) != 1 || a[0] != 100 || len(b) != 1 || len(c) != 1 || drops == 0 || common != drops || b[0]+c[0]+drops != 100+2*many {
		t.Errorf("captured %v as %v, %v and %v, and %d dropped of %d", places, a, b, c, common, drops)
	}
}
