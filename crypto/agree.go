// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
)

// An Agreement is what a remote sends to agree on a secret with a collector
// that never answers: the parts of a keying message.
type Agreement struct {
	Collector    Fingerprint // of its public key
	Remote       Fingerprint // of its identity
	Encapsulated []byte
	Signature    []byte
}

// Agree makes a secret for the session and the key ID that header says, and
// what is sent of it. Who knows the collector's private key gets the same
// secret from it; the identity proves who sent it. The secret takes the place
// of the tap's key. header is the clear header of the datagram that carries the
// agreement: it is bound to tap, session, suite and key ID by it.
func Agree(to *PublicFile, who *Identity, header []byte, now time.Time) (a Agreement, secret Key, err error) {
	public, err := to.newest(now)
	if err != nil {
		return a, secret, err
	}
	mine := who.key.Public().(ed25519.PublicKey)
	enc, sender, err := hpke.NewSender(public.key, kdf, only, transcript(labelPublic, header, public.bytes, mine, nil))
	if err != nil {
		return a, secret, fmt.Errorf("crypto: agree: %w", err)
	}
	b, err := sender.Export(labelTap, KeyLen)
	if err != nil {
		return a, secret, fmt.Errorf("crypto: agree: %w", err)
	}
	secret = Key(b)
	clear(b)
	a = Agreement{
		Collector:    fingerprint(public.bytes),
		Remote:       fingerprint(mine),
		Encapsulated: enc,
		Signature:    ed25519.Sign(who.key, transcript(labelKeying, header, public.bytes, mine, enc)),
	}
	return a, secret, nil
}

// Accept is the collector's side of Agree: it returns the secret, if the remote
// may speak for the tap and this is from it. What is cheap comes first: about
// 60 µs are spent on a signature that is wrong, and 150 µs on what is right.
// The errors are ErrNoKey, ErrRevoked, ErrExpired and ErrForged themselves.
func Accept(pairs *PairFile, allow *AllowList, a Agreement, tap uint32, header []byte, now time.Time) (secret Key, err error) {
	theirs, err := allow.find(tap, a.Remote, now)
	if err != nil {
		return secret, err
	}
	pairs.mu.RLock()
	defer pairs.mu.RUnlock()
	private, public, err := pairs.find(a.Collector[:], now)
	if err != nil {
		return secret, err
	}
	if !ed25519.Verify(theirs, transcript(labelKeying, header, public, theirs, a.Encapsulated), a.Signature) {
		return secret, ErrForged
	}
	recipient, err := hpke.NewRecipient(a.Encapsulated, private, kdf, only, transcript(labelPublic, header, public, theirs, nil))
	if err != nil {
		return secret, ErrForged
	}
	b, err := recipient.Export(labelTap, KeyLen)
	if err != nil {
		return secret, ErrForged
	}
	secret = Key(b)
	clear(b)
	return secret, nil
}

// transcript returns what secret and signature are bound to.
func transcript(label string, header, collector []byte, remote ed25519.PublicKey, enc []byte) []byte {
	h := sha256.Sum256(collector)
	return slices.Concat([]byte(label), header, h[:], remote, enc)
}

// rotate gives those of the terms that are not over an end, and makes the one
// of a new key; what is over is nil.
func rotate(terms []term, now, since, until time.Time) (keep []*term, fresh term, err error) {
	used := map[uint8]bool{}
	last := uint8(maxKeyID)
	for _, t := range terms {
		if t.ended(now) {
			keep = append(keep, nil)
			continue
		}
		if !t.begun(now) || !t.since.Before(since) {
			return nil, fresh, fmt.Errorf("a key that begins at %s is in it already; wait until that one is in force", t.since.Format(time.RFC3339))
		}
		if t.till.IsZero() || t.till.After(until) {
			t.till = until
		}
		keep, last = append(keep, &t), t.id
		used[t.id] = true
	}
	if len(used) == maxKeys {
		return nil, fresh, fmt.Errorf("%d keys are good still, as many as there can be; wait until one ends", maxKeys)
	}
	id := (last + 1) % maxKeys
	for used[id] {
		id = (id + 1) % maxKeys
	}
	return keep, term{id: id, since: since}, nil
}
