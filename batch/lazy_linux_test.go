// SPDX-License-Identifier: Apache-2.0

package batch

import "testing"

// A Lazy maps its memory once, when it is asked for, says so where there is
// none to be had, and can be asked again.
func TestLazy(t *testing.T) {
	var l Lazy
	if err := l.Close(); err != nil || l.arena != nil {
		t.Errorf("closing one that was never used: %v", err)
	}
	if b := l.Bytes(1 << 60); b != nil {
		t.Errorf("%d bytes of memory that no machine has", len(b))
	}
	a := l.Bytes(1 << 16)
	if len(a) != 1<<16 || &a[0] != &l.Bytes(1 << 16)[0] {
		t.Fatalf("%d bytes, or others the second time", len(a))
	}
	a[0], a[1<<16-1] = 1, 1
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if b := l.Bytes(1 << 16); len(b) != 1<<16 || b[0] != 0 {
		t.Errorf("afterwards %d bytes", len(b))
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
