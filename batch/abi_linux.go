// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of linux/socket.h: one message of sendmmsg(2) and
// recvmmsg(2), which x/sys/unix lacks.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32 // bytes sent or received
	_   [4]byte
}

// 64 bytes on 64-bit Linux. If x/sys ever disagrees, the build stops here.
var _ [64]byte = [unsafe.Sizeof(mmsghdr{})]byte{}

// sendmmsg sends msgs and returns how many went. It does not block for long:
// the scheduler is not told.
func sendmmsg(fd int, msgs []mmsghdr, flags int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	return int(n), e
}

// recvmmsg takes as many messages as are there. With MSG_WAITFORONE it waits
// for the first; with MSG_DONTWAIT it does not, and the scheduler is not told.
func recvmmsg(fd int, msgs []mmsghdr, flags int) (int, unix.Errno) {
	if flags&unix.MSG_DONTWAIT != 0 {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
		return int(n), e
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	return int(n), e
}

// Flags of a CQE of io_uring, and what res of a notification says: linux/io_uring.h.
const (
	cqeMore  uint32 = 1 << 1   // IORING_CQE_F_MORE
	cqeNotif uint32 = 1 << 3   // IORING_CQE_F_NOTIF
	zcCopied int32  = -1 << 31 // IORING_NOTIF_USAGE_ZC_COPIED
)
