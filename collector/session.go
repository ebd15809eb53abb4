// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// A streamKey finds a stream: there is one for each shard of a tap, of the
// newest session that the worker knows.
type streamKey struct {
	tap   uint32
	shard uint16
}

// A stream is what a worker knows of one shard of one session.
type stream struct {
	origin  Origin
	suite   uint8
	key     crypto.Key // of the tap, with
	keyID   uint8
	who     crypto.Fingerprint // of the remote, in public-key mode
	tap     *tap
	session *session
	openers [proto.NumKinds]*crypto.Opener
	floor   [proto.NumKinds]uint64 // counters below were for keys before this one
	turned  bool                   // there is a key before
	before  under
	at      time.Time // when something of it verified last

	from      netip.AddrPort // its flow, once that is known
	heardHome time.Time      // when something of it came from its flow last

	// Order: next is the counter of the data datagram to unpack next.
	next    uint64
	gap     bool // datagrams before it are missing
	places  []held
	held    int       // places taken
	waiting bool      // in the worker's list
	since   time.Time // when waiting began
	records *proto.Unpacker

	report  proto.Report // the newest
	pending bool         // its account waits for the datagrams that it covers
	late    bool         // joined in the middle, and no report seen since
	fresh   bool         // no data datagram seen yet
	proven  bool         // a report has said where the data is
	joiner  proto.AnnounceJoiner
	account *streamAccount
}

// wipe erases the stream's keys.
func (s *stream) wipe() {
	for _, o := range s.openers {
		if o != nil {
			o.Wipe()
		}
	}
	s.forget()
	s.key.Wipe()
}

// A session is one run of one remote, as all workers know it.
type session struct {
	id       uint64
	announce atomic.Pointer[proto.Announce]
	tally    *tally
	bye      atomic.Bool
	heard    atomic.Int64            // ns since 1970, when something verified last
	streams  map[*streamAccount]bool // guarded by tap.mu
}

// A tap is what all workers know of one tap ID.
type tap struct {
	id     uint32
	newest atomic.Uint64 // session

	mu       sync.Mutex // never taken per frame or datagram
	sessions map[uint64]*session
	seen     int
	sealed   bool // the newest session is; none that is not comes after it
	name     string
	past     TapTotal // of streams that are gone
	silent   bool     // the monitor's
}

// supersedes says why a new session may not take the place of the newest; nil
// if it may. One that is sealed always may where that is not, and never the
// other way round: what nobody sealed proves nothing.
func (t *tap) supersedes(id uint64, plaintext bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case plaintext && t.sealed:
		return DropSuite
	case plaintext == t.sealed: // sealed after plaintext: both false
		return nil
	case id < t.newest.Load():
		return DropSession
	}
	return nil
}

// joined returns the tap's session id. If it is new it is made, is the newest, and was
// first heard now, in its middle if late. Nil: it has as many streams as one can have.
func (t *tap) joined(id uint64, plaintext bool, a *streamAccount, now time.Time, late bool) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !plaintext && !t.sealed {
		t.sealed = true
		t.newest.Store(id)
	}
	s := t.sessions[id]
	if s == nil {
		s = &session{id: id, streams: make(map[*streamAccount]bool), tally: &tally{came: now, late: late}}
		t.sessions[id] = s
		t.seen++
	}
	if id > t.newest.Load() {
		t.newest.Store(id)
	}
	if len(s.streams) == maxStateStreams {
		return nil
	}
	s.streams[a] = true
	return s
}

// fold adds the account of a stream that ends to the tap's past.
func (t *tap) fold(s *session, a *streamAccount) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.past.add(a, s.bye.Load())
	delete(s.streams, a)
	if len(s.streams) == 0 && s.id != t.newest.Load() {
		delete(t.sessions, s.id)
		s.tally.gone.Store(true)
	}
}

// total returns the account of the tap over all sessions.
func (t *tap) total() TapTotal {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.past
	sum.Tap, sum.Session, sum.Sessions = t.id, t.newest.Load(), t.seen
	for _, s := range t.sessions {
		for a := range s.streams {
			sum.add(a, s.bye.Load())
		}
		if s.id == sum.Session {
			sum.Ended = s.bye.Load()
			if a := s.announce.Load(); a != nil {
				t.name = a.Name
			}
		}
	}
	sum.Name = t.name
	return sum
}

// done says that the tap's newest session ended, and that all of its shards
// gave their last account.
func (t *tap) done() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[t.newest.Load()]
	if s == nil || !s.bye.Load() {
		return false
	}
	if time.Since(time.Unix(0, s.heard.Load())) > second {
		return true // said bye a while ago: what is missing will not come
	}
	announce := s.announce.Load()
	for a := range s.streams {
		if !a.final.Load() {
			return false
		}
	}
	return announce != nil && len(s.streams) >= announce.Shards
}

