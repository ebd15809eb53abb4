// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/cipher"
	"testing"
)

// BenchmarkScatter asks whether sealing straight out of the capture ring, from
// where a frame lies to where its datagram is, would be faster than copying it
// into the datagram and sealing it there. It is the best case for sealing
// straight: datagrams that are contiguous in the ring, without records to be
// written between the frames and without frames cut by a datagram's end.
//
// As in a remote the block was just written by the same CPU, and the datagrams
// go to a flight of 64 KB that is used again and again. Writing the block is in
// both times: it is what "write only" takes.
func BenchmarkScatter(b *testing.B) {
	const datagram, block = 1432, 256 << 10
	const head = 24
	aead, err := newAEAD(AES256GCM, new([KeyLen]byte))
	if err != nil {
		b.Fatal(err)
	}
	ring := make([]byte, 64<<20)
	kernel := make([]byte, block)
	flight := make([]byte, 44*(head+datagram+TagLen))
	nonce := make([]byte, nonceLen)
	for _, c := range []struct {
		name string
		seal func(aead cipher.AEAD, d, from []byte)
	}{
		{"write only", func(cipher.AEAD, []byte, []byte) {}},
		{"copy and seal", func(aead cipher.AEAD, d, from []byte) {
			copy(d[head:], from)
			aead.Seal(d[head:head], nonce, d[head:head+datagram], d[:head])
		}},
		{"seal straight", func(aead cipher.AEAD, d, from []byte) {
			aead.Seal(d[head:head], nonce, from, d[:head])
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(datagram)
			slot, at := 0, 0
			for i := 0; i < b.N; {
				copy(ring[at:at+block], kernel)
				for off := 0; off+datagram <= block; off += datagram {
					d := flight[slot*(head+datagram+TagLen):][:head+datagram+TagLen]
					c.seal(aead, d, ring[at+off:at+off+datagram])
					slot = (slot + 1) % 44
					i++
				}
				at = (at + block) % len(ring)
			}
		})
	}
}
