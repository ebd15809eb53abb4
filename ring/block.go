// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// A Frame is one captured frame, on loan with its block.
type Frame struct {
	Data     []byte // from the link-layer header, at most SnapLen bytes; the VLAN tag is in its place
	Time     int64  // ns since 1970 UTC
	WireLen  uint32 // bytes on the wire without FCS, with the VLAN tag
	Outgoing bool   // sent by this host

	// Where it was captured, of rings on all interfaces; else 0.
	Index    int32  // of the interface
	LinkType uint16 // of Data, LINKTYPE_

	// What the kernel left for the network card to do, or what the card did
	// for the kernel: virtio_net_hdr of linux/virtio_net.h. The other three are
	// undefined where these two are zero.
	NeedsCsum  bool   // the checksum at CsumStart+CsumOffset is not complete
	GSOType    uint8  // VIRTIO_NET_HDR_GSO_*: the wire saw several frames; 0: none
	GSOSize    uint16 // payload of each of those, bytes
	CsumStart  uint16 // bytes from the start of Data
	CsumOffset uint16 // bytes from CsumStart
}

// A Block is one TPACKET_V3 block, on loan from the kernel.
//
// Frames alias the block: they are good until Release, which hands the memory
// back. A Block belongs to the goroutine that took it from the Ring.
type Block struct {
	mem  []byte // the whole block, inside the mapping; nil: it was released
	next uint32 // where in mem the next frame header starts, bytes
	left uint32 // frames not yet returned
	snap uint32 // the longest Data, bytes
	f    Frame  // what Next returns
	tags bool   // frames have room for a VLAN tag behind their addresses: Ethernet
	vnet bool   // a virtio_net_hdr lies before each frame
	look bool   // each frame is looked at for one of these:
	all  bool   // frames are of several interfaces
	card bool   // frames should have the network card's time

	unstamped uint64 // frames received that do not have it

	slots []byte // of a ring with Immediate: what is handed back in place of mem
}

// struct tpacket_block_desc of linux/if_packet.h: offsets in bytes.
const (
	descStatus  = 8  // hdr.bh1.block_status
	descPackets = 12 // hdr.bh1.num_pkts
	descFirst   = 16 // hdr.bh1.offset_to_first_pkt
	descLen     = 48
)

// struct tpacket3_hdr, and struct sockaddr_ll behind it: offsets in bytes.
const (
	headNext     = 0  // tp_next_offset, from this header
	headSec      = 4  // tp_sec
	headNsec     = 8  // tp_nsec
	headSnapLen  = 12 // tp_snaplen
	headLen      = 16 // tp_len
	headStatus   = 20 // tp_status
	headMAC      = 24 // tp_mac, from this header, 2 bytes
	headVLANTCI  = 32 // hv1.tp_vlan_tci
	headVLANTPID = 36 // hv1.tp_vlan_tpid, 2 bytes
	headAddr     = 48 // TPACKET_ALIGN(sizeof(struct tpacket3_hdr))
	headIndex    = 52 // sll_ifindex
	headHardware = 56 // sll_hatype, 2 bytes
	headPktType  = 58 // sll_pkttype, 1 byte
	frameHead    = 68 // TPACKET3_HDRLEN
)

// struct virtio_net_hdr of linux/virtio_net.h, which ends where the frame
// begins: offsets in bytes from there, downward.
const (
	vnetLen        = 10
	vnetFlags      = 10 // 1 byte
	vnetType       = 9  // 1 byte
	vnetGSOSize    = 6
	vnetCsumStart  = 4
	vnetCsumOffset = 2
	vnetNeedsCsum  = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
)

// TP_STATUS_ of a block and of a frame, and PACKET_OUTGOING.
const (
	statusKernel    = 0
	statusUser      = 1 << 0
	statusVLANValid = 1 << 4
	statusTimeout   = 1 << 5 // of a block: its timer closed it, TP_STATUS_BLK_TMO
	statusTPIDValid = 1 << 6
	statusCard      = 1 << 31 // TP_STATUS_TS_RAW_HARDWARE: the time is the network card's
	packetOutgoing  = 4
)

// ARPHRD_ of linux/if_arp.h: hardware types of interfaces.
const (
	hardwareEther    = 1
	hardwareLoopback = 772
	hardwareWiFi     = 801 // ARPHRD_IEEE80211
	hardwareRadiotap = 803 // ARPHRD_IEEE80211_RADIOTAP
)

// IEEE 802.1Q, and what it puts where.
const (
	vlanLen   = 4  // TPID and TCI
	vlanAt    = 12 // behind destination and source address
	tpid8021Q = 0x8100
)

// blockStatus returns the word by which kernel and user hand the block over.
func blockStatus(mem []byte) *uint32 { return (*uint32)(unsafe.Pointer(&mem[descStatus])) }

// dense reports whether the block's timer closed it with many frames in it.
func (b *Block) dense() bool {
	return b.left >= denseFrames && binary.NativeEndian.Uint32(b.mem[descStatus:])&statusTimeout != 0
}

// blockReady reports whether the kernel has handed the block over: the atomic
// load pairs with the barrier of prb_flush_block, net/packet/af_packet.c.
func blockReady(mem []byte) bool {
	return atomic.LoadUint32(blockStatus(mem))&statusUser != 0
}

// take begins with a block that the kernel handed over.
func (b *Block) take(mem []byte) {
	b.mem = mem
	b.next = binary.NativeEndian.Uint32(mem[descFirst:])
	b.left = binary.NativeEndian.Uint32(mem[descPackets:])
}

