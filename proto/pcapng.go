// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net"
)

// The blocks of pcapng files, as far as ntap reads and writes them
// (draft-ietf-opsawg-pcapng, section 4). Blocks are written little-endian and
// read in either byte order. Options that are not named here are skipped.

// Block types.
const (
	PcapngTypeSection    = 0x0A0D0D0A // reads the same in both byte orders
	PcapngTypeInterface  = 1
	PcapngTypePacket     = 2 // obsolete, but files have it
	PcapngTypeSimple     = 3
	PcapngTypeStatistics = 5
	PcapngTypeEnhanced   = 6
)

// Sizes in bytes.
const (
	// PcapngBlockMin is the length of an empty block: type, length, length.
	PcapngBlockMin = 12
	// PcapngPacketMax is the most that Append writes for a packet besides its
	// data and comment: header, padding, epb_flags, epb_dropcount, the
	// comment's head and padding, end of options, length.
	PcapngPacketMax = 28 + 3 + 8 + 12 + 7 + 4 + 4
)

const (
	byteOrderMagic = 0x1A2B3C4D
	pcapngMajor    = 1

	optionEnd     = 0
	optionComment = 1
	// maxOption is the longest value of an option, bytes: more with its
	// padding would not fit the length field.
	maxOption = 65532
)

// ErrPcapng says that a block is not what the format allows.
var ErrPcapng = errors.New("proto: malformed pcapng block")

// A ByteOrder is that of a pcapng section or of a pcap file. A value instead
// of binary.ByteOrder: its calls are inlined.
type ByteOrder bool

const (
	LittleEndian ByteOrder = false
	BigEndian    ByteOrder = true
)

// Uint16 reads the first 2 bytes of b.
func (o ByteOrder) Uint16(b []byte) uint16 {
	if o == BigEndian {
		return binary.BigEndian.Uint16(b)
	}
	return binary.LittleEndian.Uint16(b)
}

// Uint32 reads the first 4 bytes of b.
func (o ByteOrder) Uint32(b []byte) uint32 {
	if o == BigEndian {
		return binary.BigEndian.Uint32(b)
	}
	return binary.LittleEndian.Uint32(b)
}

// Uint64 reads the first 8 bytes of b.
func (o ByteOrder) Uint64(b []byte) uint64 {
	if o == BigEndian {
		return binary.BigEndian.Uint64(b)
	}
	return binary.LittleEndian.Uint64(b)
}

// A PcapngSection is a section header block: it begins a file, or a part of
// one with its own byte order and interfaces.
type PcapngSection struct {
	Order                ByteOrder // when read; written little-endian
	Hardware, OS, Writer string    // shb_hardware, shb_os, shb_userappl
	Comment              string    // opt_comment
}

// Append appends the block to dst.
func (s *PcapngSection) Append(dst []byte) []byte {
	dst, at := beginBlock(dst, PcapngTypeSection)
	dst = binary.LittleEndian.AppendUint32(dst, byteOrderMagic)
	dst = binary.LittleEndian.AppendUint16(dst, pcapngMajor)
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, 1<<64-1) // length of the section: not known
	dst = appendText(dst, optionComment, s.Comment)
	dst = appendText(dst, 2, s.Hardware)
	dst = appendText(dst, 3, s.OS)
	dst = appendText(dst, 4, s.Writer)
	return endBlock(dst, at, at+24)
}

// PcapngOrder returns the byte order of the section whose header begins with
// the first 12 bytes of b.
func PcapngOrder(b []byte) (ByteOrder, error) {
	switch {
	case len(b) < 12 || binary.LittleEndian.Uint32(b) != PcapngTypeSection:
	case binary.LittleEndian.Uint32(b[8:]) == byteOrderMagic:
		return LittleEndian, nil
	case binary.BigEndian.Uint32(b[8:]) == byteOrderMagic:
		return BigEndian, nil
	}
	return LittleEndian, ErrPcapng
}

