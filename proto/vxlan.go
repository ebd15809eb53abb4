// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
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
