// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/klauspost/cpuid/v2"
)

// A kernel is one implementation of AES-256-GCM: 12-byte nonces, 16-byte tags,
// any associated data; text and result begin at the same place or do not
// overlap.
type kernel struct {
	name  string
	what  string            // for people
	needs []cpuid.FeatureID // of the CPU
	new   func(key *[KeyLen]byte) (cipher.AEAD, error)
}

// usable says whether this CPU can run k.
func (k *kernel) usable() bool { return cpuid.CPU.Supports(k.needs...) }

// chacha is what NTAP_CPU says for a sender that is to seal with
// ChaCha20-Poly1305, whatever AES instructions there are.
const chacha = "chacha"

// chosen returns the kernel that this process uses: the best one of this CPU,
// or what the environment variable NTAP_CPU names. It is decided once.
var chosen = sync.OnceValues(func() (*kernel, error) { return choose(os.Getenv("NTAP_CPU"), cpuid.CPU.Supports) })

// choose is chosen on a CPU of which has says what it supports.
func choose(name string, has func(...cpuid.FeatureID) bool) (*kernel, error) {
	var names []string
	for i := range kernels {
		k := &kernels[i]
		if !has(k.needs...) {
			continue
		}
		if name == k.name || name == "" || name == chacha {
			return k, nil
		}
		names = append(names, k.name)
	}
	return nil, fmt.Errorf("crypto: NTAP_CPU=%s: this CPU (%s) cannot do that, or there is no such choice: it can do %s and %s; without NTAP_CPU the first is taken",
		name, cpuid.CPU.BrandName, strings.Join(names, ", "), chacha)
}

// Kernel says how this process seals and opens AES-256-GCM: the name that
// NTAP_CPU takes, and what that is. The error is a wrong NTAP_CPU.
func Kernel() (name, what string, err error) {
	k, err := chosen()
	if err != nil {
		return "", "", err
	}
	return k.name, k.what, nil
}

// newStandardGCM returns the standard library's AES-256-GCM.
func newStandardGCM(key *[KeyLen]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	erase(block) // NewGCM copied it; selfTest would notice if it had not
	return aead, err
}
