// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"fmt"
	"testing"
)

func benchmark(b *testing.B, f func(b *testing.B, suite Suite, size int)) {
	for _, suite := range suites {
		for _, size := range []int{64, 512, 1440, 8900} { // plaintext bytes per datagram
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
