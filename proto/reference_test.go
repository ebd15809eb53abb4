// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"slices"
)

// A plainData is a data plaintext as WIRE.md describes it, read and written
// the slow and obvious way: the twin that Packer and Unpacker are held
// against.
type plainData struct {
	Base    int64
	First   int      // noRecord: none
	Tail    []byte   // the end, or some of the middle, of a record that began before
	Records []Record // the last may be cut
	Missing int      // bytes of the last record that are not here
	Padding int
}

// parseData reads a plaintext. tail is how many bytes of a record under way
// are expected, at most; -1: not known, take what first says.
func parseData(p []byte, tail int) (d plainData, ok bool) {
	if len(p) < 10 {
		return d, false
	}
	d.Base = int64(binary.BigEndian.Uint64(p))
	d.First = int(binary.BigEndian.Uint16(p[8:]))
	if d.First != noRecord && (d.First < 10 || d.First >= len(p)) {
		return d, false
	}
	at := 10
	switch {
	case tail >= 0:
		at += min(tail, len(p)-10)
	case d.First == noRecord:
		at = len(p)
	default:
		at = d.First
	}
	d.Tail = p[10:at]
	if d.First == noRecord {
		d.Padding = len(p) - at
		return d, allZero(p[at:])
	}
	if d.First != at {
		return d, false
	}
	time := d.Base
	for at < len(p) {
		if p[at] == 0 {
			d.Padding = len(p) - at
			return d, allZero(p[at:])
		}
		var r Record
		n, missing, good := parseRecord(p[at:], time, &r)
		if !good {
			return d, false
		}
		d.Records, d.Missing, time = append(d.Records, r), missing, r.Time
		at += n
	}
	return d, true
}

func parseRecord(p []byte, before int64, r *Record) (n, missing int, ok bool) {
	flags := p[0]
	if flags&0x80 == 0 || flags>>4&3 == 3 {
		return 0, 0, false
	}
	n, ok = 1, true
	number := func(most uint64) uint64 {
		v, l := binary.Uvarint(p[min(n, len(p)):])
		ok = ok && l > 0 && v <= most && slices.Equal(binary.AppendUvarint(nil, v), p[n:n+l])
		n += max(l, 0)
		return v
	}
	length := int(number(MaxFrame))
	delta := number(1<<64 - 1)
	r.Time = before + (int64(delta>>1) ^ -int64(delta&1))
	r.OrigLen, r.LinkType, r.Direction = uint32(length), 1, Direction(flags>>4&3)
	if flags&1 != 0 {
		r.Interface = uint32(number(1<<32 - 1))
		ok = ok && r.Interface != 0
	}
	if flags&0x40 != 0 {
		r.LinkType = LinkType(number(1<<16 - 1))
		ok = ok && r.LinkType != 1
	}
	if flags&2 != 0 {
		r.OrigLen = uint32(number(1<<32 - 1))
		ok = ok && int(r.OrigLen) != length
	}
	if flags&4 != 0 {
		r.NeedsCsum = true
		r.CsumStart = uint16(number(1<<16 - 1))
		r.CsumOffset = uint16(number(1<<16 - 1))
	}
	if flags&8 != 0 {
		if n >= len(p) {
			return 0, 0, false
		}
		r.GSOType = p[n]
		n++
		r.GSOSize = uint16(number(1<<16 - 1))
		ok = ok && r.GSOType != 0
	}
	if !ok {
		return 0, 0, false
	}
	here := min(length, len(p)-n)
	r.Data = p[n : n+here]
	return n + here, length - here, true
}

func (d *plainData) encode() []byte {
	p := binary.BigEndian.AppendUint64(nil, uint64(d.Base))
	p = binary.BigEndian.AppendUint16(p, uint16(d.First))
	p = append(p, d.Tail...)
	time := d.Base
	for i, r := range d.Records {
		length := len(r.Data)
		if i == len(d.Records)-1 {
			length += d.Missing
		}
		at := len(p)
		p = append(p, 0x80|byte(r.Direction)<<4)
		p = binary.AppendUvarint(p, uint64(length))
		p = binary.AppendVarint(p, r.Time-time)
		time = r.Time
		if r.Interface != 0 {
			p[at] |= 1
			p = binary.AppendUvarint(p, uint64(r.Interface))
		}
		if r.LinkType != 1 {
			p[at] |= 0x40
			p = binary.AppendUvarint(p, uint64(r.LinkType))
		}
		if int(r.OrigLen) != length {
			p[at] |= 2
			p = binary.AppendUvarint(p, uint64(r.OrigLen))
		}
		if r.NeedsCsum {
			p[at] |= 4
			p = binary.AppendUvarint(p, uint64(r.CsumStart))
			p = binary.AppendUvarint(p, uint64(r.CsumOffset))
		}
		if r.GSOType != 0 {
			p[at] |= 8
			p = append(p, r.GSOType)
			p = binary.AppendUvarint(p, uint64(r.GSOSize))
		}
		p = append(p, r.Data...)
	}
	return append(p, make([]byte, d.Padding)...)
}

func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }
