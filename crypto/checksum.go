// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// checksum is the plaintext suite as a cipher.AEAD. The tag is 12 zero bytes
// and the CRC-32C (Castagnoli, RFC 3720 appendix B.4) of header and records,
// big-endian. It catches corruption, and anybody can make it.
type checksum struct{}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChecksum = errors.New("crypto: checksum differs")

func (checksum) NonceSize() int { return nonceLen }
func (checksum) Overhead() int  { return TagLen }

// Seal appends plaintext and its tag to dst.
func (checksum) Seal(dst, _, plaintext, header []byte) []byte {
	sum := crc32.Update(crc32.Update(0, castagnoli, header), castagnoli, plaintext)
	dst = append(dst, plaintext...)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(dst, sum)
}

// Open appends what was sealed to dst.
func (checksum) Open(dst, _, sealed, header []byte) ([]byte, error) {
	n := len(sealed) - TagLen
	if n < 0 {
		return nil, errChecksum
	}
	tag := sealed[n:]
	sum := crc32.Update(crc32.Update(0, castagnoli, header), castagnoli, sealed[:n])
	if binary.BigEndian.Uint64(tag)|uint64(binary.BigEndian.Uint32(tag[8:])) != 0 || binary.BigEndian.Uint32(tag[12:]) != sum {
		return nil, errChecksum
	}
	return append(dst, sealed[:n]...), nil
}
