// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/crypto"
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
		fresh, err := crypto.NewSealerAt(&key, crypto.Stream{
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

// TestTurnedStreamAllocates: a stream that has changed its key allocates no
// more than one that has not, also for what is late of the old key.
func TestTurnedStreamAllocates(t *testing.T) {
	keys := rotated(t, 1)
	d := newDesk(t, keys, "")
	d.sinks = []sink{&nullSink{}}
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	s.under(t, keys, 0)
	d.must(t, nil, s.one())
	for range 400 {
		s.one()
	}
	s.under(t, keys, 1)
	for range 400 {
		s.one()
	}
	d.must(t, nil, s.out[401])
	old, fresh := s.out[1:401], s.out[402:]
	i := 0
	if n := testing.AllocsPerRun(300, func() {
		for _, b := range [][]byte{old[i], fresh[i]} {
			if _, _, _, _, drop := d.open(b); drop != nil {
				t.Fatal(drop)
			}
		}
		i++
	}); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
}

// TestTurnAtAnEpochsBorder: a stream far into its session changes its key where
// an epoch ends, and what is late of the old key, on both sides of the border,
// is taken.
func TestTurnAtAnEpochsBorder(t *testing.T) {
	keys := rotated(t, 1)
	d := newDesk(t, keys, "")
	s := newSim(t, keys, 7, startedAgo(time.Hour), 0, 1472)
	s.under(t, keys, 0)
	key, err := keys.Find(7, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const border = 41 << crypto.EpochBits
	if s.data, err = crypto.NewSealerAt(&key, crypto.Stream{Suite: crypto.AES256GCM, Session: s.head.Session}, border-3); err != nil {
		t.Fatal(err)
	}
	d.must(t, nil, s.one())
	before, last, behind := s.one(), s.one(), s.one() // border-2, border-1, border
	s.under(t, keys, 1)
	if s.data.Counter() != border+1 {
		t.Fatalf("counter %#x", s.data.Counter())
	}
	d.must(t, nil, s.one())
	for _, b := range [][]byte{last, behind, before} {
		d.must(t, nil, b)
		d.must(t, DropReplay, b)
	}
	d.must(t, nil, s.one())
	if d.keyOf(7) != 1 {
		t.Errorf("under key %d", d.keyOf(7))
	}
	if n := len(d.out.frames); n != 6 {
		t.Errorf("%d frames came, want 6", n)
	}
}
