// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// GSO types of virtio_net_hdr, linux/virtio_net.h.
const (
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5    // UDP_L4: datagrams of one flow, each with its header
	gsoECN   = 0x80 // with any TCP type
)

// Where the checksum is in a transport header, bytes. SCTP's is a CRC-32C
// (RFC 9260, section 6.8); no other has its at 8.
const (
	tcpSum  = 16
	udpSum  = 6
	sctpSum = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EtherTypes and IP protocols that matter here.
const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86DD
	etherVLAN  = 0x8100
	etherQinQ  = 0x88A8
	etherTEB   = 0x6558 // Ethernet in GRE
	protoIPv4  = 4
	protoTCP   = 6
	protoUDP   = 17
	protoIPv6  = 41
	protoGRE   = 47
	geneve     = 6081 // UDP port, RFC 8926
	etherLen   = 14
	udpLen     = 8
	vxlanLen   = 8
	maxHeaders = 8 // IP and tunnel headers of one frame. Chosen: bounds the loop
)

// A header is one of those that say how long the rest is, or sum over it.
type header struct {
	at    int // from the start of the frame, bytes
	proto int // protoIPv4, protoIPv6, or protoUDP for a tunnel's
}

// A layout says where the headers of a frame are.
type layout struct {
	outer   [maxHeaders]header // from the outside in, without the transport header
	n       int                // of outer
	l4      int                // transport header
	udp     bool               // it is UDP's, else TCP's
	payload int
}

// lay finds the headers of an Ethernet or raw IP frame down to the transport
// header that its checksum or its GSO type is about; ok is false if it is none
// that this code can cut. Inner frames in VXLAN, Geneve, GRE and IP are found.
func lay(r *Record) (l layout, ok bool) {
	d := r.Data
	at, kind := 0, 0
	switch r.LinkType {
	case LinkTypeEthernet:
		at, kind = etherType(d, 0)
	case LinkTypeRaw:
		kind = version(d, 0)
	}
	for {
		next, protocol, ok := l.ip(d, at, kind)
		if !ok {
			return l, false
		}
		switch protocol {
		case protoTCP:
			if r.NeedsCsum && int(r.CsumStart) != next || len(d) < next+20 {
				return l, false
			}
			l.l4, l.payload = next, next+int(d[next+12]>>4)*4
			return l, l.payload >= next+20 && l.payload <= len(d)
		case protoUDP:
			if len(d) < next+udpLen {
				return l, false
			}
			if tunnel := r.NeedsCsum && int(r.CsumStart) > next || !r.NeedsCsum && r.GSOType != gsoUDP; !tunnel {
				l.l4, l.udp, l.payload = next, true, next+udpLen
				return l, !r.NeedsCsum || int(r.CsumStart) == next
			}
			if !l.push(header{next, protoUDP}) {
				return l, false
			}
			at = next + udpLen + vxlanLen
			if port := binary.BigEndian.Uint16(d[next+2:]); port == geneve && len(d) > next+udpLen {
				at += int(d[next+udpLen]&0x3F) * 4
			}
			at, kind = etherType(d, at)
		case protoGRE:
			if at, kind = gre(d, next); kind == 0 {
				return l, false
			}
		case protoIPv4, protoIPv6:
			at, kind = next, version(d, next)
		default:
			return l, false
		}
	}
}

// push notes a header; false if there are too many.
func (l *layout) push(h header) bool {
	if l.n == len(l.outer) {
		return false
	}
	l.outer[l.n] = h
	l.n++
	return true
}

