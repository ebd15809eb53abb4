// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"

	"github.com/ntap-project/ntap/proto"
)

// A captureFormat is a way to write frames one after the other.
type captureFormat uint8

const (
	formatPcapng captureFormat = iota
	formatPcap                 // without the file's header
)

// blockLen returns the length of the block that b begins with.
func (f captureFormat) blockLen(b []byte) int {
	if f == formatPcap {
		return proto.PcapPacketLen + int(binary.LittleEndian.Uint32(b[8:]))
	}
	return blockLen(b)
}

// frame says whether the block that b begins with holds a frame, and of how
// many bytes.
func (f captureFormat) frame(b []byte) (bytes uint64, ok bool) {
	switch {
	case f == formatPcap:
		return uint64(binary.LittleEndian.Uint32(b[8:])), true
	case binary.LittleEndian.Uint32(b) == proto.PcapngTypeEnhanced:
		return uint64(binary.LittleEndian.Uint32(b[20:])), true
	}
	return 0, false
}

// count counts the frames of b, and their bytes, that do not lie whole in its
// first done bytes.
func (f captureFormat) count(b []byte, done int) (frames, bytes uint64) {
	for at := 0; at < len(b); {
		length := f.blockLen(b[at:])
		if n, ok := f.frame(b[at:]); ok && at+length > done {
			frames++
			bytes += n
		}
		at += length
	}
	return frames, bytes
}
