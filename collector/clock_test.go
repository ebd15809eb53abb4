// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// newTimedDesk returns a desk that looks at clocks, as a collector does.
func newTimedDesk(t testing.TB, keys *crypto.KeyFile, statePath string, window time.Duration) (*desk, *bytes.Buffer) {
	d := newDesk(t, keys, statePath)
	lines := new(bytes.Buffer)
	d.window, d.log = window, zerolog.New(lines)
	return d, lines
}

// run makes a session of one shard whose clock is ahead, as a remote sends it:
// who it is, a report, and data.
func newRun(t testing.TB, keys *crypto.KeyFile, tap uint32, ahead time.Duration) *sim {
	clock := func() time.Time { return time.Now().Add(ahead) }
	s := newSim(t, keys, tap, proto.NewSession(clock().UnixNano(), 7), 0, 1472)
	s.clock, s.stamped = clock, true
	return s
}

// newRunAt is newRun with a clock that stands: however long the test stands still, it
// is as far from the collector's as it was to be.
func newRunAt(t testing.TB, keys *crypto.KeyFile, tap uint32, now time.Time) *sim {
	s := newSim(t, keys, tap, proto.NewSession(now.UnixNano(), 7), 0, 1472)
	s.clock, s.stamped = func() time.Time { return now }, true
	return s
}

func (s *sim) whole(t testing.TB) {
	s.say(t, false)
	s.tell(false)
	for range 10 {
		s.frame(100)
	}
	s.tell(true)
	s.say(t, true)
}

// A tap of which nothing is known is joined if its clock is within the window,
// by any kind of datagram; one of which an earlier session is known, whatever
// its clock says, as long as its sessions are in order.
func TestJoinByTime(t *testing.T) {
	const h = time.Hour
	for _, c := range []struct {
		name                    string
		ahead, window, known    time.Duration // known: how far ahead an earlier session's clock was; 0: none
		data, report, announced error
	}{
		{"right", 0, 5 * time.Minute, 0, nil, nil, nil},
		{"a little ahead", 4 * time.Minute, 5 * time.Minute, 0, nil, nil, nil},
		{"a little behind", -4 * time.Minute, 5 * time.Minute, 0, nil, nil, nil},
		{"ahead", 3 * h, 5 * time.Minute, 0, DropClock, DropClock, DropClock},
		{"behind", -3 * h, 5 * time.Minute, 0, DropClock, DropClock, DropClock},
		{"ahead, let in", 3 * h, 4 * h, 0, nil, nil, nil},
		{"behind, let in", -3 * h, 4 * h, 0, nil, nil, nil},
		{"not looked at", -30000 * h, 0, 0, nil, nil, nil},
		{"ahead, known", 3 * h, 5 * time.Minute, 2 * h, nil, nil, nil},
		{"behind, known", -3 * h, 5 * time.Minute, -4 * h, nil, nil, nil},
		{"set back", 0, 5 * time.Minute, 2 * h, DropSession, DropSession, DropSession},
	} {
		for kind, want := range map[proto.Kind]error{proto.Data: c.data, proto.Reporting: c.report, proto.Announcing: c.announced} {
			keys := testKeys(t)
			path := ""
			if c.known != 0 {
				path = t.TempDir() + "/state"
				before, _ := newTimedDesk(t, keys, path, 0)
				s := newRun(t, keys, 7, c.known)
				s.say(t, false)
				if err := before.feed(s.out[0]); err != nil {
					t.Fatal(err)
				}
				if err := before.state.Save(); err != nil {
					t.Fatal(err)
				}
			}
			d, _ := newTimedDesk(t, keys, path, c.window)
			s := newRun(t, keys, 7, c.ahead)
			s.whole(t)
			for _, b := range s.out {
				if proto.Kind(b[0]&0xF) != kind {
					continue
				}
				if got := d.feed(b); got != want {
					t.Errorf("%s, kind %d: %v, want %v", c.name, kind, got, want)
				}
				break
			}
			if joined := len(d.streams) > 0; joined != (want == nil) {
				t.Errorf("%s, kind %d: joined %v", c.name, kind, joined)
			}
		}
	}
}

