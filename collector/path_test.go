// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Over a network that loses, repeats, delays and damages, what comes out is in
// order, is what went in, and what is missing is counted.
func TestDeliverOverBadNetwork(t *testing.T) {
	keys := testKeys(t)
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t, keys, "")
		s := newSim(t, keys, 7, startedAgo(0), 0, rapid.SampledFrom([]int{508, 1472, 9000}).Draw(rt, "size"))
		s.say(t, false)
		for range rapid.IntRange(1, 400).Draw(rt, "frames") {
			s.frame(rapid.IntRange(0, 3000).Draw(rt, "length"))
			if rapid.IntRange(0, 20).Draw(rt, "flush") == 0 {
				s.flush()
			}
			if rapid.IntRange(0, 50).Draw(rt, "report") == 0 {
				s.tell(false)
			}
		}
		s.tell(true)
		s.say(t, true)
		loss := rapid.SampledFrom([]int{0, 2, 20}).Draw(rt, "loss")
		type arrival struct {
			at int
			d  []byte
		}
		var net []arrival
		lostData, hit := uint64(0), 0
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		last := len(s.out) - 2 // the final report and bye come through
		for i, b := range s.out {
			at := i * 10
			if i < last {
				switch {
				case r.IntN(100) < loss:
					if b[0]&0xF == 0 {
						lostData++
					}
					continue
				case loss > 0 && r.IntN(100) == 0: // damaged on the way
					b = bytes.Clone(b)
					b[r.IntN(len(b))] ^= 1 << r.IntN(8)
					if s.out[i][0]&0xF == 0 {
						lostData++
					}
					hit++
				case r.IntN(10) == 0:
					at += r.IntN(300) // up to 30 places
				}
			}
			net = append(net, arrival{at, b})
			if r.IntN(20) == 0 {
				net = append(net, arrival{at + r.IntN(600), b})
			}
		}
		slices.SortStableFunc(net, func(a, b arrival) int { return a.at - b.at })
		for i, a := range net {
			d.feed(a.d)
			if i%7 == 0 {
				d.batchEnd(t, time.Millisecond/10)
			}
		}
		total := d.finish(t)
		next := uint32(0)
		for _, f := range d.out.frames {
			n := binary.BigEndian.Uint32(f.Data)
			if n < next || n >= uint32(s.frames) || f.Time != int64(n) {
				rt.Fatalf("frame %d came where %d or later was due", n, next)
			}
			next = n + 1
		}
		came := uint64(len(d.out.frames))
		if total.Sealed != s.frames || total.Lost != s.frames-came || total.Unpacked != came {
			rt.Fatalf("%d frames sealed, %d came; the account says %+v", s.frames, came, total)
		}
		if lostData == 0 && total.Lost != 0 {
			rt.Fatalf("nothing was lost on the way, but: %+v", total)
		}
		if total.LostDatagrams < lostData {
			rt.Fatalf("%d data datagrams were lost on the way, the account says %d", lostData, total.LostDatagrams)
		}
		if hit == 0 && d.all.Drops(DropForged) > 0 {
			rt.Fatalf("%d forged, but nothing was damaged", d.all.Drops(DropForged))
		}
	})
}

