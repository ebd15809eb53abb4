// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// slotSize is the size of a slot of a ring with Immediate, bytes: what nearly
// all frames of a network need.
const slotSize = 2048

// struct tpacket2_hdr, and struct sockaddr_ll behind it: offsets in bytes.
const (
	slotStatus   = 0  // tp_status
	slotLen      = 4  // tp_len
	slotSnapLen  = 8  // tp_snaplen
	slotMAC      = 12 // tp_mac, from this header, 2 bytes
	slotSec      = 16 // tp_sec
	slotNsec     = 20 // tp_nsec
	slotVLANTCI  = 24 // tp_vlan_tci, 2 bytes
	slotVLANTPID = 26 // tp_vlan_tpid, 2 bytes
	slotIndex    = 36 // sll_ifindex
	slotHardware = 40 // sll_hatype, 2 bytes
	slotPktType  = 42 // sll_pkttype, 1 byte

	statusCopy = 1 << 1 // TP_STATUS_COPY: the whole frame is in the socket's queue
)

// slotReady reports whether the kernel has handed a slot over.
func slotReady(slot []byte) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&slot[slotStatus]))) & (statusUser | statusCopy)
}

// rewrite writes a header of TPACKET_V2 as one of TPACKET_V3, for the next
// frame step bytes on. Its first word stays other than 0: by that the kernel
// knows that it may not use the slot.
func rewrite(h []byte, step uint32) {
	h = h[:frameHead]
	order := binary.NativeEndian
	status, length, captured := order.Uint32(h[slotStatus:]), order.Uint32(h[slotLen:]), order.Uint32(h[slotSnapLen:])
	mac, sec, nsec := order.Uint16(h[slotMAC:]), order.Uint32(h[slotSec:]), order.Uint32(h[slotNsec:])
	tci, tpid, kind := order.Uint16(h[slotVLANTCI:]), order.Uint16(h[slotVLANTPID:]), h[slotPktType]
	index, hardware := order.Uint32(h[slotIndex:]), order.Uint16(h[slotHardware:])
	order.PutUint32(h[headSec:], sec)
	order.PutUint32(h[headNsec:], nsec)
	order.PutUint32(h[headSnapLen:], captured)
	order.PutUint32(h[headLen:], length)
	order.PutUint32(h[headStatus:], status)
	order.PutUint16(h[headMAC:], mac)
	order.PutUint32(h[headVLANTCI:], uint32(tci))
	order.PutUint16(h[headVLANTPID:], tpid)
	h[headPktType] = kind
	order.PutUint32(h[headIndex:], index)
	order.PutUint16(h[headHardware:], hardware)
	order.PutUint32(h[headNext:], step)
}

// release hands slots back.
func release(slots []byte) {
	for at := 0; at < len(slots); at += slotSize {
		atomic.StoreUint32((*uint32)(unsafe.Pointer(&slots[at+slotStatus])), statusKernel)
	}
}