// A recording played back after a restart is refused, all of it: with a state
// file by order and counters, without one by time. What runs then is taken.
func TestRecordingAfterRestart(t *testing.T) {
	for _, path := range []string{"", t.TempDir() + "/state"} {
		keys := testKeys(t)
		now := time.Now()
		recorded := newRunAt(t, keys, 7, now)
		recorded.whole(t)
		d, _ := newTimedDesk(t, keys, path, 5*time.Minute)
		for _, b := range recorded.out {
			if err := d.feed(b); err != nil {
				t.Fatal(err)
			}
		}
		d.look()
		if err := d.state.Save(); err != nil {
			t.Fatal(err)
		}
		d, lines := newTimedDesk(t, keys, path, 5*time.Minute)
		d.now = now.Add(time.Hour)
		s := newRunAt(t, keys, 7, d.now)
		s.whole(t)
		feed := func() {
			for i, b := range recorded.out {
				switch err := d.feed(b); err {
				case DropClock, DropReplay, DropLate, DropSession:
				default:
					t.Errorf("state %q: recorded datagram %d: %v", path, i, err)
				}
			}
		}
		feed()
		if path == "" && (d.all.Drops(DropClock) != uint64(len(recorded.out)) || !strings.Contains(lines.String(), "1h0m0s behind")) {
			t.Errorf("%d of %d dropped by the clock:\n%s", d.all.Drops(DropClock), len(recorded.out), lines)
		}
		for i, b := range s.out {
			if err := d.feed(b); err != nil {
				t.Errorf("state %q: datagram %d of what runs: %v", path, i, err)
			}
		}
		feed()
		if total := d.finish(t); total.Unpacked != s.frames || total.Lost != 0 {
			t.Errorf("state %q: %+v", path, total)
		}
	}
}

// Without state, what is played back of the very session that runs is refused
// too: each stream of it proves that it runs, and so does data of which no
// report has said where it is.
func TestRecordingOfTheRunningSession(t *testing.T) {
	keys := testKeys(t)
	hourAgo := time.Now().Add(-time.Hour)
	session := proto.NewSession(hourAgo.UnixNano(), 7)
	var shards [2]*sim
	var recorded [2][][]byte
	now := hourAgo
	for i := range shards {
		s := newSim(t, keys, 7, session, uint16(i), 1472)
		s.clock, s.stamped = func() time.Time { return now }, true
		s.whole(t)
		shards[i], recorded[i] = s, s.out
		s.out = nil
	}
	now = time.Now()
	d, _ := newTimedDesk(t, keys, "", 5*time.Minute)
	shards[0].say(t, false)
	if err := d.feed(shards[0].out[0]); err != nil {
		t.Fatal(err)
	}
	for i := range shards {
		for k, b := range recorded[i] {
			if kind := proto.Kind(b[0] & 0xF); d.feed(b) == nil && (kind == proto.Data || i > 0) {
				t.Errorf("shard %d: recorded datagram %d was taken", i, k)
			}
		}
	}
	if n := len(d.out.frames); n > 0 || len(d.streams) != 1 {
		t.Errorf("%d frames came out, %d streams", n, len(d.streams))
	}
	for i, s := range shards {
		s.out = nil
		s.tell(false)
		s.frame(100)
		s.flush()
		for _, b := range s.out {
			if err := d.feed(b); err != nil {
				t.Errorf("shard %d, live: %v", i, err)
			}
		}
	}
	if n := len(d.out.frames); n != 2 {
		t.Errorf("%d frames of 2", n)
	}
}

// A remote that sends a capture file has data of long ago. Its announce and its
// report come first, and either lets it in: nothing is lost.
func TestCaptureFileJoinsByItsReport(t *testing.T) {
	for skip := range 2 {
		keys := testKeys(t)
		d, _ := newTimedDesk(t, keys, "", 5*time.Minute)
		s := newSim(t, keys, 7, startedAgo(0), 0, 1472) // its frames are of 1970
		s.whole(t)
		for i, b := range s.out {
			if i == skip && skip == 0 {
				continue // the announce is lost
			}
			if err := d.feed(b); err != nil {
				t.Errorf("datagram %d: %v", i, err)
			}
		}
		if total := d.finish(t); total.Unpacked != s.frames || total.Lost != 0 {
			t.Errorf("%+v", total)
		}
	}
}

// Data that is refused for its time costs one derivation a second, whatever
// comes; a report is looked at meanwhile.
func TestRecordedDataIsCheapToRefuse(t *testing.T) {
	keys := testKeys(t)
	d, _ := newTimedDesk(t, keys, "", 5*time.Minute)
	s := newSim(t, keys, 7, startedAgo(0), 0, 508)
	for range 10 * pairLimit.burst {
		s.frame(400)
	}
	s.flush()
	for _, b := range s.out {
		if err := d.feed(b); err != DropClock {
			t.Fatal(err)
		}
	}
	s.out = nil
	s.tell(false)
	s.frame(100)
	s.flush()
	for _, b := range s.out {
		if err := d.feed(b); err != nil {
			t.Errorf("behind a report: %v", err)
		}
	}
}

