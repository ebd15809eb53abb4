// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Arena is memory outside the Go heap: the garbage collector neither scans
// nor moves it, and the kernel may keep its address.
type Arena struct{ mem []byte }

// hugePage is what the kernel maps at once of memory that lies right, bytes, with
// pages of 4 KiB (Documentation/admin-guide/mm/transhuge.rst). With larger ones it
// is more, and arenas have none.
const hugePage = 2 << 20

// NewArena maps n bytes, populated: in huge pages from 2 MiB on, where the kernel
// has some. It then walks and pins fewer, and a disk gets what is written past the
// page cache in fewer and longer pieces.
func NewArena(n int) (*Arena, error) {
	mem, err := mapAligned(n)
	if err != nil {
		return nil, fmt.Errorf("batch: %d bytes of memory: %w", n, os.NewSyscallError("mmap", err))
	}
	if n >= hugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // it goes without
	}
	if unix.Madvise(mem, unix.MADV_POPULATE_WRITE) != nil { // Linux before 5.14
		for i := 0; i < len(mem); i += unix.Getpagesize() {
			mem[i] = 0
		}
	}
	return &Arena{mem[:n:n]}, nil
}

// mapAligned maps n bytes or more, whole pages, which begin with a huge page if
// they have room for one.
func mapAligned(n int) ([]byte, error) {
	page := uintptr(unix.Getpagesize())
	length := (uintptr(n) + page - 1) &^ (page - 1)
	spare := uintptr(0)
	if length >= hugePage {
		spare = hugePage
	}
	p, err := unix.MmapPtr(-1, 0, nil, length+spare, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	if spare > 0 { // give back what is before it, and behind
		before := -uintptr(p) & (hugePage - 1)
		mem := unsafe.Add(p, before)
		if before > 0 {
			_ = unix.MunmapPtr(p, before)
		}
		if behind := spare - before; behind > 0 {
			_ = unix.MunmapPtr(unsafe.Add(mem, length), behind)
		}
		p = mem
	}
	return unsafe.Slice((*byte)(p), length), nil
}

// Bytes returns the memory. It is good until Close.
func (a *Arena) Bytes() []byte { return a.mem }

// Close gives the memory back.
func (a *Arena) Close() error {
	if a.mem == nil {
		return nil
	}
	err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(a.mem)), uintptr(len(a.mem)))
	a.mem = nil
	return err
}
