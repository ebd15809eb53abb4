// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// counted returns n bytes that count from first.
func counted(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func someKeying() KeyingMessage {
	return KeyingMessage{counted(1, 8), counted(0x11, 8), counted(0x21, 1120), counted(0x31, 64)}
}

// TestKeyingLayout holds what is written against the table of WIRE.md,
// section 8.
func TestKeyingLayout(t *testing.T) {
	k := someKeying()
	h := Header{Kind: Keying, Key: 3, Suite: 1, Tap: 7, Session: 0x6925e2c080004d2b}
	d := k.Append(h.Append(nil))
	if len(d) != 1224 || KeyingDatagram != 1224 {
		t.Fatalf("%d bytes, and KeyingDatagram is %d; want 1224", len(d), KeyingDatagram)
	}
	for at, want := range map[int][]byte{0: {0x14, 0x31, 0, 0, 0, 0, 0, 7}, 16: make([]byte, 8), 24: k.Collector, 32: k.Remote, 40: k.Encapsulated, 1160: k.Signature} {
		if !bytes.Equal(d[at:at+len(want)], want) {
			t.Errorf("at %d: %x, want %x", at, d[at:at+len(want)], want)
		}
	}
}

// TestKeyingRoundTrip: what is written is read, in place.
func TestKeyingRoundTrip(t *testing.T) {
	k := someKeying()
	d := k.Append([]byte("before"))
	if !bytes.HasPrefix(d, []byte("before")) {
		t.Error("what was there before is gone")
	}
	body := d[len("before"):]
	got, err := ParseKeying(body)
	if diff := cmp.Diff(k, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if &got.Collector[0] != &body[0] || cap(got.Collector) != 8 || cap(got.Encapsulated) != EncapsulatedLen {
		t.Error("the parts do not alias the datagram, or reach beyond themselves")
	}
}

// TestKeyingLengths: every other length is refused, in reading and in writing.
func TestKeyingLengths(t *testing.T) {
	k := someKeying()
	d := append(k.Append(nil), make([]byte, 300)...)
	for n := range d {
		got, err := ParseKeying(d[:n])
		if n == 1200 {
			if err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
			continue
		}
		if err != ErrMalformed || got.Collector != nil || got.Signature != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for i, part := range []*[]byte{&k.Collector, &k.Remote, &k.Encapsulated, &k.Signature} {
		whole := *part
		for _, b := range [][]byte{nil, whole[1:], append(bytes.Clone(whole), 0)} {
			*part = b
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("part %d with %d bytes is written", i, len(b))
					}
				}()
				k.Append(nil)
			}()
		}
		*part = whole
	}
}

func FuzzKeying(f *testing.F) {
	k := someKeying()
	f.Add(k.Append(nil))
	k.Signature = make([]byte, 64)
	f.Add(k.Append(nil)[:1199])
	f.Fuzz(func(t *testing.T, d []byte) {
		k, err := ParseKeying(d)
		if (err == nil) != (len(d) == 1200) {
			t.Fatalf("%d bytes: %v", len(d), err)
		}
		if err == nil && !bytes.Equal(k.Append(nil), d) {
			t.Fatal("written back as something else")
		}
	})
}
