// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Chosen.
const (
	pollWait  = 20 * time.Millisecond // the longest Recv waits, and what is held waits longer than asked
	second    = time.Second           // between a worker's rounds through its streams
	drainTime = 2 * time.Second       // the longest that a collector told to stop goes on receiving
)

// A worker is one socket with the streams that are steered to it, and its own
// end of each output. One goroutine owns it while the collector runs.
type worker struct {
	*shared
	number int
	in     *batch.Receiver // of this batch
	listener
	outs  *outputs
	sinks []sink // one for each route of the table
	ends
	direct  *batchSink // if that is all of sinks, and takes all frames
	record  proto.Record
	asm     *proto.Assembly
	cut     proto.Cutter
	memory  batch.Lazy // of cut
	flushed error      // of a flush in the middle of a batch
	streams map[streamKey]*stream
	last    *stream // most datagrams come in trains of one stream
	waiting []*stream
	pool    holdPool
	gate    *gate      // before what is not known
	key     crypto.Key // of the tap of the datagram at hand, while it is looked at
	past    past
	notes   notes
	now     time.Time // of this batch
	round   time.Time // when the next look at all streams is due
	account *WorkerAccount
}

// run delivers until ctx is done, and then what has been received by then.
func (w *worker) run(ctx context.Context) error {
	for ctx.Err() == nil { // once per batch, never per frame
		if _, err := w.deliver(); err != nil {
			return w.end(err)
		}
	}
	for stop := time.Now().Add(drainTime); time.Now().Before(stop); {
		more := w.full // then strangers are not looked at, and there need be no more
		if n, err := w.deliver(); n == 0 && !more || err != nil {
			return w.end(err)
		}
	}
	return w.end(nil)
}

// end gives up what is still awaited, closes the outputs and erases the keys.
func (w *worker) end(err error) error {
	for _, s := range w.streams {
		w.giveUp(s)
	}
	err = errors.Join(err, w.flush())
	w.look()
	for _, s := range w.streams {
		s.wipe()
	}
	return errors.Join(err, w.closeSinks())
}

// begin starts a batch.
func (w *worker) begin() {
	before := w.now
	w.now = time.Now()
	w.spent(w.now.Sub(before))
	if w.outs != nil {
		if t := w.outs.now.Load(); t != w.table {
			w.turnTo(t)
		}
	}
	if w.now.After(w.round) {
		w.round = w.now.Add(second)
		w.look()
	}
	if w.flows != nil && w.flows.wanted.Load() {
		if err := w.flows.remake(w.now); err != nil {
			w.log.Warn().Err(err).Msg("known flows and strangers")
		}
	}
}

// count counts a datagram under what became of it.
func (w *worker) count(d []byte, drop error) {
	w.account.Received.Add(1)
	w.account.Bytes.Add(uint64(len(d)))
	if drop == nil {
		w.account.Accepted.Add(1)
		return
	}
	w.account.Drops[drop.(Drop)].Add(1)
	w.refused()
}

// flush ends a batch: the outputs are done with its records.
func (w *worker) flush() error {
	err := w.flushSinks()
	if w.flushed != nil {
		err, w.flushed = errors.Join(w.flushed, err), nil
	}
	w.asm.Reset()
	w.pool.recycle()
	w.cut.Reset()
	return err
}

func (w *worker) flushSinks() error {
	var err error
	for i, s := range w.sinks {
		if e := s.Flush(); e != nil {
			err = errors.Join(err, w.failed(i, e))
		}
	}
	return err
}

