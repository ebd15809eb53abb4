// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/cipher"
	"errors"
	"unsafe"

	"github.com/klauspost/cpuid/v2"
)

// What the assembly of gcmasm asks of the CPU and, for its registers, of the
// operating system.
var (
	needsAVX2 = []cpuid.FeatureID{
		cpuid.AESNI, cpuid.CLMUL, cpuid.AVX, cpuid.AVX2, cpuid.VAES, cpuid.VPCLMULQDQ,
	}
	needsAVX512 = append(needsAVX2[:len(needsAVX2):len(needsAVX2)],
		cpuid.BMI2, cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL)
)

// kernels of this architecture, the best first.
var kernels = []kernel{
	{"avx512", "AES-256-GCM with VAES and AVX-512", needsAVX512, newVectorGCM(true)},
	{"avx2", "AES-256-GCM with VAES and AVX2", needsAVX2, newVectorGCM(false)},
	{"aesni", "AES-256-GCM with AES-NI, crypto/cipher", []cpuid.FeatureID{cpuid.AESNI, cpuid.CLMUL, cpuid.SSE4, cpuid.SSSE3}, newStandardGCM},
	{"generic", "AES-256-GCM without AES instructions, crypto/cipher", nil, newStandardGCM},
}

// A gcmKey is the expanded key that the assembly works with. Its layout is that
// of gcmasm/machine.go. As the first field of a vectorGCM it begins at a
// multiple of 64 bytes: the size class of that is one.
type gcmKey struct {
	round  [15][16]byte
	powers [17 + 3][16]byte // of H: H^17 … H^1, and zeros
	xors   [17 + 1][16]byte // of their two halves, and zeros
}

// A vectorGCM is AES-256-GCM in the assembly of gcmasm.
type vectorGCM struct {
	key  gcmKey
	wide bool // AVX-512
}

func newVectorGCM(wide bool) func(*[KeyLen]byte) (cipher.AEAD, error) {
	return func(key *[KeyLen]byte) (cipher.AEAD, error) {
		g := &vectorGCM{wide: wide}
		gcmInit(&g.key, key)
		return g, nil
	}
}

func (*vectorGCM) NonceSize() int { return nonceLen }
func (*vectorGCM) Overhead() int  { return TagLen }

// Seal is that of cipher.AEAD.
func (g *vectorGCM) Seal(dst, nonce, plaintext, data []byte) []byte {
	if len(nonce) != nonceLen {
		panic("crypto: incorrect nonce length given to GCM")
	}
	all, out := extend(dst, len(plaintext)+TagLen)
	apart(out[:len(plaintext)], plaintext)
	// The tag may lie where the text was: it is written last.
	tag := (*[TagLen]byte)(out[len(plaintext):])
	to, from, ad := unsafe.SliceData(out), unsafe.SliceData(plaintext), unsafe.SliceData(data)
	if g.wide {
		gcmSealAVX512(&g.key, to, from, len(plaintext), (*[nonceLen]byte)(nonce), ad, len(data), tag)
	} else {
		gcmSealAVX2(&g.key, to, from, len(plaintext), (*[nonceLen]byte)(nonce), ad, len(data), tag)
	}
	return all
}

var errForgedGCM = errors.New("cipher: message authentication failed")

// Open is that of cipher.AEAD. Decryption and hash go hand in hand, which takes
// half the time of one after the other; so what a forged message decrypts to is
// cleared before Open returns.
func (g *vectorGCM) Open(dst, nonce, ciphertext, data []byte) ([]byte, error) {
	if len(nonce) != nonceLen {
		panic("crypto: incorrect nonce length given to GCM")
	}
	n := len(ciphertext) - TagLen
	if n < 0 {
		return nil, errForgedGCM
	}
	all, out := extend(dst, n)
	apart(out, ciphertext)
	tag := (*[TagLen]byte)(ciphertext[n:])
	to, from, ad := unsafe.SliceData(out), unsafe.SliceData(ciphertext), unsafe.SliceData(data)
	var ok bool
	if g.wide {
		ok = gcmOpenAVX512(&g.key, to, from, n, (*[nonceLen]byte)(nonce), ad, len(data), tag)
	} else {
		ok = gcmOpenAVX2(&g.key, to, from, n, (*[nonceLen]byte)(nonce), ad, len(data), tag)
	}
	if !ok {
		clear(out)
		return nil, errForgedGCM
	}
	return all, nil
}

// extend returns dst with n bytes more, and those.
func extend(dst []byte, n int) (all, more []byte) {
	if total := len(dst) + n; cap(dst) >= total {
		all = dst[:total]
	} else {
		all = make([]byte, total)
		copy(all, dst)
	}
	return all, all[len(dst):]
}

// apart panics if out and in overlap other than by beginning at the same place,
// as crypto/cipher does.
func apart(out, in []byte) {
	if len(out) == 0 || len(in) == 0 || &out[0] == &in[0] {
		return
	}
	o, i := uintptr(unsafe.Pointer(&out[0])), uintptr(unsafe.Pointer(&in[0]))
	if o < i+uintptr(len(in)) && i < o+uintptr(len(out)) {
		panic("crypto: invalid buffer overlap of output and input")
	}
}
