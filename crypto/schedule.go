// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// EpochBits: the epoch of a counter is counter >> EpochBits.
//
// Chosen: RFC 9001, appendix B.1.1, allows AES-GCM 2^28 packets of up to 2^11
// bytes under one key, or 2^35 blocks of 16 bytes in all. 2^24 datagrams of
// that size are a sixteenth of it; of 8,900 bytes, a quarter. And at 10
// million datagrams a second an epoch still lasts more than a second, so a
// session's age bounds its epoch.
const EpochBits = 24

// Why Open refuses a datagram. The values are compared, never wrapped: a
// refusal costs no allocation.
var (
	ErrForged = errors.New("crypto: the tag does not verify")
	ErrReplay = errors.New("crypto: counter seen before")
	ErrOld    = errors.New("crypto: counter behind the replay window")
	ErrEpoch  = errors.New("crypto: counter of an impossible epoch")
)

// A Stream says which datagrams of a tap one Sealer seals and one Opener
// opens: those of one kind, by one shard in one session. Counters run within
// it.
type Stream struct {
	Suite   Suite
	Kind    uint8
	Shard   uint16
	Session uint64
}

// secret makes out the secret of epoch 0 (docs/KEYS.md, Key schedule).
func (s Stream) secret(out *[KeyLen]byte, tap *Key) error {
	if err := checkSuite(s.Suite); err != nil {
		return err
	}
	info := append([]byte(labelShard), byte(s.Suite), s.Kind)
	info = binary.BigEndian.AppendUint16(info, s.Shard)
	derive(out, tap[:], binary.BigEndian.AppendUint64(nil, s.Session), string(info))
	return nil
}

// ratchet makes the secret of an epoch that of the next one.
func ratchet(secret *[KeyLen]byte) { expand(secret, secret, labelNext) }

// An epochKey is what datagrams of one epoch are sealed with; the zero value
// is none.
type epochKey struct {
	aead cipher.AEAD
	iv   [nonceLen]byte
}

// newEpochKey derives the key of the epoch that secret is of. The suite has
// passed checkSuite.
func newEpochKey(s Suite, secret *[KeyLen]byte) epochKey {
	var key, iv [KeyLen]byte
	expand(&key, secret, labelKey)
	expand(&iv, secret, labelIV)
	aead, err := newAEAD(s, &key)
	if err != nil {
		panic("crypto: " + err.Error())
	}
	k := epochKey{aead, [nonceLen]byte(iv[:nonceLen])}
	clear(key[:])
	clear(iv[:])
	return k
}

// nonce writes the nonce of counter to n: the IV, with the counter XORed into
// its last 8 bytes.
func (k *epochKey) nonce(n *[nonceLen]byte, counter uint64) {
	copy(n[:4], k.iv[:4])
	binary.BigEndian.PutUint64(n[4:], binary.BigEndian.Uint64(k.iv[4:])^counter)
}

// wipe overwrites the key, the cipher's expanded key included.
func (k *epochKey) wipe() {
	if k.aead != nil {
		erase(k.aead)
	}
	*k = epochKey{}
}

// Format writes a text that does not show the keys, whatever the verb.
func (s *Sealer) Format(f fmt.State, _ rune) { io.WriteString(f, "crypto.Sealer "+redacted) }

// Format writes a text that does not show the keys, whatever the verb.
func (o *Opener) Format(f fmt.State, _ rune) { io.WriteString(f, "crypto.Opener "+redacted) }
