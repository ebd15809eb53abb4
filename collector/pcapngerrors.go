// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// fileError leaves the file's name out of an error, which stands before it.
func fileError(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return os.NewSyscallError(p.Op, p.Err)
	}
	return err
}

// isFull says that there is no room, or a bad sector: later writes may do
// better.
func isFull(err error) bool {
	if w := (waits{}); errors.As(err, &w) {
		return true
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EFBIG)
}

// isGone says that the other end of a pipe or socket was closed.
func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}
