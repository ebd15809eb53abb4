// SPDX-License-Identifier: Apache-2.0

package proto

// A Direction says which way a frame passed the interface it was captured on.
// The values are those of pcapng's epb_flags, bits 0 and 1.
type Direction uint8

const (
	DirectionUnknown Direction = 0
	Inbound          Direction = 1 // received by the host
	Outbound         Direction = 2 // sent by the host
)

// LinkType is a link-layer header type as in pcap and pcapng files; the
// numbers are at https://www.tcpdump.org/linktypes.html .
type LinkType uint16

// Link types with a meaning to ntap itself. All others pass through unchanged.
const (
	LinkTypeEthernet LinkType = 1
	LinkTypeRaw      LinkType = 101 // raw IPv4 or IPv6
	LinkTypeSLL      LinkType = 113 // Linux cooked
	LinkTypeIPv4     LinkType = 228
	LinkTypeIPv6     LinkType = 229
	LinkTypeSLL2     LinkType = 276 // Linux cooked, version 2
)

// MaxFrame is the length of the longest frame that a record can carry, bytes:
// more than a GSO frame with all its headers.
const MaxFrame = 256 << 10

// A Record is one captured frame with what is known of it. Data aliases the
// memory it was captured or received in; who lends it says until when.
type Record struct {
	Data      []byte    // the frame as captured: from the link-layer header, without FCS
	Time      int64     // ns since 1970 UTC
	OrigLen   uint32    // length on the wire, bytes; differs from len(Data) if sliced
	Interface uint32    // index in the announce's list of interfaces
	LinkType  LinkType  // of Data
	Direction Direction // if the capture knew it

	// From the kernel's virtio_net_hdr, where the frame was not yet as the
	// wire saw it. Zero otherwise.
	NeedsCsum  bool   // the checksum at CsumStart+CsumOffset is not complete
	CsumStart  uint16 // bytes from the start of Data
	CsumOffset uint16 // bytes from CsumStart
	GSOType    uint8  // VIRTIO_NET_HDR_GSO_*, linux/virtio_net.h; 0: none
	GSOSize    uint16 // payload bytes of each frame that the wire saw
}

// Unfinished says that the wire saw something else than Data: another
// checksum, or several frames.
func (r *Record) Unfinished() bool { return r.NeedsCsum || r.GSOType != 0 }