// admit deals with a datagram of a stream that is not known: it costs a key
// derivation, so there is a limit; and only if the tag verifies, and the stream
// runs now, is anything kept.
func (w *worker) admit(h *proto.Header, d []byte) (s *stream, plaintext []byte, drop error) {
	suite := crypto.Suite(h.Suite)
	if suite == crypto.Plaintext && !w.cfg.AllowPlaintext || suite > crypto.ChaCha20Poly1305 {
		return nil, nil, DropSuite
	}
	if w.cfg.Workers > 1 && steered(h.Tap, h.Shard, w.cfg.Workers) != w.number {
		return nil, nil, DropAstray
	}
	t := w.taps.find(h.Tap)
	newest := w.state.Newest(h.Tap)
	if t != nil {
		if drop = t.supersedes(h.Session, suite == crypto.Plaintext); drop != nil {
			newest = max(newest, t.newest.Load())
		}
	}
	if h.Session < newest && drop == nil {
		drop = DropSession
	}
	if drop == DropSession {
		w.explain(h, newest, d)
	}
	if drop != nil {
		return nil, nil, drop
	}
	if w.cfg.Keys != nil && !w.cfg.Keys.Has(h.Tap) && (w.cfg.Allow == nil || !w.cfg.Allow.Has(h.Tap)) {
		return nil, nil, DropTap
	}
	if w.past.has(h, w.now) {
		return nil, nil, DropClock
	}
	ticket, ok := w.gate.admit(w.now, h.Tap, w.in.From().Addr(), t != nil || newest != 0, 1)
	if !ok {
		return nil, nil, DropLimited
	}
	// A counter that claims a late epoch claims work: it is charged for.
	age := w.now.Unix() - proto.SessionStart(h.Session)
	if epoch := h.Counter >> crypto.EpochBits; epoch > epochAt(age) {
		drop = DropEpoch
	} else if epoch > 1 && !w.gate.jump(w.now, epoch) {
		drop = DropLimited
	}
	if drop != nil {
		w.gate.refund(ticket, false)
		return nil, nil, drop
	}
	who, drop := w.keyFor(h)
	if suite == crypto.Plaintext {
		drop = nil
	}
	if drop != nil {
		w.gate.refund(ticket, false)
		return nil, nil, drop
	}
	defer w.key.Wipe()
	o, drop := w.opener(&w.key, h)
	if drop != nil {
		return nil, nil, drop
	}
	defer func() {
		if drop != nil {
			o.Wipe()
		}
	}()
	plaintext, err := o.Open(d, proto.HeaderLen, h.Counter, epochAt(age))
	if err != nil {
		return nil, nil, dropOf(err)
	}
	if !w.live(h, plaintext) {
		return nil, nil, DropClock
	}
	// What nobody sealed is not kept: a forged one would shut the tap out.
	if suite != crypto.Plaintext && !w.state.Advance(h.Tap, h.Session) {
		return nil, nil, DropSession
	}
	if s = w.join(h, &w.key, age); s == nil {
		return nil, nil, DropLimited
	}
	w.gate.refund(ticket, h.Session != newest)
	if w.in == w.strangers {
		w.met(s)
	}
	s.openers[h.Kind], s.who = o, who
	return s, plaintext, nil
}

// epochAt returns the epoch that no counter of a session of that age, in
// seconds, can have passed: an epoch of 2^24 datagrams takes a second at the
// least, at any rate that a shard can have, and clocks may differ by an hour.
func epochAt(age int64) uint64 { return uint64(max(age, 0)) + 3600 }

// jump says whether a datagram of a stream may be looked at whose counter
// claims an epoch beyond the next one, whose key the opener keeps. Each epoch
// between is work. A stream that was heard can have passed one for each second
// since; one of which no such datagram was ever opened, as many as its session
// has seconds.
func (w *worker) jump(s *stream, o *crypto.Opener, epoch uint64) error {
	most := epochAt(w.now.Unix() - proto.SessionStart(s.origin.Session))
	if o.Next() > 0 || o.Epoch() > 0 {
		most = o.Epoch() + 1 + uint64(max(w.now.Sub(s.at), 0)/second)
	}
	if epoch > most {
		return DropEpoch
	}
	if !w.gate.jump(w.now, epoch-o.Epoch()) {
		return DropLimited
	}
	return nil
}

// reach moves the opener of a stream's data on to where a report says that it
// is, less an epoch for what is under way: so that no datagram that is not
// proven has to claim that way.
func (w *worker) reach(s *stream, nextData uint64) {
	o := s.openers[proto.Data]
	epoch := nextData >> crypto.EpochBits
	if epoch <= 1 || o != nil && epoch <= o.Epoch()+1 || epoch > epochAt(w.now.Unix()-proto.SessionStart(s.origin.Session)) {
		return
	}
	if o == nil {
		h := proto.Header{Kind: proto.Data, Suite: s.suite, Shard: s.origin.Shard, Tap: s.origin.Tap, Session: s.origin.Session}
		var err error
		if o, err = w.opener(&s.key, &h); err != nil {
			return
		}
		s.openers[proto.Data] = o
	}
	if w.gate.reach(w.now, epoch-1-o.Epoch()) {
		o.Reach(epoch - 1)
	}
}

