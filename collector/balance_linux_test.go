// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// Shares are even, follow from names and not from their order, and one more
// output takes from all and moves nothing between the others.
func TestSpread(t *testing.T) {
	names := []string{}
	for n := range MaxBalanced {
		names = append(names, fmt.Sprintf("TAP s%d", n))
		if n == 0 {
			continue
		}
		old, now := spread(names[:n]), spread(names)
		count := make([]int, n+1)
		for at := range now {
			if count[now[at]]++; now[at] != old[at] && int(now[at]) != n {
				t.Fatalf("%d outputs: place %d moved from %d to %d, which is not the new one", n+1, at, old[at], now[at])
			}
		}
		share := len(now) / (n + 1)
		for i, c := range count {
			if slack := 4 * int(sqrt(share)); c < share-slack || c > share+slack {
				t.Errorf("%d outputs: number %d has %d places, want some %d", n+1, i, c, share)
			}
		}
	}
	turned := []string{"b", "c", "a"}
	straight := []string{"a", "b", "c"}
	p, q := spread(straight), spread(turned)
	for at := range p {
		if straight[p[at]] != turned[q[at]] {
			t.Fatalf("place %d goes to %s, and in another order to %s", at, straight[p[at]], turned[q[at]])
		}
	}
}

func sqrt(n int) (r int) {
	for r*r < n {
		r++
	}
	return r
}

// Both directions of a flow have one hash, whatever the link type.
func TestFlowOf(t *testing.T) {
	there, back := udpFlow(7, 1, 100, false), udpFlow(7, 2, 100, true)
	sll := func(f []byte) []byte {
		return append([]byte{0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 8, 0}, f[14:]...)
	}
	sll2 := func(f []byte) []byte { return append(append([]byte{8, 0}, make([]byte, 18)...), f[14:]...) }
	want := proto.FlowHash(there)
	for name, r := range map[string]*proto.Record{
		"Ethernet":     {Data: back, LinkType: 1},
		"raw":          {Data: back[14:], LinkType: 101},
		"IPv4":         {Data: back[14:], LinkType: 228},
		"cooked":       {Data: sll(back), LinkType: 113},
		"cooked 2":     {Data: sll2(back), LinkType: 276},
		"cooked there": {Data: sll(there), LinkType: 113},
	} {
		if got := flowOf(r); got != want {
			t.Errorf("%s: %08x, want %08x", name, got, want)
		}
	}
	for n := range 60 {
		flowOf(&proto.Record{Data: sll(there)[:n], LinkType: 113})
		flowOf(&proto.Record{Data: sll2(there)[:n], LinkType: 276})
	}
	if flowOf(&proto.Record{Data: there, LinkType: 127}) != 0 {
		t.Error("a link type that is not known has a flow")
	}
}

// A group shares the frames of its selection: each flow, in both directions, to
// one file, all of them together. A file more, under traffic, takes flows, and
// moves none between the others. One that cannot be written counts its share
// and holds up nobody.
func TestBalance(t *testing.T) {
	keys := testKeys(t)
	t.Chdir(t.TempDir()) // shares follow from names, and with those of a random folder one of a thousand leaves a file none of 32 flows
	path := func(i int) string { return fmt.Sprintf("s%d.pcapng", i) }
	group := func(n int) Outputs {
		b := Balance{Name: "sensors", Select: Selection{Taps: TapSet{{1, 4}}, SnapLen: 90}}
		for i := range n {
			b.Over.Files = append(b.Over.Files, File{Path: path(i)})
		}
		b.Over.Files = append(b.Over.Files, File{Path: filepath.Join("none", "x.pcapng")})
		return Outputs{Files: []File{{Path: "all.pcapng"}}, Balance: []Balance{b}}
	}
	r := reroute(t, keys, group(3))
	f := flowing(t, keys, 5, r.addr)
	r.until("frames came", func() bool { return r.unpacked() > 2000 })
	r.to(group(4), nil)
	n := r.unpacked()
	r.until("frames went on", func() bool { return r.unpacked() > n+2000 })
	r.to(group(3), nil)
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	at := map[int]map[int]bool{} // files of each flow
	sum := 0
	for i := range 4 {
		packets := testnet.ReadCapture(t, path(i))
		for _, p := range packets {
			flow, _ := flowAndNumber(p.Data)
			if at[flow] == nil {
				at[flow] = map[int]bool{}
			}
			at[flow][i] = true
			if len(p.Data) != 90 || flow >= 500 {
				t.Fatalf("%d bytes of flow %d", len(p.Data), flow)
			}
		}
		if s := r.sum(fmt.Sprintf("s%d.pcapng", i)); s.Delivered != uint64(len(packets)) || len(packets) == 0 {
			t.Errorf("s%d: %d frames, %+v", i, len(packets), s)
		}
		sum += len(packets)
	}
	lost := r.sum("none/x.pcapng")
	if want := all - f.sent[4]; sum+int(lost.Refused) != want || lost.Refused == 0 {
		t.Errorf("%d frames in the files, and %d refused, of %d", sum, lost.Refused, want)
	}
	for flow, in := range at {
		if delete(in, 3); len(in) > 1 {
			t.Errorf("flow %d is in files %v", flow, in)
		}
	}
	if s := r.sum("balance sensors"); s.Delivered != uint64(all-f.sent[4]) || s.LeftOut != uint64(f.sent[4]) {
		t.Errorf("the group: %+v", s)
	}
	inOrder(t, "beside", testnet.ReadCapture(t, "all.pcapng"), f.sent)
}

