// SPDX-License-Identifier: Apache-2.0

//go:build !giouring

package ring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What an io_uring does with sockets. The names are liburing's.

// PrepSendMsg makes s a sendmsg(2) of m, which has to stay until submitted; what
// it names, until completed.
func (s *SQE) PrepSendMsg(fd int, m *unix.Msghdr, flags uint32) {
	*s = SQE{Opcode: OpSendMsg, Fd: int32(fd), Addr: msgAddr(m), Len: 1, OpFlags: flags}
}

// PrepSendZC makes s a send(2) of b without a copy, which does not wait for room.
// b lies inside the registered buffer with the given index (Linux 6.0). A second
// completion, with CQENotif, says that the memory is free again and, with
// ZCCopied in Res, that the kernel copied all the same (Linux 6.2; EINVAL
// before). It does not come if the first one lacks CQEMore.
func (s *SQE) PrepSendZC(fd int, b []byte, buffer uint16) {
	*s = SQE{Opcode: OpSendZC, Ioprio: sendFixedBuf | sendReportUsage, Fd: int32(fd), Addr: addr(b), Len: uint32(len(b)), OpFlags: unix.MSG_DONTWAIT, BufIndex: buffer}
}

// PrepRecvMsgMultishot makes s a recvmsg(2) that goes on (Linux 6.0): each
// message goes into a buffer of group, and has a completion with CQEBuffer. Of
// m only the lengths of name and control messages count. The request is over
// with the completion that lacks CQEMore, as when there was no buffer (ENOBUFS).
func (s *SQE) PrepRecvMsgMultishot(fd int, m *unix.Msghdr, group uint16) {
	*s = SQE{Opcode: OpRecvMsg, Flags: SQEBufferSelect, Ioprio: RecvMultishot, Fd: int32(fd), Addr: msgAddr(m), Len: 1, BufIndex: group}
}

// PrepCancel makes s the end of the requests with the given user data.
func (s *SQE) PrepCancel(userData uint64) {
	*s = SQE{Opcode: OpAsyncCancel, Fd: -1, Addr: userData, UserData: ^uint64(0)}
}

func msgAddr(m *unix.Msghdr) uint64 {
	return addr(unsafe.Slice((*byte)(unsafe.Pointer(m)), unsafe.Sizeof(*m)))
}

// A BufRing is a ring of buffers lent to the kernel, which takes one for each
// message.
type BufRing struct {
	ring []byte // mapping
	bufs []uringBuf
	mem  []byte
	size int
	tail uint16
}

// SetupBufRing lends the buffers of size bytes that mem holds, a power of two of
// them, as a group (Linux 5.19). The memory stays the kernel's until Close.
func (u *Uring) SetupBufRing(group uint16, mem []byte, size int) (*BufRing, error) {
	n := len(mem) / size
	b := &BufRing{mem: mem, size: size}
	var err error
	if b.ring, err = unix.Mmap(-1, 0, n*int(unsafe.Sizeof(uringBuf{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("ring: io_uring: %d buffers: %w", n, os.NewSyscallError("mmap", err))
	}
	b.bufs = unsafe.Slice((*uringBuf)(unsafe.Pointer(unsafe.SliceData(b.ring))), n)
	reg := &bufReg{ringAddr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b.ring)))), ringEntries: uint32(n), bgid: group}
	if err := u.register(registerBufRing, unsafe.Pointer(reg), 1); err != nil {
		return nil, errors.Join(fmt.Errorf("ring: io_uring: %d buffers: %w", n, err), unix.Munmap(b.ring))
	}
	for i := range n {
		b.Add(uint16(i))
	}
	b.Advance()
	return b, nil
}

// Buffer returns buffer i, as a completion names it.
func (b *BufRing) Buffer(i uint16) []byte {
	at := int(i) * b.size
	return b.mem[at : at+b.size : at+b.size]
}

// Add lends buffer i to the kernel, as of the next Advance.
func (b *BufRing) Add(i uint16) {
	e := &b.bufs[b.tail&uint16(len(b.bufs)-1)]
	e.addr = uint64(uintptr(unsafe.Pointer(&b.mem[int(i)*b.size])))
	e.len = uint32(b.size)
	e.bid = i
	b.tail++
}

// Advance shows the kernel what was added. The word that holds bid and tail of
// the first entry is stored as one: there is no atomic store of 16 bits.
func (b *BufRing) Advance() {
	word := (*uint32)(unsafe.Pointer(&b.bufs[0].bid))
	atomic.StoreUint32(word, uint32(b.bufs[0].bid)|uint32(b.tail)<<16)
}

// Close frees the ring, which the io_uring has to have let go of: close that
// first. The buffers are their owner's again.
func (b *BufRing) Close() error { return unix.Munmap(b.ring) }

// SubmitAndWaitTimeout is SubmitAndWait that waits for at most d (Linux 5.11).
func (u *Uring) SubmitAndWaitTimeout(wait uint32, d time.Duration) error {
	if _, err := u.Submit(); err != nil {
		return err
	}
	if u.CQReady() >= wait {
		return nil
	}
	u.timeout = unix.NsecToTimespec(int64(d))
	u.waitArg = geteventsArg{ts: uint64(uintptr(unsafe.Pointer(&u.timeout)))}
	_, _, err := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), 0, uintptr(wait), enterGetEvents|enterExtArg,
		uintptr(unsafe.Pointer(&u.waitArg)), unsafe.Sizeof(u.waitArg))
	if err != 0 && err != unix.ETIME && err != unix.EINTR {
		return os.NewSyscallError("io_uring_enter", err)
	}
	return nil
}
