// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// Prologue of a data plaintext (WIRE.md, section 4): base time, and where the
// first record that starts in this datagram begins.
const (
	prologueLen = 10
	noRecord    = 0xFFFF // no record starts here
)

// Bits of a record's flags byte (WIRE.md, section 5). A zero byte in its place
// is padding.
const (
	flagRecord    = 0x80 // always set
	flagLinkType  = 0x40 // link type follows: not Ethernet
	flagDirection = 0x30 // two bits: Direction
	flagGSO       = 0x08
	flagCsum      = 0x04
	flagOrigLen   = 0x02
	flagInterface = 0x01

	directionShift = 4
)

// maxRecordHeader bounds the bytes before a frame: flags, length, time,
// interface, link type, original length, checksum, GSO.
const maxRecordHeader = 1 + 3 + 10 + 5 + 3 + 5 + 2*3 + 1 + 3

// A Packer writes records into the plaintexts of data datagrams, one datagram
// after the other. Records are cut where a datagram is full.
//
// The loop around it is:
//
//	for rest := p.Add(r); rest != nil; rest = p.Continue(rest) {
//		// Take the full datagram, Reset to the next
//	}
type Packer struct {
	buf  []byte // the datagram: header, plaintext, room for the tag
	at   int    // where the next byte goes
	end  int    // where the tag begins
	base int64  // base time of this datagram, ns
	time int64  // of the record written last, ns
	from int    // where the first record that starts here begins, in the plaintext
	n    Packed // so far
	cut  Record // the record whose header did not fit; cut.Data is handed out as rest
	hold bool   // cut is waiting
}

// Packed counts what a Packer was given since it was made.
type Packed struct {
	Frames uint64
	Bytes  uint64 // of those frames
}

// Packed returns what was given so far. All of it lies in the datagrams taken
// once the last one was.
func (p *Packer) Packed() Packed { return p.n }

// empty stands for the rest of a frame without bytes: not nil.
var empty = make([]byte, 0)

// Reset makes datagram the one to be packed next. It is the packer's until
// Take. Its length is that of a full datagram: Overhead and more than a
// record header.
func (p *Packer) Reset(datagram []byte) {
	p.buf = datagram
	p.at = HeaderLen + prologueLen
	p.end = len(datagram) - TagLen
	p.from = noRecord
	p.base = p.time
}

// Add writes r, or as much of it as the datagram has room for: then it returns
// the rest of r's data (perhaps of length 0, but not nil), to be given to
// Continue once the datagram has been taken. r's data is copied, except for
// the rest.
func (p *Packer) Add(r *Record) (rest []byte) {
	room := p.end - p.at
	if room < maxRecordHeader && room < p.headerLen(r) {
		return p.postpone(r)
	}
	if p.from == noRecord {
		p.begin(r)
	}
	p.n.Frames++
	p.n.Bytes += uint64(len(r.Data))
	p.at += p.putHeader(r)
	n := copy(p.buf[p.at:p.end], r.Data)
	p.at += n
	if n < len(r.Data) {
		return r.Data[n:]
	}
	return nil
}

// begin notes that the first record of this datagram starts here.
func (p *Packer) begin(r *Record) {
	p.from = p.at - HeaderLen
	if p.at == HeaderLen+prologueLen {
		p.base, p.time = r.Time, r.Time
	}
}

// Continue goes on with the rest of a record in a new datagram, and returns
// what is left of it, as Add does.
func (p *Packer) Continue(rest []byte) []byte {
	if p.hold {
		p.hold = false
		return p.Add(&p.cut)
	}
	n := copy(p.buf[p.at:p.end], rest)
	p.at += n
	if n < len(rest) {
		return rest[n:]
	}
	return nil
}

// Take returns the datagram packed so far, ready for its header and for
// sealing, or nil if there is nothing in it. It is as long as it has to be:
// full only if a record did not fit.
func (p *Packer) Take() []byte {
	if p.at == HeaderLen+prologueLen {
		return nil
	}
	binary.BigEndian.PutUint64(p.buf[HeaderLen:], uint64(p.base))
	binary.BigEndian.PutUint16(p.buf[HeaderLen+8:], uint16(p.from))
	d := p.buf[: p.at+TagLen : p.at+TagLen]
	p.at = HeaderLen + prologueLen
	return d
}

