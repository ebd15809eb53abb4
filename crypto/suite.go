// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"sync"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes in bytes, the same in every suite.
const (
	KeyLen   = 32
	TagLen   = 16
	nonceLen = 12
)

// A Suite says how datagrams are sealed. The values are the wire's.
type Suite uint8

const (
	Plaintext        Suite = 0 // a checksum against corruption; protects against nobody
	AES256GCM        Suite = 1 // NIST SP 800-38D
	ChaCha20Poly1305 Suite = 2 // RFC 8439
	numSuites              = 3
)

var suiteNames = [numSuites]string{"plaintext", "aes-256-gcm", "chacha20-poly1305"}

// String returns the name that ParseSuite takes.
func (s Suite) String() string {
	if s < numSuites {
		return suiteNames[s]
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// ParseSuite returns the suite with the given name; the error lists the names.
func ParseSuite(name string) (Suite, error) {
	for i, n := range suiteNames {
		if n == name {
			return Suite(i), nil
		}
	}
	return 0, fmt.Errorf("crypto: no suite %q: there are aes-256-gcm, chacha20-poly1305 and plaintext", name)
}

// Pick returns the fastest secure suite of this CPU, and the reason as text:
// AES-256-GCM where the CPU has instructions for it, else ChaCha20-Poly1305,
// which also takes the same time whatever the key is without them.
func Pick() (Suite, string) { return pick(os.Getenv("NTAP_CPU"), cpuid.CPU.Supports) }

// pick is Pick on a CPU of which has says what it supports.
func pick(name string, has func(...cpuid.FeatureID) bool) (Suite, string) {
	k, err := choose(name, has)
	switch {
	case err != nil: // whoever makes a key is told
	case name == chacha:
		return ChaCha20Poly1305, "as NTAP_CPU says"
	case len(k.needs) > 0:
		return AES256GCM, k.what
	}
	return ChaCha20Poly1305, "no AES-GCM instructions in this CPU"
}

// newAEAD returns the cipher of s under key, and keeps nothing of key. The
// nonce is 12 bytes, the tag 16.
func newAEAD(s Suite, key *[KeyLen]byte) (cipher.AEAD, error) {
	switch s {
	case Plaintext:
		return checksum{}, nil
	case AES256GCM:
		k, err := chosen()
		if err != nil {
			return nil, err
		}
		return k.new(key)
	case ChaCha20Poly1305:
		return chacha20poly1305.New(key[:])
	}
	return nil, fmt.Errorf("no such suite: %d", uint8(s))
}

// erase overwrites the object that p, a pointer in an interface, points to.
// The standard library has no call to erase an expanded key.
func erase(p any) {
	if v := reflect.ValueOf(p); v.Kind() == reflect.Pointer && !v.IsNil() {
		v.Elem().SetZero()
	}
}

// checkSuite says whether s can be used in this process.
func checkSuite(s Suite) error {
	if s >= numSuites {
		return fmt.Errorf("crypto: no such suite: %d", uint8(s))
	}
	return selfTests[s]()
}

// selfTests holds what each suite makes of 16 zero bytes under a key and a
// nonce of zeros: for AES-256-GCM, test case 14 of the GCM specification.
// The tests run once each, before the first key is made.
var selfTests = [numSuites]func() error{
	selfTest(Plaintext, "00000000000000000000000000000000"+"00000000000000000000000042709aea"),
	selfTest(AES256GCM, "cea7403d4d606b6e074ec5d3baf39d18"+"d0d1c8a799996bf0265b98b5d48ab919"),
	selfTest(ChaCha20Poly1305, "9f07e7be5551387a98ba977c732d080d"+"c34a88047320f52aa2c6683ef8084d2f"),
}

func selfTest(s Suite, want string) func() error {
	return sync.OnceValue(func() error {
		aead, err := newAEAD(s, new([KeyLen]byte))
		if err != nil { // GODEBUG=fips140=only
			return fmt.Errorf("crypto: suite %s: %w", s, err)
		}
		got := aead.Seal(nil, make([]byte, nonceLen), make([]byte, 16), nil)
		if w, _ := hex.DecodeString(want); !bytes.Equal(got, w) {
			return fmt.Errorf("crypto: suite %s: self test failed: 16 zero bytes became %x; this program must not be used", s, got)
		}
		return nil
	})
}
