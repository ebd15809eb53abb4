// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"os"

	"golang.org/x/sys/unix"
)

// Writev writes buffers one after the other to a file (writev(2)), and returns how
// many bytes of them: less than all also without an error, as where a disk is full
// in the middle. It leaves a file that Go would wait for blocking.
func Writev(f *os.File, b [][]byte) (n int, err error) {
	for {
		if n, err = unix.Writev(int(f.Fd()), b); err != unix.EINTR {
			return max(n, 0), os.NewSyscallError("writev", err)
		}
	}
}