// ParsePcapngSection reads the whole block b.
func ParsePcapngSection(b []byte) (s PcapngSection, err error) {
	if s.Order, err = PcapngOrder(b); err != nil {
		return s, err
	}
	if len(b) < 28 || s.Order.Uint16(b[12:]) != pcapngMajor {
		return s, ErrPcapng
	}
	o := options{s.Order, b[24 : len(b)-4]}
	for code, v, ok := o.next(); ok; code, v, ok = o.next() {
		switch code {
		case optionComment:
			s.Comment = string(v)
		case 2:
			s.Hardware = string(v)
		case 3:
			s.OS = string(v)
		case 4:
			s.Writer = string(v)
		}
	}
	return s, nil
}

// A PcapngInterface is an interface description block. Packets name their
// interface by its place among those of their section.
type PcapngInterface struct {
	LinkType    LinkType
	SnapLen     uint32           // bytes; 0: no limit
	Name        string           // if_name
	Description string           // if_description
	MAC         net.HardwareAddr // if_MACaddr, or if_EUIaddr if it has 8 bytes
	Speed       uint64           // if_speed, bit/s; 0: not known
	Resolution  uint8            // if_tsresol: a tick is 10^-n s, or with the top bit 2^-n s
	Filter      string           // if_filter, as text
	Offset      int64            // if_tsoffset: s to add to timestamps
	Comment     string           // opt_comment
}

// The resolution of an interface that does not say: microseconds; and ours.
const (
	PcapngMicroseconds = 6
	PcapngNanoseconds  = 9
)

// Append appends the block to dst.
func (i *PcapngInterface) Append(dst []byte) []byte {
	dst, at := beginBlock(dst, PcapngTypeInterface)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(i.LinkType))
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, i.SnapLen)
	dst = appendText(dst, optionComment, i.Comment)
	dst = appendText(dst, 2, i.Name)
	dst = appendText(dst, 3, i.Description)
	switch len(i.MAC) {
	case 6:
		dst = appendOption(dst, 6, i.MAC)
	case 8:
		dst = appendOption(dst, 7, i.MAC)
	}
	if i.Speed != 0 {
		dst = appendUint64(dst, 8, i.Speed)
	}
	if i.Resolution != PcapngMicroseconds {
		dst = appendOption(dst, 9, []byte{i.Resolution})
	}
	if i.Filter != "" {
		text := i.Filter[:min(len(i.Filter), maxOption-1)]
		dst = appendOption(dst, 11, append([]byte{0}, text...)) // 0: text for libpcap
	}
	if i.Offset != 0 {
		dst = appendUint64(dst, 14, uint64(i.Offset))
	}
	return endBlock(dst, at, at+16)
}

// ParsePcapngInterface reads the whole block b.
func ParsePcapngInterface(b []byte, order ByteOrder) (i PcapngInterface, err error) {
	if len(b) < 20 {
		return i, ErrPcapng
	}
	i.LinkType = LinkType(order.Uint16(b[8:]))
	i.SnapLen = order.Uint32(b[12:])
	i.Resolution = PcapngMicroseconds
	o := options{order, b[16 : len(b)-4]}
	for code, v, ok := o.next(); ok; code, v, ok = o.next() {
		switch {
		case code == optionComment:
			i.Comment = string(v)
		case code == 2:
			i.Name = string(v)
		case code == 3:
			i.Description = string(v)
		case code == 6 && len(v) == 6, code == 7 && len(v) == 8:
			i.MAC = append(net.HardwareAddr(nil), v...)
		case code == 8 && len(v) == 8:
			i.Speed = order.Uint64(v)
		case code == 9 && len(v) == 1:
			i.Resolution = v[0]
		case code == 11 && len(v) > 0 && v[0] == 0:
			i.Filter = string(v[1:])
		case code == 14 && len(v) == 8:
			i.Offset = int64(order.Uint64(v))
		}
	}
	return i, nil
}

