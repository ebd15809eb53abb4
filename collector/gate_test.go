// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// apart returns n taps that share no bucket, whichever of sources they come from.
func apart(g *gate, n int, sources ...netip.Addr) (ids []uint32) {
	used := map[*bucket]bool{}
candidates:
	for id := uint32(1); len(ids) < n; id++ {
		its := map[*bucket]bool{}
		for _, from := range sources {
			t, _ := g.admit(g.begin, id, from, false, 0)
			if used[t.pair] || used[t.tap] || its[t.pair] {
				continue candidates
			}
			its[t.pair] = true
			its[t.tap] = true
		}
		maps.Copy(used, its)
		ids = append(ids, id)
	}
	return ids
}

// flood takes all that is to be had, and says how much that was.
func flood(g *gate, at time.Time, tap uint32, from netip.Addr, known bool) (n int) {
	for {
		if _, ok := g.admit(at, tap, from, known, 1); !ok {
			return n
		}
		n++
	}
}

var (
	friend  = netip.MustParseAddr("192.0.2.1")
	foe     = netip.MustParseAddr("198.51.100.1")
	another = netip.MustParseAddr("2001:db8::1")
	sibling = netip.MustParseAddr("2001:db8::2") // of the same /64
)

// A flood for one tap leaves other taps theirs; one from a few addresses leaves
// the tap's remote its own; one for taps that were never heard leaves those
// that were theirs. Time brings back what was taken, at the rate and no more.
func TestGateKeepsFloodsApart(t *testing.T) {
	now := time.Now()
	g := newGate(now)
	few := foe // of those it comes from at last: as many as take all that is left
	sources := []netip.Addr{friend, foe, another}
	for range 5 {
		few = few.Next()
		sources = append(sources, few)
	}
	taps := apart(g, 3, sources...)
	victim, other, third := taps[0], taps[1], taps[2]

	if n := flood(g, now, victim, foe, true); n != int(pairLimit.burst) {
		t.Errorf("%d attempts from one address", n)
	}
	if _, ok := g.admit(now, victim, friend, true, 1); !ok {
		t.Error("a flood from one address keeps the tap's remote at another from joining")
	}
	if n := flood(g, now, victim, another, true); n != int(pairLimit.burst) || flood(g, now, victim, sibling, true) != 0 {
		t.Error("the addresses of a /64 count as many")
	}
	from := foe
	for range 100 { // from everywhere
		from = from.Next()
		flood(g, now, victim, from, true)
	}
	if _, ok := g.admit(now, victim, friend.Next(), true, 1); ok {
		t.Error("a flood from everywhere has no limit")
	}
	if _, ok := g.admit(now, other, friend, true, 1); !ok {
		t.Error("a flood for one tap keeps another from joining")
	}
	for id := uint32(1 << 20); ; id++ { // for taps that are none
		if _, ok := g.admit(now, id, foe, false, 1); !ok && id > 1<<20+2*uint32(allLimit.burst) {
			break
		}
	}
	if _, ok := g.admit(now, third, friend, true, 1); !ok {
		t.Error("a flood for taps that are none keeps one that is from joining")
	}
	if flood(g, now, victim, foe, true) != 0 {
		t.Error("without time going by there are tokens again")
	}
	now = now.Add(time.Second)
	if n := flood(g, now, victim, foe, true); n != int(pairLimit.rate) {
		t.Errorf("%d attempts after a second, the rate is %d", n, pairLimit.rate)
	}
}

// What verifies is given back, but for the start of a session, which costs its
// own tap.
func TestGateRefunds(t *testing.T) {
	now := time.Now()
	g := newGate(now)
	for range 3 * allLimit.burst {
		ticket, ok := g.admit(now, 7, friend, true, 1)
		if !ok {
			t.Fatal("what is given back is gone")
		}
		g.refund(ticket, false)
	}
	starts := 0
	for {
		ticket, ok := g.admit(now, 7, friend, true, 1)
		if !ok {
			break
		}
		g.refund(ticket, true)
		starts++
	}
	if starts != int(pairLimit.burst) {
		t.Errorf("%d sessions started at once by one tap", starts)
	}
	if g.all[1] > bucket(time.Millisecond) {
		t.Error("the starts of one tap's sessions are charged to all")
	}
}

// A bucket is the plain token bucket, whatever is taken when.
func TestBucketIsThePlainOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limit{rate: rapid.SampledFrom([]int64{20, 100, 20_000}).Draw(t, "rate"), burst: rapid.Int64Range(1, 1000).Draw(t, "burst")}
		var b bucket
		ns, missing := int64(0), int64(0) // missing from a full bucket, in ns of its rate
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			gone := rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "gone")
			ns, missing = ns+gone, max(missing-gone, 0)
			n := uint64(rapid.IntRange(1, 50).Draw(t, "n"))
			cost := int64(n) * int64(time.Second) / l.rate
			want := missing+cost <= l.burst*int64(time.Second)/l.rate
			if got := b.has(ns, l, n); got != want {
				t.Fatalf("%v of %d: %v, with %d ns missing", l, n, got, missing)
			}
			if want {
				b.take(ns, l, n)
				missing += cost
			}
		}
	})
}

// No number of tokens overflows, and nobody can have that many.
func TestGateRefusesTheImpossible(t *testing.T) {
	now := time.Now()
	g := newGate(now)
	for _, n := range []uint64{1<<19 + 1, 1 << 32, 1 << 40, 1<<64 - 1} {
		if g.jump(now, n) || g.jump(now.Add(1000*time.Hour), n) {
			t.Errorf("a run through %d epochs", n)
		}
	}
	if !g.reach(now, maxReach) || g.reach(now, 1) || g.jump(now.Add(time.Second), 1) {
		t.Error("a long run is not paid for")
	}
	if later := now.Add(2 * maxReach / 20_000 * time.Second); !g.jump(later, 1) || g.reach(later, maxReach+1) {
		t.Error("a long run is never paid off, or there is no bound")
	}
}

// Forged datagrams of a stream that has not sent data yet, with counters that
// claim work, buy some and no more; and a report makes the claims of the
// stream's own data free.
func TestForgedEpochsBuyNoWork(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	s := newSim(t, keys, 7, startedAgo(24*time.Hour), 0, 1472)
	s.say(t, false)
	if err := d.feed(s.out[0]); err != nil {
		t.Fatal(err)
	}
	claim := func(epoch uint64) error {
		h := s.head
		h.Kind, h.Counter = proto.Data, epoch<<crypto.EpochBits
		return d.feed(append(h.Append(nil), make([]byte, 100)...))
	}
	if err := claim(1 << 30); err != DropEpoch {
		t.Errorf("an epoch that the session cannot have come to: %v", err)
	}
	const far = 20_000
	if err := claim(far); err != DropForged {
		t.Errorf("the first claim: %v", err)
	}
	bought := 0
	for range 1000 {
		if err := claim(far); err == DropForged {
			bought++
		} else if err != DropLimited {
			t.Fatal(err)
		}
	}
	if bought > int(jumpLimit.burst)/far {
		t.Errorf("%d runs through %d epochs", bought, far)
	}
	d.now = d.now.Add(time.Hour)
	r := proto.Report{Time: time.Now().UnixNano(), NextData: far<<crypto.EpochBits + 5}
	s.message(proto.Reporting, s.report, r.Append(nil))
	if err := d.feed(s.out[len(s.out)-1]); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		for _, epoch := range []uint64{far - 1, far} {
			if err := claim(epoch); err != DropForged {
				t.Fatalf("epoch %d, which is known to be near: %v", epoch, err)
			}
		}
	}
	if o := d.streams[streamKey{7, 0}].openers[proto.Data]; o.Epoch() != far-1 {
		t.Errorf("epoch %d", o.Epoch())
	}
	if err := claim(far + 2); err != DropEpoch {
		t.Errorf("two epochs on at once: %v", err)
	}
}

// A remote that has the key and is not to be trusted cannot have more streams
// than there is room for, nor have an announce kept for each.
func TestStreamsAreBounded(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	session := startedAgo(0)
	refused := 0
	for shard := range uint16(maxStateStreams + 10) {
		s := newSim(t, keys, 7, session, shard, 1472)
		s.tell(false)
		if err := d.feed(s.out[0]); err == DropLimited {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
		s.say(t, false)
		if err := d.feed(s.out[1]); shard > 0 && shard < maxStateStreams && err != DropMalformed {
			t.Fatalf("an announce of shard %d: %v", shard, err)
		}
	}
	if n := len(d.streams); n != maxStateStreams || refused != 10 {
		t.Errorf("%d streams, %d refused", n, refused)
	}
}

// A datagram that comes to another worker than its stream's is refused, known
// or not: the stream's own worker may have seen its counter. It was taken once
// more, where it came in a train behind one forged for that worker.
func TestAstray(t *testing.T) {
	keys := testKeys(t)
	session := startedAgo(0)
	came := map[error]int{}
	for number := range 3 {
		d := newDesk(t, keys, "")
		d.cfg.Workers, d.number = 3, number
		for shard := range uint16(30) {
			s := newSim(t, keys, 0xFFFFFFF0, session, shard, 1472) // tap ID and shard go round
			s.frame(60)
			s.flush()
			came[d.feed(s.out[0])]++
		}
	}
	if came[nil] != 30 || came[DropAstray] != 60 {
		t.Errorf("%v", came)
	}
}

// A stream that goes on to another key is not held up by a flood for its tap
// from elsewhere: its own flow has a bucket for that.
func TestTurnIsKeptApart(t *testing.T) {
	now := time.Now()
	g := newGate(now)
	from := foe
	for range 100 {
		flood(g, now, 7, from, true)
		from = from.Next()
	}
	got := 0
	for {
		ticket, ok := g.turn(now)
		if !ok {
			break
		}
		if got++; got == 1 {
			g.refund(ticket, true)
		}
	}
	if got != int(allLimit.burst)+1 {
		t.Errorf("%d looks at a new key", got)
	}
}

// What was agreed on for a session that runs is not pushed out by keyings of
// sessions before it, which somebody plays back.
func TestAgreementsKeepTheLatest(t *testing.T) {
	var a agreements
	put := func(session uint64, id uint8) {
		a.put(&proto.Header{Tap: 7, Session: session, Key: id}, agreement{secret: crypto.Key{byte(session)}})
	}
	has := func(session uint64, id uint8) bool {
		var key crypto.Key
		_, ok := a.find(&proto.Header{Tap: 7, Session: session, Key: id}, &key)
		return ok && key == crypto.Key{byte(session)}
	}
	put(100, 0)
	put(100, 1)
	for old := range uint64(50) {
		put(old, 0)
	}
	if !has(100, 0) || !has(100, 1) || len(a.taps[7]) != maxAgreed {
		t.Errorf("the session that runs is gone: %v", a.taps[7])
	}
	for id := range uint8(10) { // and of one session the latest keys stay
		put(200, id)
	}
	if !has(200, 9) || !has(200, 8) || has(200, 0) || len(a.taps[7]) != maxAgreed {
		t.Errorf("of a session the first keys stay: %v", a.taps[7])
	}
}
