// SPDX-License-Identifier: Apache-2.0

package crypto

import (
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
func DeriveTap(master Key, id uint32) (k Key, err error) {
	deriveTap(&k, &master, id)
	return k, nil
}

func deriveTap(out, master *Key, id uint32) {
	info := binary.BigEndian.AppendUint32([]byte(labelTap), id)
	derive((*[KeyLen]byte)(out), master[:], nil, string(info))
}

// derive makes out what HKDF-SHA256 (RFC 5869), extract and expand, makes of
// ikm. That and the salt have at most 64 bytes.
func derive(out *[KeyLen]byte, ikm, salt []byte, info string) {
	var prk [KeyLen]byte
	mac(&prk, salt, ikm, "")
	expand(out, &prk, info)
	clear(prk[:])
}

// expand makes out what the expand half of HKDF-SHA256 (RFC 5869, section 2.3)
// makes of secret, which may be out: one hash; the first bytes of it are the
// shorter outputs.
func expand(out, secret *[KeyLen]byte, info string) { mac(out, secret[:], info, "\x01") }

// mac makes out HMAC-SHA256(key, message ‖ more), RFC 2104. Those of the standard
// library cost ten allocations and leave what they hash on the heap; here it
// costs none, and a run through the epochs is three times as fast
// (BenchmarkNewOpener).
func mac[T string | []byte](out *[KeyLen]byte, key []byte, message T, more string) {
	var (
		inner [sha256.BlockSize + maxMessage]byte
		outer [sha256.BlockSize + sha256.Size]byte
	)
	if len(key) > sha256.BlockSize || len(message)+len(more) > maxMessage {
		panic("crypto: mac: key or message too long")
	}
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5C
	}
	n := sha256.BlockSize
	n += copy(inner[n:], message)
	n += copy(inner[n:], more)
	sum := sha256.Sum256(inner[:n])
	copy(outer[sha256.BlockSize:], sum[:])
	*out = sha256.Sum256(outer[:])
	clear(inner[:])
	clear(outer[:])
	clear(sum[:])
}

const maxMessage = 64 // bytes; longer than any that mac is given
