// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Counter counts the work of some threads, or of all CPUs.
type Counter struct{ fds [4][]int }

// counted are the events of a Work in its order.
var counted = [4]struct {
	event uint64
	mode  uint64 // perf_event_attr's bits
}{
	{unix.PERF_COUNT_HW_CPU_CYCLES, unix.PerfBitExcludeKernel},
	{unix.PERF_COUNT_HW_CPU_CYCLES, unix.PerfBitExcludeUser},
	{unix.PERF_COUNT_HW_INSTRUCTIONS, unix.PerfBitExcludeKernel},
	{unix.PERF_COUNT_HW_INSTRUCTIONS, unix.PerfBitExcludeUser},
}

// CountProcess counts all threads of a process, also those that begin later. It
// takes the right to perf_event_open(2), and hardware that counts: a virtual
// machine may have none.
func CountProcess(pid int) (*Counter, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, fmt.Errorf("counters of process %d: %w", pid, err)
	}
	c := &Counter{}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := c.open(tid, -1, unix.PerfBitInherit); err != nil && err != unix.ESRCH {
			c.Close()
			return nil, fmt.Errorf("counters of process %d: %w", pid, os.NewSyscallError("perf_event_open", err))
		}
	}
	return c, nil
}

// CountThreads counts single threads.
func CountThreads(tids ...int) (*Counter, error) {
	c := &Counter{}
	for _, tid := range tids {
		if err := c.open(tid, -1, 0); err != nil {
			c.Close()
			return nil, fmt.Errorf("counters of thread %d: %w", tid, os.NewSyscallError("perf_event_open", err))
		}
	}
	return c, nil
}

// CountMachine counts the cycles of everything that runs on the given CPUs, all
// as the user's: a processor has few counters, and more than fit take turns.
func CountMachine(cpus []int) (*Counter, error) {
	c := &Counter{}
	for _, cpu := range cpus {
		if err := c.event(0, unix.PERF_COUNT_HW_CPU_CYCLES, -1, cpu, 0); err != nil {
			c.Close()
			return nil, fmt.Errorf("counters of CPU %d: %w", cpu, os.NewSyscallError("perf_event_open", err))
		}
	}
	return c, nil
}

func (c *Counter) open(tid, cpu int, bits uint64) error {
	for i, k := range counted {
		if err := c.event(i, k.event, tid, cpu, k.mode|bits); err != nil {
			return err
		}
	}
	return nil
}

// event opens one event and puts it with those of place i.
func (c *Counter) event(i int, event uint64, tid, cpu int, bits uint64) error {
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_HARDWARE, Config: event, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: bits, Read_format: unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING}
	fd, err := unix.PerfEventOpen(attr, tid, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err == nil {
		c.fds[i] = append(c.fds[i], fd)
	}
	return err
}

// A Reading is what a Counter has counted so far: of each event the count, and
// the time in which it was to be counted and was.
type Reading [4]struct{ count, enabled, running uint64 }

// Read reads the counters. A nil Counter has counted nothing.
func (c *Counter) Read() (r Reading) {
	if c == nil {
		return r
	}
	for i, fds := range c.fds {
		for _, fd := range fds {
			var b [24]byte
			if n, err := unix.Read(fd, b[:]); n != len(b) || err != nil {
				continue
			}
			r[i].count += binary.NativeEndian.Uint64(b[:])
			r[i].enabled += binary.NativeEndian.Uint64(b[8:])
			r[i].running += binary.NativeEndian.Uint64(b[16:])
		}
	}
	return r
}

// Since returns the work since an earlier reading. Counters that others had
// meanwhile are scaled up; if they had one most of the time, nothing is known:
// then all is 0.
func (r Reading) Since(a Reading) Work {
	var v [4]float64
	for i := range r {
		count, enabled, running := r[i].count-a[i].count, r[i].enabled-a[i].enabled, r[i].running-a[i].running
		if enabled == 0 {
			continue // it did not run, or is not counted
		}
		if running < enabled/4 {
			return Work{}
		}
		v[i] = float64(count) * float64(enabled) / float64(running)
	}
	return Work{v[0], v[1], v[2], v[3]}
}

// Close ends the counting.
func (c *Counter) Close() {
	if c == nil {
		return
	}
	for _, fds := range c.fds {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// Ksoftirqd returns the kernel's threads that do what softirqs leave over.
func Ksoftirqd() (tids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range all {
		if b, _ := os.ReadFile(p); strings.HasPrefix(string(b), "ksoftirqd/") {
			if tid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil {
				tids = append(tids, tid)
			}
		}
	}
	return tids
}

// Frequency returns the cycles of a nanosecond of a thread that computes; 0 if
// nobody counts them. It is the most of many short looks: while the hypervisor
// has the CPU for others, time goes on and cycles do not.
func Frequency() float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := &Counter{}
	if c.event(0, unix.PERF_COUNT_HW_CPU_CYCLES, 0, -1, 0) != nil {
		return 0
	}
	defer c.Close()
	var most float64
	for range 200 {
		before, start := c.Read(), time.Now()
		for time.Since(start) < 100*time.Microsecond {
		}
		took := time.Since(start)
		most = max(most, c.Read().Since(before).UserCycles/float64(took.Nanoseconds()))
	}
	return most
}
