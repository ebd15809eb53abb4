// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring with Config.Immediate is of TPACKET_V2: a slot for each frame, which
// the kernel hands over at once. TPACKET_V3 hands a block over when it is full,
// or when its timer comes, every 1 ms at the most often: a frame alone waits for
// half of that, and before Linux 6.18 for some ticks (docs/TUNING.md, "Latency").
//
// Slots are small. A frame that does not fit is also put into the socket's
// queue, whole (PACKET_COPY_THRESH), and read from there. So that there is one
// reader of headers, a slot's header is rewritten as TPACKET_V3 has it: the
// kernel writes all of it again when it uses the slot next.

// Chosen.
const (
	slotsMost = 128      // in what Take returns
	copyRoom  = 1 << 18  // bytes for a frame that fits no slot: as much as the wire's records carry
	copyMAC   = 128      // where in that room the frame lies
	copyQueue = 64 << 20 // bytes of such frames that may wait
	spinLooks = 256      // looks at a slot between looks at the clock,
	spinFor   = time.Millisecond
)

// mapSlots has the kernel make a ring of slots as large as the configured
// blocks.
func (r *Ring) mapSlots() error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_COPY_THRESH, 1); err != nil {
		return r.fail("setsockopt PACKET_COPY_THRESH", err)
	}
	if unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, copyQueue) != nil {
		_ = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, copyQueue)
	}
	size := r.cfg.BlockSize / slotSize * slotSize * r.cfg.Blocks // whole slots in each block
	req := unix.TpacketReq{
		Block_size: uint32(r.cfg.BlockSize / slotSize * slotSize),
		Block_nr:   uint32(r.cfg.Blocks),
		Frame_size: slotSize,
		Frame_nr:   uint32(size / slotSize),
	}
	if err := unix.SetsockoptTpacketReq(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return r.refused("setsockopt PACKET_RX_RING", err)
	}
	mem, err := unix.Mmap(r.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return r.refused("mmap", err)
	}
	r.mem, r.slots = mem, size/slotSize
	r.copied, err = unix.Mmap(-1, 0, copyRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return r.fail("mmap", err)
	}
	return nil
}

// slot returns the memory of slot i.
func (r *Ring) slot(i int) []byte {
	at := i * slotSize
	return r.mem[at : at+slotSize : at+slotSize]
}

// readySlots returns the frames that the kernel has handed over, up to the end
// of the ring, as a block; or the next alone, if it fits no slot.
func (r *Ring) readySlots() *Block {
	n := 0
	for n < slotsMost && r.next+n < r.slots {
		s := r.slot(r.next + n)
		status := slotReady(s)
		if status&statusUser == 0 || status&statusCopy != 0 && n > 0 {
			break
		}
		if n++; status&statusCopy != 0 {
			return r.give(1, r.copyOut(s))
		}
		rewrite(s, slotSize)
	}
	if n == 0 {
		return nil
	}
	at := r.next * slotSize
	return r.give(n, r.mem[at:at+n*slotSize:at+n*slotSize])
}

// give lends n slots, whose frames are in mem.
func (r *Ring) give(n int, mem []byte) *Block {
	b := &r.block
	b.mem, b.next, b.left = mem, 0, uint32(n)
	b.slots = r.mem[r.next*slotSize : (r.next+n)*slotSize]
	if r.next += n; r.next == r.slots {
		r.next = 0
	}
	r.taken += uint64(n)
	if r.down {
		r.up()
	}
	return b
}

// copyOut reads the frame of a slot from the socket's queue, and returns it as
// a block of its own. If it is not there, what is in the slot has to do.
func (r *Ring) copyOut(slot []byte) []byte {
	rewrite(slot, slotSize)
	h := r.copied[:frameHead]
	copy(h, slot)
	at := copyMAC
	if r.block.vnet {
		at -= vnetLen // it comes first
	}
	n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(r.fd), uintptr(unsafe.Pointer(&r.copied[at])), uintptr(len(r.copied)-at), unix.MSG_DONTWAIT, 0, 0)
	if err != 0 || at+int(n) < copyMAC {
		return slot
	}
	order := binary.NativeEndian
	order.PutUint16(h[headMAC:], copyMAC)
	order.PutUint32(h[headSnapLen:], uint32(at+int(n)-copyMAC))
	return r.copied
}

// spin looks for frames without waiting, until d has passed.
func (r *Ring) spin(d time.Duration) *Block {
	for end := time.Now().Add(d); ; {
		for range spinLooks {
			if b := r.ready(); b != nil {
				return b
			}
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}
