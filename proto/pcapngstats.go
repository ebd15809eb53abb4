// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// A PcapngStatistics is an interface statistics block: what became of the
// packets of one interface from Start to End.
type PcapngStatistics struct {
	Interface  uint32 // in its section
	Start, End uint64 // ticks; also the time of the statistics
	Counted    bool   // the next two are known:
	Received   uint64 // isb_ifrecv: packets that came to the interface, also those that were dropped there
	Dropped    uint64 // isb_ifdrop: packets of those for which there was no room
	Accepted   uint64 // isb_filteraccept: packets that came to the writer
	Delivered  uint64 // isb_usrdeliv: packets written
	Comment    string // opt_comment
}

// Append appends the block to dst.
func (s *PcapngStatistics) Append(dst []byte) []byte {
	dst, at := beginBlock(dst, PcapngTypeStatistics)
	dst = binary.LittleEndian.AppendUint32(dst, s.Interface)
	dst = appendTicks(dst, s.End)
	dst = appendText(dst, optionComment, s.Comment)
	dst = appendTicks(append(dst, 2, 0, 8, 0), s.Start)
	dst = appendTicks(append(dst, 3, 0, 8, 0), s.End)
	if s.Counted {
		dst = appendUint64(dst, 4, s.Received)
		dst = appendUint64(dst, 5, s.Dropped)
	}
	dst = appendUint64(dst, 6, s.Accepted)
	dst = appendUint64(dst, 8, s.Delivered)
	return endBlock(dst, at, at+20)
}

// ParsePcapngStatistics reads the whole block b.
func ParsePcapngStatistics(b []byte, order ByteOrder) (s PcapngStatistics, err error) {
	if len(b) < 24 {
		return s, ErrPcapng
	}
	ticks := func(v []byte) uint64 { return uint64(order.Uint32(v))<<32 | uint64(order.Uint32(v[4:])) }
	s.Interface, s.End = order.Uint32(b[8:]), ticks(b[12:])
	var received, dropped bool
	o := options{order, b[20 : len(b)-4]}
	for code, v, ok := o.next(); ok; code, v, ok = o.next() {
		switch {
		case code == optionComment:
			s.Comment = string(v)
		case len(v) != 8:
		case code == 2:
			s.Start = ticks(v)
		case code == 3:
			s.End = ticks(v)
		case code == 4:
			s.Received, received = order.Uint64(v), true
		case code == 5:
			s.Dropped, dropped = order.Uint64(v), true
		case code == 6:
			s.Accepted = order.Uint64(v)
		case code == 8:
			s.Delivered = order.Uint64(v)
		}
	}
	if s.Counted = received && dropped; !s.Counted {
		s.Received, s.Dropped = 0, 0 // one says nothing without the other
	}
	return s, nil
}