// opener makes the opener for the kind of datagram that h heads. Counters that
// a run before this one has seen stay refused.
func (w *worker) opener(key *crypto.Key, h *proto.Header) (*crypto.Opener, error) {
	o, err := crypto.NewOpener(key, crypto.Stream{
		Suite: crypto.Suite(h.Suite), Kind: uint8(h.Kind), Shard: h.Shard, Session: h.Session,
	})
	if err != nil {
		return nil, DropSuite
	}
	if n := w.state.Counter(h.Tap, h.Session, h.Shard, uint8(h.Kind)); n > 0 {
		o.Skip(n)
	}
	if s := w.streams[streamKey{h.Tap, h.Shard}]; s != nil && s.origin.Session == h.Session {
		o.Skip(s.floor[h.Kind])
	}
	return o, nil
}

// join makes the stream that a verified datagram belongs to; age is that of
// its session in seconds. Nil: the tap has too many.
func (w *worker) join(h *proto.Header, key *crypto.Key, age int64) *stream {
	k := streamKey{h.Tap, h.Shard}
	if old := w.streams[k]; old != nil {
		w.giveUp(old)
		w.drop(k, old)
	}
	s := &stream{suite: h.Suite, key: *key, keyID: h.Key, tap: w.taps.get(h.Tap), records: proto.NewUnpacker(w.asm), account: new(streamAccount), at: w.now}
	// A stream heard within seconds of its start is taken to be known from
	// its start, and what did not come of it for lost. Any other is joined in
	// the middle, at its first data datagram.
	s.late = age > joinAge || age < -joinAge || w.state.Counter(h.Tap, h.Session, h.Shard, uint8(proto.Data)) > 0
	if s.session = s.tap.joined(h.Session, h.Suite == uint8(crypto.Plaintext), s.account, w.now, s.late); s.session == nil {
		return nil
	}
	s.session.heard.Store(w.now.UnixNano())
	s.origin = Origin{Tap: h.Tap, Session: h.Session, Shard: h.Shard, announce: &s.session.announce, tally: s.session.tally}
	s.fresh = true
	w.streams[k] = s
	w.last = s
	if w.gate.line(w.now) {
		w.log.Info().Uint32("tap", h.Tap).Str("session", hex64(h.Session)).Uint16("shard", h.Shard).
			Str("suite", crypto.Suite(h.Suite).String()).Stringer("from", w.in.From()).Bool("midway", s.late).Msg("stream")
	}
	return s
}

// Chosen: a session older than this, in seconds, was there before.
const joinAge = 5

// announced takes an announce. Shard 0 makes them: of others they are not kept,
// so that a stolen remote does not have us keep one for each shard.
func (w *worker) announced(s *stream, plaintext []byte) error {
	if s.origin.Shard != 0 {
		return DropMalformed
	}
	s.session.heard.Store(w.now.UnixNano())
	a, err := s.joiner.Add(plaintext)
	if err != nil {
		return DropMalformed
	}
	if a != nil {
		w.learn(s.session, a)
		if a.Bye {
			s.session.bye.Store(true)
		}
	}
	return nil
}

// reported takes a report. Its account holds as soon as the datagrams that it
// covers have passed; those that do not come within the time for reordering
// are given up.
func (w *worker) reported(s *stream, plaintext []byte) error {
	r, err := proto.ParseReport(plaintext)
	if err != nil {
		return DropMalformed
	}
	if r.NextData < s.report.NextData || r.Time < s.report.Time {
		return nil // overtaken by a newer one
	}
	if !w.proves(s, proto.Reporting, plaintext) {
		return DropClock
	}
	s.proven = true
	s.session.heard.Store(w.now.UnixNano())
	w.reach(s, r.NextData)
	if s.fresh && r.NextData > 0 {
		s.first(r.NextData)
	}
	s.report, s.pending = r, r.NextData >= s.next
	if r.NextData == s.next {
		s.settle()
	}
	if s.behind() {
		w.wait(s)
	}
	return nil
}

// first sets where the stream begins for this collector.
func (s *stream) first(counter uint64) {
	s.fresh = false
	s.gap = true
	if s.late {
		s.next = counter
	}
	s.late = s.late && counter > 0
}

// behind says that datagrams are missing which a report covers.
func (s *stream) behind() bool { return s.pending && s.report.NextData > s.next }

// advance passes n datagrams in the order, and settles the account if a report
// was made there.
func (s *stream) advance(n uint64) {
	if s.behind() && s.report.NextData-s.next <= n {
		n -= s.report.NextData - s.next
		s.next = s.report.NextData
		s.settle()
	}
	s.next += n
}
