// SPDX-License-Identifier: Apache-2.0

package proto

import "math/bits"

// zigzag maps small negative and positive numbers to small unsigned ones.
func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// uvarintLen returns how many bytes putUvarint writes: 1 to 10.
func uvarintLen(u uint64) int { return (bits.Len64(u|1) + 6) / 7 }

// putUvarint writes u in base 128, least significant group first (as
// encoding/binary does), and returns the bytes written. b must be long enough.
func putUvarint(b []byte, u uint64) int {
	i := 0
	for u >= 0x80 {
		b[i] = byte(u) | 0x80
		u >>= 7
		i++
	}
	b[i] = byte(u)
	return i + 1
}

// uvarint reads what putUvarint wrote and returns the bytes read, or 0 if b
// ends too soon, the number exceeds 64 bits or is written longer than need be:
// there is one encoding of each number.
func uvarint(b []byte) (u uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	for i, c := range b {
		if c < 0x80 {
			if i == 9 && c > 1 || c == 0 {
				return 0, 0
			}
			return u | uint64(c)<<(7*i), i + 1
		}
		if i == 9 {
			return 0, 0
		}
		u |= uint64(c&0x7F) << (7 * i)
	}
	return 0, 0
}