// Both directions of a flow in VXLAN or Geneve come to the output that has the
// flow outside of it: their UDP source ports, which each end chooses for itself,
// used to part them.
func TestBalanceTunnels(t *testing.T) {
	const members, flows = 4, 64
	b := &balanceSink{spread: spread([]string{"a", "b", "c", "d"})}
	for range members {
		b.sinks = append(b.sinks, &nullSink{})
	}
	got := func(frame []byte) int {
		before := b.given
		b.Write(&Origin{Tap: 1}, ethernet(frame))
		for i := range members {
			if b.given[i] != before[i] {
				return i
			}
		}
		return -1
	}
	tunnel := func(inner []byte, port uint16, head []byte, back bool, source int) []byte {
		f := udpFlow(0, 0, 50, back)[:42]
		binary.BigEndian.PutUint16(f[34:], uint16(source))
		binary.BigEndian.PutUint16(f[36:], port)
		return slices.Concat(f, head, inner)
	}
	used := map[int]bool{}
	for flow := range flows {
		there, back := udpFlow(flow, 1, 100, false), udpFlow(flow, 2, 100, true)
		want := got(there)
		used[want] = true
		for port, head := range map[uint16][]byte{4789: proto.AppendVXLAN(nil, 7), 8472: proto.AppendVXLAN(nil, 7), 6081: {0, 0, 0x65, 0x58, 0, 0, 7, 0}} {
			if a, b := got(tunnel(there, port, head, false, 50000+flow)), got(tunnel(back, port, head, true, 60000-3*flow)); a != want || b != want {
				t.Errorf("flow %d, port %d: to %d there, to %d back, to %d outside of the tunnel", flow, port, a, b, want)
			}
		}
	}
	if len(used) != members {
		t.Errorf("only %d outputs got flows", len(used))
	}
}

// A group of outputs of several kinds, of one, and without a name are refused,
// all at once.
func TestBalanceErrors(t *testing.T) {
	c := Outputs{Balance: []Balance{
		{Name: "mixed", Over: Outputs{TAPs: []TAP{{Name: "a"}}, Files: []File{{Path: "b"}}}},
		{Name: "one", Over: Outputs{TAPs: []TAP{{Name: "a/b"}}}},
		{Over: Outputs{VXLAN: []VXLAN{{To: "a"}, {To: "b"}}}},
		{Name: "twice", Over: Outputs{TAPs: []TAP{{Name: "c"}, {Name: "c"}}}},
	}}
	_, err := c.specs(&Config{})
	for _, want := range []string{`balance "mixed": its outputs are of several kinds`, `balance "one": TAP a/b`, "1 outputs share the frames: 2 to 64", "it has no name", "TAP c is given twice"} {
		if err == nil || !containsText(err, want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// What a group costs for each frame is no allocation.
func TestBalanceAllocates(t *testing.T) {
	var members []sink
	for range 4 {
		members = append(members, &nullSink{})
	}
	b := &balanceSink{spread: spread([]string{"a", "b", "c", "d"}), sinks: members}
	o := &Origin{Tap: 1}
	var records []*proto.Record
	for n := range 100 {
		records = append(records, ethernet(udpFlow(n, n, 100, false)))
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, r := range records {
			b.Write(o, r)
		}
		b.Flush()
	}); n != 0 {
		t.Errorf("%v allocations for 100 frames", n)
	}
}

func containsText(err error, text string) bool { return strings.Contains(err.Error(), text) }

// BenchmarkBalance is one frame of 100 bytes through a group: its hash, its
// place and the call of its sink.
func BenchmarkBalance(b *testing.B) {
	var records []*proto.Record
	for n := range 64 {
		records = append(records, ethernet(udpFlow(n, n, 100, n%2 == 1)))
	}
	o := &Origin{Tap: 1}
	var names []string
	var members []sink
	for n := range 8 {
		names, members = append(names, fmt.Sprintf("TAP s%d", n)), append(members, &nullSink{})
	}
	for _, s := range []struct {
		name string
		to   sink
	}{{"alone", members[0]}, {"of=8", &balanceSink{spread: spread(names), sinks: members}}} {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				s.to.Write(o, records[n%64])
			}
		})
	}
}
