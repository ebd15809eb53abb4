// SPDX-License-Identifier: Apache-2.0

package collector

import (
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

// allocate allocates blocks of a file beyond its end, if it can.
func allocate(f *os.File, at, length int64) {
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE, linux/falloc.h
	_ = syscall.Fallocate(int(f.Fd()), keepSize, at, length)
}
