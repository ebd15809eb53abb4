// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/ntap-project/ntap/remote"
)

// Frame sizes count from the Ethernet header on, without the FCS, as a capture
// does: what RFC 2544 calls 1518 bytes is 1514 here.
const (
	minFrame = 60
	maxFrame = 65535

	// gsoSegment is the payload of the frames that a GSO frame stands for, and
	// gsoFrame its own length: 44 of them, the most below 64 KiB.
	gsoSegment = 1460
	gsoFrame   = etherLen + ipv4Len + tcpLen + 44*gsoSegment
)

// imix is the common mix of frame sizes, 7:4:1, spread evenly.
// https://en.wikipedia.org/wiki/Internet_Mix, "Simple IMIX".
var imix = []int{64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64}

// Lengths of headers, bytes: RFC 894, 791, 8200, 768, 9293, IEEE 802.1Q.
const (
	etherLen = 14
	vlanLen  = 4
	ipv4Len  = 20
	ipv6Len  = 40
	udpLen   = 8
	tcpLen   = 20
)

// The kinds of flows.
const (
	UDP4 = "udp4"
	TCP4 = "tcp4"
	UDP6 = "udp6"
	TCP6 = "tcp6"
)

// A Traffic says what frames a source sends.
type Traffic struct {
	Frame string   `json:"frame"`           // length in bytes; imix; or gso, TCP frames of 64 KB that the wire sees as 44
	Flows int      `json:"flows,omitempty"` // 0: 256
	Kinds []string `json:"kinds,omitempty"` // flows are of these in turn; none: UDP over IPv4. A frame too short for its kind is UDP over IPv4
	VLAN  int      `json:"vlan,omitempty"`  // of a hundred flows so many have a VLAN tag
	Kept  uint32   `json:"kept,omitempty"`  // flows are such as a remote keeps that samples one of so many; 0: any
}

// Mixed is traffic of all kinds, some of it in VLANs.
func Mixed(frame string) Traffic {
	return Traffic{Frame: frame, Kinds: []string{UDP4, TCP4, TCP4, UDP6, TCP6}, VLAN: 12}
}

// MeanLength returns the mean length of a frame, bytes.
func MeanLength(frame string) (float64, error) {
	sizes, err := sizesOf(frame)
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, n := range sizes {
		sum += n
	}
	return float64(sum) / float64(len(sizes)), nil
}

// Pieces returns how many frames the wire sees of one.
func Pieces(frame string) uint64 {
	if frame == "gso" {
		return 44
	}
	return 1
}

// sizesOf returns the lengths that frames have in turn.
func sizesOf(frame string) ([]int, error) {
	switch frame {
	case "imix":
		return imix, nil
	case "gso":
		return []int{gsoFrame}, nil
	}
	n, err := strconv.Atoi(frame)
	if err != nil || n < minFrame || n > maxFrame {
		return nil, fmt.Errorf("frames of %q bytes: %d to %d, imix or gso", frame, minFrame, maxFrame)
	}
	return []int{n}, nil
}

// frames are all frames of a Traffic, made ahead.
type frames struct {
	all   [][]byte
	order []int // the frames in turn
	gso   bool
}

// frames makes them.
func (t Traffic) frames() (*frames, error) {
	sizes, err := sizesOf(t.Frame)
	if err != nil {
		return nil, err
	}
	flows := t.Flows
	if flows == 0 {
		flows = 256
	}
	if flows < 1 || flows > 1<<16 {
		return nil, fmt.Errorf("%d flows: 1 to %d", flows, 1<<16)
	}
	for _, k := range t.Kinds {
		if !slices.Contains([]string{UDP4, TCP4, UDP6, TCP6}, k) {
			return nil, fmt.Errorf("flows of kind %q: %s, %s, %s, %s", k, UDP4, TCP4, UDP6, TCP6)
		}
	}
	if t.VLAN < 0 || t.VLAN > 100 {
		return nil, fmt.Errorf("VLAN tags on %d of a hundred flows: 0 to 100", t.VLAN)
	}
	numbers, err := t.kept(flows, sizes[0])
	if err != nil {
		return nil, err
	}
	f := &frames{gso: t.Frame == "gso"}
	place := map[[2]int]int{} // of the frame of a flow and a size
	random := rand.New(rand.NewPCG(1, 2))
	for i := range len(sizes) * flows {
		flow := numbers[i%flows]
		if len(sizes) > 1 {
			flow = numbers[random.IntN(flows)]
		}
		at := [2]int{flow, sizes[i%len(sizes)]}
		if _, made := place[at]; !made {
			place[at] = len(f.all)
			f.all = append(f.all, t.frame(flow, at[1]))
		}
		f.order = append(f.order, place[at])
	}
	return f, nil
}

