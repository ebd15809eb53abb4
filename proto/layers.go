// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// What Headers reads of a frame besides FlowHash: EtherTypes and protocols,
// from the same registries.
const (
	etherARP      = 0x0806
	etherRARP     = 0x8035
	etherMPLS     = 0x8847
	etherMPLSMany = 0x8848
	etherPPPoE    = 0x8864
	protoICMP     = 1
	protoIGMP     = 2
	protoAH       = 51
	protoICMPv6   = 58
)

// maxLabels is how many MPLS labels Headers looks behind.
const maxLabels = 8

// Layers says where the headers of a frame are.
type Layers struct {
	IP       int  // offset of the IP header; 0 of raw IP too, see V4 and V6
	L4       int  // offset of what IP carries, behind all extension headers
	End      int  // offset behind the last header: what is there is payload
	Protocol byte // of L4; meaningful if there is IP
	V4, V6   bool // there is an IP header; neither: none
	Later    bool // a fragment other than the first: L4 is in the middle of something
	Part     bool // the first of several fragments
	Short    bool // the frame ends in the middle of a header
}

// Headers finds the headers of a frame: Ethernet with VLAN tags, MPLS and PPPoE, Linux
// cooked headers, ARP, IPv4 and IPv6 with extension headers, and TCP, UDP,
// UDP-Lite, SCTP, ICMP, ICMPv6 and IGMP. What is inside a tunnel over IP is payload (but see Mask). Of what it
// does not know, all behind the last header that it knows is payload; End is never
// beyond the frame.
func Headers(link LinkType, frame []byte) (l Layers) {
	l.read(link, frame)
	return l
}

// read is Headers; l is empty. Passed around by value, a Layers costs more than it takes to read most
// frames.
func (l *Layers) read(link LinkType, frame []byte) {
	at, etherType := 0, uint16(0)
	switch link {
	case LinkTypeEthernet:
		at, etherType = 14, typeAt(frame, 12)
	case LinkTypeSLL:
		at, etherType = 16, typeAt(frame, 14)
	case LinkTypeSLL2:
		at, etherType = 20, typeAt(frame, 0)
	case LinkTypeRaw, LinkTypeIPv4, LinkTypeIPv6:
		if len(frame) > 0 {
			etherType = ofVersion(frame[0])
		}
	default:
		return
	}
	for range maxTags {
		if etherType != etherVLAN && etherType != etherQinQ && etherType != etherQinQ91 {
			break
		}
		etherType = typeAt(frame, at+2)
		at += 4
	}
	switch etherType {
	case etherMPLS, etherMPLSMany: // RFC 3032: the nibble behind the last label tells what is there
		etherType = 0
		for range maxLabels {
			if len(frame) < at+4 {
				break
			}
			last := frame[at+2]&1 != 0
			at += 4
			if last {
				if len(frame) > at {
					etherType = ofVersion(frame[at])
				}
				break
			}
		}
	case etherPPPoE: // RFC 2516, and PPP's protocol numbers
		switch typeAt(frame, at+6) {
		case 0x0021:
			etherType = etherIPv4
		case 0x0057:
			etherType = etherIPv6
		}
		at += 8
	}
	if at > len(frame) {
		l.End, l.Short = len(frame), true
		return
	}
	l.IP, l.End = at, at
	switch etherType {
	case etherIPv4:
		l.ipv4(frame)
	case etherIPv6:
		l.ipv6(frame)
	case etherARP, etherRARP:
		l.to(frame, at+28) // RFC 826, of Ethernet and IPv4
	}
}

// typeAt reads an EtherType; 0 if the frame ends before.
func typeAt(frame []byte, at int) uint16 {
	if len(frame) < at+2 {
		return 0
	}
	return binary.BigEndian.Uint16(frame[at:])
}

// ofVersion returns the EtherType of a packet whose first byte is given.
func ofVersion(first byte) uint16 {
	switch first >> 4 {
	case 4:
		return etherIPv4
	case 6:
		return etherIPv6
	}
	return 0
}

// to has headers end at n.
func (l *Layers) to(frame []byte, n int) {
	if n > len(frame) {
		n, l.Short = len(frame), true
	}
	l.End = n
}

func (l *Layers) ipv4(frame []byte) {
	ip := frame[l.IP:]
	if len(ip) < 20 || ip[0]&0xF < 5 {
		l.to(frame, l.IP+20)
		return
	}
	n := int(ip[0]&0xF) * 4
	fragment := binary.BigEndian.Uint16(ip[6:])
	l.V4, l.Protocol, l.Later, l.Part = true, ip[9], fragment&0x1FFF != 0, fragment&0x3FFF == 0x2000
	l.L4 = l.IP + n
	l.transport(frame)
}

func (l *Layers) ipv6(frame []byte) {
	ip := frame[l.IP:]
	if len(ip) < 40 {
		l.to(frame, l.IP+40)
		return
	}
	l.V6 = true
	next, n := ip[6], 40
	for range maxHeaders {
		switch next {
		case protoHopByHop, protoRouting, protoOptions, protoAH, protoFragment: // RFC 8200, section 4; RFC 4302
		default:
			l.Protocol, l.L4 = next, l.IP+n
			l.transport(frame)
			return
		}
		if len(ip) < n+8 {
			break
		}
		size := 8 + int(ip[n+1])*8
		switch next {
		case protoAH:
			size = 8 + int(ip[n+1])*4
		case protoFragment:
			size = 8
			fragment := binary.BigEndian.Uint16(ip[n+2:])
			l.Later, l.Part = fragment>>3 != 0, fragment>>3 == 0 && fragment&1 != 0
		}
		next, n = ip[n], n+size
		if l.Later {
			l.Protocol, l.L4 = next, l.IP+n
			l.to(frame, l.L4)
			return
		}
	}
	l.Protocol, l.L4 = next, min(l.IP+n, len(frame))
	l.End, l.Short = l.L4, true
}

// transport finds the end of the header at L4.
func (l *Layers) transport(frame []byte) {
	if l.Later || l.L4 > len(frame) {
		l.to(frame, l.L4)
		return
	}
	t := frame[l.L4:]
	n := 0
	switch l.Protocol {
	case protoTCP:
		if n = 20; len(t) > 12 {
			n = max(n, int(t[12]>>4)*4) // RFC 9293: data offset
		}
	case protoUDP, protoUDPLite, protoICMP, protoIGMP:
		n = 8
	case protoSCTP:
		n = 12
	case protoICMPv6:
		if n = 8; len(t) > 0 && t[0] >= 133 && t[0] <= 137 { // neighbour discovery, RFC 4861: all of it is header
			n = len(t)
		}
	}
	l.to(frame, l.L4+n)
}