// Bad datagrams of each kind go to their own counter, and good traffic beside
// them is not touched.
func TestDrops(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	old := newSim(t, keys, 7, startedAgo(time.Hour), 0, 1472)
	old.frame(100)
	old.flush()
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	// feed gives a changed copy of the next datagram, and then itself.
	feed := func(want error, change func(next []byte) []byte) {
		t.Helper()
		s.out = s.out[:0]
		s.frame(100)
		s.flush()
		next := s.out[0]
		if got := d.feed(change(bytes.Clone(next))); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if err := d.feed(next); err != nil {
			t.Errorf("then a good datagram: %v", err)
		}
	}
	this := func(b []byte) func([]byte) []byte { return func([]byte) []byte { return b } }
	flip := func(at int, xor byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b[(at+len(b))%len(b)] ^= xor
			return b
		}
	}
	s.frame(100)
	s.flush()
	good := bytes.Clone(s.out[0])
	if err := d.feed(good); err != nil {
		t.Fatal(err)
	}
	feed(DropShort, this(nil))
	feed(DropShort, this(good[:proto.Overhead-1]))
	feed(DropVersion, flip(0, 0x30))
	feed(DropKind, flip(0, 0x03))
	feed(DropKind, flip(0, 0x0F))
	feed(DropSuite, flip(1, 1))    // plaintext was not allowed
	feed(DropSuite, flip(1, 0x0C)) // no such suite
	feed(DropKey, flip(1, 0xF0))   // no such key
	feed(DropReplay, this(good))
	feed(DropForged, flip(-1, 1))
	feed(DropForged, flip(30, 0x80))
	feed(DropForged, flip(22, 0x40)) // the counter is authenticated
	feed(DropForged, flip(6, 1))     // another tap: its key does not fit
	feed(DropForged, flip(3, 1))     // another shard
	feed(DropForged, flip(0, 2))     // a report, it says
	feed(DropSession, this(old.out[0]))
	feed(DropSession, flip(8, 0x40)) // a session of long ago
	feed(DropEpoch, flip(17, 0x40))  // a counter that no remote has come to
	feed(DropForged, func([]byte) []byte {
		b := make([]byte, 200)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		copy(b, []byte{0x10, 1})
		b[8] = 0xFF // of the future
		clear(b[16:24])
		return b
	})
	s.out = s.out[:0]
	bad := proto.Report{}
	s.out = nil
	s.message(proto.Reporting, s.report, bad.Append(nil)[:50])
	feed(DropMalformed, this(s.out[0]))
	s.out = nil
	s.message(proto.Data, s.data, []byte("not a prologue"))
	feed(DropMalformed, this(s.out[0]))
	s.tell(true)
	s.say(t, true)
	for _, b := range s.out[len(s.out)-2:] {
		if err := d.feed(b); err != nil {
			t.Error(err)
		}
	}
	if total := d.finish(t); total.Unpacked != s.frames || total.Lost != 0 {
		t.Errorf("%d frames, the account says %+v", s.frames, total)
	}
}

// A collector with the key of one tap takes no other.
func TestOneTapsKey(t *testing.T) {
	keys := testKeys(t)
	tapKey, err := keys.TapKey(7)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := crypto.WriteTap(&file, 7, tapKey); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, loadKeys(t, file.Bytes()), "")
	for tapID, want := range map[uint32]error{7: nil, 8: DropTap} {
		s := newSim(t, keys, tapID, startedAgo(0), 0, 1472)
		s.frame(60)
		s.flush()
		if err := d.feed(s.out[0]); err != want {
			t.Errorf("tap %d: %v, want %v", tapID, err, want)
		}
	}
}

// What a collector that starts in the middle of a session did not hear is not
// lost; from its first datagram on it delivers.
func TestJoinInTheMiddle(t *testing.T) {
	keys := testKeys(t)
	s := newSim(t, keys, 7, startedAgo(time.Minute), 0, 508)
	for range 1000 {
		s.frame(100)
	}
	s.tell(false)
	missed, before := len(s.out), s.frames
	for range 500 {
		s.frame(100)
	}
	s.tell(true)
	s.say(t, true)
	d := newDesk(t, keys, "")
	for _, b := range s.out[missed-100:] { // of which the last is a report
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
		d.batchEnd(t, time.Millisecond/10)
	}
	total := d.finish(t)
	if total.Lost != 0 || total.Unpacked <= s.frames-before || total.Before+total.Unpacked != s.frames {
		t.Errorf("%+v", total)
	}
	if first := binary.BigEndian.Uint32(d.out.frames[0].Data); uint64(first) != total.Before {
		t.Errorf("the first frame is %d, but %d were before", first, total.Before)
	}
}

