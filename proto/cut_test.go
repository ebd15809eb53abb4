// SPDX-License-Identifier: Apache-2.0

package proto

import "testing"

// TestChecksum compares with RFC 1071 taken at its word, at every length.
func TestChecksum(t *testing.T) {
	d := make([]byte, 300)
	for i := range d {
		d[i] = byte(i*251 + i>>3)
	}
	for n := range len(d) {
		for _, start := range []uint64{0, 1, 0xFFFF, 1<<64 - 1} {
			sum := start%0xFFFF + 0xFFFF
			for i := 0; i < n; i++ {
				if i%2 == 0 {
					sum += uint64(d[i]) << 8
				} else {
					sum += uint64(d[i])
				}
			}
			if got := fold(checksum(d[:n], start)); uint64(got)%0xFFFF != sum%0xFFFF {
				t.Fatalf("%d bytes from %#x: %#x, want %#x", n, start, got, sum%0xFFFF)
			}
		}
	}
}
