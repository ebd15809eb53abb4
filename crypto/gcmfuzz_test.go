// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"testing"
)

// FuzzGCMKernels: all kernels of this CPU seal to the same bytes as the
// standard library, in place and not, at the given alignment, open what it
// sealed, and refuse it with any bit changed.
func FuzzGCMKernels(f *testing.F) {
	f.Add([]byte("key"), []byte("nonce"), []byte("the header of a datagram"), []byte("text"), byte(0), uint32(0))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{}, byte(1), uint32(127))
	f.Add([]byte{0xff}, bytes.Repeat([]byte{0xff}, 12), bytes.Repeat([]byte("h"), 65), bytes.Repeat([]byte("long text"), 160), byte(63), uint32(5555))
	f.Fuzz(func(t *testing.T, key, nonce, header, text []byte, align byte, flip uint32) {
		key, nonce = append(key, make([]byte, KeyLen)...)[:KeyLen], append(nonce, make([]byte, nonceLen)...)[:nonceLen]
		at, n, ran := int(align%64), len(text), 0
		buffer := newField(n + TagLen)
		for i := range kernels {
			k := &kernels[i]
			if !k.usable() {
				continue
			}
			ran++
			ours, standard := k.pair(t, (*[KeyLen]byte)(key))
			want := standard.Seal(nil, nonce, text, header)
			if got := ours.Seal(nil, nonce, text, header); !bytes.Equal(got, want) {
				t.Fatalf("%s: sealed %x, want %x", k.name, got, want)
			}
			b := buffer.lend(at, n+TagLen)
			copy(b, text)
			if got := ours.Seal(b[:0], nonce, b[:n], header); !bytes.Equal(got, want) || buffer.touched(at, n+TagLen) {
				t.Fatalf("%s: sealed %x in place, want %x", k.name, got, want)
			}
			if got, err := ours.Open(nil, nonce, b, header); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%s: opened %x, %v; want %x", k.name, got, err, text)
			}
			// One bit of nonce, header or message.
			bit := int(flip) % (8 * (nonceLen + len(header) + n + TagLen))
			nonce, header := bytes.Clone(nonce), bytes.Clone(header)
			switch i := bit / 8; {
			case i < nonceLen:
				nonce[i] ^= 1 << (bit % 8)
			case i < nonceLen+len(header):
				header[i-nonceLen] ^= 1 << (bit % 8)
			default:
				b[i-nonceLen-len(header)] ^= 1 << (bit % 8)
			}
			before := bytes.Clone(b)
			got, err := ours.Open(b[:0], nonce, b, header)
			refused(t, k.name, got, err, b[:n], before[:n])
			if !bytes.Equal(b[n:], before[n:]) || buffer.touched(at, n+TagLen) {
				t.Fatalf("%s: refused, and wrote elsewhere", k.name)
			}
		}
		if ran == 0 {
			t.Fatal("no kernel can be used")
		}
	})
}