// ip passes the IP header at and its extension headers.
func (l *layout) ip(d []byte, at, kind int) (next, protocol int, ok bool) {
	switch {
	case kind == etherIPv4 && len(d) >= at+20 && d[at]>>4 == 4 && d[at]&0xF >= 5:
		fragment := binary.BigEndian.Uint16(d[at+6:]) & 0x3FFF // more to come, or an offset
		next = at + int(d[at]&0xF)*4
		return next, int(d[at+9]), fragment == 0 && l.push(header{at, protoIPv4})
	case kind == etherIPv6 && len(d) >= at+40 && d[at]>>4 == 6:
		protocol, next = int(d[at+6]), at+40
		for protocol == 0 || protocol == 43 || protocol == 60 { // RFC 8200, section 4; each moves on by 8 or more
			if len(d) < next+8 {
				return 0, 0, false
			}
			protocol, next = int(d[next]), next+8+int(d[next+1])*8
		}
		return next, protocol, l.push(header{at, protoIPv6})
	}
	return 0, 0, false
}

// etherType passes the Ethernet header at, with its VLAN tags.
func etherType(d []byte, at int) (next, kind int) {
	next = at + etherLen
	for range maxHeaders {
		if len(d) < next {
			return 0, 0
		}
		kind = int(binary.BigEndian.Uint16(d[next-2:]))
		if kind != etherVLAN && kind != etherQinQ {
			return next, kind
		}
		next += 4
	}
	return 0, 0
}

// version returns the EtherType of the IP header at.
func version(d []byte, at int) int {
	switch {
	case len(d) > at && d[at]>>4 == 4:
		return etherIPv4
	case len(d) > at && d[at]>>4 == 6:
		return etherIPv6
	}
	return 0
}

// gre passes the GRE header at (RFC 2784, 2890). One with a checksum is not
// known: kind is 0.
func gre(d []byte, at int) (next, kind int) {
	if len(d) < at+4 || d[at]&0xC0 != 0 {
		return 0, 0
	}
	next = at + 4
	for _, bit := range []byte{0x20, 0x10} { // key, sequence number
		if d[at]&bit != 0 {
			next += 4
		}
	}
	if kind = int(binary.BigEndian.Uint16(d[at+2:])); kind == etherTEB {
		return etherType(d, next)
	}
	return next, kind
}

// A Cutter makes the frames that the wire saw of one that the kernel had not
// finished: checksums completed, and GSO frames cut, as skb_checksum_help and
// skb_gso_segment of the kernel's net/core do. Its frames lie in its arena,
// which is good until Reset.
type Cutter struct {
	// Memory, if set, gives the arena, n bytes, when the first frame is cut, so
	// that the kernel may read frames where they lie. Nil, or where it gives
	// less: it is of Go's heap.
	Memory func(n int) []byte

	arena []byte
	used  int
	rec   Record
}

// cutArena bounds what may wait for a flush of the outputs, bytes. Chosen: a
// receive call's worth of data, 64 KB in each of 32 messages, with headers.
const cutArena = 4 << 20

// CutMemory is what a Cutter takes when it cuts its first frame, bytes.
const CutMemory = cutArena

// Reset ends the loan of all frames that Finish has given.
func (c *Cutter) Reset() { c.used = 0 }

// Finish calls give for every frame that the wire saw of r, for which
// r.Unfinished holds, and returns how many those are. A frame that was whole
// but for its checksum is finished where it lies. 0: r cannot be cut, and
// nothing was given.
//
// The records given are good until Reset, the Record itself only until give
// returns. Where there is no room beside them, full is called first: it has to
// be done with all of them.
func (c *Cutter) Finish(r *Record, give func(*Record), full func()) (frames int) {
	if r.GSOType == 0 {
		r.Complete()
		give(r)
		return 1
	}
	l, ok := lay(r)
	if !ok || r.GSOSize == 0 || bytesCut(r, &l) > cutArena {
		return 0
	}
	if c.used+bytesCut(r, &l) > cutArena {
		full()
		c.Reset()
	}
	l.unjumbo(r)
	return c.cut(r, &l, give)
}

// The kernel's struct hop_jumbo_hdr, include/net/ipv6.h: a hop-by-hop header
// with a jumbo payload option (RFC 2675), bytes.
const (
	jumboLen = 8
	jumboTLV = 0xC2 // IPV6_TLV_JUMBO
)

