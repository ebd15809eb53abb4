// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// SentAt returns the time that the plaintext of a datagram carries, ns since
// 1970 UTC: of an announce and of a report when they were made, of data the
// base time, which is when its first frame was captured. ok is false if there
// is none.
func SentAt(kind Kind, plaintext []byte) (ns int64, ok bool) {
	at := 0 // data: WIRE.md, section 4
	switch kind {
	case Data:
	case Announcing:
		at = 6
	case Reporting:
		at = 8
	default:
		return 0, false
	}
	if len(plaintext) < at+8 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(plaintext[at:])), true
}
