// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

// takeAll is the program that takes everything.
var takeAll = []bpf.RawInstruction{{Op: bpfReturn, K: 1<<32 - 1}}

func everyLink() map[uint16][]bpf.RawInstruction {
	out := map[uint16][]bpf.RawInstruction{}
	for _, l := range LinkTypes() {
		out[l] = takeAll
	}
	return out
}

// openAllTest opens a ring on all interfaces of the test's namespace.
func openAllTest(t *testing.T, program []bpf.RawInstruction) *Ring {
	t.Helper()
	cfg := plenty("any")
	cfg.All, cfg.Filter = true, program
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// A ring on all interfaces gives the frames of exactly those that the filter
// names, however many it names, and says of which each is.
func TestSeveralTakesWhatItNames(t *testing.T) {
	testnet.Veth(t)
	var indexes []int
	names := map[int]string{}
	for i := range 6 {
		a, b := fmt.Sprintf("sa%d", i), fmt.Sprintf("sb%d", i)
		testnet.Run(t, "ip link add "+a+" type veth peer name "+b)
		for _, name := range []string{a, b} {
			testnet.Run(t, "ip link set "+name+" addrgenmode none")
			testnet.Run(t, "ip link set "+name+" up")
		}
		iface, err := LookUp(a)
		if err != nil {
			t.Fatal(err)
		}
		indexes, names[iface.Index] = append(indexes, iface.Index), b
	}
	for i := range 6 {
		testnet.WaitUp(t, fmt.Sprintf("sa%d", i))
	}
	far := func(n int) (out []int) { // interfaces that are not there
		for i := range n {
			out = append(out, 5000+i*7)
		}
		return out
	}
	all := []Part{{Programs: everyLink()}}
	nothing := map[uint16][]bpf.RawInstruction{linkEthernet: {{Op: bpfReturn}}, linkRaw: {{Op: bpfReturn}}}
	for _, v := range []struct {
		name         string
		only, except []int
		want         func(i int) bool // of indexes
		parts        []Part           // nil: all
	}{
		{"all", nil, nil, func(int) bool { return true }, nil},
		{"none", []int{}, nil, func(int) bool { return false }, nil},
		{"one", indexes[2:3], nil, func(i int) bool { return i == 2 }, nil},
		{"three", indexes[1:4], nil, func(i int) bool { return i >= 1 && i < 4 }, nil},
		{"some of 512", append(far(508), indexes[0], indexes[5], indexes[3], indexes[3]), nil, func(i int) bool { return i == 0 || i == 3 || i == 5 }, nil},
		{"all but two", nil, indexes[4:], func(i int) bool { return i < 4 }, nil},
		{"all but one and others", nil, append(far(200), indexes[1]), func(i int) bool { return i != 1 }, nil},
		{"parts", nil, nil, func(i int) bool { return i != 1 && i != 4 }, []Part{{nothing, indexes[1:2]}, {everyLink(), indexes[2:4]}, {nothing, append(far(9), indexes[4])}, all[0]}},
		{"the others in no part", nil, nil, func(i int) bool { return i == 1 || i == 4 }, []Part{{everyLink(), append(far(100), indexes[1])}, {nil, indexes[:1]}, {everyLink(), indexes[4:5]}, {nothing, nil}}},
		{"parts of some", indexes[1:5], nil, func(i int) bool { return i == 2 || i == 4 }, []Part{{nothing, indexes[:2]}, {nothing, []int{indexes[3]}}, all[0]}},
	} {
		func() { // not a subtest: its goroutine would be in another namespace
			if v.parts == nil {
				v.parts = all
			}
			program, err := Several(v.parts, v.only, v.except)
			if err != nil {
				t.Fatal(err)
			}
			r := openAllTest(t, program)
			want, got := map[int]int{}, map[int]int{}
			for i, index := range indexes {
				testnet.SendFrames(t, names[index], testnet.Numbered(i, 100))
				if v.want(i) {
					want[index] = 1
				}
			}
			for deadline := time.Now().Add(time.Minute); len(got) < len(want) && time.Now().Before(deadline); {
				collect(t, r, 20*time.Millisecond, func(f *Frame) {
					if i, ours := testnet.Number(f.Data); ours && !f.Outgoing {
						got[int(f.Index)]++
						if f.LinkType != linkEthernet || indexes[i] != int(f.Index) {
							t.Errorf("frame %d: link type %d, interface %d", i, f.LinkType, f.Index)
						}
					}
				})
			}
			rest(t, r, func(f Frame) {
				if _, ours := testnet.Number(f.Data); ours && !f.Outgoing {
					got[int(f.Index)]++
				}
			})
			if !maps.Equal(got, want) {
				t.Errorf("%s: frames by interface %v, want %v", v.name, got, want)
			}
		}()
	}
}

func collect(t *testing.T, r *Ring, wait time.Duration, do func(*Frame)) {
	t.Helper()
	b, err := r.Take(wait)
	if err != nil {
		t.Fatal(err)
	}
	if b == nil {
		return
	}
	for f, ok := b.Next(); ok; f, ok = b.Next() {
		do(f)
	}
	b.Release()
}

// A list says what interfaces there are, and a change of any kind is told: of
// the namespace in which OpenLinks was called.
func TestLinksTellOfChanges(t *testing.T) {
	testnet.Namespace(t)
	l, err := OpenLinks()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	list := func() (names []string) {
		t.Helper()
		all, err := l.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range all {
			if byName, err := LookUp(i.Name); err != nil || byName.Index != i.Index || byName.LinkType != i.LinkType ||
				byName.MAC.String() != i.MAC.String() || byName.MTU != i.MTU || byName.Speed != i.Speed || byName.Up != i.Up {
				t.Errorf("%+v, but by name %+v, %v", i, byName, err)
			}
			names = append(names, i.Name)
		}
		slices.Sort(names)
		return names
	}
	for _, v := range []struct {
		do   string
		want []string
	}{
		{"ip link add x0 type veth peer name x1", []string{"lo", "x0", "x1"}},
		{"ip link set x0 name y0", []string{"lo", "x1", "y0"}},
		{"ip link set y0 up", []string{"lo", "x1", "y0"}},
		{"ip addr add 10.1.2.3/26 dev y0", []string{"lo", "x1", "y0"}},
		{"ip link del y0", []string{"lo"}},
	} {
		for { // what the changes before left
			if more, err := l.Changed(0); err != nil {
				t.Fatal(err)
			} else if !more {
				break
			}
		}
		testnet.Run(t, v.do)
		if changed, err := l.Changed(time.Minute); !changed || err != nil {
			t.Fatalf("%s: nothing is told (%v)", v.do, err)
		}
		if got := list(); !slices.Equal(got, v.want) {
			t.Errorf("%s: %v, want %v", v.do, got, v.want)
		}
	}
}
