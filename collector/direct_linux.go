// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"os"
	"syscall"
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
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE, linux/falloc.h
	err := syscall.Fallocate(int(f.Fd()), keepSize, at, length)
	return err == nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EINTR)
}

// gainsByAllocation says that writing a file through the page cache is faster
// where its blocks are allocated: on ext4, on which a container's file system
// mostly lies. XFS and tmpfs are as fast without, and Btrfs does not compress what
// was allocated.
func gainsByAllocation(f *os.File) bool {
	const ext4, overlay = 0xef53, 0x794c7630 // EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, linux/magic.h
	var st syscall.Statfs_t
	return syscall.Fstatfs(int(f.Fd()), &st) == nil && (st.Type == ext4 || st.Type == overlay)
}
