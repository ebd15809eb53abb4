// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A guarded is memory between two pages that nobody may touch.
type guarded struct {
	pages []byte // the whole mapping
	page  int    // bytes
}

func newGuarded(t *testing.T, size int) *guarded {
	t.Helper()
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	g := &guarded{page: page}
	var err error
	if g.pages, err = unix.Mmap(-1, 0, page+size+page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(g.pages) })
	if err := unix.Mprotect(g.pages[page:page+size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	return g
}

// lend returns n bytes that end where the guard after them begins, or begin
// where the guard before them ends. Also for no bytes the address is that one.
func (g *guarded) lend(atEnd bool, n int) []byte {
	at := g.page
	if atEnd {
		at = len(g.pages) - g.page - n
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(unsafe.Pointer(&g.pages[0]))+uintptr(at))), n)
}

// faults runs f and returns the fault that it ran into, if any.
func faults(f func()) (fault any) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() }()
	f()
	return nil
}

// TestGuardsAreThere: what the test below relies on.
func TestGuardsAreThere(t *testing.T) {
	g := newGuarded(t, 5000)
	var sink byte
	for atEnd, over := range map[bool]int{false: -1, true: 10} {
		b := g.lend(atEnd, 10)
		if fault := faults(func() { b[0], b[9] = 1, 2 }); fault != nil {
			t.Errorf("at the end %t: %v", atEnd, fault)
		}
		if fault := faults(func() { sink = *(*byte)(unsafe.Add(unsafe.Pointer(&b[0]), over)) }); fault == nil {
			t.Errorf("at the end %t: read %d beyond", atEnd, sink)
		}
	}
}

// TestKernelStaysInside: source, destination, associated data and nonce each
// end just before a page that nobody may touch, or begin just after one, and
// no kernel reads or writes past them, whatever the length.
func TestKernelStaysInside(t *testing.T) {
	const longest = 65535
	sizes := []int{319, 320, 511, 512, 513, 576, 1023, 1024, 1025, 1439, 1440, 1441, 4095, 4096, 4097, 8900, 9000, 16383, 32768, 65507, longest}
	for n := range 301 {
		sizes = append(sizes, n)
	}
	eachKernel(t, func(t *testing.T, k *kernel) {
		r := random("guards")
		key := randomKey(r)
		ours, standard := k.pair(t, &key)
		source, target := newGuarded(t, longest+TagLen), newGuarded(t, longest+TagLen)
		headers, nonces := newGuarded(t, 4096), newGuarded(t, nonceLen)
		text, want := make([]byte, longest), make([]byte, 0, longest+TagLen)
		r.Read(text)
		check := func(n, h int, atEnd bool) {
			what := func(op string) string {
				return fmt.Sprintf("%s %d bytes with %d of header, at the end %t", op, n, h, atEnd)
			}
			header, nonce, text := headers.lend(atEnd, h), nonces.lend(atEnd, nonceLen), text[:n]
			r.Read(header)
			r.Read(nonce)
			want = standard.Seal(want[:0], nonce, text, header)
			var got []byte
			var err error

			src, dst := source.lend(atEnd, n), target.lend(atEnd, n+TagLen)
			copy(src, text)
			if fault := faults(func() { got = ours.Seal(dst[:0], nonce, src, header) }); fault != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: %v, differs from byte %d on", what("seal"), fault, differ(got, want))
			}
			src, dst = source.lend(atEnd, n+TagLen), target.lend(atEnd, n)
			copy(src, want)
			if fault := faults(func() { got, err = ours.Open(dst[:0], nonce, src, header) }); fault != nil || err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%s: %v, %v, differs from byte %d on", what("open"), fault, err, differ(got, text))
			}
			if fault := faults(func() { got, err = ours.Open(src[:0], nonce, src, header) }); fault != nil || err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%s: %v, %v, differs from byte %d on", what("open in place"), fault, err, differ(got, text))
			}
			if fault := faults(func() { got = ours.Seal(src[:0], nonce, src[:n], header) }); fault != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: %v, differs from byte %d on", what("seal in place"), fault, differ(got, want))
			}
			src[n] ^= 1
			if fault := faults(func() { got, err = ours.Open(src[:0], nonce, src, header) }); fault != nil || err == nil {
				t.Fatalf("%s: %v, %v", what("refuse"), fault, err)
			}
		}
		for _, atEnd := range []bool{false, true} {
			for _, n := range sizes {
				check(n, testHeader, atEnd)
			}
			for h := range 301 {
				for _, n := range []int{0, 1, 16, 250, 257} {
					check(n, h, atEnd)
				}
			}
		}
	})
}
