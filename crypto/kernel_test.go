// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"
)

// eachKernel runs f as a subtest for each kernel that this CPU has. The names
// are those of NTAP_CPU: -run 'Kernel/^avx512$' takes one (internal/emulate).
func eachKernel(t *testing.T, f func(t *testing.T, k *kernel)) {
	t.Helper()
	n := 0
	for i := range kernels {
		k := &kernels[i]
		if !k.usable() {
			t.Logf("not on this CPU: %s", k.name)
			continue
		}
		n++
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
	if n == 0 {
		t.Fatal("no kernel can be used")
	}
}

// pair returns k and the standard library under the same key.
func (k *kernel) pair(t testing.TB, key *[KeyLen]byte) (ours, standard cipher.AEAD) {
	t.Helper()
	ours, err := k.new(key)
	if err != nil {
		t.Fatal(err)
	}
	standard, err = newStandardGCM(key)
	if err != nil {
		t.Fatal(err)
	}
	return ours, standard
}

// random returns a source whose numbers are the same in each run.
func random(name string) *rand.ChaCha8 {
	var seed [32]byte
	copy(seed[:], name)
	return rand.NewChaCha8(seed)
}

func randomKey(r *rand.ChaCha8) (key [KeyLen]byte) {
	r.Read(key[:])
	return key
}

// A field lends buffers at every alignment, and notices writes beside them.
type field struct {
	mem  []byte
	from int // a multiple of 64
}

const fence = 64 // bytes kept free on either side

func newField(size int) *field {
	f := &field{mem: make([]byte, fence+64+size+64+fence)}
	f.from = fence
	for uintptr(unsafe.Pointer(&f.mem[f.from]))%64 != 0 {
		f.from++
	}
	return f
}

// lend returns n bytes whose address is align modulo 64; all else is known.
func (f *field) lend(align, n int) []byte {
	lo := f.from + align
	for i := lo - fence; i < lo; i++ {
		f.mem[i] = ^byte(i)
	}
	for i := lo + n; i < lo+n+fence; i++ {
		f.mem[i] = ^byte(i)
	}
	return f.mem[lo : lo+n : lo+n]
}

// touched says whether somebody wrote beside the buffer that lend returned.
func (f *field) touched(align, n int) bool {
	lo := f.from + align
	for i := lo - fence; i < lo; i++ {
		if f.mem[i] != ^byte(i) {
			return true
		}
	}
	for i := lo + n; i < lo+n+fence; i++ {
		if f.mem[i] != ^byte(i) {
			return true
		}
	}
	return false
}

// A bench is what compare works on.
type bench struct {
	t              *testing.T
	ours, standard cipher.AEAD
	src, dst       *field
	want           []byte
}

func newBench(t *testing.T, k *kernel, r *rand.ChaCha8, size int) *bench {
	key := randomKey(r)
	b := &bench{t: t, src: newField(size + TagLen), dst: newField(size + TagLen), want: make([]byte, 0, size+TagLen)}
	b.ours, b.standard = k.pair(t, &key)
	return b
}

// compare seals text and opens it again, from one place to another and in
// place, the source srcAt bytes after a multiple of 64, the destination dstAt.
func (b *bench) compare(nonce, text, header []byte, srcAt, dstAt int) {
	b.t.Helper()
	n := len(text)
	what := func(op string) string {
		return fmt.Sprintf("%s %d bytes with %d of header, from %d to %d modulo 64", op, n, len(header), srcAt, dstAt)
	}
	b.want = b.standard.Seal(b.want[:0], nonce, text, header)

	src := b.src.lend(srcAt, n)
	copy(src, text)
	dst := b.dst.lend(dstAt, n+TagLen)
	switch got := b.ours.Seal(dst[:0], nonce, src, header); {
	case !bytes.Equal(got, b.want):
		b.t.Fatalf("%s: differs from byte %d on", what("seal"), differ(got, b.want))
	case &got[0] != &dst[0]:
		b.t.Fatalf("%s: not where it should be", what("seal"))
	case !bytes.Equal(src, text) || b.src.touched(srcAt, n) || b.dst.touched(dstAt, n+TagLen):
		b.t.Fatalf("%s: wrote elsewhere", what("seal"))
	}

	src = b.src.lend(srcAt, n+TagLen)
	copy(src, text)
	if got := b.ours.Seal(src[:0], nonce, src[:n], header); !bytes.Equal(got, b.want) || b.src.touched(srcAt, n+TagLen) {
		b.t.Fatalf("%s: differs from byte %d on", what("seal in place"), differ(got, b.want))
	}

	// src is sealed now.
	dst = b.dst.lend(dstAt, n)
	switch got, err := b.ours.Open(dst[:0], nonce, src, header); {
	case err != nil || !bytes.Equal(got, text):
		b.t.Fatalf("%s: differs from byte %d on (%v)", what("open"), differ(got, text), err)
	case !bytes.Equal(src, b.want) || b.src.touched(srcAt, n+TagLen) || b.dst.touched(dstAt, n):
		b.t.Fatalf("%s: wrote elsewhere", what("open"))
	}
	if got, err := b.ours.Open(src[:0], nonce, src, header); err != nil || !bytes.Equal(got, text) || b.src.touched(srcAt, n+TagLen) ||
		!bytes.Equal(src[n:], b.want[n:]) {
		b.t.Fatalf("%s: differs from byte %d on (%v)", what("open in place"), differ(got, text), err)
	}
}

// differ returns where a and b begin to differ.
func differ(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// TestKernelLengths: every length from 0 to 4096 with the 24 bytes of a
// datagram's header.
func TestKernelLengths(t *testing.T) {
	const longest = 4096
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("lengths")
		b := newBench(t, k, r, longest)
		text, header, nonce := make([]byte, longest), make([]byte, testHeader), make([]byte, nonceLen)
		r.Read(text)
		for n := range longest + 1 {
			binary.LittleEndian.PutUint64(header, r.Uint64())
			binary.LittleEndian.PutUint64(nonce, r.Uint64())
			b.compare(nonce, text[:n], header, n%64, n/64)
		}
	})
}

