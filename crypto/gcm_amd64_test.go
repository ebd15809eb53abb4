// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"testing"
	"unsafe"
)

// TestKeyLayout: the assembly has these offsets as numbers (gcmasm/machine.go).
func TestKeyLayout(t *testing.T) {
	var k gcmKey
	for what, got := range map[string][2]uintptr{
		"round":  {unsafe.Offsetof(k.round), 0},
		"powers": {unsafe.Offsetof(k.powers), 240},
		"xors":   {unsafe.Offsetof(k.xors), 560},
		"size":   {unsafe.Sizeof(k), 848},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d, want %d", what, got[0], got[1])
		}
	}
	if !kernels[1].usable() {
		return // gcmInit needs its instructions
	}
	for range 100 {
		aead, err := kernels[1].new(new([KeyLen]byte))
		if err != nil {
			t.Fatal(err)
		}
		if p := uintptr(unsafe.Pointer(aead.(*vectorGCM))); p%64 != 0 {
			t.Fatalf("a vectorGCM lies at %#x, not at a multiple of 64", p)
		}
	}
}