// Fill makes the datagram a full one, with padding behind its last record, if
// there is anything in it: so that its size says nothing of what it holds.
func (p *Packer) Fill() {
	if p.at == HeaderLen+prologueLen {
		return
	}
	clear(p.buf[p.at:p.end])
	p.at = p.end
}

// postpone fills the datagram with padding and keeps r for the next one: a
// record's header is never cut.
func (p *Packer) postpone(r *Record) []byte {
	clear(p.buf[p.at:p.end])
	p.at = p.end
	p.cut, p.hold = *r, true
	return empty
}

// headerLen returns the bytes that putHeader will write for r.
func (p *Packer) headerLen(r *Record) int {
	n := 1 + uvarintLen(uint64(len(r.Data))) + uvarintLen(zigzag(r.Time-p.previous(r)))
	if r.Interface != 0 {
		n += uvarintLen(uint64(r.Interface))
	}
	if r.LinkType != LinkTypeEthernet {
		n += uvarintLen(uint64(r.LinkType))
	}
	if int(r.OrigLen) != len(r.Data) {
		n += uvarintLen(uint64(r.OrigLen))
	}
	if r.NeedsCsum {
		n += uvarintLen(uint64(r.CsumStart)) + uvarintLen(uint64(r.CsumOffset))
	}
	if r.GSOType != 0 {
		n += 1 + uvarintLen(uint64(r.GSOSize))
	}
	return n
}

// previous returns the time that r's is written against, ns: the base time
// for the first record that starts in a datagram. In a datagram that begins
// with the end of a record the base time is that record's; in any other it is
// r's own.
func (p *Packer) previous(r *Record) int64 {
	if p.from == noRecord && p.at == HeaderLen+prologueLen {
		return r.Time
	}
	return p.time
}

// putHeader writes the header of r and returns its length. There is room for
// it. Most records are of Ethernet, whole, on the first interface, and shorter
// than 16,384 bytes: their flags, length and time go without a loop.
func (p *Packer) putHeader(r *Record) int {
	b := p.buf[p.at:p.end]
	length, delta := uint(len(r.Data)), zigzag(r.Time-p.time)
	p.time = r.Time
	flags := flagRecord | byte(r.Direction)<<directionShift
	if len(b) < maxRecordHeader || length >= 1<<14 || delta >= 1<<21 || !r.plain() {
		return putAll(b, flags, delta, r)
	}
	b[0] = flags
	n := 1
	if length >= 1<<7 {
		b[1] = byte(length) | 0x80
		length >>= 7
		n = 2
	}
	b[n&3] = byte(length)
	n++
	for delta >= 0x80 {
		b[n&7] = byte(delta) | 0x80
		delta >>= 7
		n++
	}
	b[n&7] = byte(delta)
	return n + 1
}

// plain says that r needs no optional field.
func (r *Record) plain() bool {
	return r.Interface == 0 && r.LinkType == LinkTypeEthernet && int(r.OrigLen) == len(r.Data) && !r.NeedsCsum && r.GSOType == 0
}

// putAll writes the header of any record.
func putAll(b []byte, flags byte, delta uint64, r *Record) int {
	n := 1 + putUvarint(b[1:], uint64(len(r.Data)))
	n += putUvarint(b[n:], delta)
	if r.Interface != 0 {
		flags |= flagInterface
		n += putUvarint(b[n:], uint64(r.Interface))
	}
	if r.LinkType != LinkTypeEthernet {
		flags |= flagLinkType
		n += putUvarint(b[n:], uint64(r.LinkType))
	}
	if int(r.OrigLen) != len(r.Data) {
		flags |= flagOrigLen
		n += putUvarint(b[n:], uint64(r.OrigLen))
	}
	if r.NeedsCsum {
		flags |= flagCsum
		n += putUvarint(b[n:], uint64(r.CsumStart))
		n += putUvarint(b[n:], uint64(r.CsumOffset))
	}
	if r.GSOType != 0 {
		flags |= flagGSO
		b[n] = r.GSOType
		n += 1 + putUvarint(b[n+1:], uint64(r.GSOSize))
	}
	b[0] = flags
	return n
}
