// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes the kernel fixed when it published TPACKET_V3 (Linux 3.2). If x/sys
// ever disagrees, the build stops here.
var (
	_ [40]byte = [unsafe.Sizeof(unix.TpacketHdrV1{})]byte{}         // struct tpacket_hdr_v1
	_ [48]byte = [unsafe.Sizeof(unix.Tpacket3Hdr{})]byte{}          // struct tpacket3_hdr
	_ [20]byte = [unsafe.Sizeof(unix.RawSockaddrLinklayer{})]byte{} // struct sockaddr_ll
)

// Of linux/if_packet.h.
const (
	blockHeader = 8 + 40 // struct tpacket_block_desc: version, offset to private data, tpacket_hdr_v1
	frameUnit   = 2048   // tp_frame_size: TPACKET_V3 packs frames tighter, and only checks it
	vlanLen     = 4      // TPID and TCI
	macLen      = 12     // destination and source address, in front of a tag
)

// A Block is one TPACKET_V3 block, on loan from the kernel.
//
// Frames alias the block: they are good until Release, which hands the memory
// back. A Block belongs to the goroutine that took it from the Ring.
type Block struct {
	mem  []byte // the whole block, inside the mapping
	next uint32 // where in mem the next frame header starts, bytes
	left uint32 // frames not yet returned
	f    Frame  // what Next returns
}

// blockStatus returns the word by which kernel and user hand the block over:
// it is written in prb_close_block, net/packet/af_packet.c, behind a barrier.
func blockStatus(mem []byte) *uint32 { return (*uint32)(unsafe.Pointer(&mem[8])) }

// take begins with a block that the kernel handed over.
func (b *Block) take(mem []byte) {
	h := (*unix.TpacketHdrV1)(unsafe.Pointer(&mem[8]))
	b.mem, b.next, b.left = mem, h.Offset_to_first_pkt, h.Num_pkts
}

// Len returns the number of frames not yet returned.
func (b *Block) Len() int { return int(b.left) }

// Next returns the next frame, in capture order; ok is false after the last.
// The Frame is the block's own and good until the next call: returned by value
// it would be spilled and copied twice, which cost 15 ns a frame.
func (b *Block) Next() (f *Frame, ok bool) {
	if b.left == 0 {
		return nil, false
	}
	f = &b.f
	raw := b.mem[b.next : b.next+unix.SizeofTpacket3Hdr+unix.SizeofSockaddrLinklayer]
	h := (*unix.Tpacket3Hdr)(unsafe.Pointer(unsafe.SliceData(raw)))
	start := b.next + uint32(h.Mac)
	if h.Status&unix.TP_STATUS_VLAN_VALID != 0 {
		b.tagged(h, start)
	} else {
		f.Data = b.mem[start : start+h.Snaplen : start+h.Snaplen]
		f.WireLen = h.Len
	}
	f.Time = int64(h.Sec)*1e9 + int64(h.Nsec)
	// struct sockaddr_ll follows the header, aligned to 16 bytes, which it is.
	f.Outgoing = raw[unix.SizeofTpacket3Hdr+10] == unix.PACKET_OUTGOING // sll_pkttype
	b.next += h.Next_offset
	b.left--
	return f, true
}

// tagged puts the VLAN tag back that the kernel took out: the addresses move
// down by its length, into room that the ring reserved, and the tag goes
// between them and the EtherType. A priority tag (VID 0) is a tag too; without
// TPID_VALID the kernel is older than 3.14 and meant 802.1Q.
func (b *Block) tagged(h *unix.Tpacket3Hdr, start uint32) {
	f := &b.f
	f.WireLen = h.Len + vlanLen
	if h.Snaplen < macLen || start < vlanLen {
		f.Data = b.mem[start : start+h.Snaplen : start+h.Snaplen]
		return
	}
	data := b.mem[start-vlanLen : start+h.Snaplen : start+h.Snaplen]
	copy(data[:macLen], data[vlanLen:vlanLen+macLen])
	tpid := uint16(unix.ETH_P_8021Q)
	if h.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = h.Hv1.Vlan_tpid
	}
	data[macLen], data[macLen+1] = byte(tpid>>8), byte(tpid)
	data[macLen+2], data[macLen+3] = byte(h.Hv1.Vlan_tci>>8), byte(h.Hv1.Vlan_tci)
	f.Data = data
}

// Release hands the block back to the kernel. Its frames are gone.
func (b *Block) Release() {
	b.left = 0
	atomic.StoreUint32(blockStatus(b.mem), unix.TP_STATUS_KERNEL)
}