// Time returns ticks of the interface's clock in ns since 1970 UTC; ok is
// false for what an int64 cannot say: before 1678, after 2262.
func (i *PcapngInterface) Time(ticks uint64) (ns int64, ok bool) {
	var sec, frac uint64 // s, ns
	switch n := i.Resolution &^ 0x80; {
	case i.Resolution == PcapngNanoseconds && ticks < 1<<63 && i.Offset == 0:
		return int64(ticks), true
	case i.Resolution&0x80 == 0 && n <= 19: // 10^19 < 2^64
		unit := pow10(n)
		sec = ticks / unit
		hi, lo := bits.Mul64(ticks%unit, 1e9)
		frac, _ = bits.Div64(hi, lo, unit)
	case i.Resolution&0x80 == 0:
		frac = ticks // in units of 10^-n s; the whole is less than 2 s
		for ; n > 9; n-- {
			frac /= 10
		}
	case n < 64:
		sec = ticks >> n
		hi, lo := bits.Mul64(ticks&(1<<n-1), 1e9)
		frac = lo>>n | hi<<(64-n)
	default:
		hi, _ := bits.Mul64(ticks, 1e9)
		frac = hi >> (n - 64)
	}
	// The seconds must fit the nanoseconds of an int64 with their fraction:
	// at the edge of the range some that would are refused.
	const most = (1<<63-1)/1_000_000_000 - 1
	total := int64(sec) + i.Offset
	if sec >= 1<<62 || i.Offset > 1<<62 || i.Offset < -1<<62 || total > most || total < -most {
		return 0, false
	}
	return total*1e9 + int64(frac), true
}

func pow10(n uint8) uint64 {
	p := uint64(1)
	for ; n > 0; n-- {
		p *= 10
	}
	return p
}

// A PcapngPacket is a packet in any of its three blocks.
type PcapngPacket struct {
	Interface uint32 // in its section
	Ticks     uint64 // see PcapngInterface.Time
	OrigLen   uint32 // bytes; smaller than len(Data) in some files
	Direction Direction
	Dropped   uint64 // epb_dropcount: packets of the interface lost since the one before
	Comment   []byte // opt_comment
	Data      []byte
}

// Append appends the packet to dst as an enhanced packet block.
func (p *PcapngPacket) Append(dst []byte) []byte {
	if p.Dropped != 0 || len(p.Comment) > 0 {
		return p.appendMarked(dst)
	}
	pad := -len(p.Data) & 3
	length := 32 + len(p.Data) + pad
	if p.Direction != DirectionUnknown {
		length += 12
	}
	at := len(dst)
	dst = append(dst, make([]byte, 28)...) // does not allocate
	h := dst[at : at+28]
	binary.LittleEndian.PutUint32(h, PcapngTypeEnhanced)
	binary.LittleEndian.PutUint32(h[4:], uint32(length))
	binary.LittleEndian.PutUint32(h[8:], p.Interface)
	binary.LittleEndian.PutUint32(h[12:], uint32(p.Ticks>>32))
	binary.LittleEndian.PutUint32(h[16:], uint32(p.Ticks))
	binary.LittleEndian.PutUint32(h[20:], uint32(len(p.Data)))
	binary.LittleEndian.PutUint32(h[24:], p.OrigLen)
	dst = append(dst, p.Data...)
	dst = append(dst, make([]byte, pad)...)
	if p.Direction != DirectionUnknown {
		dst = append(dst, 2, 0, 4, 0, byte(p.Direction), 0, 0, 0, optionEnd, 0, 0, 0) // epb_flags
	}
	return binary.LittleEndian.AppendUint32(dst, uint32(length))
}

// appendMarked is Append for a packet with all its options: few have them.
func (p *PcapngPacket) appendMarked(dst []byte) []byte {
	at := len(dst)
	plain := PcapngPacket{Interface: p.Interface, Ticks: p.Ticks, OrigLen: p.OrigLen, Data: p.Data}
	dst = plain.Append(dst)
	dst = dst[:len(dst)-4] // the length
	if len(p.Comment) > 0 {
		dst = appendOption(dst, optionComment, p.Comment)
	}
	if p.Direction != DirectionUnknown {
		dst = append(dst, 2, 0, 4, 0, byte(p.Direction), 0, 0, 0)
	}
	if p.Dropped != 0 {
		dst = appendUint64(dst, 4, p.Dropped)
	}
	return endBlock(dst, at, at)
}

