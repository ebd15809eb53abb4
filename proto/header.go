// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// Version is the version of the wire that this package speaks.
const Version = 1

// Sizes in bytes (WIRE.md, section 2).
const (
	HeaderLen = 24                 // clear and authenticated
	TagLen    = 16                 // after the ciphertext
	Overhead  = HeaderLen + TagLen // what a datagram has besides its plaintext
)

// MinDatagram and MaxDatagram bound the size of a datagram that carries data,
// bytes of UDP payload: 576 is what every IPv4 host takes (RFC 791), less
// headers; 65,507 is the most that IPv4 can carry.
const (
	MinDatagram = 508
	MaxDatagram = 65507
)

// Kind says what a datagram carries.
type Kind uint8

const (
	Data       Kind = 0
	Announcing Kind = 1
	Reporting  Kind = 2
	Parity     Kind = 3 // reserved: no datagram of this kind is sent yet
	NumKinds        = 4 // that are sealed under keys of their own
	Keying     Kind = 4 // what public-key mode agrees on keys with
)

// A Header precedes the sealed part of every datagram and is authenticated
// with it. Integers are big-endian (WIRE.md, section 2):
//
//	0         1         2                   4                                       8
//	+---------+---------+-------------------+---------------------------------------+
//	| ver|kind| key|suit|       shard       |                tap ID                 |
//	+---------+---------+-------------------+---------------------------------------+
//	|                                    session                                    |
//	+-------------------------------------------------------------------------------+
//	|                                    counter                                    |
//	+-------------------------------------------------------------------------------+
type Header struct {
	Kind    Kind
	Key     uint8 // ID of the tap's key, 0 to 15
	Suite   uint8 // crypto.Suite, 0 to 15; package crypto gives it its meaning
	Shard   uint16
	Tap     uint32
	Session uint64 // see NewSession
	Counter uint64 // datagrams of this kind sealed before, by this shard in this session
}

// Put writes the HeaderLen bytes of h to the front of d.
func (h *Header) Put(d []byte) {
	_ = d[HeaderLen-1]
	d[0] = Version<<4 | byte(h.Kind)
	d[1] = h.Key<<4 | h.Suite
	binary.BigEndian.PutUint16(d[2:], h.Shard)
	binary.BigEndian.PutUint32(d[4:], h.Tap)
	binary.BigEndian.PutUint64(d[8:], h.Session)
	binary.BigEndian.PutUint64(d[16:], h.Counter)
}

// PutCounter writes the counter of a datagram that has the rest of its header.
func PutCounter(d []byte, counter uint64) { binary.BigEndian.PutUint64(d[16:], counter) }

// Append appends the HeaderLen bytes of h to dst.
func (h *Header) Append(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, HeaderLen)...)
	h.Put(dst[n:])
	return dst
}

// ParseHeader reads the header in front of d; version is what it claims, and
// ok is false if d is too short to hold a header and a tag. Every bit pattern
// is a header: whether version, kind and suite are known is for the caller.
func ParseHeader(d []byte) (h Header, version uint8, ok bool) {
	if len(d) < Overhead {
		return Header{}, 0, false
	}
	return Header{
		Kind:    Kind(d[0] & 0xF),
		Key:     d[1] >> 4,
		Suite:   d[1] & 0xF,
		Shard:   binary.BigEndian.Uint16(d[2:]),
		Tap:     binary.BigEndian.Uint32(d[4:]),
		Session: binary.BigEndian.Uint64(d[8:]),
		Counter: binary.BigEndian.Uint64(d[16:]),
	}, d[0] >> 4, true
}

// NewSession makes a session number: whole seconds since 1970 (32 bits), the
// fraction of the second (16 bits) and random bits (16). So the numbers of one
// tap's runs are in the order of their starts, also within a second, and two
// remotes that were given the same tap ID by mistake do not meet
// (WIRE.md, section 3).
func NewSession(unixNano int64, random uint16) uint64 {
	sec, frac := uint64(unixNano/1e9), uint64(unixNano%1e9)
	return sec<<32 | (frac<<16/1e9)<<16 | uint64(random)
}

// SessionStart returns when a session started, in seconds since 1970.
func SessionStart(session uint64) int64 { return int64(session >> 32) }