// look goes through the streams once a second: their counters go to the state
// file, and those of superseded sessions go.
func (w *worker) look() {
	w.patience = drainMost
	w.account.Socket.Set(w.home.Drops())
	if w.strangers != nil {
		w.account.Strangers.Set(w.strangers.Drops())
	}
	for key, s := range w.streams {
		for kind := range s.openers {
			if n := s.reached(kind); n > 0 {
				w.state.Note(key.tap, s.session.id, key.shard, uint8(kind), n)
			}
		}
		if s.turned && w.now.After(s.before.until) {
			s.forget()
		}
		if s.session.id != s.tap.newest.Load() {
			w.giveUp(s)
			w.drop(key, s)
		} else if !w.good(s) {
			w.log.Warn().Uint32("tap", key.tap).Str("session", hex64(s.session.id)).Uint16("shard", key.shard).
				Msg("the session ends: its key is not good any more")
			w.giveUp(s)
			w.drop(key, s)
		}
	}
}

// drop forgets a stream whose session is over.
func (w *worker) drop(key streamKey, s *stream) {
	s.tap.fold(s.session, s.account)
	w.parted(s)
	w.asm.Forget(s.records)
	s.wipe()
	delete(w.streams, key)
	if w.last == s {
		w.last = nil
	}
}

// open checks, verifies and decrypts one datagram in place, and finds or makes
// the stream it belongs to. What comes from the header is believed only after
// the tag verified. The error is a Drop.
func (w *worker) open(d []byte) (s *stream, kind proto.Kind, counter uint64, plaintext []byte, drop error) {
	h, version, ok := proto.ParseHeader(d)
	switch {
	case !ok:
		return nil, 0, 0, nil, DropShort
	case version != proto.Version:
		return nil, 0, 0, nil, DropVersion
	case h.Kind == proto.Keying:
		return nil, h.Kind, 0, nil, w.keyed(&h, d)
	case h.Kind > proto.Reporting:
		return nil, 0, 0, nil, DropKind
	}
	s = w.last
	if s == nil || s.origin.Tap != h.Tap || s.origin.Session != h.Session || s.origin.Shard != h.Shard {
		if s = w.streams[streamKey{h.Tap, h.Shard}]; s == nil || s.origin.Session != h.Session {
			s, plaintext, drop = w.admit(&h, d)
			return s, h.Kind, h.Counter, plaintext, drop
		}
		w.last = s
	}
	if s.origin.Session != s.tap.newest.Load() {
		return nil, 0, 0, nil, DropSession
	}
	if h.Suite != s.suite {
		return nil, 0, 0, nil, DropSuite
	}
	if h.Key != s.keyID {
		if plaintext, drop = w.turn(s, &h, d); drop == nil {
			s.at = w.now
		}
		return s, h.Kind, h.Counter, plaintext, drop
	}
	o := s.openers[h.Kind]
	if o == nil {
		if o, drop = w.opener(&s.key, &h); drop != nil {
			return nil, 0, 0, nil, drop
		}
		s.openers[h.Kind] = o
	}
	epoch := h.Counter >> crypto.EpochBits
	if epoch > o.Epoch()+1 {
		if drop = w.jump(s, o, epoch); drop != nil {
			return nil, 0, 0, nil, drop
		}
	}
	plaintext, err := o.Open(d, proto.HeaderLen, h.Counter, epoch)
	if err != nil {
		return nil, 0, 0, nil, dropOf(err)
	}
	s.at = w.now
	if w.in == w.strangers {
		w.met(s)
	} else {
		s.heardHome = w.now
	}
	return s, h.Kind, h.Counter, plaintext, nil
}

// dropOf says under which reason an Opener's refusal is counted.
func dropOf(err error) Drop {
	switch err {
	case crypto.ErrReplay:
		return DropReplay
	case crypto.ErrOld:
		return DropLate
	case crypto.ErrEpoch:
		return DropEpoch
	}
	return DropForged
}

// learn keeps what a tap says of itself, and logs it the first time.
func (w *worker) learn(s *session, a *proto.Announce) {
	s.tally.learn(a)
	if s.announce.Swap(a) == nil && w.gate.line(w.now) {
		w.log.Info().Uint32("tap", a.Tap).Str("name", a.Name).Str("host", a.Host).Str("software", a.Software).
			Int("interfaces", len(a.Interfaces)).Str("filter", a.Filter).Str("timestamps", a.Clock).Msg("tap")
	}
}