// unjumbo takes the hop-by-hop header out that the kernel puts into a TCP frame
// of more than 64 KB (IPv6 BIG TCP). The wire never saw it: it goes when the
// frame is cut, as in ipv6_hopopt_jumbo_remove.
func (l *layout) unjumbo(r *Record) {
	ip, d := l.outer[l.n-1], r.Data
	at := ip.at + 40
	if ip.proto != protoIPv6 || l.udp || l.l4 != at+jumboLen || d[at+2] != jumboTLV || d[ip.at+4]|d[ip.at+5] != 0 {
		return
	}
	d[ip.at+6] = protoTCP
	copy(d[jumboLen:], d[:at])
	r.Data = d[jumboLen:]
	r.OrigLen = max(r.OrigLen, jumboLen) - jumboLen
	l.l4 -= jumboLen
	l.payload -= jumboLen
}

// bytesCut returns the bytes of the arena that the frames of r take.
func bytesCut(r *Record, l *layout) int { return segments(r, l)*l.payload + len(r.Data) }

// segments returns how many frames the wire saw of r.
func segments(r *Record, l *layout) int {
	payload := max(int(r.OrigLen), len(r.Data)) - l.payload
	return max(1, (payload+int(r.GSOSize)-1)/int(r.GSOSize))
}

// cut calls give for every frame that the wire saw of r, a GSO frame laid out
// as l. A sliced frame gives sliced ones: as much of them as was captured, and
// their headers. It returns how many there are.
func (c *Cutter) cut(r *Record, l *layout, give func(*Record)) int {
	if c.arena == nil && c.Memory != nil {
		c.arena = c.Memory(cutArena)
	}
	if len(c.arena) < cutArena {
		c.arena = make([]byte, cutArena)
	}
	n, size := segments(r, l), int(r.GSOSize)
	whole := max(int(r.OrigLen), len(r.Data)) // bytes of the GSO frame, if not sliced
	c.rec = *r
	c.rec.NeedsCsum, c.rec.GSOType, c.rec.GSOSize, c.rec.CsumStart, c.rec.CsumOffset = false, 0, 0, 0, 0
	for i := range n {
		from := l.payload + i*size
		to := min(from+size, whole)
		captured := min(max(len(r.Data), from), to)
		d := c.arena[c.used : c.used+l.payload+captured-from]
		d = d[:len(d):len(d)]
		c.used += len(d)
		copy(d, r.Data[:l.payload])
		copy(d[l.payload:], r.Data[min(from, len(r.Data)):min(captured, len(r.Data))])
		length := l.payload + to - from
		l.adjust(d, length, i, i == n-1, size)
		l.sum(d, captured == to)
		c.rec.Data, c.rec.OrigLen = d, uint32(length)
		give(&c.rec)
	}
	return n
}

// adjust makes the headers in d those of segment i, length bytes in all.
func (l *layout) adjust(d []byte, length, i int, last bool, size int) {
	for _, h := range l.outer[:l.n] {
		switch h.proto {
		case protoIPv4:
			binary.BigEndian.PutUint16(d[h.at+2:], uint16(length-h.at))
			binary.BigEndian.PutUint16(d[h.at+4:], binary.BigEndian.Uint16(d[h.at+4:])+uint16(i))
		case protoIPv6:
			binary.BigEndian.PutUint16(d[h.at+4:], uint16(length-h.at-40))
		case protoUDP:
			binary.BigEndian.PutUint16(d[h.at+4:], uint16(length-h.at))
		}
	}
	if l.udp {
		binary.BigEndian.PutUint16(d[l.l4+4:], uint16(length-l.l4))
		return
	}
	tcp := d[l.l4:]
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(i*size))
	if i > 0 {
		tcp[13] &^= 0x80 // CWR
	}
	if !last {
		tcp[13] &^= 0x01 | 0x08 // FIN, PSH
	}
}

