// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/klauspost/cpuid/v2"

	"github.com/ntap-project/ntap/internal/xstate"
)

// calls returns what can be done with a kernel of this package, by name, for
// short and long messages; what they leave in registers is looked at.
func calls(k *kernel, key *[KeyLen]byte, aead *vectorGCM) map[string]func() {
	nonce, header := make([]byte, nonceLen), make([]byte, testHeader)
	out := map[string]func(){
		"new": func() { k.new(key) },
	}
	for _, n := range []int{0, 1, 16, 64, 100, 255, 256, 1440, 8900} {
		text := make([]byte, n, n+TagLen)
		sealed := aead.Seal(nil, nonce, text, header)
		forged := bytes.Clone(sealed)
		forged[n] ^= 1
		out[fmt.Sprintf("seal %d bytes", n)] = func() { aead.Seal(text[:0], nonce, text, header) }
		// Open writes elsewhere, so that it can be called again.
		dst := make([]byte, n)
		out[fmt.Sprintf("open %d bytes", n)] = func() { aead.Open(dst[:0], nonce, sealed, header) }
		out[fmt.Sprintf("refuse %d bytes", n)] = func() { aead.Open(dst[:0], nonce, forged, header) }
	}
	return out
}

// ownKernels runs f for those kernels that are this package's assembly.
func ownKernels(t *testing.T, f func(t *testing.T, k *kernel, key *[KeyLen]byte, aead *vectorGCM)) {
	t.Helper()
	eachKernel(t, func(t *testing.T, k *kernel) {
		key := randomKey(random("registers"))
		aead, err := k.new(&key)
		if err != nil {
			t.Fatal(err)
		}
		if own, ok := aead.(*vectorGCM); ok {
			f(t, k, &key, own)
		}
	})
}

// TestKernelRegisters: no register holds a round key, a power of H or what is
// made of them after a call.
func TestKernelRegisters(t *testing.T) {
	ownKernels(t, func(t *testing.T, k *kernel, key *[KeyLen]byte, aead *vectorGCM) {
		secrets := map[[16]byte]string{}
		add := func(name string, of [][16]byte) {
			for i, s := range of {
				if s != [16]byte{} {
					secrets[s] = fmt.Sprintf("%s %d", name, i)
				}
			}
		}
		add("round key", aead.key.round[:])
		add("power", aead.key.powers[:])
		add("xor", aead.key.xors[:])
		if len(secrets) < 15+16 {
			t.Fatalf("only %d secrets", len(secrets))
		}
		wide := cpuid.CPU.Supports(cpuid.AVX512F)
		// found returns what of that is in the registers after f, which finds
		// fill in all of them.
		found := func(fill *[16]byte, f func()) (n int, first string) {
			var (
				narrow [16][32]byte
				all    [32][64]byte
			)
			if wide {
				xstate.FillWide(fill)
				f()
				xstate.RegistersWide(&all)
			} else {
				xstate.Fill(fill)
				f()
				xstate.Registers(&narrow)
				for i := range narrow {
					copy(all[i][:], narrow[i][:])
				}
			}
			for i := range all {
				for j := 0; j < 64; j += 16 {
					if name, bad := secrets[[16]byte(all[i][j:])]; bad {
						if n++; n == 1 {
							first = fmt.Sprintf("%s in register %d, byte %d", name, i, j)
						}
					}
				}
			}
			return n, first
		}
		want := 16 * 2 // lanes
		if wide {
			want = 32 * 4
		}
		if n, _ := found(&aead.key.round[7], func() {}); n < want-2 { // Go uses X15, and may use others
			t.Fatalf("found %d of the %d copies of a round key: this test finds nothing", n, want)
		}
		for name, call := range calls(k, key, aead) {
			if n, first := found(&[16]byte{1}, call); n != 0 {
				t.Errorf("%s: %d lanes of registers still hold keys: %s", name, n, first)
			}
		}
	})
}

// TestKernelUpperHalves: the upper halves of the registers are clean after a
// call; code with SSE would be slowed down by them, here and on the other thread
// of the core.
func TestKernelUpperHalves(t *testing.T) {
	if !cpuid.CPU.Supports(cpuid.XGETBV1, cpuid.AVX) {
		t.Log("this CPU does not say: no XGETBV with ECX = 1")
		return
	}
	ownKernels(t, func(t *testing.T, k *kernel, key *[KeyLen]byte, aead *vectorGCM) {
		upper := uint64(xstate.UpperYMM)
		fill := xstate.Fill
		if cpuid.CPU.Supports(cpuid.AVX512F) {
			upper |= xstate.UpperZMM
			fill = xstate.FillWide
		}
		fill(&[16]byte{1})
		if got := xstate.InUse(); got&upper != upper {
			t.Fatalf("upper halves are filled, and in use are %#x: this test finds nothing", got)
		}
		for name, call := range calls(k, key, aead) {
			fill(&[16]byte{1})
			call()
			if got := xstate.InUse(); got&upper != 0 {
				t.Errorf("%s: in use are %#x, among them upper halves of registers (%#x)", name, got, upper)
			}
		}
	})
}
