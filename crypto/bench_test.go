// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// Plaintext bytes per datagram.
var benchSizes = []int{64, 256, 576, 1024, 1440, 8900, 65000}

func benchmark(b *testing.B, f func(b *testing.B, suite Suite, size int)) {
	for _, suite := range suites {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("suite=%v/plaintext=%d", suite, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				f(b, suite, size)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "datagrams/s")
			})
		}
	}
}

// BenchmarkSeal: one operation is one datagram.
func BenchmarkSeal(b *testing.B) {
	benchmark(b, func(b *testing.B, suite Suite, size int) {
		s, _ := newPair(b, suite)
		d := make([]byte, testHeader+size+TagLen)
		for b.Loop() {
			s.Seal(d, testHeader)
		}
	})
}

// BenchmarkOpen: one operation is one datagram, copied to where it is opened;
// the window is set back so that the same one opens again.
func BenchmarkOpen(b *testing.B) {
	benchmark(b, func(b *testing.B, suite Suite, size int) {
		s, o := newPair(b, suite)
		sealed := make([]byte, testHeader+size+TagLen)
		s.Seal(sealed, testHeader)
		d := make([]byte, len(sealed))
		for b.Loop() {
			copy(d, sealed)
			o.window.next, o.window.seen[0] = 0, 0
			if _, err := o.Open(d, testHeader, 0, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkNewOpener: one operation is what a datagram of an unknown session
// costs: derivation, and one failed Open, in the epoch given.
func BenchmarkNewOpener(b *testing.B) {
	for _, epoch := range []uint64{0, 1, 100, 3600} {
		b.Run(fmt.Sprintf("epoch=%d", epoch), func(b *testing.B) {
			b.ReportAllocs()
			d := make([]byte, testHeader+64+TagLen)
			for b.Loop() {
				_, o := newPair(b, AES256GCM)
				if _, err := o.Open(d, testHeader, epoch<<EpochBits, epoch); err != ErrForged {
					b.Fatal(err)
				}
				o.Wipe()
			}
		})
	}
}

// BenchmarkKernels: one operation is one datagram sealed or opened in place by
// a kernel, or by the cipher of a suite, with 24 bytes of associated data.
func BenchmarkKernels(b *testing.B) {
	for _, op := range []string{"seal", "open"} {
		for _, name := range servedNames() {
			aead, err := served(name)
			if err != nil {
				b.Fatal(err)
			}
			m := newMeter(aead)
			for _, size := range benchSizes {
				b.Run(fmt.Sprintf("%s/%s/plaintext=%d", op, name, size), func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					do := m.prepare(op, size)
					b.ResetTimer()
					do(b.N)
				})
			}
		}
	}
}

// served returns the kernel or the cipher of the suite of that name.
func served(name string) (cipher.AEAD, error) {
	key := &[KeyLen]byte{1, 2, 3}
	for i := range kernels {
		if k := &kernels[i]; k.name == name && k.usable() {
			return k.new(key)
		}
	}
	suite, err := ParseSuite(name)
	if err != nil {
		return nil, err
	}
	return newAEAD(suite, key)
}

// servedNames returns the names that served takes, but that of AES-256-GCM, and
// generic if the standard library uses AES instructions in this process.
func servedNames() (names []string) {
	for i := range kernels {
		if k := &kernels[i]; k.usable() && (k.name != "generic" || len(names) == 0) {
			names = append(names, k.name)
		}
	}
	return append(names, ChaCha20Poly1305.String(), Plaintext.String())
}

const maxServed = 1<<17 - testHeader - TagLen // bytes of text

// A meter seals and opens in place, in one datagram: the header of 24 bytes, the
// text, the tag.
type meter struct {
	aead  cipher.AEAD
	d     []byte
	nonce [nonceLen]byte
}

func newMeter(aead cipher.AEAD) *meter {
	return &meter{aead: aead, d: newField(1<<17).lend(0, 1<<17)}
}

// prepare returns what does op on size bytes so many times.
func (m *meter) prepare(op string, size int) func(times int) {
	header, text := m.d[:testHeader], m.d[testHeader:testHeader+size]
	if op == "seal" {
		return func(times int) {
			for i := range times {
				binary.LittleEndian.PutUint64(m.nonce[4:], uint64(i))
				m.aead.Seal(text[:0], m.nonce[:], text, header)
			}
		}
	}
	// To open one datagram again and again without making another one, what comes
	// out of Open becomes a datagram by having its tag put behind it: all suites
	// only add a key stream to the text. So two tags take turns.
	sealed := text[:size+TagLen]
	var tags [2][TagLen]byte
	for i := range tags {
		copy(tags[1-i][:], m.aead.Seal(text[:0], m.nonce[:], text, header)[size:])
	}
	turn := 0
	return func(times int) {
		for range times {
			copy(sealed[size:], tags[turn][:])
			turn = 1 - turn
			if _, err := m.aead.Open(text[:0], m.nonce[:], sealed, header); err != nil {
				panic(err)
			}
		}
	}
}

// TestMeter: the benchmarks measure what they say, which is that something is
// opened; and allocate nothing.
func TestMeter(t *testing.T) {
	for _, name := range servedNames() {
		aead, err := served(name)
		if err != nil {
			t.Fatal(err)
		}
		m := newMeter(aead)
		for _, size := range append(benchSizes, 0, maxServed) {
			for _, op := range []string{"seal", "open", "open"} {
				do := m.prepare(op, size)
				if n := testing.AllocsPerRun(3, func() { do(3) }); n != 0 { // panics if one does not open
					t.Errorf("%s: %s %d bytes allocates %v times", name, op, size, n)
				}
			}
		}
	}
	if _, err := served("pentium"); err == nil || !strings.Contains(err.Error(), "pentium") {
		t.Error(err)
	}
}
