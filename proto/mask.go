// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"hash/crc32"
)

// headers is Headers of a frame as it was captured. The headers of one that the
// kernel had not finished reach, in a tunnel too, down to the transport header
// that its checksum and its GSO type are about: it is finished by them. laid is
// true if that one was found. l is empty.
func (r *Record) headers(l *Layers) (laid bool) {
	l.read(r.LinkType, r.Data)
	if r.Unfinished() {
		var in layout
		if in, laid = lay(r); laid {
			l.End = in.payload
		}
	}
	return laid
}

// SliceHeaders cuts r.Data behind its headers (see Headers; in a tunnel that
// this host sends into, behind the inner ones, see Mask), and says whether
// anything was cut. OrigLen stays.
func (r *Record) SliceHeaders() bool {
	var l Layers
	r.headers(&l)
	if l.End >= len(r.Data) {
		return false
	}
	r.Data = r.Data[:l.End:l.End]
	return true
}

// A Masking is what became of a frame in Mask.
type Masking uint8

const (
	Unmasked   Masking = iota // it has no payload
	Masked                    // and its checksum is that of what is there now
	MaskedMark                // its checksum cannot be known, and is 0 now
)

// Mask overwrites the payload of r.Data (see Headers) with zeros, and puts the
// checksum in order: that of TCP, UDP, UDP-Lite, ICMP, ICMPv6 and SCTP becomes the one of
// the frame as it is then. Where that takes fragments that are not there, or SCTP
// that is not all there, it becomes 0. IP's own checksum covers no payload.
//
// A frame that the kernel had not finished is finished by the collector. If this
// host sent it into a tunnel, what is unfinished is the inner frame, whose headers
// stay down to the transport header, and what is behind that is zeros. The
// tunnel's own checksum is right then: of a GSO frame it is computed when that is
// cut, and of another the kernel has made it one that holds whatever the inner
// payload is (lco_csum, linux/skbuff.h). If the inner headers are not found, all
// behind the outer ones is zeros, and so is what was unfinished: the outer
// checksum becomes that of the frame as it is then.
func (r *Record) Mask() Masking {
	var l Layers
	laid := r.headers(&l)
	payload := r.Data[l.End:]
	if len(payload) == 0 {
		return Unmasked
	}
	clear(payload)
	switch {
	case r.GSOType != 0 || laid || r.NeedsCsum && int(r.CsumStart) == l.L4:
		return Masked // the rest is the collector's
	case r.NeedsCsum:
		r.NeedsCsum, r.CsumStart, r.CsumOffset = false, 0, 0
	}
	if l.Short || l.Later || !l.V4 && !l.V6 {
		return Masked
	}
	d := r.Data[l.L4:]
	at := 0
	switch l.Protocol {
	case protoTCP:
		at = tcpSum
	case protoUDP, protoUDPLite:
		if at = udpSum; l.V4 && l.Protocol == protoUDP && binary.BigEndian.Uint16(d[at:]) == 0 {
			return Masked // there was none, RFC 768
		}
	case protoICMP, protoIGMP, protoICMPv6:
		at = 2
	case protoSCTP:
		return r.maskSCTP(&l, d)
	default:
		return Masked // nothing is known to cover the payload
	}
	d[at], d[at+1] = 0, 0
	header := d[:l.End-l.L4]
	length, known := l.length(r.Data)
	if l.Protocol == protoUDP {
		if n := int(binary.BigEndian.Uint16(d[4:])); n > 0 {
			length, known = n, true // also of the first of several fragments
		}
	}
	if l.Protocol == protoUDPLite { // RFC 3828: 0 covers all, 8 the header
		if n := int(binary.BigEndian.Uint16(d[4:])); n != 0 && n < 8 {
			known = false
		}
	}
	pseudo := l.Protocol != protoICMP && l.Protocol != protoIGMP
	if pseudo && !known {
		return MaskedMark
	}
	var s uint64
	if pseudo {
		s = l.pseudo(r.Data, length)
	}
	// The payload is zeros, which add nothing.
	putSum(d[at:], fold(checksum(header, s)), l.Protocol == protoUDP || l.Protocol == protoUDPLite)
	return Masked
}

// length returns the length of what IP carries, from its own headers: 0 and
// false if there is more of it in other fragments, or if it is not told.
func (l *Layers) length(frame []byte) (n int, known bool) {
	ip := frame[l.IP:]
	if l.V4 {
		n = int(binary.BigEndian.Uint16(ip[2:])) - (l.L4 - l.IP)
	} else {
		n = int(binary.BigEndian.Uint16(ip[4:])) - (l.L4 - l.IP - 40)
	}
	return n, !l.Part && n >= l.End-l.L4
}

// pseudo returns the sum of the pseudo header (RFC 9293, section 3.1; RFC 8200,
// section 8.1). A routing header changes the last destination: not looked at.
func (l *Layers) pseudo(frame []byte, length int) uint64 {
	ip := frame[l.IP:]
	addresses := ip[12:20]
	if l.V6 {
		addresses = ip[8:40]
	}
	return checksum(addresses, uint64(l.Protocol)+uint64(length>>16)+uint64(length&0xFFFF))
}

// maskSCTP puts SCTP's CRC32c in order (RFC 9260, appendix A), for which all of
// the packet has to be there.
func (r *Record) maskSCTP(l *Layers, d []byte) Masking {
	clear(d[8:12])
	n, known := l.length(r.Data)
	if !known || n > len(d) {
		return MaskedMark
	}
	binary.LittleEndian.PutUint32(d[8:], crc32.Checksum(d[:n], castagnoli))
	return Masked
}
