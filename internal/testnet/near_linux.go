// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A NearWatch stands in the place of engine.Near, calls it, and notes on which
// CPUs the thread might run meanwhile, and what was mapped.
type NearWatch struct {
	mu    sync.Mutex
	calls []nearCall
}

type nearCall struct {
	cpus          unix.CPUSet // that the thread might run on
	before, after []mapping
}

// A mapping is a line of /proc/self/maps.
type mapping struct {
	from, to uintptr
	file     string // what is mapped; "": anonymous memory
}

// WatchNear watches what a package calls through its variable near, until the
// test ends.
func WatchNear(t testing.TB, near *func(cpu int, do func() error) error) *NearWatch {
	w, real := &NearWatch{}, *near
	t.Cleanup(func() { *near = real })
	*near = func(cpu int, do func() error) error {
		return real(cpu, func() error {
			c := nearCall{before: mappings(t)}
			err := do()
			c.after = mappings(t)
			if err := unix.SchedGetaffinity(0, &c.cpus); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			w.calls = append(w.calls, c)
			w.mu.Unlock()
			return err
		})
	}
	return w
}

// CPU returns the CPU that the thread was tied to which mapped mem, or an error
// if no watched call did, or it was tied to none.
func (w *NearWatch) CPU(mem []byte) (int, error) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.calls) - 1; i >= 0; i-- {
		if c := &w.calls[i]; holds(c.after, at) && !holds(c.before, at) {
			return c.cpu()
		}
	}
	return 0, fmt.Errorf("memory at %#x was mapped by no watched call of %d", at, len(w.calls))
}

// Sockets returns the bytes of memory of sockets that were mapped on each CPU:
// packet rings.
func (w *NearWatch) Sockets() (map[int]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	bytes := map[int]int{}
	for i := range w.calls {
		c := &w.calls[i]
		for _, m := range c.after {
			if strings.HasPrefix(m.file, "socket:") && !holds(c.before, m.from) {
				cpu, err := c.cpu()
				if err != nil {
					return nil, err
				}
				bytes[cpu] += int(m.to - m.from)
			}
		}
	}
	return bytes, nil
}

func (c *nearCall) cpu() (int, error) {
	if c.cpus.Count() != 1 {
		return 0, fmt.Errorf("the thread that mapped it was free to run on %d CPUs", c.cpus.Count())
	}
	for cpu := range 1024 {
		if c.cpus.IsSet(cpu) {
			return cpu, nil
		}
	}
	return 0, fmt.Errorf("a CPU beyond 1023")
}

// MappedSockets returns the bytes of sockets' memory that this process has
// mapped.
func MappedSockets(t testing.TB) (bytes int) {
	for _, m := range mappings(t) {
		if strings.HasPrefix(m.file, "socket:") {
			bytes += int(m.to - m.from)
		}
	}
	return bytes
}

func holds(all []mapping, at uintptr) bool {
	for _, m := range all {
		if m.from <= at && at < m.to {
			return true
		}
	}
	return false
}

// mappings reads /proc/self/maps, proc_pid_maps(5).
func mappings(t testing.TB) (all []mapping) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(text)) {
		var m mapping
		var perms, offset, dev, inode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %s %s", &m.from, &m.to, &perms, &offset, &dev, &inode, &m.file); n < 6 {
			t.Errorf("/proc/self/maps says %q", line)
		}
		all = append(all, m)
	}
	return all
}
