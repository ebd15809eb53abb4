// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// A Key is a master key or the key of one tap.
//
// However it is printed, logged or marshalled, the key itself does not show,
// with one exception that Go leaves: as an unexported field of a struct that
// is printed as a whole.
type Key [KeyLen]byte

const redacted = "(key not shown)"

// String returns a text that does not show the key.
func (Key) String() string { return redacted }

// GoString returns a text that does not show the key.
func (Key) GoString() string { return redacted }

// Format writes a text that does not show the key, whatever the verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns a text that does not show the key: for JSON and logs.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// NewKey makes a random master key.
func NewKey() (Key, error) {
	var k Key
	if _, err := rand.Read(k[:]); err != nil {
		return Key{}, fmt.Errorf("crypto: new key: %w", err)
	}
	return k, nil
}

// Labels of the key schedule (docs/KEYS.md, Key schedule).
const (
	labelTap   = "ntap v1 tap"
	labelShard = "ntap v1 shard"
	labelKey   = "ntap v1 key"
	labelIV    = "ntap v1 iv"
	labelNext  = "ntap v1 next"
)

// DeriveTap returns the key of tap id: HKDF-SHA256 of the master key, without
// a salt, info "ntap v1 tap" ‖ BE32 id. Nothing can be learned from it about
// the master key or the key of another tap.
func DeriveTap(master Key, id uint32) (Key, error) {
	info := binary.BigEndian.AppendUint32([]byte(labelTap), id)
	return derive(master[:], nil, string(info))
}

// derive is HKDF-SHA256 (RFC 5869), extract and expand, to KeyLen bytes.
func derive(ikm, salt []byte, info string) (k [KeyLen]byte, err error) {
	b, err := hkdf.Key(sha256.New, ikm, salt, info, KeyLen)
	if err != nil {
		return k, fmt.Errorf("crypto: HKDF: %w", err)
	}
	copy(k[:], b)
	clear(b)
	return k, nil
}

// expand is the expand half of HKDF-SHA256 (RFC 5869, section 2.3) to one hash
// of output, which is HMAC-SHA256(secret, info ‖ 0x01); the first bytes of it
// are the shorter outputs. That of the standard library costs ten allocations
// and leaves what it hashes on the heap; here it costs none, and a run through
// the epochs is three times as fast (BenchmarkNewOpener).
func expand(secret *[KeyLen]byte, info string) (out [KeyLen]byte) {
	var (
		inner [sha256.BlockSize + maxLabel + 1]byte
		outer [sha256.BlockSize + sha256.Size]byte
	)
	copy(inner[:], secret[:])
	copy(outer[:], secret[:])
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5C
	}
	n := sha256.BlockSize + copy(inner[sha256.BlockSize:len(inner)-1], info)
	inner[n] = 1
	out = sha256.Sum256(inner[:n+1])
	copy(outer[sha256.BlockSize:], out[:])
	out = sha256.Sum256(outer[:])
	clear(inner[:])
	clear(outer[:])
	return out
}

const maxLabel = 16 // bytes; longer than any label that expand is given
