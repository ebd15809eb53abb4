// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Chosen.
const (
	// keyGrace is how long datagrams under a stream's key of before are taken:
	// they are under way when the remote goes on to another key.
	keyGrace = 10 * time.Second
	// keyingCost says that accepting a keying takes as much as that many
	// derivations of keys: some 200 µs.
	keyingCost = 8
	// maxAgreed bounds the agreements kept for a tap: two sessions with two
	// keys each.
	maxAgreed = 4
)

// keyFor makes w.key the key of the tap that h names: what was agreed on with
// it, if it is on the allow-list, or else that of the key file. It is the
// caller's to wipe: so no copies of it lie on the stack. The error is a Drop.
func (w *worker) keyFor(h *proto.Header) (who crypto.Fingerprint, drop error) {
	if w.cfg.Allow != nil && w.cfg.Allow.Has(h.Tap) {
		who, ok := w.agreed.find(h, &w.key)
		if !ok {
			return who, DropUnkeyed
		}
		if w.cfg.Allow.Check(h.Tap, who, w.now) != nil {
			w.key.Wipe()
			return who, DropKey
		}
		return who, nil
	}
	if w.cfg.Keys == nil {
		return who, DropTap
	}
	switch w.cfg.Keys.FindInto(&w.key, h.Tap, h.Key, w.now) {
	case nil:
		return who, nil
	case crypto.ErrWrong:
		return who, DropTap
	}
	return who, DropKey
}

// good says whether the key of a stream is still to be taken. It derives none.
func (w *worker) good(s *stream) bool {
	switch {
	case s.suite == uint8(crypto.Plaintext):
		return true
	case s.who != (crypto.Fingerprint{}):
		return w.cfg.Allow.Check(s.origin.Tap, s.who, w.now) == nil
	case w.cfg.Keys == nil || w.cfg.Allow != nil && w.cfg.Allow.Has(s.origin.Tap):
		return false
	}
	return w.cfg.Keys.Check(s.origin.Tap, s.keyID, w.now) == nil
}

// keyed takes a keying: a remote in public-key mode says what its session is
// sealed with. What was taken before is known by its hash: remotes repeat it
// each second. Nothing follows from it for the tap's newest session: only a
// datagram that is sealed does that.
func (w *worker) keyed(h *proto.Header, d []byte) error {
	if w.cfg.Allow == nil || !w.cfg.Allow.Has(h.Tap) {
		return DropTap
	}
	k, err := proto.ParseKeying(d[proto.HeaderLen:])
	if err != nil || h.Shard != 0 || h.Counter != 0 || crypto.Suite(h.Suite) == crypto.Plaintext {
		return DropMalformed
	}
	newest := w.state.Newest(h.Tap)
	t := w.taps.find(h.Tap)
	if t != nil {
		newest = max(newest, t.newest.Load())
	}
	if h.Session < newest {
		return DropSession
	}
	hash := sha256.Sum256(d)
	if w.agreed.has(h, &hash) {
		return nil
	}
	ticket, ok := w.gate.admit(w.now, h.Tap, w.in.From().Addr(), t != nil || newest != 0, keyingCost)
	if !ok {
		return DropLimited
	}
	if err = w.accept(h, d, &k, &hash); err == nil {
		w.gate.refund(ticket, h.Session != newest)
	}
	return err
}

// accept is the part of keyed that handles keys. The error is a Drop.
func (w *worker) accept(h *proto.Header, d []byte, k *proto.KeyingMessage, hash *[sha256.Size]byte) error {
	a := crypto.Agreement{Collector: crypto.Fingerprint(k.Collector), Remote: crypto.Fingerprint(k.Remote), Encapsulated: k.Encapsulated, Signature: k.Signature}
	secret, err := crypto.Accept(w.cfg.Pairs, w.cfg.Allow, a, h.Tap, d[:proto.HeaderLen], w.now)
	switch err {
	case nil:
	case crypto.ErrForged:
		return DropForged
	default:
		return DropKey
	}
	w.agreed.put(h, agreement{secret, a.Remote, *hash})
	return nil
}

// turn opens a datagram of a stream that is under another key than the one that
// the stream is under now. It is under way since before the key changed; or it
// is the first under a new key: then it lies behind all that was taken under
// the one before, which no datagram that is played back does.
func (w *worker) turn(s *stream, h *proto.Header, d []byte) (plaintext []byte, drop error) {
	if s.turned && h.Key == s.before.id {
		o := s.before.openers[h.Kind]
		if o == nil {
			return nil, DropLate
		}
		plaintext, err := o.Open(d, proto.HeaderLen, h.Counter, o.Epoch()+1) // whose key it keeps
		if err != nil {
			return nil, dropOf(err)
		}
		return plaintext, nil
	}
	if h.Counter < s.reached(int(h.Kind)) {
		return nil, DropLate
	}
	ticket, ok := w.turnTicket(h)
	if !ok {
		return nil, DropLimited
	}
	epoch := h.Counter >> crypto.EpochBits
	if epoch > epochAt(w.now.Unix()-proto.SessionStart(h.Session)) {
		drop = DropEpoch
	} else if epoch > 1 && !w.gate.jump(w.now, epoch) {
		drop = DropLimited
	}
	if drop != nil {
		w.gate.refund(ticket, false)
		return nil, drop
	}
	who, drop := w.keyFor(h)
	if drop != nil { // no key was derived: what is refused for that is counted under that
		w.gate.refund(ticket, false)
		return nil, drop
	}
	defer w.key.Wipe()
	o, drop := w.opener(&w.key, h)
	if drop != nil {
		return nil, drop
	}
	plaintext, err := o.Open(d, proto.HeaderLen, h.Counter, epoch)
	if err != nil {
		o.Wipe()
		return nil, dropOf(err)
	}
	w.gate.refund(ticket, false)
	s.turnTo(&w.key, h.Key, who, w.now)
	o.Skip(s.floor[h.Kind])
	s.openers[h.Kind] = o
	w.log.Info().Uint32("tap", h.Tap).Str("session", hex64(h.Session)).Uint16("shard", h.Shard).Uint8("key", h.Key).Msg("another key")
	return plaintext, nil
}

