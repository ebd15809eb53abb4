// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Chosen: in public-key mode the collector is told of another key this long
// before anything is sealed under it, and it is told each second.
const keyAhead = 3500 * time.Millisecond

// A keyring says what the shards of a tap seal under: the newest key of the key
// file, or, in public-key mode, a secret agreed on with the collector. When it
// changes, shards go on under the new one, each between two blocks: session
// and counters stay.
type keyring struct {
	keys     *crypto.KeyFile    // or
	public   *crypto.PublicFile // of the collector, and
	identity *crypto.Identity   // of this remote
	head     proto.Header       // of its datagrams, but for kind and key
	log      zerolog.Logger

	turn atomic.Uint64 // goes up with each new key

	mu     sync.Mutex
	id     uint8
	key    crypto.Key
	fresh  crypto.Key         // scratch, so that no copies lie on the stack
	from   time.Time          // when shards go on to it
	to     crypto.Fingerprint // the collector's key that it was agreed on with
	keying []byte             // the datagram that tells the collector
	before []byte             // that of the key before: until from, shards seal under it
	failed bool               // the newest key is over, and that was said
}

// newKeyring decides on the first key.
func newKeyring(cfg *Config, head proto.Header) (*keyring, error) {
	k := &keyring{keys: cfg.Keys, public: cfg.Public, identity: cfg.Identity, head: head, log: cfg.Log}
	now := time.Now()
	crypto.Burn()
	defer crypto.Burn()
	if k.public == nil {
		return k, k.fromFile(now)
	}
	if k.identity.Tap != head.Tap {
		return nil, fmt.Errorf("remote: the identity is that of tap %d, not of tap %d", k.identity.Tap, head.Tap)
	}
	return k, k.agree(now, now)
}

// fromFile goes on to the newest key of the key file, if it is another one.
func (k *keyring) fromFile(now time.Time) error {
	id, err := k.keys.Newest(now)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.fresh.Wipe()
	err = k.keys.FindInto(&k.fresh, k.head.Tap, id, now)
	if err == crypto.ErrWrong {
		_, err = k.keys.TapKey(k.head.Tap) // which names both taps
	}
	if err != nil {
		return err
	}
	if k.turn.Load() == 0 || id != k.id || k.fresh != k.key {
		copy(k.key[:], k.fresh[:])
		k.id, k.from = id, now
		k.turn.Add(1)
	}
	return nil
}

// agree makes a new secret, which shards go on to at from.
func (k *keyring) agree(now, from time.Time) error {
	to, err := k.public.Newest(now)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	id := k.id
	if k.turn.Load() > 0 {
		id = (id + 1) & 0xF
	}
	h := k.head
	h.Kind, h.Key, h.Shard, h.Counter = proto.Keying, id, 0, 0
	d := h.Append(make([]byte, 0, proto.KeyingDatagram))
	a, secret, err := crypto.Agree(k.public, k.identity, d, now)
	if err != nil {
		return err
	}
	m := proto.KeyingMessage{Collector: a.Collector[:], Remote: a.Remote[:], Encapsulated: a.Encapsulated, Signature: a.Signature}
	if !now.Before(k.from) { // else shards do not seal under that one yet
		k.before = k.keying
	}
	k.id, k.key, k.from, k.to, k.keying = id, secret, from, to, m.Append(d)
	k.turn.Add(1)
	return nil
}

// refresh looks whether there is a newer key; anew says that the files were
// read anew.
func (k *keyring) refresh(now time.Time, anew bool) {
	var err error
	if k.public == nil {
		err = k.fromFile(now)
	} else {
		var to crypto.Fingerprint
		if to, err = k.public.Newest(now); err == nil {
			k.mu.Lock()
			other := to != k.to
			k.mu.Unlock()
			if other || anew {
				err = k.agree(now, now.Add(keyAhead))
			}
		}
	}
	if err != nil && !k.failed {
		k.log.Error().Err(err).Msg("no newer key: this one stays in use, and a collector may refuse it")
	}
	k.failed = err != nil
}

// watchKeys has all keyrings go on to newer keys until ctx is done: each value
// from reload has the files read anew, and a key whose time comes is taken by
// itself. All have the same files.
func watchKeys(ctx context.Context, all []*keyring, reload <-chan struct{}) {
	crypto.Burn()
	defer crypto.Burn()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	k := all[0]
	for {
		anew := false
		select {
		case <-ctx.Done():
			return
		case <-reload:
			var err error
			if k.keys != nil {
				err = k.keys.Reload()
			}
			if k.public != nil {
				err = errors.Join(err, k.public.Reload())
			}
			if anew = err == nil; anew {
				k.log.Info().Msg("keys read anew")
			} else {
				k.log.Error().Err(err).Msg("keys not read anew")
			}
		case <-tick.C:
		}
		for _, k := range all {
			k.refresh(time.Now(), anew)
		}
	}
}

// due makes out the key that a shard whose key is of that turn has to go on to;
// ok is false if there is none, or not yet.
func (k *keyring) due(out *crypto.Key, turn uint64, now time.Time) (id uint8, newest uint64, ok bool) {
	if k.turn.Load() == turn {
		return 0, turn, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if ok = !now.Before(k.from); ok {
		copy(out[:], k.key[:])
	}
	return k.id, k.turn.Load(), ok
}

// telling returns the datagrams that tell the collector under which key shards
// seal, and under which they soon will.
func (k *keyring) telling(now time.Time) (all [][]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.before != nil && now.Before(k.from) {
		all = append(all, k.before)
	}
	if k.keying != nil {
		all = append(all, k.keying)
	}
	return all
}

// wipe erases the key.
func (k *keyring) wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.key[:])
}

// rekey has the lane go on under the newest key, if that is another one. It is
// called between blocks.
func (l *lane) rekey(now time.Time) error {
	id, turn, ok := l.to.keyring.due(&l.key, l.keyTurn, now)
	if !ok {
		return nil
	}
	defer l.key.Wipe()
	h := l.to.keyring.head
	h.Shard, h.Key = l.number, id
	fresh, err := newSealers(&l.key, h, &l.seal)
	if err != nil {
		return err
	}
	l.seal.wipe()
	if l.keyTurn > 0 {
		l.tap.log.Info().Uint16("shard", l.number).Uint8("key", id).Msg("another key")
	}
	l.seal, l.keyTurn = fresh, turn
	return nil
}

// tell tells the collector what is sealed under which key, if there is anything
// to tell.
func (l *lane) tell() error {
	for _, d := range l.to.keyring.telling(time.Now()) {
		slot := l.out.Slot()
		if len(d) > len(slot) {
			return fmt.Errorf("remote: public-key mode sends datagrams of %d bytes, and the path takes %d: use a path with an MTU of 1280 or more", len(d), len(slot))
		}
		copy(slot, d)
		l.out.Queue(len(d))
		if err := l.out.Flush(); err != nil {
			return err
		}
	}
	return nil
}