// ParsePcapngPacket reads the whole block b, an enhanced packet block or the
// obsolete packet block. Data and Comment alias b.
func ParsePcapngPacket(b []byte, order ByteOrder) (p PcapngPacket, err error) {
	if len(b) < 32 {
		return p, ErrPcapng
	}
	p.Interface = order.Uint32(b[8:])
	if order.Uint32(b) == PcapngTypePacket {
		p.Interface = uint32(order.Uint16(b[8:])) // then comes a count of drops
	}
	p.Ticks = uint64(order.Uint32(b[12:]))<<32 | uint64(order.Uint32(b[16:]))
	length := uint64(order.Uint32(b[20:]))
	p.OrigLen = order.Uint32(b[24:])
	rest := b[28 : len(b)-4]
	if length > uint64(len(rest)) {
		return p, ErrPcapng
	}
	n := int(length)
	p.Data = rest[:n:n]
	if o := (options{order, rest[min(n+(-n&3), len(rest)):]}); len(o.b) > 0 {
		for code, v, ok := o.next(); ok; code, v, ok = o.next() {
			switch {
			case code == 2 && len(v) == 4: // epb_flags, pack_flags
				p.Direction = Direction(order.Uint32(v) & 3)
			case code == optionComment && len(v) > 0:
				p.Comment = v
			case code == 4 && len(v) == 8 && order.Uint32(b) == PcapngTypeEnhanced:
				p.Dropped = order.Uint64(v)
			}
		}
	}
	if p.Direction > Outbound {
		p.Direction = DirectionUnknown
	}
	return p, nil
}

// ParsePcapngSimple reads the whole block b, a simple packet block: of the
// section's first interface, without a time, cut at that interface's snapLen.
// Data aliases b.
func ParsePcapngSimple(b []byte, order ByteOrder, snapLen uint32) (p PcapngPacket, err error) {
	if len(b) < 16 {
		return p, ErrPcapng
	}
	p.OrigLen = order.Uint32(b[8:])
	rest := b[12 : len(b)-4]
	n := p.OrigLen
	if snapLen != 0 {
		n = min(n, snapLen)
	}
	if uint64(n) > uint64(len(rest)) {
		return p, ErrPcapng
	}
	p.Data = rest[:n:n]
	return p, nil
}

// options reads the options of a block one by one.
type options struct {
	order ByteOrder
	b     []byte
}

// next returns the next option; ok is false after the last. One that runs over
// the end of the block ends the options: what it belongs to is good all the
// same.
func (o *options) next() (code uint16, value []byte, ok bool) {
	if len(o.b) < 4 {
		return 0, nil, false
	}
	code = o.order.Uint16(o.b)
	n := int(o.order.Uint16(o.b[2:]))
	if code == optionEnd || n > len(o.b)-4 {
		return 0, nil, false
	}
	value = o.b[4 : 4+n]
	o.b = o.b[min(4+n+(-n&3), len(o.b)):]
	return code, value, true
}

// beginBlock appends type and a place for the length of a block that begins
// at the returned offset.
func beginBlock(dst []byte, kind uint32) ([]byte, int) {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, kind)
	return append(dst, 0, 0, 0, 0), at
}

// endBlock ends the options, if there are any from their offset on, and writes
// the lengths of the block that begins at at.
func endBlock(dst []byte, at, options int) []byte {
	if len(dst) > options {
		dst = append(dst, optionEnd, 0, 0, 0)
	}
	length := uint32(len(dst) - at + 4)
	binary.LittleEndian.PutUint32(dst[at+4:], length)
	return binary.LittleEndian.AppendUint32(dst, length)
}

func appendOption(dst []byte, code uint16, v []byte) []byte {
	v = v[:min(len(v), maxOption)]
	dst = binary.LittleEndian.AppendUint16(dst, code)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(v)))
	dst = append(dst, v...)
	return append(dst, make([]byte, -len(v)&3)...)
}

func appendText(dst []byte, code uint16, v string) []byte {
	if v == "" {
		return dst
	}
	return appendOption(dst, code, []byte(v))
}

func appendUint64(dst []byte, code uint16, v uint64) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, code)
	dst = append(dst, 8, 0)
	return binary.LittleEndian.AppendUint64(dst, v)
}

// appendTicks writes a timestamp as blocks have it: the high half first, each
// in the byte order of the section.
func appendTicks(dst []byte, t uint64) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(t>>32))
	return binary.LittleEndian.AppendUint32(dst, uint32(t))
}