// turnTicket takes a token for a look at a datagram under a new key. Those from
// the stream's own flow have a bucket of their own, so that a flood for the tap
// from elsewhere does not hold up a stream that goes on to another key.
func (w *worker) turnTicket(h *proto.Header) (t ticket, ok bool) {
	if w.strangers != nil && w.in == w.home {
		return w.gate.turn(w.now)
	}
	return w.gate.admit(w.now, h.Tap, w.in.From().Addr(), true, 1)
}

// under are the openers of a stream under a key that it was under before.
type under struct {
	id      uint8
	openers [proto.NumKinds]*crypto.Opener
	until   time.Time
}

// turnTo makes another key that of the stream.
func (s *stream) turnTo(key *crypto.Key, id uint8, who crypto.Fingerprint, now time.Time) {
	s.forget()
	s.turned, s.before = true, under{s.keyID, s.openers, now.Add(keyGrace)}
	for k := range s.floor {
		s.floor[k] = s.reached(k)
	}
	s.openers = [proto.NumKinds]*crypto.Opener{}
	s.key, s.keyID, s.who = *key, id, who
}

// reached returns the counter behind all that were taken of a kind, under
// whichever key.
func (s *stream) reached(kind int) uint64 {
	n := s.floor[kind]
	for _, o := range []*crypto.Opener{s.openers[kind], s.before.openers[kind]} {
		if o != nil {
			n = max(n, o.Next())
		}
	}
	return n
}

// forget erases the openers under the key of before. What they took late stays
// refused.
func (s *stream) forget() {
	for k, o := range s.before.openers {
		if o != nil {
			s.floor[k] = max(s.floor[k], o.Next())
			o.Wipe()
		}
	}
	s.turned, s.before = false, under{}
}

// agreements are the secrets agreed on in public-key mode. A keying comes to
// one worker, and its session's datagrams to all.
type agreements struct {
	mu   sync.RWMutex
	taps map[uint32][]dated // at most maxAgreed of each
}

type agreement struct {
	secret crypto.Key
	who    crypto.Fingerprint // the remote's
	hash   [sha256.Size]byte  // of the datagram
}

type dated struct {
	session uint64
	id      uint8
	agreement
}

// has says whether an agreement of that hash is kept, without a copy of its
// secret.
func (a *agreements) has(h *proto.Header, hash *[sha256.Size]byte) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := a.taps[h.Tap]
	for i := range all {
		if d := &all[i]; d.session == h.Session && d.id == h.Key && d.hash == *hash {
			return true
		}
	}
	return false
}

// find makes out the secret of an agreement, and says with whom it was made.
func (a *agreements) find(h *proto.Header, out *crypto.Key) (who crypto.Fingerprint, ok bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := a.taps[h.Tap]
	for i := range all {
		if d := &all[i]; d.session == h.Session && d.id == h.Key {
			copy(out[:], d.secret[:])
			return d.who, true
		}
	}
	return who, false
}

// put keeps an agreement, in the place of one before for the same session and
// key ID, or of the earliest session's of the tap: what is played back is of
// sessions before the one that runs.
func (a *agreements) put(h *proto.Header, g agreement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.taps == nil {
		a.taps = make(map[uint32][]dated)
	}
	all := a.taps[h.Tap]
	for i, d := range all {
		if d.session == h.Session && d.id == h.Key {
			all = append(all[:i], all[i+1:]...)
			break
		}
	}
	if len(all) == maxAgreed {
		first := 0
		for i, d := range all {
			if d.session < all[first].session { // of one session, the first that came
				first = i
			}
		}
		if h.Session < all[first].session {
			return
		}
		copy(all[first:], all[first+1:])
		all[maxAgreed-1] = dated{}
		all = all[:maxAgreed-1]
	}
	if all == nil {
		all = make([]dated, 0, maxAgreed)
	}
	a.taps[h.Tap] = append(all, dated{h.Session, h.Key, g})
}

// wipe erases all.
func (a *agreements) wipe() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, all := range a.taps {
		clear(all[:cap(all)])
	}
	a.taps = nil
}

// reload reads all files of keys anew. What cannot be used stays as it was.
func (sh *shared) reload() {
	var err error
	if sh.cfg.Keys != nil {
		err = sh.cfg.Keys.Reload()
	}
	if sh.cfg.Allow != nil {
		err = errors.Join(err, sh.cfg.Pairs.Reload(), sh.cfg.Allow.Reload())
	}
	if err != nil {
		sh.log.Error().Err(err).Msg("keys not read anew")
		return
	}
	sh.log.Info().Msg("keys read anew")
}
