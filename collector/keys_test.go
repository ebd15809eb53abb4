// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// rotated returns a file of master keys with IDs 0 to n, which are all good for
// a day; the last is in force.
func rotated(t testing.TB, n int) *crypto.KeyFile {
	t.Helper()
	keys := testKeys(t)
	now := time.Now()
	for i := range n {
		then := now.Add(time.Duration(i-n) * time.Minute)
		if _, err := keys.Rotate(then, then, now.Add(24*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

// under has the sim seal under the key of that ID, from the counters where it is.
func (s *sim) under(t testing.TB, keys *crypto.KeyFile, id uint8) {
	t.Helper()
	key, err := keys.Find(s.head.Tap, id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.with(t, key, id)
}

func (s *sim) with(t testing.TB, key crypto.Key, id uint8) {
	t.Helper()
	s.flush()
	s.head.Key = id
	for kind, p := range []**crypto.Sealer{&s.data, &s.announce, &s.report} {
		fresh, err := crypto.NewSealerAt(key, crypto.Stream{
			Suite: crypto.AES256GCM, Kind: uint8(kind), Shard: s.head.Shard, Session: s.head.Session,
		}, (*p).Counter())
		if err != nil {
			t.Fatal(err)
		}
		*p = fresh
	}
}

// one makes a data datagram with a frame.
func (s *sim) one() []byte {
	s.frame(100)
	s.flush()
	return s.out[len(s.out)-1]
}

func (d *desk) must(t testing.TB, want error, datagram []byte) {
	t.Helper()
	if err := d.feed(datagram); err != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func (d *desk) keyOf(tap uint32) int {
	if s := d.streams[streamKey{tap, 0}]; s != nil {
		return int(s.keyID)
	}
	return -1
}

// TestTurn goes on to another key in the middle of a session: what is late of
// the old one is taken while the grace lasts, and put in its place; what comes
// again is not, and does not turn the stream back.
func TestTurn(t *testing.T) {
	keys := rotated(t, 1)
	d := newDesk(t, keys, "")
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	s.under(t, keys, 0)
	for range 5 {
		d.must(t, nil, s.one())
	}
	s.tell(false)
	d.must(t, nil, s.out[5])
	late, later := s.one(), s.one()
	s.say(t, false)
	lateAnnounce := s.out[len(s.out)-1]
	old := append([][]byte(nil), s.out...)

	s.under(t, keys, 1)
	d.must(t, nil, s.one())
	if d.keyOf(7) != 1 {
		t.Fatalf("the stream is under key %d", d.keyOf(7))
	}
	d.must(t, nil, late)
	for _, b := range old[:5] {
		d.must(t, DropReplay, b)
	}
	d.must(t, DropReplay, late)
	d.must(t, DropLate, lateAnnounce) // nothing of that kind was opened under the old key
	s.tell(false)
	d.must(t, nil, s.out[len(s.out)-1])

	d.now = d.now.Add(keyGrace - time.Millisecond)
	d.look()
	d.must(t, nil, s.one())
	d.must(t, DropReplay, old[5])
	d.now = d.now.Add(2 * time.Millisecond)
	d.look()
	d.must(t, DropLate, later)
	for _, b := range old[:7] {
		d.must(t, DropLate, b)
	}
	d.must(t, nil, s.one())
	if d.keyOf(7) != 1 {
		t.Errorf("the stream went back to key %d", d.keyOf(7))
	}
	s.tell(true)
	d.must(t, nil, s.out[len(s.out)-1])
	if total := d.finish(t); total.Unpacked != 9 || total.Lost != 1 || total.Sessions != 1 {
		t.Errorf("%+v", total)
	}
}

// TestTurnOnlyAhead: the first datagram under a new key lies behind all that
// was taken under the one before. What lies before is refused, though its tag
// is right: a counter is good once, whichever the key.
func TestTurnOnlyAhead(t *testing.T) {
	keys := rotated(t, 1)
	d := newDesk(t, keys, "")
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	s.under(t, keys, 0)
	twin := *s
	twin.under(t, keys, 1) // seals the same counters again
	var twins [][]byte
	for range 10 {
		twin.pack.Reset(make([]byte, twin.size))
		twins = append(twins, twin.one())
	}
	s.pack.Reset(make([]byte, s.size))
	for range 9 {
		d.must(t, nil, s.one())
	}
	for _, b := range twins[:9] {
		d.must(t, DropLate, b)
	}
	if d.keyOf(7) != 0 {
		t.Errorf("the stream turned to key %d", d.keyOf(7))
	}
	d.must(t, nil, twins[9])
	if d.keyOf(7) != 1 {
		t.Errorf("the stream stays under key %d", d.keyOf(7))
	}
	for _, b := range twins[:9] { // the key is right now
		if _, _, _, _, drop := d.open(bytes.Clone(b)); drop != DropLate {
			t.Errorf("a counter of the key before, under the new one: %v", drop)
		}
	}
	d.must(t, DropReplay, twins[9])
}

// TestNothingIsTakenTwice plays a session with many keys, and between its
// datagrams any that came before, while time goes by: each is taken when it
// comes first, and never again, and the stream never goes back to a key.
func TestNothingIsTakenTwice(t *testing.T) {
	const last = 5
	keys := rotated(t, last)
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t, keys, "")
		s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
		id := uint8(0)
		s.under(t, keys, id)
		s.one()
		for range rapid.IntRange(1, 60).Draw(rt, "datagrams") {
			switch rapid.IntRange(0, 9).Draw(rt, "kind") {
			case 0, 1:
				s.say(t, false)
			case 2, 3:
				s.tell(false)
			case 4, 5:
				if id < last {
					id++
					s.under(t, keys, id)
				}
			default:
				s.one()
			}
		}
		highest := 0
		for i, b := range s.out {
			if err := d.feed(b); err != nil {
				rt.Fatalf("datagram %d of kind %d under key %d: %v", i, b[0]&15, b[1]>>4, err)
			}
			if id := d.keyOf(7); id < highest {
				rt.Fatalf("back from key %d to %d", highest, id)
			} else {
				highest = id
			}
			for range rapid.IntRange(0, 2).Draw(rt, "again") {
				n := rapid.IntRange(0, i).Draw(rt, "which")
				again := s.out[n]
				if _, kind, counter, _, drop := d.open(bytes.Clone(again)); drop == nil {
					rt.Fatalf("datagram %d, kind %d, counter %d, key %d is taken again", n, kind, counter, again[1]>>4)
				}
				if id := d.keyOf(7); id != highest {
					rt.Fatalf("datagram %d turned the stream from key %d to %d", n, highest, id)
				}
			}
			if rapid.IntRange(0, 9).Draw(rt, "wait") == 0 {
				d.now = d.now.Add(keyGrace + time.Second)
				d.look()
			}
		}
	})
}

// TestLateOfAnOldKeyIsNotTakenTwice: an announce of the old key is taken late,
// and none comes under a new one. When the old key's openers are forgotten, for
// the time or for one more key, that announce is still known.
func TestLateOfAnOldKeyIsNotTakenTwice(t *testing.T) {
	keys := rotated(t, 2)
	for _, again := range []bool{false, true} {
		d := newDesk(t, keys, "")
		s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
		s.under(t, keys, 0)
		s.say(t, false)
		d.must(t, nil, s.out[0])
		s.say(t, false)
		late := s.out[len(s.out)-1]
		s.under(t, keys, 1)
		d.must(t, nil, s.one())
		d.must(t, nil, late)
		want := 1
		if again {
			s.under(t, keys, 2)
			d.must(t, nil, s.one())
			want = 2
		} else {
			d.now = d.now.Add(keyGrace + time.Second)
			d.look()
		}
		d.must(t, DropLate, late)
		if d.keyOf(7) != want {
			t.Errorf("it turned the stream back to key %d", d.keyOf(7))
		}
	}
}

// TestKeysThatAreNotGood: unknown and expired ones are counted as such, however
// many come, for streams that run and for new ones, and good traffic goes on.
func TestKeysThatAreNotGood(t *testing.T) {
	keys := rotated(t, 1)
	d := newDesk(t, keys, "")
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	s.under(t, keys, 0)
	d.must(t, nil, s.one())
	for range int(pairLimit.burst) * 3 {
		b := bytes.Clone(s.one())
		b[1] = b[1]&15 | 9<<4
		if err := d.feed(b); err != DropKey {
			t.Fatalf("an unknown key: %v", err)
		}
	}
	d.must(t, nil, s.out[len(s.out)-1])

	d.now = d.now.Add(25 * time.Hour) // key 0 is over
	old := newSim(t, keys, 8, startedAgo(0), 0, 1472)
	old.under(t, keys, 0)
	d.must(t, DropKey, old.one())
	d.look()
	if d.keyOf(7) != -1 {
		t.Error("the stream goes on under a key that is over")
	}
	d.must(t, DropKey, s.one())
	s.under(t, keys, 1)
	d.must(t, nil, s.one())
	if d.keyOf(7) != 1 {
		t.Error("the key in force is not taken")
	}
}

// TestStateKnowsWhatOldKeysOpened: after a restart in the middle of a session
// that has changed its key, all that was recorded before is refused, under
// either key, and the session goes on.
func TestStateKnowsWhatOldKeysOpened(t *testing.T) {
	keys := rotated(t, 1)
	path := filepath.Join(t.TempDir(), "state")
	d := newDesk(t, keys, path)
	s := newSim(t, keys, 7, startedAgo(time.Minute), 0, 1472)
	s.under(t, keys, 0)
	s.say(t, false)
	s.tell(false)
	s.one()
	for _, b := range s.out {
		d.must(t, nil, b)
	}
	d.look()
	s.say(t, false) // not in the state yet
	d.must(t, nil, s.out[len(s.out)-1])
	s.under(t, keys, 1)
	d.must(t, nil, s.one())
	d.look()
	if err := d.state.Save(); err != nil {
		t.Fatal(err)
	}

	d = newDesk(t, keys, path)
	for i, b := range s.out {
		if err := d.feed(b); err != DropLate && err != DropReplay {
			t.Errorf("recorded datagram %d, kind %d, key %d: %v", i, b[0]&15, b[1]>>4, err)
		}
	}
	if len(d.out.frames) > 0 || len(d.streams) > 0 {
		t.Errorf("%d frames and %d streams out of a recording", len(d.out.frames), len(d.streams))
	}
	d.must(t, nil, s.one())
	if d.keyOf(7) != 1 {
		t.Errorf("the session goes on under key %d", d.keyOf(7))
	}
}

// A hall is a desk in public-key mode, and what a remote needs for it.
type hall struct {
	*desk
	pairs     *crypto.PairFile
	public    *crypto.PublicFile
	id        *crypto.Identity // of tap 7
	allowPath string
}

func written(t testing.TB, name string, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newHall(t testing.TB) *hall {
	t.Helper()
	h := &hall{desk: newDesk(t, nil, "")}
	var err error
	if h.pairs, err = crypto.NewPair(); err != nil {
		t.Fatal(err)
	}
	if h.public, err = crypto.LoadPublicFile(written(t, "public", h.pairs.WritePublic)); err != nil {
		t.Fatal(err)
	}
	if h.id, err = crypto.NewIdentity(7); err != nil {
		t.Fatal(err)
	}
	h.allowPath = written(t, "allow", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "7 web %s\n", h.id.Public())
		return err
	})
	h.cfg.Pairs = h.pairs
	if h.cfg.Allow, err = crypto.LoadAllowList(h.allowPath); err != nil {
		t.Fatal(err)
	}
	return h
}

// keying makes the datagram that tells the collector what the session of head
// is sealed with, and that secret.
func (h *hall) keying(t testing.TB, who *crypto.Identity, head proto.Header) ([]byte, crypto.Key) {
	t.Helper()
	head.Kind = proto.Keying
	d := head.Append(nil)
	a, secret, err := crypto.Agree(h.public, who, d, h.now)
	if err != nil {
		t.Fatal(err)
	}
	m := proto.KeyingMessage{Collector: a.Collector[:], Remote: a.Remote[:], Encapsulated: a.Encapsulated, Signature: a.Signature}
	return m.Append(d), secret
}

// sim makes a session with its keying.
func (h *hall) sim(t testing.TB, ago time.Duration) (*sim, []byte) {
	t.Helper()
	s := newSim(t, testKeys(t), 7, startedAgo(ago), 0, 1472)
	d, secret := h.keying(t, h.id, s.head)
	s.with(t, secret, 0)
	return s, d
}

// TestKeyed: a session in public-key mode is opened once its keying has come,
// which may come again at no cost; it goes on to another key in the same way.
func TestKeyed(t *testing.T) {
	h := newHall(t)
	s, keying := h.sim(t, 0)
	first := s.one()
	h.must(t, DropUnkeyed, first)
	h.must(t, nil, keying)
	h.must(t, nil, first)
	for range 1000 {
		if err := h.feed(keying); err != nil {
			t.Fatalf("again: %v", err)
		}
	}
	next := s.head
	next.Key = 1
	keying, secret := h.keying(t, h.id, next)
	s.with(t, secret, 1)
	b := s.one()
	h.must(t, DropUnkeyed, b)
	h.must(t, nil, keying)
	h.must(t, nil, b)
	if h.keyOf(7) != 1 {
		t.Errorf("the stream is under key %d", h.keyOf(7))
	}
	h.must(t, DropReplay, first)
	s.tell(true)
	h.must(t, nil, s.out[len(s.out)-1])
	if total := h.finish(t); total.Unpacked != 2 || total.Lost != 0 || total.Sessions != 1 {
		t.Errorf("%+v", total)
	}
}

// TestKeyingsThatAreRefused: each for its own reason, and nothing is kept.
func TestKeyingsThatAreRefused(t *testing.T) {
	h := newHall(t)
	s, keying := h.sim(t, 0)
	for n := range len(keying) {
		want := DropMalformed
		if n < proto.Overhead {
			want = DropShort
		}
		if err := h.feed(keying[:n]); err != want {
			t.Fatalf("%d bytes: %v, want %v", n, err, want)
		}
	}
	h.must(t, DropMalformed, append(bytes.Clone(keying), 0))
	change := func(want error, change func(*proto.Header)) {
		t.Helper()
		head := s.head
		change(&head)
		b, _ := h.keying(t, h.id, head) // signed, as it is
		h.must(t, want, b)
	}
	change(DropMalformed, func(h *proto.Header) { h.Shard = 1 })
	change(DropMalformed, func(h *proto.Header) { h.Counter = 1 })
	change(DropMalformed, func(h *proto.Header) { h.Suite = uint8(crypto.Plaintext) })
	change(DropTap, func(h *proto.Header) { h.Tap = 8 })
	for _, at := range []int{1, 15, 50, len(keying) - 1} { // key ID, session, encapsulation, signature
		b := bytes.Clone(keying)
		b[at] ^= 0x10
		h.must(t, DropForged, b)
	}
	stranger, err := crypto.NewIdentity(7)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := h.keying(t, stranger, s.head)
	h.must(t, DropKey, b)
	if len(h.agreed.taps) > 0 || len(h.streams) > 0 {
		t.Errorf("%d agreements and %d streams are kept", len(h.agreed.taps), len(h.streams))
	}

	none := newDesk(t, testKeys(t), "") // without public-key mode
	none.must(t, DropTap, keying)

	// One of a session before the newest.
	_, old := h.sim(t, time.Hour)
	h.now = h.now.Add(time.Minute) // the gate has forgotten the above
	h.must(t, nil, keying)
	h.must(t, nil, old) // no datagram has said yet which is the newest
	h.must(t, nil, s.one())
	h.must(t, DropSession, old)
	h.must(t, nil, keying)
}

// TestKeyingsAreBounded: forged ones cost work, so there is a limit; and of
// good ones only the last few are kept.
func TestKeyingsAreBounded(t *testing.T) {
	h := newHall(t)
	s, keying := h.sim(t, 0)
	h.must(t, nil, keying)
	h.must(t, nil, s.one())
	h.now = h.now.Add(time.Minute)
	forged := bytes.Clone(keying)
	n := map[error]int{}
	for i := range 500 {
		forged[len(forged)-1-i%8]++
		n[h.feed(forged)]++
	}
	if most := int(pairLimit.burst / keyingCost); n[DropForged] == 0 || n[DropForged] > most || n[DropForged]+n[DropLimited] != 500 {
		t.Errorf("%v; want at most %d looked at", n, most)
	}
	h.must(t, nil, s.one())
	h.must(t, nil, keying)

	head := s.head
	for i := range 40 {
		h.now = h.now.Add(10 * time.Second)
		head.Key = uint8(i+1) & 15
		if i >= 20 {
			head.Session++
		}
		b, _ := h.keying(t, h.id, head)
		h.must(t, nil, b)
		if n := len(h.agreed.taps[7]); n > maxAgreed {
			t.Fatalf("%d agreements are kept", n)
		}
		if _, ok := h.agreed.find(&head); !ok {
			t.Fatal("the newest is not kept")
		}
	}
	h.agreed.wipe()
	if _, ok := h.agreed.find(&head); ok {
		t.Error("an agreement is there after wipe")
	}
}

// TestStreamEndsWithItsKey: a remote that is revoked, or off the list, is out,
// its running session too.
func TestStreamEndsWithItsKey(t *testing.T) {
	for name, c := range map[string]struct {
		list string
		data error // what its datagrams are counted under then
		key  error // and its keying
	}{
		"revoked": {"7 web %s revoked\n", DropKey, DropKey},
		"expired": {"7 web %s until=2026-01-01T00:00:00Z\n", DropKey, DropKey},
		"off":     {"8 web %s\n", DropTap, DropTap},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t)
			s, keying := h.sim(t, 0)
			h.must(t, nil, keying)
			h.must(t, nil, s.one())
			if err := os.WriteFile(h.allowPath, fmt.Appendf(nil, c.list, h.id.Public()), 0o600); err != nil {
				t.Fatal(err)
			}
			h.shared.reload()
			h.look()
			if h.keyOf(7) != -1 {
				t.Error("its stream goes on")
			}
			h.must(t, c.data, s.one())
			head := s.head
			head.Key = 1
			b, _ := h.keying(t, h.id, head)
			h.must(t, c.key, b)
			if got := h.all.Drops(DropKey) + h.all.Drops(DropTap); got != 2 {
				t.Errorf("%d counted", got)
			}
		})
	}
}