// TestKernelHeaders: every length of associated data from 0 to 64, and longer
// ones, at every alignment.
func TestKernelHeaders(t *testing.T) {
	lengths := []int{79, 80, 81, 127, 128, 129, 255, 256, 257, 271, 272, 273, 511, 512, 513, 1000, 4096, 65537}
	for n := range 65 {
		lengths = append(lengths, n)
	}
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("headers")
		b := newBench(t, k, r, 1440)
		text, nonce, headers := make([]byte, 1440), make([]byte, nonceLen), newField(lengths[17])
		for i, h := range lengths {
			for _, n := range []int{0, 1, 15, 16, 17, 64, 255, 256, 1440} {
				header := headers.lend((i+n)%64, h)
				r.Read(header)
				r.Read(nonce)
				r.Read(text[:n])
				b.compare(nonce, text[:n], header, n%64, i%64)
			}
		}
	})
}

// TestKernelAlignments: each of 64 alignments of the source with each of the
// destination.
func TestKernelAlignments(t *testing.T) {
	sizes := []int{1, 31, 64, 127, 300, 1023}
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("alignments")
		b := newBench(t, k, r, 1100)
		text, header, nonce := make([]byte, 1100), make([]byte, testHeader), make([]byte, nonceLen)
		r.Read(text)
		for src := range 64 {
			for dst := range 64 {
				binary.LittleEndian.PutUint64(nonce, uint64(src*64+dst))
				b.compare(nonce, text[:sizes[(src+dst)%len(sizes)]+(src+dst)/8], header, src, dst)
			}
		}
	})
}

// TestKernelLong: random lengths up to 64 KiB and the longest ones.
func TestKernelLong(t *testing.T) {
	const longest = 1<<16 + 16
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("long")
		b := newBench(t, k, r, longest)
		text, header, nonce := make([]byte, longest), make([]byte, testHeader), make([]byte, nonceLen)
		lengths := []int{65507, 65535, 65536, 65537, longest}
		for range 50 {
			lengths = append(lengths, int(r.Uint64()%longest))
		}
		for _, n := range lengths {
			r.Read(text[:n])
			r.Read(header)
			r.Read(nonce)
			b.compare(nonce, text[:n], header, int(nonce[0]%64), int(nonce[1]%64))
		}
	})
}

