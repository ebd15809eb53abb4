// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// A Report is a shard's own account (WIRE.md, section 7): every second, and
// at the end with Final. All counts run from the start of the session, so that
// a report that is lost loses nothing but time.
//
// It is made between two datagrams: the frames in Sealed are exactly those
// that lie whole in the data datagrams before NextData.
type Report struct {
	Final     bool   // the shard sends no more data
	Interface uint32 // index in the announce: what the shard captures on

	Time        int64  // ns since 1970 UTC
	Captured    uint64 // frames that the kernel counted behind the filter
	KernelDrops uint64 // frames of those that found the ring full
	Freezes     uint64 // times the ring was full
	TooLong     uint64 // frames longer than MaxFrame
	Shed        uint64 // frames left out by a rate limit or by sampling
	Sealed      uint64 // frames
	SealedBytes uint64 // bytes of those frames
	NextData    uint64 // counter of the next data datagram
	Sent        uint64 // datagrams of all kinds that the kernel took
	Unsent      uint64 // datagrams that it did not
	Refused     uint64 // times that nobody listened
}

// ReportLen is the length of a report's plaintext, bytes.
const ReportLen = 8 + 12*8

const reportFinal = 1 // bit of the flags

// fields lists the 64-bit fields in the order of the wire.
func (r *Report) fields() [11]*uint64 {
	return [...]*uint64{&r.Captured, &r.KernelDrops, &r.Freezes, &r.TooLong, &r.Shed, &r.Sealed,
		&r.SealedBytes, &r.NextData, &r.Sent, &r.Unsent, &r.Refused}
}

// Append appends the plaintext of r to dst.
func (r *Report) Append(dst []byte) []byte {
	var flags uint32
	if r.Final {
		flags = reportFinal
	}
	dst = binary.BigEndian.AppendUint32(dst, flags)
	dst = binary.BigEndian.AppendUint32(dst, r.Interface)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time))
	for _, f := range r.fields() {
		dst = binary.BigEndian.AppendUint64(dst, *f)
	}
	return dst
}

// ParseReport reads the plaintext of a report.
func ParseReport(p []byte) (Report, error) {
	var r Report
	if len(p) != ReportLen {
		return r, ErrMalformed
	}
	flags := binary.BigEndian.Uint32(p)
	if flags&^reportFinal != 0 {
		return r, ErrMalformed
	}
	r.Final = flags&reportFinal != 0
	r.Interface = binary.BigEndian.Uint32(p[4:])
	r.Time = int64(binary.BigEndian.Uint64(p[8:]))
	for i, f := range r.fields() {
		*f = binary.BigEndian.Uint64(p[16+8*i:])
	}
	return r, nil
}
