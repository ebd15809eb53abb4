// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// A bad kind is one way to attack: d is a datagram, which next makes another
// one of before each use; want is what it is refused as.
type badKind struct {
	name string
	d    []byte
	next func(d []byte, n uint64)
	want Drop
}

// attacks returns a desk with a stream that runs, and datagrams that attack
// it, in every way that is refused, of size bytes where there is a choice.
func attacks(t testing.TB, size int) (*desk, []badKind) {
	keys := testKeys(t)
	d, _ := newTimedDesk(t, keys, "", 5*time.Minute)
	d.sinks = []sink{&nullSink{}}
	d.cfg.Workers = 2
	const tap = 8 // with shard 0 of worker 0
	recorded := newRun(t, keys, tap+2, -time.Hour)
	s := newRun(t, keys, tap, 0)
	s.size = size
	s.pack.Reset(make([]byte, size))
	s.whole(t)
	for len(s.out) < 3*4096 { // far more than the replay window
		s.frame(2 * size)
	}
	good := s.out
	for _, b := range good {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	d.flush()
	recorded.frame(100)
	recorded.flush()

	forged := func(change func(h *proto.Header)) []byte {
		h := s.head
		h.Kind, h.Counter = proto.Data, s.data.Counter()+10
		change(&h)
		return append(h.Append(nil), make([]byte, size-proto.HeaderLen)...)
	}
	same := func([]byte, uint64) {}
	counts := func(d []byte, n uint64) { binary.BigEndian.PutUint64(d[16:], 3*4096+n%1000+100) }
	spend := func(known bool) { // what an attack has long used up
		var all [2]bucket
		for i := range all {
			all[i] = 1 << 62
		}
		for i := range d.gate.taps {
			d.gate.taps[i] = 1 << 62
		}
		d.gate.all = all
	}
	spend(true)
	d.gate.jumps = 1 << 62
	d.gate.looks = 1 << 62
	late := bytes.Clone(good[2])
	return d, []badKind{
		{"short", make([]byte, proto.Overhead-1), same, DropShort},
		{"version", forged(func(*proto.Header) {}), func(d []byte, _ uint64) { d[0] = 0x20 }, DropVersion},
		{"kind", forged(func(h *proto.Header) { h.Kind = 9 }), same, DropKind},
		{"suite", forged(func(h *proto.Header) { h.Suite = 0 }), same, DropSuite},
		{"astray", forged(func(h *proto.Header) { h.Shard = 1 }), same, DropAstray},
		{"tap unknown", forged(func(h *proto.Header) { h.Tap = 1000 }), func(d []byte, n uint64) { binary.BigEndian.PutUint32(d[4:], uint32(n)*2+1000) }, DropLimited},
		{"session unknown", forged(func(h *proto.Header) {}), func(d []byte, n uint64) { binary.BigEndian.PutUint64(d[8:], s.head.Session+n+1) }, DropLimited},
		{"session old", forged(func(h *proto.Header) { h.Session -= 1 << 40 }), same, DropSession},
		{"shard unknown", forged(func(h *proto.Header) { h.Shard = 2 }), func(d []byte, n uint64) { binary.BigEndian.PutUint16(d[2:], uint16(n%30000)*2+2) }, DropLimited},
		{"forged", forged(func(*proto.Header) {}), counts, DropForged},
		{"replayed", bytes.Clone(good[len(good)-100]), same, DropReplay},
		{"late", late, same, DropLate},
		{"epoch next", forged(func(h *proto.Header) { h.Counter = 1<<crypto.EpochBits + 5 }), same, DropForged},
		{"epoch far", forged(func(h *proto.Header) { h.Counter = 5 << crypto.EpochBits }), same, DropEpoch},
		{"recorded", recorded.out[0], same, DropClock},
	}
}

// refuse does with a datagram what deliver does with each, in place.
func (d *desk) refuse(b []byte) error {
	s, kind, counter, plaintext, drop := d.open(b)
	if drop == nil {
		drop = d.take(s, kind, counter, plaintext)
	}
	d.count(b, drop)
	return drop
}

// Each way to attack is refused under its own name, without an allocation, and
// nothing of it is kept.
func TestRefusalsKeepNothing(t *testing.T) {
	d, all := attacks(t, 1472)
	d.past.put(&proto.Header{}, d.now)
	taps, streams := len(d.all.taps), len(d.streams)
	for _, a := range all {
		b := bytes.Clone(a.d)
		n := uint64(0)
		once := func() {
			if a.want == DropForged { // opening in place has overwritten it
				copy(b, a.d)
			}
			a.next(b, n)
			n++
			if got := d.refuse(b); got != a.want {
				t.Fatalf("%s: %v, want %v", a.name, got, a.want)
			}
		}
		if a.want == DropClock { // the first is looked into
			*d.gate = *newGate(d.now)
			once()
			copy(b, a.d)
		}
		if got := testing.AllocsPerRun(1000, once); got != 0 {
			t.Errorf("%s: %v allocations a datagram", a.name, got)
		}
	}
	if len(d.all.taps) != taps || len(d.streams) != streams || len(d.waiting) > 0 || d.out.counts.Delivered.Load() > 0 {
		t.Errorf("%d taps, were %d; %d streams, were %d", len(d.all.taps), taps, len(d.streams), streams)
	}
}

// BenchmarkRefuse: one operation is one datagram that is refused, behind the
// system call that brought it.
func BenchmarkRefuse(b *testing.B) {
	for _, size := range []int{508, 1472} {
		d, all := attacks(b, size)
		for _, a := range all {
			if size == 508 && a.want != DropForged {
				continue // they do not look at what is in it
			}
			name := a.name
			if a.want == DropForged {
				name += map[int]string{508: "/508", 1472: "/1472"}[size]
			}
			b.Run(name, func(b *testing.B) {
				if a.want == DropClock {
					*d.gate = *newGate(d.now)
					d.refuse(bytes.Clone(a.d))
				}
				m := bytes.Clone(a.d)
				n := uint64(0)
				b.ReportAllocs()
				for b.Loop() {
					a.next(m, n)
					n++
					if d.refuse(m) != a.want {
						b.Fatal("not refused")
					}
				}
			})
		}
	}
}
