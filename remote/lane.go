// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// A destination is a collector, as all shards see it. Each has a session of its
// own, hence keys of its own: what goes to one is never sealed as what goes to
// another.
type destination struct {
	name     string // HOST:PORT
	session  uint64
	keyring  *keyring
	revision uint32 // of the announce; shard 0's
}

// A lane is what one shard sends to one collector: datagrams packed, sealed and
// counted apart from those to others.
type lane struct {
	tap       *tap
	to        *destination
	number    uint16 // of the shard
	pack      proto.Packer
	seal      sealers
	keyTurn   uint64 // of the keyring, when seal was made
	out       *batch.Sender
	pace      laneShare
	account   *ShardAccount
	address   atomic.Pointer[netip.AddrPort] // of the collector, for those who make filters
	failed    bool                           // and that was said
	troubled  bool                           // what is sent does not arrive, and that was said
	said      time.Time                      // then
	copying   bool                           // the kernel copies what is sent without a copy, and that was said
	plaintext []byte                         // scratch for reports
	key       crypto.Key                     // scratch for rekey, so that no copies lie on the stack
}

// A sealer seals the datagrams of one kind. It has their header ready but for
// the counter: built anew it cost 130 instructions a datagram.
type sealer struct {
	*crypto.Sealer
	head [proto.HeaderLen]byte
}

// sealers are those of one shard.
type sealers struct{ data, announce, report sealer }

// newSealers makes those of the shard and the key that h says, which go on
// where before ended.
func newSealers(key *crypto.Key, h proto.Header, before *sealers) (s sealers, err error) {
	next := map[proto.Kind]uint64{}
	if before.data.Sealer != nil {
		next[proto.Data], next[proto.Announcing], next[proto.Reporting] = before.data.Counter(), before.announce.Counter(), before.report.Counter()
	}
	for kind, to := range map[proto.Kind]*sealer{proto.Data: &s.data, proto.Announcing: &s.announce, proto.Reporting: &s.report} {
		h.Kind = kind
		h.Put(to.head[:])
		to.Sealer, err = crypto.NewSealerAt(key, crypto.Stream{Suite: crypto.Suite(h.Suite), Kind: uint8(kind), Shard: h.Shard, Session: h.Session}, next[kind])
		if err != nil {
			s.wipe()
			return s, fmt.Errorf("remote: shard %d: %w", h.Shard, err)
		}
	}
	return s, nil
}

func (s *sealers) wipe() {
	for _, x := range []*sealer{&s.data, &s.announce, &s.report} {
		if x.Sealer != nil {
			x.Wipe()
		}
	}
}

// seal writes the header of d and seals d in place.
func (s *sealer) seal(d []byte) {
	copy(d, s.head[:])
	proto.PutCounter(d, s.Counter())
	s.Seal(d, proto.HeaderLen)
}

// message seals plaintext as a datagram of its own and sends it.
func (l *lane) message(with *sealer, plaintext []byte) error {
	n := proto.Overhead + len(plaintext)
	slot := l.out.Slot()
	if n > len(slot) {
		return fmt.Errorf("remote: a message of %d bytes does not fit a datagram of %d", n, len(slot))
	}
	copy(slot[proto.HeaderLen:], plaintext)
	with.seal(slot[:n:n])
	l.out.Queue(n)
	return l.out.Flush()
}

// look says when what is sent does not get to the collector, as far as kernel and
// network tell, and when it does again. Only shard 0's lanes do.
func (l *lane) look(now time.Time) {
	err := l.out.Trouble()
	switch {
	case err == nil && l.troubled:
		l.troubled = false
		l.tap.log.Info().Str("collector", l.to.name).Msg("the collector is reached again, as far as the network tells")
	case err != nil && !l.troubled && now.Sub(l.said) >= sayAgain:
		l.troubled, l.said = true, now
		says := "the kernel does not take what is for the collector: that is counted, and sending goes on"
		if errors.Is(err, syscall.ECONNREFUSED) {
			says = "nobody listens at the collector, its host says: sending goes on"
		}
		l.tap.log.Warn().Err(err).Str("collector", l.to.name).Msg(says)
	}
}

// count brings the lane's own part of the account up to date.
func (l *lane) count() {
	a, o := l.account, l.out.Stats()
	a.Sealed.Set(l.pack.Packed().Frames)
	a.SealedBytes.Set(l.pack.Packed().Bytes)
	a.Datagrams.Set(l.seal.data.Counter())
	a.Sent.Set(o.Datagrams.Load())
	a.SentBytes.Set(o.Bytes.Load())
	a.Unsent.Set(o.Unsent.Load())
	a.Refused.Set(o.Refused.Load())
}

// report sends the account. Of frames that other collectors got it says
// nothing; the kernel's drops are those of the ring, before it is known whose
// they were.
func (l *lane) report(iface uint32, now time.Time, final bool) error {
	a := l.account
	captured := a.Captured.Load()
	if l.tap.shares != nil {
		captured = a.left() + l.pack.Packed().Frames
	}
	r := proto.Report{
		Final:       final,
		Interface:   iface,
		Time:        now.UnixNano(),
		Captured:    captured,
		KernelDrops: a.KernelDrops.Load(),
		Freezes:     a.Freezes.Load(),
		TooLong:     a.TooLong.Load(),
		Shed:        a.shed(),
		Sealed:      l.pack.Packed().Frames,
		SealedBytes: l.pack.Packed().Bytes,
		NextData:    l.seal.data.Counter(),
		Sent:        a.Sent.Load(),
		Unsent:      a.Unsent.Load(),
		Refused:     a.Refused.Load(),
	}
	l.plaintext = r.Append(l.plaintext[:0])
	return l.message(&l.seal.report, l.plaintext)
}

// announce tells who the tap is.
func (l *lane) announce(bye bool) error {
	if err := l.tell(); err != nil {
		return err
	}
	parts, err := l.tap.announce(l.to, bye, l.out.Size()-proto.Overhead)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := l.message(&l.seal.announce, p); err != nil {
			return err
		}
	}
	return nil
}

// locate notes where the collector is. When its name stands for another address
// than before, filters have to leave out datagrams to that one.
func (l *lane) locate() {
	if now := l.out.Collector(); l.address.Load() == nil || *l.address.Load() != now {
		first := l.address.Load() == nil
		l.address.Store(&now)
		if !first {
			l.tap.log.Info().Str("collector", l.to.name).Stringer("address", now).Uint16("shard", l.number).Msg("the collector has another address now")
			select {
			case l.tap.relocated <- struct{}{}:
			default: // that is already to be done
			}
		}
	}
}
