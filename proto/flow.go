// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// What FlowHash reads of a frame besides: EtherTypes (IEEE 802 numbers) and
// protocols (IANA protocol numbers).
const (
	etherQinQ91   = 0x9100 // before 802.1ad was a standard
	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoOptions  = 60
	protoSCTP     = 132
	protoUDPLite  = 136
)

// maxTags is how many VLAN tags FlowHash looks behind.
const maxTags = 4

// FlowHash returns a hash of the flow that an Ethernet frame belongs to, the
// same for both directions: of the IP addresses and, with TCP, UDP, UDP-Lite
// and SCTP, the ports. Fragments of one IP datagram have one hash, that of
// their addresses, since only the first of them has ports. What is not IP, or
// too short to tell, is hashed by its MAC addresses.
//
// A packet of IP in VXLAN, Geneve, GRE or IP has the hash that it has outside
// of the tunnel: see inner.
//
// All 32 bits are good: take the high ones, as in hash*n>>32 for n places.
func FlowHash(frame []byte) uint32 {
	if len(frame) < etherLen {
		return 0
	}
	ip, etherType := behindTags(frame)
	if etherType == etherIPv4 && len(ip) >= 20 || etherType == etherIPv6 && len(ip) >= 40 {
		return hashIP(ip, 0)
	}
	to := uint64(binary.BigEndian.Uint16(frame))<<32 | uint64(binary.BigEndian.Uint32(frame[2:]))
	from := uint64(binary.BigEndian.Uint16(frame[6:]))<<32 | uint64(binary.BigEndian.Uint32(frame[8:]))
	return mixFlow(mixEnd(to)+mixEnd(from), uint64(etherType))
}

// behindTags returns what is behind the header and the VLAN tags of an Ethernet
// frame, which has to have a header.
func behindTags(frame []byte) (rest []byte, etherType uint16) {
	at, etherType := etherLen, binary.BigEndian.Uint16(frame[12:])
	for range maxTags {
		if etherType != etherVLAN && etherType != etherQinQ && etherType != etherQinQ91 || len(frame) < at+4 {
			break
		}
		etherType = binary.BigEndian.Uint16(frame[at+2:])
		at += 4
	}
	return frame[at:], etherType
}

// FlowHashIP is FlowHash of a packet that begins with its IP header.
func FlowHashIP(ip []byte) uint32 { return hashIP(ip, 0) }

// hashIP is FlowHashIP of a packet inside so many tunnels.
func hashIP(ip []byte, tunnels int) uint32 {
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		var from, to uint64 // ports
		n := int(ip[0]&0xF) * 4
		if binary.BigEndian.Uint16(ip[6:])&0x3FFF == 0 { // neither more fragments nor an offset
			if from, to = ports(ip[9], ip, n); wraps(ip[9], from, to) {
				if hash, ok := hashInner(ip[9], ip, n, tunnels); ok {
					return hash
				}
				from, to = 0, 0
			}
		}
		src, dst := uint64(binary.BigEndian.Uint32(ip[12:])), uint64(binary.BigEndian.Uint32(ip[16:]))
		return mixFlow(mixEnd(src<<16|from)+mixEnd(dst<<16|to), uint64(ip[9]))
	case len(ip) >= 40 && ip[0]>>4 == 6:
		next, n := transport(ip)
		from, to := ports(next, ip, n)
		if wraps(next, from, to) {
			if hash, ok := hashInner(next, ip, n, tunnels); ok {
				return hash
			}
			from, to = 0, 0
		}
		src := mixEnd(binary.BigEndian.Uint64(ip[8:])) ^ binary.BigEndian.Uint64(ip[16:])
		dst := mixEnd(binary.BigEndian.Uint64(ip[24:])) ^ binary.BigEndian.Uint64(ip[32:])
		return mixFlow(mixEnd(src+from)+mixEnd(dst+to), uint64(next))
	}
	return 0
}

// ports returns source and destination port at offset n; 0 and 0 if the
// protocol has none, or the packet was cut before them.
func ports(protocol byte, ip []byte, n int) (from, to uint64) {
	switch protocol {
	case protoTCP, protoUDP, protoSCTP, protoUDPLite:
		if len(ip) >= n+4 {
			return uint64(binary.BigEndian.Uint16(ip[n:])), uint64(binary.BigEndian.Uint16(ip[n+2:]))
		}
	}
	return 0, 0
}

// transport returns the protocol behind the extension headers of an IPv6
// packet and where it begins. That of fragments is protoFragment.
func transport(ip []byte) (next byte, n int) {
	next, n = ip[6], 40
	for range maxHeaders {
		switch next {
		case protoHopByHop, protoRouting, protoOptions: // RFC 8200, section 4
			if len(ip) < n+2 {
				return next, n
			}
			next, n = ip[n], n+8+int(ip[n+1])*8
		default:
			return next, n
		}
	}
	return next, n
}

// mixEnd mixes one end of a flow, so that the sum of two ends tells which ends
// they were; odd multipliers with well-spread bits, from the golden ratio and
// from MurmurHash3 (fmix64, A. Appleby, public domain).
func mixEnd(x uint64) uint64 {
	x *= 0x9E3779B97F4A7C15
	return x ^ x>>29
}

func mixFlow(sum, kind uint64) uint32 {
	x := (sum ^ kind<<56) * 0xFF51AFD7ED558CCD
	x ^= x >> 33
	return uint32(x * 0xC4CEB9FE1A85EC53 >> 32)
}
