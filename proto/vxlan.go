// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// VXLAN: RFC 7348, section 5.
const (
	VXLANPort      = 4789      // UDP, as IANA assigned it
	VXLANHeaderLen = 8         // bytes before the inner frame
	MaxVNI         = 1<<24 - 1 // of a VXLAN network identifier
)

// vxlanVNI is the I flag: the VNI is valid.
const vxlanVNI = 0x08

// AppendVXLAN appends the header that precedes a frame in a VXLAN datagram
// (RFC 7348, section 5). Integers are big-endian, R and reserved are zero:
//
//	0               1               2               3               4
//	+---------------+---------------+---------------+---------------+
//	|R|R|R|R|I|R|R|R|                   reserved                    |
//	+---------------+---------------+---------------+---------------+
//	|                      VNI                      |   reserved    |
//	+---------------+---------------+---------------+---------------+
//
// It panics if vni is more than MaxVNI.
func AppendVXLAN(dst []byte, vni uint32) []byte {
	if vni > MaxVNI {
		panic("proto: a VNI has 24 bits")
	}
	dst = binary.BigEndian.AppendUint32(dst, vxlanVNI<<24)
	return binary.BigEndian.AppendUint32(dst, vni<<8)
}

// ParseVXLAN takes a VXLAN datagram apart; frame aliases d. ok is false if d is
// shorter than a header or says that it has no VNI. The other flags and what is
// reserved are not looked at, as RFC 7348 wants it.
func ParseVXLAN(d []byte) (vni uint32, frame []byte, ok bool) {
	if len(d) < VXLANHeaderLen || d[0]&vxlanVNI == 0 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(d[4:]) >> 8, d[VXLANHeaderLen:], true
}

// Link types of capture files that say the version of IP themselves.
const (
	linkTypeIPv4 LinkType = 228
	linkTypeIPv6 LinkType = 229
)

// EtherLen is the length of an Ethernet header, bytes: nothing shorter is a
// frame.
const EtherLen = 14

// rawMACs are the addresses of an Ethernet header that stands before a packet
// that had none: destination and source, locally administered, "ntap" in them.
var rawMACs = [12]byte{0x02, 'n', 't', 'a', 'p', 2, 0x02, 'n', 't', 'a', 'p', 1}

// VXLANHeads are what stands before the frames of one VNI in a VXLAN datagram:
// its header and, before a packet that has no link-layer header, one of
// Ethernet besides.
type VXLANHeads struct{ ethernet, ipv4, ipv6 []byte }

// NewVXLANHeads makes those of a VNI.
func NewVXLANHeads(vni uint32) *VXLANHeads {
	raw := func(etherType uint16) []byte {
		return binary.BigEndian.AppendUint16(append(AppendVXLAN(nil, vni), rawMACs[:]...), etherType)
	}
	return &VXLANHeads{AppendVXLAN(nil, vni), raw(etherIPv4), raw(etherIPv6)}
}

// Of returns what stands before r.Data, and its flow's hash; nil: it is neither
// Ethernet nor raw IP, and no VXLAN can carry it.
func (h *VXLANHeads) Of(r *Record) (head []byte, flow uint32) {
	if r.LinkType == LinkTypeEthernet {
		return h.ethernet, FlowHash(r.Data)
	}
	switch r.ipVersion() {
	case etherIPv4:
		return h.ipv4, FlowHashIP(r.Data)
	case etherIPv6:
		return h.ipv6, FlowHashIP(r.Data)
	}
	return nil, 0
}

// ipVersion returns the EtherType of a packet that has no link-layer header; 0:
// it is not one of IP.
func (r *Record) ipVersion() int {
	switch r.LinkType {
	case LinkTypeRaw:
		return version(r.Data, 0)
	case linkTypeIPv4:
		return etherIPv4
	case linkTypeIPv6:
		return etherIPv6
	}
	return 0
}

var rawIPv4, rawIPv6 = binary.BigEndian.AppendUint16(rawMACs[:], etherIPv4), binary.BigEndian.AppendUint16(rawMACs[:], etherIPv6)

// EtherHeader returns the Ethernet header that stands before r.Data where only
// Ethernet is carried, if r is a packet of IP that has none; nil: it is not.
func (r *Record) EtherHeader() []byte {
	switch r.ipVersion() {
	case etherIPv4:
		return rawIPv4
	case etherIPv6:
		return rawIPv6
	}
	return nil
}

// EtherPayload returns how long an Ethernet frame is without its header and
// VLAN tags, bytes: what an MTU is about.
func EtherPayload(frame []byte) int {
	at, _ := etherType(frame, 0)
	return len(frame) - at
}

// VXLANAddress returns HOST:PORT for HOST[:PORT]: without a port it is 4789. An
// IPv6 address may stand without brackets where there is no port.
func VXLANAddress(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), strconv.Itoa(VXLANPort)
		if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(s, ":[]") {
			host = ""
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", fmt.Errorf("VXLAN to %q: want HOST[:PORT], as in 192.0.2.1, 192.0.2.1:4789, [2001:db8::1]:4789 or ovs.example.org", s)
	}
	return net.JoinHostPort(host, port), nil
}

// An Oversize says what becomes of a frame that, as VXLAN, does not fit the
// path's MTU.
type Oversize uint8

const (
	OversizeDrop     Oversize = iota // counted, and dropped
	OversizeSlice                    // its beginning is sent
	OversizeFragment                 // it goes as IP fragments
)

var oversizeText = [...]string{"drop", "slice", "fragment"}

func (o Oversize) String() string { return oversizeText[o] }

// ParseOversize reads drop, slice or fragment.
func ParseOversize(s string) (Oversize, error) {
	i := slices.Index(oversizeText[:], s)
	if i < 0 {
		return 0, fmt.Errorf("%q: %s", s, strings.Join(oversizeText[:], ", "))
	}
	return Oversize(i), nil
}

// OversizeText says, for a log, that a frame of size bytes has over bytes more
// than fit a path whose IP MTU is mtu, and what to do about it.
func OversizeText(o Oversize, size, over, mtu int) string {
	what, other := "dropped", OversizeSlice
	switch o {
	case OversizeSlice:
		what, other = "cut", OversizeDrop
	case OversizeFragment:
		return fmt.Sprintf("a frame of %d bytes is longer than UDP takes, %d: such frames are dropped", size, size-over)
	}
	return fmt.Sprintf("a frame of %d bytes does not fit the path's MTU of %d, which leaves %d: such frames are %s; raise the MTU to %d or more, or see --vxlan-oversize %s and fragment",
		size, mtu, size-over, what, mtu+over, other)
}
