// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"errors"
)

// Sizes in a pcap file, bytes (draft-ietf-opsawg-pcap, sections 4 and 5).
const (
	PcapHeaderLen  = 24
	PcapPacketLen  = 16 // before each packet
	PcapPatchedLen = 24 // the same in files of Kuznetzov's patched libpcap
)

// Magic numbers of pcap files, as a reader of the file's byte order sees them.
const (
	pcapMicro   = 0xA1B2C3D4
	pcapNano    = 0xA1B23C4D
	pcapPatched = 0xA1B2CD34 // Kuznetzov's: microseconds, longer packet headers (libpcap, sf-pcap.c)
)

// Errors of ParsePcapHeader.
var (
	ErrNotPcap     = errors.New("proto: not a pcap header")
	ErrPcapVersion = errors.New("proto: unknown version of pcap")
)

// A PcapHeader is the header of a pcap file.
type PcapHeader struct {
	Order        ByteOrder
	Nano         bool // the fraction of timestamps is in ns, else in µs
	Patched      bool // packets have the header of the patched libpcap
	Major, Minor uint16
	SnapLen      uint32 // bytes, as the file says: packets may be longer
	LinkType     LinkType
	FCSLen       uint8 // bytes of frame check sequence at the end of packets, if the file says
}

// ParsePcapHeader reads the first PcapHeaderLen bytes of a pcap file. The
// upper half of the link type field holds the FCS length if bit 26 is set;
// other bits there are noise in real files, as libpcap and Wireshark treat
// them.
func ParsePcapHeader(b []byte) (h PcapHeader, err error) {
	if len(b) < PcapHeaderLen {
		return h, ErrNotPcap
	}
	if b[0] == 0xA1 {
		h.Order = BigEndian
	}
	switch h.Order.Uint32(b) {
	case pcapMicro:
	case pcapNano:
		h.Nano = true
	case pcapPatched:
		h.Patched = true
	default:
		return h, ErrNotPcap
	}
	h.Major, h.Minor = h.Order.Uint16(b[4:]), h.Order.Uint16(b[6:])
	if (h.Major != 2 || h.Minor > 4) && (h.Major != 543 || h.Minor != 0) {
		return h, ErrPcapVersion
	}
	h.SnapLen = h.Order.Uint32(b[16:])
	link := h.Order.Uint32(b[20:])
	h.LinkType = LinkType(link)
	if link&(1<<26) != 0 {
		h.FCSLen = uint8(link>>28) * 2 // the file counts in 16-bit words
	}
	return h, nil
}

// A PcapPacket is the header of a packet in a pcap file.
type PcapPacket struct {
	Time      int64  // ns since 1970 UTC
	CapLen    uint32 // bytes that follow
	OrigLen   uint32 // bytes; smaller than CapLen in some files
	Direction Direction
}

// PacketLen returns the length of the header before each packet, bytes.
func (h *PcapHeader) PacketLen() int {
	if h.Patched {
		return PcapPatchedLen
	}
	return PcapPacketLen
}

// ParsePacket reads the first PacketLen bytes of b, a packet's header. A
// fraction of more than a second counts on into the seconds.
func (h *PcapHeader) ParsePacket(b []byte) (p PcapPacket) {
	unit := int64(1000)
	if h.Nano {
		unit = 1
	}
	p.Time = int64(h.Order.Uint32(b))*1e9 + int64(h.Order.Uint32(b[4:]))*unit
	p.CapLen, p.OrigLen = h.Order.Uint32(b[8:]), h.Order.Uint32(b[12:])
	// Old writers had the lengths the other way round; at 2.3 they changed
	// (libpcap, sf-pcap.c: lengths_swapped).
	if h.Minor < 3 || h.Minor == 3 && p.CapLen > p.OrigLen {
		p.CapLen, p.OrigLen = p.OrigLen, p.CapLen
	}
	if h.Patched { // struct pcap_sf_patched_pkthdr; pkt_type is PACKET_* of linux/if_packet.h
		switch kind := b[22]; {
		case kind < 4:
			p.Direction = Inbound
		case kind == 4:
			p.Direction = Outbound
		}
	}
	return p
}

// AppendPcapHeader appends the header of a pcap file with timestamps in ns,
// little-endian, for frames of one link type.
func AppendPcapHeader(dst []byte, link LinkType, snapLen uint32) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, pcapNano)
	dst = binary.LittleEndian.AppendUint16(dst, 2)
	dst = binary.LittleEndian.AppendUint16(dst, 4)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, snapLen)
	return binary.LittleEndian.AppendUint32(dst, uint32(link))
}

// Append appends the header of a packet to dst as it stands in a file with
// timestamps in ns, little-endian. The seconds go round in 2106.
func (p *PcapPacket) Append(dst []byte) []byte {
	sec, ns := p.Time/1e9, p.Time%1e9
	if ns < 0 {
		sec, ns = sec-1, ns+1e9
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(sec))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(ns))
	dst = binary.LittleEndian.AppendUint32(dst, p.CapLen)
	return binary.LittleEndian.AppendUint32(dst, p.OrigLen)
}