// TestKernelRefuses: a message with one bit changed, wherever, is refused, and
// what is in the buffer then is as before or zeros: no plaintext.
func TestKernelRefuses(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("refuses")
		for _, n := range []int{0, 1, 16, 40, 64, 300} {
			key := randomKey(r)
			ours, standard := k.pair(t, &key)
			nonce, header, text := make([]byte, nonceLen), make([]byte, testHeader), make([]byte, n)
			for _, b := range [][]byte{nonce, header, text} {
				r.Read(b)
			}
			sealed := standard.Seal(nil, nonce, text, header)
			dst, elsewhere := make([]byte, n), make([]byte, n)
			for i := range elsewhere {
				elsewhere[i] = 0xa5
			}
			for name, part := range map[string][]byte{"nonce": nonce, "header": header, "message": sealed} {
				for bit := range 8 * len(part) {
					part[bit/8] ^= 1 << (bit % 8)
					copy(dst, elsewhere)
					got, err := ours.Open(dst[:0], nonce, sealed, header)
					refused(t, fmt.Sprintf("%d bytes, bit %d of the %s", n, bit, name), got, err, dst, elsewhere)

					inPlace := bytes.Clone(sealed)
					got, err = ours.Open(inPlace[:0], nonce, inPlace, header)
					refused(t, fmt.Sprintf("%d bytes in place, bit %d of the %s", n, bit, name), got, err, inPlace[:n], sealed[:n])
					if !bytes.Equal(inPlace[n:], sealed[n:]) {
						t.Fatalf("%d bytes in place, bit %d of the %s: wrote to the tag", n, bit, name)
					}
					part[bit/8] ^= 1 << (bit % 8)
				}
			}
			for short := range len(sealed) {
				inPlace := bytes.Clone(sealed[:short])
				text := max(short-TagLen, 0)
				got, err := ours.Open(inPlace[:0], nonce, inPlace, header)
				refused(t, fmt.Sprintf("%d bytes, cut to %d", n, short), got, err, inPlace[:text], sealed[:text])
			}
			if got, err := ours.Open(nil, nonce, sealed, header); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%d bytes: %x, %v", n, got, err) // the loops put everything back
			}
		}
	})
}

func refused(t *testing.T, what string, got []byte, err error, now, before []byte) {
	t.Helper()
	if err == nil || got != nil {
		t.Fatalf("%s: opened %x, %v", what, got, err)
	}
	if !bytes.Equal(now, before) && !bytes.Equal(now, make([]byte, len(now))) {
		t.Fatalf("%s: refused, and left\n %x where there was\n %x", what, now, before)
	}
}

// TestKernelAppends: Seal and Open append to dst as cipher.AEAD says, whether
// there is room or not.
func TestKernelAppends(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("appends")
		key := randomKey(r)
		ours, standard := k.pair(t, &key)
		if ours.NonceSize() != nonceLen || ours.Overhead() != TagLen {
			t.Fatalf("nonces of %d bytes, %d more than the text", ours.NonceSize(), ours.Overhead())
		}
		nonce, text := make([]byte, nonceLen), make([]byte, 100)
		r.Read(text)
		for _, room := range []int{0, 1, 99, 100, 115, 116, 200} {
			dst := append(make([]byte, 0, 3+room), "abc"...)
			sealed := ours.Seal(dst, nonce, text, nil)
			if !bytes.Equal(sealed, standard.Seal([]byte("abc"), nonce, text, nil)) {
				t.Errorf("room for %d: sealed %x", room, sealed)
			}
			opened, err := ours.Open(dst, nonce, bytes.Clone(sealed[3:]), nil)
			if err != nil || string(opened[:3]) != "abc" || !bytes.Equal(opened[3:], text) {
				t.Errorf("room for %d: opened %x, %v", room, opened, err)
			}
		}
	})
}

// TestKernelMisuse: a nonce of another length, and buffers that overlap in part,
// are programming mistakes.
func TestKernelMisuse(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel) {
		aead, err := k.new(new([KeyLen]byte))
		if err != nil {
			t.Fatal(err)
		}
		nonce, mem := make([]byte, nonceLen), make([]byte, 200)
		for name, f := range map[string]func(){
			"seal with a short nonce": func() { aead.Seal(nil, nonce[:11], mem, nil) },
			"open with a long nonce":  func() { aead.Open(nil, append(nonce, 0), mem, nil) },
			"seal one byte further":   func() { aead.Seal(mem[1:1], nonce, mem[:100], nil) },
			"seal one byte earlier":   func() { aead.Seal(mem[:0], nonce, mem[1:100], nil) },
			"open one byte further":   func() { aead.Open(mem[1:1], nonce, mem[:100], nil) },
			"open one byte earlier":   func() { aead.Open(mem[:0], nonce, mem[1:100], nil) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				f()
			}()
		}
	})
}

// TestKernelAllocates: sealing, opening and refusing in place allocate nothing.
func TestKernelAllocates(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel) {
		aead, err := k.new(new([KeyLen]byte))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 64, 1440, 8900} {
			d, nonce := make([]byte, testHeader+n+TagLen), make([]byte, nonceLen)
			header, text := d[:testHeader], d[testHeader:testHeader+n]
			opened, refused := 0, 0
			if got := testing.AllocsPerRun(100, func() {
				nonce[0]++
				sealed := aead.Seal(text[:0], nonce, text, header)
				if _, err := aead.Open(text[:0], nonce, sealed, header); err == nil {
					opened++
				}
				sealed[n] ^= 1
				if _, err := aead.Open(text[:0], nonce, sealed, header); err != nil {
					refused++
				}
			}); got != 0 || opened != 101 || refused != 101 {
				t.Errorf("%d bytes: %v allocations; opened %d, refused %d of 101", n, got, opened, refused)
			}
		}
	})
}