// Len returns the number of frames not yet returned.
func (b *Block) Len() int { return int(b.left) }

// Next returns the next frame, in capture order; ok is false after the last.
// The Frame is the block's own and good until the next call: a Frame is more
// than Go keeps in registers, and returned by value it would be copied twice.
//
// The kernel is trusted to say the truth, but not with the memory behind the
// block: offsets that lead out of it end the block, and Len keeps the number of
// frames that are lost by it.
func (b *Block) Next() (f *Frame, ok bool) {
	at, size := uint64(b.next), uint64(len(b.mem))
	if b.left == 0 || at+frameHead > size {
		return nil, false
	}
	h := (*[frameHead]byte)(b.mem[at:])
	start := at + uint64(binary.NativeEndian.Uint16(h[headMAC:]))
	captured := uint64(binary.NativeEndian.Uint32(h[headSnapLen:]))
	if start+captured > size {
		return nil, false
	}
	f = &b.f
	f.WireLen = binary.NativeEndian.Uint32(h[headLen:])
	f.Time = int64(binary.NativeEndian.Uint32(h[headSec:]))*1e9 + int64(binary.NativeEndian.Uint32(h[headNsec:]))
	f.Outgoing = h[headPktType] == packetOutgoing
	f.NeedsCsum, f.GSOType = false, 0
	if b.look {
		b.lookAt(f, h)
	}
	if b.vnet && start >= frameHead+vnetLen {
		f.offload(b.mem[start-vnetLen : start])
	}
	if binary.NativeEndian.Uint32(h[headStatus:])&statusVLANValid != 0 && b.tags {
		f.WireLen += vlanLen
		if captured >= vlanAt && start >= vlanLen {
			start -= vlanLen
			captured += vlanLen
			f.CsumStart += vlanLen
			putTag(b.mem[start:], h) // over the virtio_net_hdr
		}
	}
	end := start + min(captured, uint64(b.snap))
	f.Data = b.mem[start:end:end]

	b.left--
	if step := binary.NativeEndian.Uint32(h[headNext:]); step >= frameHead {
		b.next += min(step, ^b.next)
	} else {
		b.next = nowhere // right behind the last frame
	}
	return f, true
}

// offload reads the virtio_net_hdr before the frame. Nearly all frames that
// came over a wire have nothing in it.
func (f *Frame) offload(v []byte) {
	v = v[:vnetLen]
	f.NeedsCsum, f.GSOType = v[vnetLen-vnetFlags]&vnetNeedsCsum != 0, v[vnetLen-vnetType]
	f.GSOSize = binary.NativeEndian.Uint16(v[vnetLen-vnetGSOSize:])
	f.CsumStart = binary.NativeEndian.Uint16(v[vnetLen-vnetCsumStart:])
	f.CsumOffset = binary.NativeEndian.Uint16(v[vnetLen-vnetCsumOffset:])
}

// lookAt is Next's part of rings that need more of a frame's header than others.
func (b *Block) lookAt(f *Frame, h *[frameHead]byte) {
	if b.all {
		b.place(f, h)
	}
	// What the card did not stamp has the kernel's time; so has what this host
	// sent, always (tpacket_get_timestamp, net/packet/af_packet.c).
	if b.card && !f.Outgoing && binary.NativeEndian.Uint32(h[headStatus:])&statusCard == 0 {
		b.unstamped++
	}
}

// place says where a frame was captured. What the filter lets through is of a
// hardware type that linkTypes has.
func (b *Block) place(f *Frame, h *[frameHead]byte) {
	f.Index = int32(binary.NativeEndian.Uint32(h[headIndex:]))
	switch binary.NativeEndian.Uint16(h[headHardware:]) {
	case hardwareEther, hardwareLoopback:
		f.LinkType = linkEthernet
	case hardwareWiFi:
		f.LinkType = linkWiFi
	case hardwareRadiotap:
		f.LinkType = linkRadiotap
	default:
		f.LinkType = linkRaw
	}
	b.tags = f.LinkType == linkEthernet
}

// nowhere is where no frame can be: blocks are smaller.
const nowhere = 1<<32 - 1

// putTag puts the VLAN tag back that the kernel took out: the addresses move
// down by its length, into room that the ring reserved, and the tag goes
// between them and the EtherType. A priority tag (VID 0) is a tag too; without
// TPID_VALID the kernel is older than 3.14 and meant 802.1Q. Of several tags
// the kernel takes the outer one.
func putTag(data []byte, h *[frameHead]byte) {
	copy(data[:vlanAt], data[vlanLen:vlanLen+vlanAt])
	tpid := uint16(tpid8021Q)
	if binary.NativeEndian.Uint32(h[headStatus:])&statusTPIDValid != 0 {
		tpid = binary.NativeEndian.Uint16(h[headVLANTPID:])
	}
	binary.BigEndian.PutUint16(data[vlanAt:], tpid)
	binary.BigEndian.PutUint16(data[vlanAt+2:], uint16(binary.NativeEndian.Uint32(h[headVLANTCI:])))
}

// Release hands the block back to the kernel. Its frames are gone.
func (b *Block) Release() {
	if b.mem == nil {
		return
	}
	if b.slots != nil {
		slots := b.slots
		b.mem, b.left, b.slots = nil, 0, nil
		release(slots)
		return
	}
	status := blockStatus(b.mem)
	b.mem, b.left = nil, 0
	atomic.StoreUint32(status, statusKernel)
}
