// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// A collector that is added takes its share of the flows from all others, about
// as much as each then has, and no other flow moves; the order in which they
// are named means nothing.
func TestSharesMoveLittle(t *testing.T) {
	var names []string
	for n := range maxCollectors {
		before := newShares(append(names, "unused.example:1")[:max(n, 1)])
		names = append(names, fmt.Sprintf("collector%d.example.org:5678", n))
		after, count := newShares(names), make([]int, n+1)
		for b := range after {
			count[after[b]]++
			if n > 0 && after[b] != before[b] && int(after[b]) != n {
				t.Fatalf("%d collectors: flows of hash %d moved from %d to %d, and the new one is %d", n+1, b, before[b], after[b], n)
			}
		}
		for i, c := range count {
			if fair := len(after) / (n + 1); c < fair*7/10 || c > fair*13/10 {
				t.Errorf("%d collectors: collector %d has %d of %d", n+1, i, c, len(after))
			}
		}
	}
	mirrored := make([]string, len(names))
	for i, name := range names {
		mirrored[len(names)-1-i] = name
	}
	a, b := newShares(names), newShares(mirrored)
	for i := range a {
		if names[a[i]] != mirrored[b[i]] {
			t.Fatalf("hash %d: %s, in the other order %s", i, names[a[i]], mirrored[b[i]])
		}
	}
}

// laneTap is a tap that sends to several sockets of this host; nothing is
// captured.
func laneTap(t *testing.T, n int, change func(*Config)) (tp *tap, s *shard, sinks []*net.UDPConn) {
	t.Helper()
	var names []string
	for range n {
		sink := openSink(t)
		sinks, names = append(sinks, sink), append(names, sink.LocalAddr().String())
	}
	cfg := Config{File: "testdata/none", Collector: names[0], Others: names[1:]}
	if change != nil {
		change(&cfg)
	}
	tp = testTap(t, cfg)
	tp.cfg.File = "" // only lanes are wanted
	t.Cleanup(tp.close)
	if err := tp.openKeys(); err != nil {
		t.Fatal(err)
	}
	s, err := tp.openShard("test", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	return tp, s, sinks
}

func receive(t *testing.T, from *net.UDPConn) []byte {
	t.Helper()
	b := make([]byte, 1<<16)
	from.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := from.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// What goes to several collectors is sealed for each in a session of its own:
// the same frame under the same counter has another session, and ciphertexts
// that share no key stream. A key stream used twice would show as the same XOR
// for the same plaintexts, that is, as equal ciphertexts.
func TestCollectorsShareNoKeyStream(t *testing.T) {
	tp, s, sinks := laneTap(t, maxCollectors, nil)
	sessions := map[uint64]bool{}
	for _, d := range tp.destinations {
		sessions[d.session] = true
	}
	if len(sessions) != maxCollectors {
		t.Fatalf("%d sessions for %d collectors", len(sessions), maxCollectors)
	}
	frame := bytes.Repeat([]byte{0x55}, 1000)
	s.begin()
	s.spread(&proto.Record{Data: frame, OrigLen: 1000, LinkType: proto.LinkTypeEthernet, Time: 1})
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	var sealed [][]byte
	for i, sink := range sinks {
		d := receive(t, sink)
		h, _, ok := proto.ParseHeader(d)
		if !ok || h.Session != tp.destinations[i].session || h.Counter != 0 || h.Kind != proto.Data {
			t.Fatalf("collector %d: %+v, %v", i, h, ok)
		}
		body := d[proto.HeaderLen : len(d)-proto.TagLen]
		for k, other := range sealed {
			if len(other) != len(body) {
				t.Fatalf("%d and %d bytes", len(other), len(body))
			}
			same := 0
			for at := range body {
				if body[at] == other[at] {
					same++
				}
			}
			if same > len(body)/16 { // chance: one in 256
				t.Errorf("collectors %d and %d: %d of %d bytes of ciphertext are equal", k, i, same, len(body))
			}
		}
		sealed = append(sealed, body)
	}
}

// Flows are shared so that both directions meet one collector, whose account is
// exact: what is captured is what it got, and what others did.
func TestSharedFlowsAddUp(t *testing.T) {
	_, s, _ := laneTap(t, 3, func(c *Config) { c.Share = true })
	s.begin()
	ip := func(src, dst byte, from, to uint16) []byte {
		f := append(bytes.Repeat([]byte{2}, 12), 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, src, 10, 0, 0, dst,
			byte(from>>8), byte(from), byte(to>>8), byte(to), 0, 20, 0, 0)
		return append(f, make([]byte, 12)...)
	}
	const flows = 300
	for n := range uint16(flows) {
		var got [2][]uint64
		for dir := range 2 {
			f := ip(1, 2, 1000+n, 53)
			if dir == 1 {
				f = ip(2, 1, 53, 1000+n)
			}
			s.spread(&proto.Record{Data: f, OrigLen: uint32(len(f)), LinkType: proto.LinkTypeEthernet})
			s.spread(&proto.Record{Data: f[14:], OrigLen: uint32(len(f) - 14), LinkType: proto.LinkTypeRaw})
			for _, l := range s.all {
				got[dir] = append(got[dir], l.pack.Packed().Frames)
			}
		}
		ways := 0
		for i := range s.all {
			if before := got[0][i]; got[1][i] != before {
				ways++
				if got[1][i]-before != 2 {
					t.Fatalf("flow %d: its frames are split", n)
				}
			}
		}
		if ways != 1 {
			t.Fatalf("flow %d: %d collectors", n, ways)
		}
		s.account.Captured.Add(4)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	s.source = &fileReader{} // nothing to ask the kernel
	if err := s.count(); err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for i, l := range s.all {
		sealed := l.account.Sealed.Load()
		total += sealed
		if sealed < flows*4/6 || sealed+l.account.Elsewhere.Load() != flows*4 {
			t.Errorf("collector %d: %d frames, %d elsewhere", i, sealed, l.account.Elsewhere.Load())
		}
	}
	if total != flows*4 {
		t.Errorf("%d frames of %d", total, flows*4)
	}
}

// When a collector's name stands for another address, the filter is made anew,
// and leaves out what goes there.
func TestFilterFollowsCollector(t *testing.T) {
	tp, s, sinks := laneTap(t, 2, nil)
	moved := s.all[1]
	has := func(at string) bool {
		for _, own := range tp.owns() {
			if own.Collector.String() == at && own.Session == moved.to.session {
				return true
			}
		}
		return false
	}
	moved.locate()
	if len(tp.relocated) != 0 || !has(sinks[1].LocalAddr().String()) || len(tp.owns()) != 2 {
		t.Fatalf("at the start: %v", tp.owns())
	}
	out, err := batch.NewSender(batch.SenderConfig{To: sinks[0].LocalAddr().String(), MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	moved.out.Close()
	moved.out = out // as if its name had been resolved anew
	moved.locate()
	moved.locate()
	if len(tp.relocated) != 1 || !has(sinks[0].LocalAddr().String()) || has(sinks[1].LocalAddr().String()) {
		t.Errorf("%d times told, %v", len(tp.relocated), tp.owns())
	}
}
