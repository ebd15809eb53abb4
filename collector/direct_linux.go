// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// setDirect has an open file written past the page cache (fcntl(2), F_SETFL).
func setDirect(f *os.File) error {
	flags, _, e := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_GETFL, 0)
	if e == 0 {
		_, _, e = syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETFL, flags|syscall.O_DIRECT)
	}
	if e != 0 {
		return os.NewSyscallError("fcntl O_DIRECT", e)
	}
	return nil
}

// allocate allocates blocks of a file beyond its end. A full disk is no
// hindrance, here: writing says so. False: it is not to be tried again.
func allocate(f *os.File, at, length int64) bool {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, length)
	return err == nil || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EINTR)
}

// gainsByAllocation says that writing a file through the page cache is faster
// where its blocks are allocated: on ext4, on which a container's file system
// mostly lies. XFS and tmpfs are as fast without, and Btrfs does not compress what
// was allocated.
func gainsByAllocation(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && (st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC)
}
