// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// An Arena is memory outside the Go heap: the garbage collector neither scans
// nor moves it, and the kernel may keep its address.
type Arena struct{ mem []byte }

// NewArena maps n bytes, populated.
func NewArena(n int) (*Arena, error) {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("batch: %d bytes of memory: %w", n, os.NewSyscallError("mmap", err))
	}
	return &Arena{mem}, nil
}

// Bytes returns the memory. It is good until Close.
func (a *Arena) Bytes() []byte { return a.mem }

// Close gives the memory back.
func (a *Arena) Close() error {
	if a.mem == nil {
		return nil
	}
	err := unix.Munmap(a.mem)
	a.mem = nil
	return err
}
