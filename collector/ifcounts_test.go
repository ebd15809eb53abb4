// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A counting is an origin whose remote says what it captured.
type counting struct{ *Origin }

// newCounting returns an origin of a session that was heard first at came.
func newCounting(tap uint32, came time.Time, late bool) counting {
	o := origin(tap, nil)
	o.tally = &tally{came: came, late: late}
	return counting{o}
}

// say has the remote announce two interfaces and what they captured.
func (c counting) say(dropped uint64, captured ...proto.InterfaceCount) {
	a := &proto.Announce{Interfaces: []proto.Interface{{Name: "eth0"}, {Name: "eth1"}}, Captured: captured, Dropped: dropped}
	c.tally.learn(a)
	c.announce.Store(a)
}

// frame gives a sink a frame of an interface.
func (c counting) frame(t *testing.T, s sink, number uint32) {
	t.Helper()
	s.Write(c.Origin, &proto.Record{Data: make([]byte, 60), Interface: number, LinkType: 1})
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
}

// The statistics say what the kernel of the remote captured and dropped from when
// the file began, or from when the session was first heard, as far as that is known;
// and nothing where it is not.
func TestStatisticsOfInterfaces(t *testing.T) {
	type counts = []proto.InterfaceCount
	const common = "ntap: 3 frames were dropped by the kernel of the interfaces that share a ring with this one: how many of this one is not known"
	for name, c := range map[string]struct {
		ago     time.Duration // the session was heard before the file began
		late    bool
		begin   counts
		before  uint64 // dropped in common
		end     counts
		after   uint64
		want    counts // of the interfaces, received and dropped
		comment string
	}{
		"from its start":          {end: counts{{100, 2}, {7, 0}}, want: counts{{100, 2}, {7, 0}}},
		"whatever it began with":  {begin: counts{{90, 1}, {7, 0}}, end: counts{{100, 2}, {7, 0}}, want: counts{{100, 2}, {7, 0}}},
		"in its middle":           {late: true, begin: counts{{90, 1}, {7, 0}}, end: counts{{100, 2}, {7, 0}}, want: counts{{10, 1}, {0, 0}}},
		"in its middle, one came": {late: true, begin: counts{{90, 1}}, end: counts{{100, 2}, {7, 1}}, want: counts{{10, 1}, {7, 1}}},
		"heard before the file":   {ago: time.Minute, begin: counts{{90, 1}, {7, 0}}, end: counts{{100, 2}, {8, 0}}, want: counts{{10, 1}, {1, 0}}},
		"a ring in common":        {end: counts{{100}, {7}}, want: counts{{100, 0}, {7, 0}}},
		"one that came, dropped before": {late: true, begin: counts{{90}}, before: 3, end: counts{{100}, {7}}, after: 3,
			want: counts{{10, 0}, {7, 0}}},
		"dropped in common":    {begin: counts{{90}, {6}}, before: 1, end: counts{{100}, {7}}, after: 3, want: counts{{}, {}}, comment: common},
		"a ring of both kinds": {end: counts{{100, 2}, {7}}, after: 3, want: counts{{100, 2}, {}}, comment: common},
		"not said":             {want: counts{{}, {}}},
		"not said of one":      {end: counts{{}, {7, 0}}, want: counts{{}, {7, 0}}},
		"of fewer":             {end: counts{{5, 1}}, want: counts{{5, 1}, {}}},
		"not said before":      {late: true, end: counts{{100, 2}, {7, 0}}, want: counts{{}, {}}},
		"it goes back":         {late: true, begin: counts{{90, 1}, {7, 2}}, end: counts{{89, 1}, {8, 1}}, want: counts{{}, {}}},
		"it turns":             {late: true, begin: counts{{90}, {7, 2}}, end: counts{{91, 0}, {8}}, want: counts{{}, {}}},
		"of a later version":   {end: counts{{100, 2, 9}, {7, 0, 9}}, want: counts{{100, 2}, {7, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			var out bytes.Buffer
			f, _ := testFile(t, &out)
			s := f.sink(nil)
			o := newCounting(7, time.Now().Add(-c.ago), c.late)
			o.say(c.before, c.begin...)
			o.frame(t, s, 0)
			o.frame(t, s, 1)
			o.say(c.after, c.end...)
			if err := errors.Join(s.Close(), f.Close()); err != nil {
				t.Fatal(err)
			}
			_, _, stats := blocks(t, out.Bytes())
			var got counts
			comment := ""
			for _, st := range stats[len(stats)-2:] {
				var one proto.InterfaceCount
				if st.Counted {
					one = proto.InterfaceCount{st.Received, st.Dropped}
				}
				got, comment = append(got, one), st.Comment
				if at := time.Unix(0, int64(st.Start)); at.Before(began) || at.After(time.Now()) {
					t.Errorf("counted since %v, the file began at %v", at, began)
				}
			}
			if !slices.EqualFunc(got, c.want, slices.Equal) || comment != c.comment {
				t.Errorf("%v, %q; want %v, %q", got, comment, c.want, c.comment)
			}
		})
	}
}

// Of an interface whose description changes within a file, as with its filter, the
// last block tells what was captured: all of it, once.
func TestStatisticsTellOnce(t *testing.T) {
	var out bytes.Buffer
	f, _ := testFile(t, &out)
	s, o := f.sink(nil), newCounting(7, time.Now(), false)
	for n := range uint64(4) {
		a := &proto.Announce{Filter: strings.Repeat("x", int(n)), Interfaces: []proto.Interface{{Name: "eth0"}}, Captured: []proto.InterfaceCount{{10 * (n + 1), n}}}
		o.tally.learn(a)
		o.announce.Store(a)
		o.frame(t, s, 0)
	}
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, _, stats := blocks(t, out.Bytes())
	for id, st := range stats {
		if last := id == len(stats)-1; st.Counted != last || last && (st.Received != 40 || st.Dropped != 3) || st.Accepted != 1 {
			t.Errorf("block %d of %d says %+v", id, len(stats), st)
		}
	}
	if len(stats) != 4 {
		t.Errorf("%d blocks", len(stats))
	}
}

// Over the files of a recording each frame that a kernel counted is told once, also
// where an interface has no frame in a file, and where the session is another; and
// the times say of when the counts are: they leave no gap.
func TestRecordingTellsEachFrameOnce(t *testing.T) {
	for name, pattern := range map[string]string{"of all taps": "x.pcapng", "of each tap": "tap%t.pcapng"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			const room = 64 << 20 // for all frames, however slow the disk is
			out, _ := openTestRecording(t, File{Path: filepath.Join(dir, pattern), Rotate: Rotation{Size: minRotation}, Buffer: room})
			s, err := out.sink(0, new(OutputAccount))
			if err != nil {
				t.Fatal(err)
			}
			opened := time.Now()
			const sessions, turns = 3, 20
			for session := range uint64(sessions) {
				o := newCounting(7, time.Now(), false)
				o.Session = session
				for n := range uint64(turns) {
					o.say(0, proto.InterfaceCount{100 * (n + 1), n}, proto.InterfaceCount{7 * (n + 1), 2 * n})
					for range 1000 { // half a file
						s.Write(o.Origin, &proto.Record{Data: make([]byte, 200), LinkType: 1})
					}
					if n%5 == 0 || n == turns-1 {
						o.frame(t, s, 1) // which most files have not
					}
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := errors.Join(s.Close(), out.close()); err != nil {
				t.Fatal(err)
			}
			type sum struct{ captured, dropped, frames uint64 }
			sums, ends, files := map[string]sum{}, map[string]uint64{}, listDir(t, dir)
			for _, name := range files {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				interfaces, _, stats := blocks(t, b)
				for id, st := range stats {
					of := interfaces[id].Comment
					was := sums[of]
					sums[of] = sum{was.captured + st.Received, was.dropped + st.Dropped, was.frames + st.Accepted}
					if end, again := ends[of]; !st.Counted || again && st.Start != end || !again && st.Start < uint64(opened.UnixNano()) || st.Start > st.End {
						t.Errorf("%s: of %q: from %d to %d, and %d before: %+v", name, of, st.Start, st.End, end, st)
					}
					ends[of] = st.End
				}
			}
			if len(files) < 2*sessions || len(sums) != 2*sessions {
				t.Fatalf("%d files, %d interfaces", len(files), len(sums))
			}
			for of, got := range sums {
				want := sum{100 * turns, turns - 1, 1000 * turns}
				if strings.HasSuffix(of, "interface 1") {
					want = sum{7 * turns, 2 * (turns - 1), 5}
				}
				if got != want {
					t.Errorf("%s: %+v, want %+v", of, got, want)
				}
			}
		})
	}
}

// A client that came while a session ran is told what was captured from its first
// frame on, and that the time is of then.
func TestStatisticsOfLateOutput(t *testing.T) {
	o := newCounting(7, time.Now().Add(-time.Hour), false)
	o.say(0, proto.InterfaceCount{1000, 10})
	var out bytes.Buffer
	f, _ := testFile(t, &out)
	s := f.sink(nil)
	o.say(0, proto.InterfaceCount{2000, 20})
	before := time.Now().UnixNano()
	o.frame(t, s, 0)
	after := time.Now().UnixNano()
	o.say(0, proto.InterfaceCount{2500, 21})
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, _, stats := blocks(t, out.Bytes())
	if st := stats[0]; st.Received != 500 || st.Dropped != 1 || int64(st.Start) < before || int64(st.Start) > after {
		t.Errorf("%+v, want 500 and 1, from %d to %d", st, before, after)
	}
}

// How many interfaces there ever were, what is known of them is bounded; of those
// that are forgotten nothing wrong is told.
func TestPeriodsAreBounded(t *testing.T) {
	p := periods{opened: time.Now()}
	o := newCounting(1, time.Now(), false)
	o.say(0, proto.InterfaceCount{5, 1})
	for n := range uint64(maxPeriods + 10) {
		k := ifKey{tap: 1, session: n}
		if p.meet(k, o.tally); len(p.of) > maxPeriods {
			t.Fatalf("%d", len(p.of))
		}
	}
	if _, c := p.end(ifKey{tap: 1, session: 5}, o.tally, 1, 2); c.known {
		t.Errorf("of one that was forgotten: %+v", c)
	}
	if _, c := p.end(ifKey{tap: 1, session: maxPeriods + 5}, o.tally, 1, 2); !c.known || c.captured != 5 {
		t.Errorf("of one that is known: %+v", c)
	}
}

// A session that is heard from its start counts from there, one that is joined in
// its middle from the first announce on; the next session begins anew.
func TestTallyOfSession(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	type want struct {
		late     bool
		captured uint64
	}
	for i, c := range []struct {
		ago  time.Duration
		want want
	}{{time.Hour, want{true, 30}}, {0, want{false, 50}}} {
		s := newSim(t, keys, 1, startedAgo(c.ago), 0, 1472)
		for _, n := range []uint64{20, 40, 50} {
			s.captured = []proto.InterfaceCount{{n, 0}}
			s.say(t, false)
		}
		for _, b := range s.out {
			if err := d.feed(b); err != nil {
				t.Fatal(err)
			}
		}
		stream := d.streams[streamKey{1, 0}]
		y := stream.origin.tally
		now := y.now(0)
		if got := now.since(y.begin(0, now)); !got.known || got.captured != c.want.captured || y.late != c.want.late || y.came.IsZero() || stream.session.tally != y {
			t.Errorf("session %d: %+v, late %v; want %+v", i, got, y.late, c.want)
		}
	}
}