// sum computes all checksums of a frame, from the inside out: an outer one
// covers the inner ones. A tunnel without a checksum stays without. Of a sliced
// frame those that cover the payload cannot be known: only IP's are computed.
func (l *layout) sum(d []byte, whole bool) {
	at, protocol := tcpSum, uint32(protoTCP)
	if l.udp {
		at, protocol = udpSum, protoUDP
	}
	if whole {
		l.transport(d, l.outer[l.n-1], l.l4, at, protocol)
	}
	for i := l.n - 1; i >= 0; i-- {
		switch h := l.outer[i]; h.proto {
		case protoIPv4:
			end := h.at + int(d[h.at]&0xF)*4
			d[h.at+10], d[h.at+11] = 0, 0
			binary.BigEndian.PutUint16(d[h.at+10:], ^fold(checksum(d[h.at:end], 0)))
		case protoUDP:
			if whole && i > 0 && d[h.at+6]|d[h.at+7] != 0 {
				l.transport(d, l.outer[i-1], h.at, udpSum, protoUDP)
			}
		}
	}
}

// transport computes the checksum at of the transport header l4 under the IP
// header ip (RFC 9293, section 3.1; RFC 768; RFC 8200, section 8.1).
func (l *layout) transport(d []byte, ip header, l4, at int, protocol uint32) {
	addresses := d[ip.at+12 : ip.at+20]
	if ip.proto == protoIPv6 {
		addresses = d[ip.at+8 : ip.at+40]
	}
	d[l4+at], d[l4+at+1] = 0, 0
	s := checksum(addresses, uint64(protocol)+uint64(len(d)-l4))
	putSum(d[l4+at:], fold(checksum(d[l4:], s)), protocol == protoUDP)
}

// putSum writes the complement of a folded sum. In UDP 0 means none: there all
// ones stand for it.
func putSum(d []byte, sum uint16, udp bool) {
	sum = ^sum
	if udp && sum == 0 {
		sum = 0xFFFF
	}
	binary.BigEndian.PutUint16(d, sum)
}

// Complete finishes the checksum of r in place, if it is not complete, as
// skb_checksum_help does. Of a sliced frame it cannot be computed; it stays as it
// was captured.
func (r *Record) Complete() {
	if !r.NeedsCsum {
		return
	}
	d, start := r.Data, int(r.CsumStart)
	at := start + int(r.CsumOffset)
	switch {
	case int(r.OrigLen) != len(d) || start >= len(d) || at+2 > len(d):
	case r.CsumOffset == sctpSum && at+4 <= len(d):
		clear(d[at : at+4])
		binary.LittleEndian.PutUint32(d[at:], crc32.Checksum(d[start:], castagnoli))
	default: // the field is part of the sum: it holds that of the pseudo header
		putSum(d[at:], fold(checksum(d[start:], 0)), r.CsumOffset == udpSum)
	}
	r.NeedsCsum, r.CsumStart, r.CsumOffset = false, 0, 0
}

// checksum adds the 16-bit words of d to s (RFC 1071). It adds words of 32
// bits to sums of 64, four at a time, which cannot overflow, and so need no
// carry; and it adds them as little-endian, which swaps the bytes of the sum
// and nothing else (section 2 (B)).
func checksum(d []byte, s uint64) uint64 {
	const low = 1<<32 - 1
	var s0, s1, s2, s3 uint64
	for len(d) >= 32 {
		a, b := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
		e, f := binary.LittleEndian.Uint64(d[16:]), binary.LittleEndian.Uint64(d[24:])
		s0 += a&low + a>>32
		s1 += b&low + b>>32
		s2 += e&low + e>>32
		s3 += f&low + f>>32
		d = d[32:]
	}
	for len(d) >= 4 {
		s0 += uint64(binary.LittleEndian.Uint32(d))
		d = d[4:]
	}
	if len(d) > 0 {
		var rest [4]byte
		copy(rest[:], d)
		s1 += uint64(binary.LittleEndian.Uint32(rest[:]))
	}
	return uint64(fold(s)) + uint64(bits.ReverseBytes16(fold(s0+s1+s2+s3)))
}

// fold folds a sum to 16 bits.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xFFFFFFFF
	s = s>>16 + s&0xFFFF
	s = s>>16 + s&0xFFFF
	s = s>>16 + s&0xFFFF
	return uint16(s)
}