// A clock that is wrong makes one line a minute, which says by how much, and
// what to do; and what it says to do helps.
func TestClockLine(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  []string
	}{
		{3*time.Hour + time.Second, []string{"3h0m1s ahead of this host's", "NTP", "--clock-window 4h0m0s"}},
		{-90 * time.Minute, []string{"1h30m0s behind this host's", "--clock-window 2h0m0s"}},
	} {
		keys := testKeys(t)
		d, lines := newTimedDesk(t, keys, "", 5*time.Minute)
		s := newRunAt(t, keys, 7, d.now.Add(c.ahead))
		for range 50 {
			s.tell(false)
		}
		for _, b := range s.out {
			if err := d.feed(b); err != DropClock {
				t.Fatal(err)
			}
		}
		for _, want := range c.want {
			if n := strings.Count(lines.String(), want); n != 1 {
				t.Errorf("%d times %q in:\n%s", n, want, lines)
			}
		}
		d.now = d.now.Add(noteEvery + time.Second)
		s.out = nil
		s.tell(false)
		d.feed(s.out[0])
		if n := strings.Count(lines.String(), "\n"); n != 2 {
			t.Errorf("%d lines after a minute", n)
		}
		_, text, _ := strings.Cut(lines.String(), "--clock-window ")
		text, _, _ = strings.Cut(text, `"`)
		window, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		d.window = window
		s.out = nil
		s.tell(false)
		if err := d.feed(s.out[0]); err != nil {
			t.Errorf("with --clock-window %v: %v", window, err)
		}
	}
}

// A datagram of an old session makes a line if it is authentic, and the line
// tells a recording from a remote whose clock was set back and from two remotes
// with one ID.
func TestOldSessionLine(t *testing.T) {
	for _, c := range []struct {
		name        string
		newest, old time.Duration // by which their clocks are ahead
		shift       time.Duration // the collector's clock, when the old one comes
		state, want string
	}{
		{"a recording", 0, -time.Minute, time.Hour, "", "played back: this was sent 1h1m0s ago"},
		{"set right, with a state file", 3 * time.Hour, 0, 0, "/state", "delete this tap's lines from its state file"},
		{"set right, without", 3 * time.Hour, 0, 0, "", "start the collector anew"},
		{"two remotes", 0, -time.Minute, 0, "", "two remotes have this tap ID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys := testKeys(t)
			path := c.state
			if path != "" {
				path = t.TempDir() + path
			}
			d, lines := newTimedDesk(t, keys, path, 4*time.Hour)
			first, old := newRunAt(t, keys, 7, d.now.Add(c.newest)), newRunAt(t, keys, 7, d.now.Add(c.old))
			first.say(t, false)
			if err := d.feed(first.out[0]); err != nil {
				t.Fatal(err)
			}
			d.window = 5 * time.Minute
			d.now = d.now.Add(c.shift)
			lines.Reset()
			for range 20 {
				old.tell(false)
			}
			forged := bytes.Clone(old.out[0])
			forged[len(forged)-1] ^= 1
			if err := d.feed(forged); err != DropSession || lines.Len() > 0 {
				t.Errorf("forged: %v, %s", err, lines)
			}
			for _, b := range old.out {
				if err := d.feed(b); err != DropSession {
					t.Fatal(err)
				}
			}
			if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, c.want) {
				t.Errorf("want %q in one line:\n%s", c.want, got)
			}
		})
	}
}

// What to do about a clock that was ahead, as KEYS.md says it, helps: without
// the tap's lines in the state file the remote is taken.
func TestForgottenTapIsTaken(t *testing.T) {
	keys := testKeys(t)
	path := t.TempDir() + "/state"
	d, _ := newTimedDesk(t, keys, path, 4*time.Hour)
	ahead := newRun(t, keys, 7, 3*time.Hour)
	ahead.say(t, false)
	if err := d.feed(ahead.out[0]); err != nil {
		t.Fatal(err)
	}
	d.state.taps = map[uint32]*stateTap{}
	if err := d.state.Save(); err != nil {
		t.Fatal(err)
	}
	d, _ = newTimedDesk(t, keys, path, 5*time.Minute)
	s := newRun(t, keys, 7, 0)
	s.whole(t)
	for _, b := range s.out {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
}

// A window suggested is whole hours, and takes the clock that it was made for.
func TestEnough(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		6 * time.Minute: time.Hour, 55 * time.Minute: 2 * time.Hour, 54 * time.Minute: time.Hour,
		3 * time.Hour: 4 * time.Hour, 26 * time.Hour: 27 * time.Hour,
	} {
		if got := enough(d); got != want || got <= d {
			t.Errorf("%v: %v, want %v", d, got, want)
		}
	}
}
