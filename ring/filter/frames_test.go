// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Parts that frames and expressions are made of, so that they meet.
var (
	macs   = []string{"02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:05", "33:33:00:00:00:01"}
	hosts4 = []string{"10.0.0.1", "10.0.0.2", "192.168.1.7", "224.0.0.5", "255.255.255.255", "10.0.0.255", "0.0.0.0", "127.0.0.1"}
	hosts6 = []string{"2001:db8::1", "2001:db8::2", "::1", "ff02::1", "fe80::1"}
	ports  = []uint16{22, 53, 80, 443, 6081, 4789, 8080, 0}
)

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func mustMAC(s string) []byte {
	m, ok := parseMAC(s)
	if !ok {
		panic(s)
	}
	return m[:]
}

func ether(typ uint16, payload []byte) []byte {
	return join(mustMAC(macs[1]), mustMAC(macs[0]), be16(typ), payload)
}

// A maker makes frames, from a fixed seed.
type maker struct{ *rand.Rand }

func pick[T any](m maker, from []T) T { return from[m.IntN(len(from))] }

func (m maker) ether(typ uint16, payload []byte) []byte {
	return join(mustMAC(pick(m, macs)), mustMAC(pick(m, macs)), be16(typ), payload)
}

// ip4 is an IPv4 packet; words are those of options, fragment the field with
// flags and offset.
func (m maker) ip4(proto byte, words int, fragment uint16, payload []byte) []byte {
	src, dst := netip.MustParseAddr(pick(m, hosts4)), netip.MustParseAddr(pick(m, hosts4))
	options := bytes.Repeat([]byte{1}, 4*words)
	return join([]byte{0x45 + byte(words), 0}, be16(uint16(20+len(options)+len(payload))), be16(7), be16(fragment),
		[]byte{64, proto, 0, 0}, src.AsSlice(), dst.AsSlice(), options, payload)
}

func (m maker) ip6(next byte, payload []byte) []byte {
	src, dst := netip.MustParseAddr(pick(m, hosts6)), netip.MustParseAddr(pick(m, hosts6))
	return join([]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{next, 64}, src.AsSlice(), dst.AsSlice(), payload)
}

func (m maker) tcp() []byte {
	return join(be16(pick(m, ports)), be16(pick(m, ports)), be32(1), be32(2), []byte{0x50, byte(m.IntN(256)), 1, 0, 0, 0, 0, 0}, []byte("GET /"))
}

func (m maker) udp(port uint16, payload []byte) []byte {
	return join(be16(pick(m, ports)), be16(port), be16(uint16(8+len(payload))), be16(0), payload)
}

