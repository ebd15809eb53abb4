// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"hash/maphash"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Chosen.
const (
	defaultWindow = 5 * time.Minute // what hosts without NTP are off by, and no more of a recording than that
	noteEvery     = time.Minute     // a line about one tap
	pastFor       = time.Second     // reports come as often
)

// off returns how far the clock of the remote is ahead of this one, as a
// verified datagram says that was sent just now; and whether that is near
// enough for it to have been.
func (w *worker) off(kind proto.Kind, plaintext []byte) (ahead time.Duration, live bool) {
	ns, ok := proto.SentAt(kind, plaintext)
	if !ok {
		return 0, false
	}
	ahead = time.Duration(ns - w.now.UnixNano())
	return ahead, ahead <= w.window && -ahead <= w.window
}

// live says whether a stream may be joined by a datagram of it, which verified.
//
// A tap of which an earlier session is known proves by the order of its
// sessions that it is no recording. One of which nothing is known, or a session
// that was itself joined by its time, has to prove for each stream that it runs
// now: by the time in the datagram. That of data is when its frames were
// captured; of a capture file that is long ago, but there the shard's report
// comes first.
func (w *worker) live(h *proto.Header, plaintext []byte) bool {
	if w.window <= 0 || w.state.Ordered(h.Tap, h.Session) {
		return true
	}
	ahead, live := w.off(h.Kind, plaintext)
	if live {
		return true
	}
	if h.Kind == proto.Data {
		w.past.put(h, w.now)
		return false
	}
	if w.notes.due(w.gate.seed, noteClock, h.Tap, w.now) {
		how, by := "ahead of", ahead
		if ahead < 0 {
			how, by = "behind", -ahead
		}
		w.log.Warn().Uint32("tap", h.Tap).Str("session", hex64(h.Session)).Stringer("from", w.in.From()).
			Msgf("refused: the clock of this tap is %v %s this host's, so this may be a recording of then: set the clocks right (NTP) "+
				"on the remote, or here; or, if it has to be, let it pass with --clock-window %v", by.Round(time.Second), how, enough(by))
	}
	return false
}

// proves says whether a datagram may say where a stream's data begins for this
// collector: it has to be live itself, unless a report has proven it before.
// The stream may have been joined by an announce, which says nothing of it.
func (w *worker) proves(s *stream, kind proto.Kind, plaintext []byte) bool {
	return s.proven || w.live(&proto.Header{
		Kind: kind, Suite: s.suite, Shard: s.origin.Shard, Tap: s.origin.Tap, Session: s.origin.Session,
	}, plaintext)
}

// enough returns a window that takes a clock that is off by d: whole hours,
// and an hour to spare where it is nearly that.
func enough(d time.Duration) time.Duration {
	return (d + 5*time.Minute).Truncate(time.Hour) + time.Hour
}

// A past remembers of which streams the data was found to be of another time,
// for a second: until a report of theirs has come, each datagram would cost a
// derivation. What is not proven can only make more of the same be refused.
type past [64]struct {
	proto.Header
	until time.Time
}

func (p *past) at(h *proto.Header) int { return int(h.Tap^uint32(h.Shard)) % len(p) }

func (p *past) put(h *proto.Header, now time.Time) {
	e := &p[p.at(h)]
	e.Header, e.until = *h, now.Add(pastFor)
}

func (p *past) has(h *proto.Header, now time.Time) bool {
	e := &p[p.at(h)]
	return e.Tap == h.Tap && e.Session == h.Session && e.Shard == h.Shard && e.Suite == h.Suite && h.Kind == proto.Data && now.Before(e.until)
}

// explain looks whether a datagram of an old session is a recording, or of a
// remote that runs and whose clock was set back, and says what to do. A look
// costs a derivation: only so many are taken, only until there was a line, and
// none at data, whose time is not when it was sent.
func (w *worker) explain(h *proto.Header, newest uint64, d []byte) {
	if h.Kind == proto.Data || w.notes.told(w.gate.seed, noteOld, h.Tap, w.now) || h.Counter>>crypto.EpochBits > 0 || !w.gate.look(w.now) {
		return
	}
	if _, drop := w.keyFor(h); drop != nil {
		return
	}
	defer w.key.Wipe()
	o, err := crypto.NewOpener(&w.key, crypto.Stream{Suite: crypto.Suite(h.Suite), Kind: uint8(h.Kind), Shard: h.Shard, Session: h.Session})
	if err != nil {
		return
	}
	defer o.Wipe()
	plaintext, err := o.Open(d, proto.HeaderLen, h.Counter, 0)
	if err != nil || !w.notes.due(w.gate.seed, noteOld, h.Tap, w.now) {
		return
	}
	line := w.log.Warn().Uint32("tap", h.Tap).Str("session", hex64(h.Session)).Str("newest", hex64(newest)).Stringer("from", w.in.From())
	ns, _ := proto.SentAt(h.Kind, plaintext)
	ago := w.now.Sub(time.Unix(0, ns))
	ahead := time.Unix(proto.SessionStart(newest), 0).Sub(w.now)
	remedy := "stop the collector, delete this tap's lines from its state file, and start it (docs/KEYS.md, State file)"
	if w.state.path == "" {
		remedy = "start the collector anew"
	}
	switch window := max(w.window, defaultWindow); {
	case ago > window || -ago > window:
		line.Msgf("refused: an old session of this tap is played back: this was sent %v ago. "+
			"If the remote runs now, then its clock is wrong: set it right (NTP) and start it anew", ago.Round(time.Second))
	case ahead > 0:
		line.Msgf("refused: this tap runs, but an earlier session of it began %v in the future: the remote's clock was ahead, "+
			"and is right now. To let it in: %s", ahead.Round(time.Second), remedy)
	default:
		line.Msgf("refused: this tap runs, but a later session of it is known: two remotes have this tap ID, or its clock was set back. "+
			"Give each its own ID; or start the remote anew; or %s", remedy)
	}
}

// What a line can be about.
const (
	noteClock = iota
	noteOld
)

// notes remembers which lines were logged of late: one about one thing of one
// tap each minute, and never more than there are places.
type notes [64]time.Time

func (n *notes) place(seed maphash.Seed, what, tap uint32) *time.Time {
	return &n[maphash.Comparable(seed, [2]uint32{what, tap})%uint64(len(n))]
}

// told says that the line was logged less than a minute ago.
func (n *notes) told(seed maphash.Seed, what, tap uint32, now time.Time) bool {
	last := *n.place(seed, what, tap)
	return !last.IsZero() && now.Sub(last) < noteEvery
}

// due says whether the line is to be logged now, and then takes it for logged.
func (n *notes) due(seed maphash.Seed, what, tap uint32, now time.Time) bool {
	if n.told(seed, what, tap, now) {
		return false
	}
	*n.place(seed, what, tap) = now
	return true
}