// kept returns the numbers of so many flows, the first ones that Kept keeps.
func (t Traffic) kept(flows, size int) (numbers []int, err error) {
	if t.Kept > 1 && (len(t.Kinds) > 0 || t.VLAN > 0 || t.Frame == "gso") {
		return nil, errors.New("flows that a sample keeps are of UDP over IPv4, without tags")
	}
	if most := uint32(1 << 16 / flows); t.Kept > most/4 && t.Kept > 1 {
		return nil, fmt.Errorf("%d flows of which a sample of one of %d keeps all: at most one of %d", flows, t.Kept, most/4)
	}
	for n := 0; len(numbers) < flows; n++ {
		if n == 1<<16 {
			return nil, fmt.Errorf("of %d flows a sample of one of %d keeps %d, and %d are to be had", n, t.Kept, len(numbers), flows)
		}
		if t.Kept < 2 || remote.Kept(t.frame(n, size), t.Kept) {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

// frame makes the frame of a flow that has size bytes.
func (t Traffic) frame(flow, size int) []byte {
	kind, tagged := UDP4, flow%100 < t.VLAN
	if len(t.Kinds) > 0 {
		kind = t.Kinds[flow%len(t.Kinds)]
	}
	if t.Frame == "gso" {
		kind, tagged = TCP4, false
	}
	least := map[string]int{UDP4: ipv4Len + udpLen, TCP4: ipv4Len + tcpLen, UDP6: ipv6Len + udpLen, TCP6: ipv6Len + tcpLen}
	if tagged && etherLen+vlanLen+least[kind] > size {
		tagged = false
	}
	if etherLen+least[kind] > size {
		kind = UDP4
	}
	b := make([]byte, size)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	ip := b[12:]
	if tagged {
		copy(ip, []byte{0x81, 0x00, 0, byte(1 + flow%200)})
		ip = ip[vlanLen:]
	}
	random := rand.New(rand.NewPCG(uint64(flow), uint64(size)))
	source, port := uint32(10<<24|1<<16)+uint32(flow), uint16(1024+flow%60000)
	if kind == UDP4 || kind == TCP4 {
		binary.BigEndian.PutUint16(ip, 0x0800)
		ipv4(ip[2:], kind == TCP4, source, port, random)
	} else {
		binary.BigEndian.PutUint16(ip, 0x86DD)
		ipv6(ip[2:], kind == TCP6, source, port, random)
	}
	if t.Frame == "gso" {
		// The card would complete it: what is there is the pseudo header's.
		tcp := b[etherLen+ipv4Len:]
		binary.BigEndian.PutUint16(tcp[16:], ^sum(pseudo4(b[etherLen:], len(tcp))))
	}
	return b
}

// ipv4 fills p, a packet, from source address and port on (RFC 791).
func ipv4(p []byte, tcp bool, source uint32, port uint16, random *rand.Rand) {
	copy(p, []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0})
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	if tcp {
		p[9] = 6
	}
	binary.BigEndian.PutUint32(p[12:], source)
	copy(p[16:], []byte{10, 2, 0, 2})
	binary.BigEndian.PutUint16(p[10:], sum(p[:ipv4Len]))
	transport(p[ipv4Len:], tcp, port, pseudo4(p, len(p)-ipv4Len), random)
}

// ipv6 fills p, a packet (RFC 8200).
func ipv6(p []byte, tcp bool, source uint32, port uint16, random *rand.Rand) {
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ipv6Len))
	p[6], p[7] = 17, 64
	if tcp {
		p[6] = 6
	}
	copy(p[8:], []byte{0xfd, 0x00})
	binary.BigEndian.PutUint32(p[20:], source)
	copy(p[24:], []byte{0xfd, 0x00})
	p[39] = 2
	pseudo := append([]byte(nil), p[8:40]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(p)-ipv6Len))
	pseudo = append(pseudo, 0, 0, 0, p[6])
	transport(p[ipv6Len:], tcp, port, pseudo, random)
}

// transport fills p with a segment or a datagram of random bytes.
func transport(p []byte, tcp bool, port uint16, pseudo []byte, random *rand.Rand) {
	for i := range p {
		p[i] = byte(random.Uint32())
	}
	binary.BigEndian.PutUint16(p, port)
	binary.BigEndian.PutUint16(p[2:], 5001)
	at := 6
	if tcp {
		at = 16
		p[12], p[13] = 0x50, 0x10 // no options; ACK
		p[18], p[19] = 0, 0
	} else {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)))
	}
	p[at], p[at+1] = 0, 0
	c := sum(pseudo, p)
	if c == 0 && !tcp {
		c = 0xFFFF
	}
	binary.BigEndian.PutUint16(p[at:], c)
}

// pseudo4 returns the pseudo header of an IPv4 packet with n bytes of payload.
func pseudo4(ip []byte, n int) []byte {
	b := append([]byte(nil), ip[12:20]...)
	return append(b, 0, ip[9], byte(n>>8), byte(n))
}

// sum returns the Internet checksum of b (RFC 1071), all but the last of an
// even length.
func sum(b ...[]byte) uint16 {
	var s uint32
	for _, p := range b {
		for ; len(p) >= 2; p = p[2:] {
			s += uint32(binary.BigEndian.Uint16(p))
		}
		if len(p) == 1 {
			s += uint32(p[0]) << 8
		}
		for s > 0xFFFF {
			s = s>>16 + s&0xFFFF
		}
	}
	return ^uint16(s)
}

// A probe is a frame that is told from all others and numbered, by which its
// way is timed: UDP over IPv4 to port 7, with a number behind its header.
const (
	probePort   = 7
	probeNumber = etherLen + ipv4Len + udpLen // where it stands
)

// probe makes a probe of size bytes.
func probe(size int) []byte {
	b := Traffic{Frame: "60"}.frame(0, max(size, minFrame))
	binary.BigEndian.PutUint16(b[etherLen+ipv4Len+2:], probePort)
	b[probeNumber-2], b[probeNumber-1] = 0, 0 // no checksum: the number changes
	return b
}

// probeOf returns the number of a probe.
func probeOf(b []byte) (n uint64, ok bool) {
	if len(b) < probeNumber+8 || binary.BigEndian.Uint16(b[12:]) != 0x0800 || b[23] != 17 || binary.BigEndian.Uint16(b[36:]) != probePort {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[probeNumber:]), true
}