// transport is a header behind that of IP, with its number.
func (m maker) transport() (proto byte, b []byte) {
	switch m.IntN(9) {
	case 0, 1:
		return 6, m.tcp()
	case 2, 3:
		return 17, m.udp(pick(m, ports), []byte("payload"))
	case 4:
		return 132, join(be16(pick(m, ports)), be16(pick(m, ports)), be32(9), be32(0), []byte{1, 0, 0, 4})
	case 5:
		return 1, []byte{byte(pick(m, []int{0, 3, 8, 11})), byte(m.IntN(3)), 0, 0, 0, 1, 0, 2, 3, 4}
	case 6:
		return 58, []byte{byte(pick(m, []int{1, 128, 129, 133, 135})), byte(m.IntN(3)), 0, 0, 0, 1, 0, 2, 3, 4}
	case 7:
		return byte(pick(m, []int{2, 9, 50, 51, 103, 112, 47})), []byte{0x21, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	}
	return byte(m.IntN(256)), []byte{0, 22, 0, 80, 5, 6, 7, 8}
}

// ip is an IP packet, and the Ethernet type of it.
func (m maker) ip() (typ uint16, b []byte) {
	proto, t := m.transport()
	switch m.IntN(8) {
	case 0, 1, 2:
		return 0x0800, m.ip4(proto, 0, pick(m, []uint16{0, 0x4000}), t)
	case 3:
		return 0x0800, m.ip4(proto, 1+m.IntN(10), 0, t)
	case 4:
		return 0x0800, m.ip4(proto, m.IntN(2), pick(m, []uint16{0x2000, 0x2001, 0x0100, 0x1FFF}), t)
	case 5, 6:
		return 0x86DD, m.ip6(proto, t)
	}
	switch m.IntN(3) {
	case 0: // hop by hop
		return 0x86DD, m.ip6(0, join([]byte{proto, 0, 1, 4, 0, 0, 0, 0}, t))
	case 1: // fragment
		return 0x86DD, m.ip6(44, join([]byte{proto, 0}, be16(pick(m, []uint16{0, 1, 8, 9})), be32(5), t))
	}
	return 0x86DD, m.ip6(43, join([]byte{proto, 0, 0, 0, 0, 0, 0, 0}, t))
}

// labelled is MPLS labels and an IP packet.
func (m maker) labelled() []byte {
	var b []byte
	for range m.IntN(3) {
		b = append(b, be32(uint32(pick(m, []int{0, 5, 16, 100000}))<<12|63)...)
	}
	b = append(b, be32(uint32(pick(m, []int{0, 5, 16, 1024}))<<12|0x1FF)...)
	_, p := m.ip()
	return append(b, p...)
}

// any is the payload of an Ethernet frame, with its type.
func (m maker) any(depth int) (typ uint16, b []byte) {
	if depth > 3 {
		return m.ip()
	}
	switch m.IntN(16) {
	case 0, 1:
		typ, b = m.any(depth + 1)
		tci := uint16(pick(m, []int{0, 1, 5, 6, 100, 4095})) | uint16(m.IntN(8))<<13
		return pick(m, []uint16{0x8100, 0x8100, 0x88A8, 0x9100}), join(be16(tci), be16(typ), b)
	case 2:
		return 0x8847, m.labelled()
	case 3:
		_, b = m.ip()
		proto := pick(m, []uint16{0x21, 0x57, 0xC021, 0x27})
		return pick(m, []uint16{0x8864, 0x8864, 0x8863}), join([]byte{0x11, 0}, be16(uint16(pick(m, []int{0, 5, 0x27}))), be16(uint16(len(b)+2)), be16(proto), b)
	case 4:
		return m.tunnel(depth)
	case 5, 6:
		sender, target := netip.MustParseAddr(pick(m, hosts4)), netip.MustParseAddr(pick(m, hosts4))
		return pick(m, []uint16{0x0806, 0x0806, 0x8035}), join(be16(1), be16(0x0800), []byte{6, 4, 0, byte(1 + m.IntN(4))},
			mustMAC(pick(m, macs)), sender.AsSlice(), mustMAC(pick(m, macs)), target.AsSlice())
	case 7, 8:
		return m.llc()
	case 9:
		flags := pick(m, [][]byte{{2}, {0x81, 2}, {6}, {0x81, 6}, {0x0A}})
		return 0x6003, join([]byte{20, 0}, flags, be16(0x0204), be16(0x0304), make([]byte, 4), be16(0x0204), be16(0x0104), be16(0x0204), be16(0x0204), be16(4))
	case 10:
		return pick(m, []uint16{0x809B, 0x80F3, 0x8137, 0x6001, 0x6002, 0x6004, 0x6007, 0x9000, 0x88CC, 0x0600}), []byte("some payload of its own")
	}
	return m.ip()
}

// llc is the payload of an 802.3 frame, whose type is a length.
func (m maker) llc() (length uint16, b []byte) {
	switch m.IntN(6) {
	case 0: // SNAP
		oui := pick(m, [][]byte{{0, 0, 0}, {8, 0, 7}, {0, 0, 0x0C}})
		b = join([]byte{0xAA, 0xAA, 3}, oui, be16(pick(m, []uint16{0x809B, 0x80F3, 0x8137, 0x0800, 0x2000})), []byte("payload"))
	case 1: // Novell's
		b = join([]byte{0xFF, 0xFF}, []byte("payload of novell"))
	case 2: // OSI
		b = join([]byte{0xFE, 0xFE, 3, byte(pick(m, []int{0x81, 0x82, 0x83, 0x84}))}, []byte{27, 1, 0, byte(15 + m.IntN(14))}, []byte("payload"))
	default:
		sap := pick(m, []byte{0x42, 0xE0, 0xF0, 0xFE, 0xAA, 5, 0})
		b = join([]byte{sap, pick(m, []byte{sap, 0}), byte(m.IntN(256))}, []byte("payload of llc"))
	}
	return uint16(len(b)), b
}

// tunnel is VXLAN or Geneve, over IPv4 or IPv6.
func (m maker) tunnel(depth int) (typ uint16, b []byte) {
	inner, payload := m.any(depth + 1)
	vni := be32(uint32(pick(m, []int{0, 5, 11})) << 8)
	port := uint16(4789)
	if m.IntN(3) == 0 {
		b = join([]byte{byte(pick(m, []int{8, 8, 8, 0})), 0, 0, 0}, vni, m.ether(inner, payload))
	} else {
		port = 6081
		words := m.IntN(4)
		proto, carried := uint16(0x6558), m.ether(inner, payload)
		if m.IntN(2) == 0 {
			proto, carried = inner, payload
		}
		b = join([]byte{byte(words) | byte(pick(m, []int{0, 0, 0, 0x40})), 0}, be16(proto), vni, make([]byte, 4*words), carried)
	}
	if m.IntN(2) == 0 {
		return 0x86DD, m.ip6(17, m.udp(port, b))
	}
	return 0x0800, m.ip4(17, m.IntN(3), 0, m.udp(port, b))
}

// cut returns a frame at every length.
func cut(name string, data []byte) []*frame {
	var out []*frame
	for n := range len(data) {
		out = append(out, &frame{data: data[:n:n], length: uint32(len(data)), name: fmt.Sprintf("%s, cut at %d", name, n)})
	}
	return out
}

// mutate changes some bytes of a copy, mostly to ones that mean something.
func (m maker) mutate(data []byte) []byte {
	data = bytes.Clone(data)
	for range 1 + m.IntN(3) {
		if len(data) > 0 {
			data[m.IntN(min(len(data), 90))] = pick(m, []byte{0, 1, 2, 4, 5, 6, 0x11, 0x2C, 0x3A, 0x40, 0x45, 0x4F, 0x60, 0x81, 0x84, 0x88, 0xDD, 0xFF, byte(m.IntN(256))})
		}
	}
	return data
}

// etherFrames are made-up Ethernet frames: of every kind, changed, and some cut
// at every length.
func etherFrames(seed uint64, whole, changed, everyLength int) []*frame {
	m := maker{rand.New(rand.NewPCG(seed, 6))}
	var out []*frame
	add := func(what string, i int, data []byte) {
		out = append(out, &frame{data: data, length: uint32(len(data)), name: fmt.Sprintf("%s frame %d", what, i)})
	}
	for i := range whole {
		add("made-up", i, m.ether(m.any(0)))
	}
	for i := range changed {
		add("changed", i, m.mutate(m.ether(m.any(0))))
	}
	for i := range everyLength {
		out = append(out, cut(fmt.Sprintf("frame %d", i), m.ether(m.any(0)))...)
	}
	return append(out, &frame{name: "nothing"})
}

// asLink makes frames of another link type of Ethernet ones.
func asLink(linkType uint16, from []*frame) []*frame {
	if linkType == Ethernet {
		return from
	}
	var out []*frame
	for i, f := range from {
		g := *f
		switch {
		case len(f.data) < 14 && linkType != Raw:
			g.data = f.data
		case linkType == LinuxSLL:
			typ := f.data[12:14]
			if v := binary.BigEndian.Uint16(typ); v <= 1500 {
				typ = be16([]uint16{4, 4, 1}[i%3])
			}
			g.data = join(be16(uint16(i%5)), be16(1), be16(6), f.data[6:12], be16(0), typ, f.data[14:])
		case linkType == LinuxSLL2:
			typ := f.data[12:14]
			if v := binary.BigEndian.Uint16(typ); v <= 1500 {
				typ = be16([]uint16{4, 4, 1}[i%3])
			}
			g.data = join(typ, be16(0), be32(uint32(i%4)), be16(1), []byte{byte(i % 5), 6}, f.data[6:12], be16(0), f.data[14:])
		default:
			g.data = f.data[min(14, len(f.data)):]
		}
		g.length = uint32(len(g.data)) + f.length - uint32(len(f.data))
		out = append(out, &g)
	}
	return out
}

// captured are the frames of a link type in the capture files.
func captured(t testing.TB, linkType uint16) []*frame {
	t.Helper()
	var out []*frame
	for _, path := range testnet.Captures(t) {
		packets, err := testnet.ReadGopacket(path)
		if err != nil {
			continue // what gopacket cannot read; other tests read it with tshark
		}
		for i, p := range packets {
			if p.LinkType == linkType {
				out = append(out, &frame{data: p.Data, length: p.OrigLen, name: fmt.Sprintf("%s packet %d", filepath.Base(path), i+1)})
			}
		}
	}
	return out
}

// stripped are frames as a packet socket gives them: the outer tag beside
// them.
func stripped(from []*frame) []*frame {
	var out []*frame
	for i, f := range from {
		g := *f
		g.ifindex, g.pktType = uint32(i%4), uint32(i%5)
		if d := f.data; len(d) >= 18 && i%8 != 7 {
			if typ := binary.BigEndian.Uint16(d[12:]); typ == 0x8100 || typ == 0x88A8 {
				g.tag, g.tci = true, uint32(binary.BigEndian.Uint16(d[14:]))
				g.data = join(d[:12], d[16:])
				g.length -= 4
			}
		}
		out = append(out, &g)
	}
	return out
}
