// SPDX-License-Identifier: Apache-2.0

package proto

import "encoding/binary"

// vxlanBefore is the UDP port of VXLAN in Linux from before IANA assigned one
// (drivers/net/vxlan/vxlan_core.c, vxlan_port), and flannel's.
const vxlanBefore = 8472

// maxTunnels is how many tunnels FlowHash looks into, one in the other. Chosen:
// bounds what a frame costs.
const maxTunnels = 2

// wraps says that a packet may be that of a tunnel. Of UDP a port tells, of
// either end: a client elsewhere may have one of these ports, too, and both
// directions of its flow have to be taken alike.
func wraps(protocol byte, from, to uint64) bool {
	const may = 1<<protoUDP | 1<<protoGRE | 1<<protoIPv4 | 1<<protoIPv6
	return protocol < 64 && may>>protocol&1 != 0 && (protocol != protoUDP || tunnelPort(from) || tunnelPort(to))
}

func tunnelPort(port uint64) bool { return port == VXLANPort || port == vxlanBefore || port == geneve }

// hashInner is hashIP of what is inside a tunnel, see inner; apart, since it is
// not on the way of other frames.
//
//go:noinline
func hashInner(protocol byte, ip []byte, n, tunnels int) (hash uint32, ok bool) {
	if in := inner(protocol, ip, n, tunnels); in != nil {
		return hashIP(in, tunnels+1), true
	}
	return 0, false
}

// inner returns the packet of IP inside the tunnel whose header is at n, of a
// packet inside so many other tunnels: it is what tells the flow, since the UDP
// source port of VXLAN and Geneve follows from the inner flow in a way of each
// end's own, and is another one in each direction. nil: there is none, it was
// cut before the end of its IP header, or there are too many tunnels; then the
// flow is that of the tunnel's addresses, which is the same for both
// directions, too. It aliases ip.
func inner(protocol byte, ip []byte, n, tunnels int) []byte {
	if tunnels == maxTunnels || len(ip) < n {
		return nil
	}
	rest, etherType := ip[n:], 0
	switch protocol {
	case protoUDP:
		rest, etherType = inUDP(rest)
	case protoGRE:
		rest, etherType = inGRE(rest)
	default: // RFC 2003, RFC 2473, RFC 4213
		etherType = version(rest, 0)
	}
	if etherType == etherTEB {
		if len(rest) < etherLen {
			return nil
		}
		var of uint16
		rest, of = behindTags(rest)
		etherType = int(of)
	}
	if etherType == etherIPv4 && len(rest) >= 20 && rest[0]>>4 == 4 || etherType == etherIPv6 && len(rest) >= 40 && rest[0]>>4 == 6 {
		return rest
	}
	return nil
}

// inUDP returns what VXLAN or Geneve carries, and the EtherType of it, that of
// a frame being etherTEB; 0: it is neither.
func inUDP(udp []byte) (rest []byte, etherType int) {
	if len(udp) < udpLen+vxlanLen { // Geneve's header has as many bytes before its options
		return nil, 0
	}
	d := udp[udpLen:]
	if from, to := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:]); from == geneve || to == geneve {
		if at := vxlanLen + int(d[0]&0x3F)*4; d[0]>>6 == 0 && len(d) >= at { // RFC 8926, section 3.4
			return d[at:], int(binary.BigEndian.Uint16(d[2:]))
		}
		return nil, 0
	}
	if _, frame, ok := ParseVXLAN(d); ok {
		return frame, etherTEB
	}
	return nil, 0
}

// inGRE returns what GRE carries (RFC 2784, 2890), and the EtherType of it; 0:
// it is a version or an encoding that is not known.
func inGRE(d []byte) (rest []byte, etherType int) {
	if len(d) < 4 || d[0]&0x4F != 0 || d[1] != 0 { // routing, and what is reserved
		return nil, 0
	}
	at := 4
	for _, bit := range [...]byte{0x80, 0x20, 0x10} { // checksum, key, sequence number
		if d[0]&bit != 0 {
			at += 4
		}
	}
	if len(d) < at {
		return nil, 0
	}
	return d[at:], int(binary.BigEndian.Uint16(d[2:]))
}
