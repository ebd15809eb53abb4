// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"fmt"
	"math"
)

// A Sealer seals the datagrams of one stream. It belongs to the shard that
// seals with it.
type Sealer struct {
	suite  Suite
	wiped  bool
	spent  bool   // the last counter there is has been used
	next   uint64 // counter of the next datagram
	epoch  uint64 // that secret and key are of
	secret [KeyLen]byte
	key    epochKey
	nonce  [nonceLen]byte // here, because what is passed through an interface moves to the heap
}

// NewSealer returns the Sealer of stream s under the key of the tap. A second
// one for the same stream would use the same nonces again: never make one.
func NewSealer(tap *Key, s Stream) (*Sealer, error) { return NewSealerAt(tap, s, 0) }

// NewSealerAt returns a Sealer that goes on at counter next, where one with
// another key of the tap ended: the counters of a stream are each used once,
// whichever the key.
func NewSealerAt(tap *Key, s Stream, next uint64) (*Sealer, error) {
	seal := &Sealer{suite: s.Suite, next: next, epoch: next >> EpochBits}
	if err := s.secret(&seal.secret, tap); err != nil {
		return nil, err
	}
	for range seal.epoch {
		ratchet(&seal.secret)
	}
	seal.key = newEpochKey(s.Suite, &seal.secret)
	return seal, nil
}

// Counter returns the counter of the next datagram.
func (s *Sealer) Counter() uint64 { return s.next }

// Seal seals the datagram d in place, under the counter that Counter returned
// before: d[:header] is authenticated, d[header:len(d)-TagLen] is encrypted,
// and the tag goes to the last TagLen bytes. It allocates nothing, but for the
// new key every 2^24 datagrams.
//
// It panics if d has no room for header and tag, after Wipe, and past counter
// 2^64-1.
func (s *Sealer) Seal(d []byte, header int) {
	if len(d) < header+TagLen {
		panic(fmt.Sprintf("crypto: Seal: %d bytes are too short for a header of %d and a tag of %d", len(d), header, TagLen))
	}
	if s.spent || s.wiped {
		panic("crypto: Seal: the counters are used up, or the Sealer is wiped")
	}
	if s.next>>EpochBits != s.epoch {
		s.advance()
	}
	s.key.nonce(&s.nonce, s.next)
	s.key.aead.Seal(d[header:header], s.nonce[:], d[header:len(d)-TagLen], d[:header:header])
	if s.next == math.MaxUint64 {
		s.spent = true
		return
	}
	s.next++
}

// advance goes on to the key of the next epoch and erases the old one.
func (s *Sealer) advance() {
	s.key.wipe()
	ratchet(&s.secret)
	s.epoch++
	s.key = newEpochKey(s.suite, &s.secret)
}

// Wipe erases the keys. Seal must not be called again.
func (s *Sealer) Wipe() {
	s.key.wipe()
	*s = Sealer{wiped: true, next: s.next}
}
