// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unmapped says that a page is not mapped: mincore(2), ENOMEM.
func unmapped(addr uintptr, page int) bool {
	var in [1]byte
	_, _, e := unix.Syscall(unix.SYS_MINCORE, addr, uintptr(page), uintptr(unsafe.Pointer(&in[0])))
	return e == unix.ENOMEM
}

// An arena is as long as asked for, populated, and given back whole. From a huge
// page on it begins with one, and the kernel is asked for them: else each page of
// a large write past the page cache was a piece of its own to the disk.
func TestArena(t *testing.T) {
	page := unix.Getpagesize()
	for _, n := range []int{1, page, page + 1, hugePage - page, hugePage, hugePage + 1, 2*hugePage + 2*page, 5 << 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			a, err := NewArena(n)
			if err != nil {
				t.Fatal(err)
			}
			mem := a.Bytes()
			if len(mem) != n || cap(mem) != n {
				t.Fatalf("%d bytes, capacity %d", len(mem), cap(mem))
			}
			mem[0], mem[n-1] = 1, 1
			at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
			pages := (n + page - 1) / page
			in := make([]byte, pages)
			if _, _, e := unix.Syscall(unix.SYS_MINCORE, at, uintptr(n), uintptr(unsafe.Pointer(&in[0]))); e != 0 {
				t.Fatal(e)
			}
			for i, b := range in {
				if b&1 == 0 {
					t.Fatalf("page %d of %d is not there", i, pages)
				}
			}
			if n >= hugePage {
				if at%hugePage != 0 {
					t.Errorf("it begins at %#x", at)
				}
				if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err == nil && !strings.Contains(mapping(t, at), " hg") {
					t.Errorf("the kernel was not asked for huge pages:\n%s", mapping(t, at))
				}
			}
			// Go's runtime may map something there as soon as it is free: not each time.
			for try := 1; ; try++ {
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
				if unmapped(at, page) && unmapped(at+uintptr((pages-1)*page), page) {
					break
				}
				if try == 20 {
					t.Fatalf("after each of %d Closes something is mapped where it was, as at %#x", try, at)
				}
				if a, err = NewArena(n); err != nil {
					t.Fatal(err)
				}
				at = uintptr(unsafe.Pointer(unsafe.SliceData(a.Bytes())))
			}
		})
	}
	if _, err := NewArena(1 << 62); err == nil || !strings.Contains(err.Error(), "mmap") {
		t.Errorf("more than there is: %v", err)
	}
}

// mapping returns what /proc/self/smaps says of the mapping that holds an address.
func mapping(t *testing.T, at uintptr) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 && strings.Contains(line, "-p ") {
			if found != nil {
				break
			}
			if at < from || at >= to {
				continue
			}
			found = []string{line}
		} else if found != nil {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