// A remote that starts anew is a new session: it is taken at once, the old one
// is refused from then on, and both are in the account.
func TestRemoteRestarts(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	first, second := newSim(t, keys, 7, startedAgo(time.Second), 0, 1472), newSim(t, keys, 7, startedAgo(0), 0, 1472)
	first.say(t, false)
	for range 10 {
		first.frame(100)
	}
	first.tell(false) // and then it was killed
	first.frame(50)
	first.flush()
	for range 20 {
		second.frame(100)
	}
	second.tell(true)
	second.say(t, true)
	for _, b := range first.out[:len(first.out)-1] {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range second.out {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.feed(first.out[len(first.out)-1]); err != DropSession {
		t.Errorf("a datagram of the old session: %v", err)
	}
	if total := d.finish(t); total.Unpacked != 30 || total.Sealed != 30 || total.Lost != 0 || total.Sessions != 2 {
		t.Errorf("%+v", total)
	}
}

// A recording that is played to a collector after its restart is refused, of
// an old session and of the running one; what is new goes on. Without the
// counters in the state file the running session could be replayed.
func TestReplayAfterRestart(t *testing.T) {
	keys := testKeys(t)
	path := t.TempDir() + "/state"
	s := newSim(t, keys, 7, startedAgo(time.Minute), 0, 508)
	s.say(t, false)
	for range 200 {
		s.frame(100)
	}
	s.tell(false)
	recorded := slices.Clone(s.out)
	d := newDesk(t, keys, path)
	for _, b := range recorded {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	d.look()
	if err := d.state.Save(); err != nil {
		t.Fatal(err)
	}
	d = newDesk(t, keys, path)
	for i, b := range recorded {
		if err := d.feed(b); err != DropReplay && err != DropLate {
			t.Fatalf("recorded datagram %d: %v", i, err)
		}
	}
	if n := len(d.out.frames); n != 0 {
		t.Fatalf("%d frames came out of a recording", n)
	}
	s.out = nil
	for range 50 {
		s.frame(100)
	}
	s.tell(true)
	s.say(t, true)
	for _, b := range s.out {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	if total := d.finish(t); total.Unpacked != 50 || total.Before != 200 || total.Lost != 0 {
		t.Errorf("%+v", total)
	}
}

// Datagrams of unknown sessions cost a key derivation each: there is a limit,
// and known streams are not touched by it.
func TestUnknownSessionsAreLimited(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	s.frame(60)
	s.flush()
	if err := d.feed(s.out[0]); err != nil {
		t.Fatal(err)
	}
	h := proto.Header{Suite: 1, Session: startedAgo(0)}
	for i := range int(allLimit.burst) + 1000 {
		h.Tap = uint32(i + 100)
		d.feed(append(h.Append(nil), make([]byte, 100)...))
	}
	if n := d.all.Drops(DropLimited); n < 900 {
		t.Errorf("%d of %d over the limit", n, allLimit.burst+1000)
	}
	if n := len(d.streams); n != 1 {
		t.Errorf("%d streams were made by forged datagrams", n-1)
	}
	s.frame(60)
	s.flush()
	if err := d.feed(s.out[1]); err != nil {
		t.Errorf("a good datagram: %v", err)
	}
}

// Opening, ordering and unpacking allocate nothing once a stream is known.
func TestDeliverAllocates(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	d.sinks = []sink{&nullSink{}}
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	for range 3000 {
		s.frame(700)
	}
	s.flush()
	for _, b := range s.out[:100] {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	d.flush()
	i := 100
	if n := testing.AllocsPerRun(1000, func() {
		b := s.out[i]
		i++
		s, kind, counter, plaintext, drop := d.open(b)
		if drop == nil {
			drop = d.take(s, kind, counter, plaintext)
		}
		d.count(b, drop)
		if i%44 == 0 {
			d.expire()
			d.flush()
		}
	}); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
	if n := d.account.Accepted.Load(); n < 1000 {
		t.Errorf("%d datagrams accepted", n)
	}
}

type nullSink struct{ counts SinkCounts }

func (n *nullSink) Write(*Origin, *proto.Record) { n.counts.Delivered.Add(1) }
func (n *nullSink) Flush() error                 { return nil }
func (n *nullSink) Counts() *SinkCounts          { return &n.counts }
func (n *nullSink) Close() error                 { return nil }

func loadKeys(t testing.TB, text []byte) *crypto.KeyFile {
	t.Helper()
	path := t.TempDir() + "/key"
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := crypto.LoadKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
