// SPDX-License-Identifier: Apache-2.0

// Package cycles counts CPU cycles of threads: on a machine that others use as
// well they disturb each other less than wall time.
package cycles

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Counter counts the cycles and instructions of some threads, in user and
// kernel mode. Softirqs that run on top of a thread are its own.
type Counter struct {
	fds  [2][]int
	Unit string // of what is called cycles
}

// An event is one that perf_event_open(2) counts.
type event struct {
	kind   uint32
	number uint64
}

// New counts the threads with the given IDs. It needs the right to
// perf_event_open(2): root, or kernel.perf_event_paranoid below 2. Where the
// CPU's counters are not to be had, as on many virtual machines, it counts ns of
// CPU time in place of cycles, and no instructions: Unit says so.
func New(tids ...int) (*Counter, error) {
	c, err := open("cycles", []event{{unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES}, {unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_INSTRUCTIONS}}, tids)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		c, err = open("ns", []event{{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_TASK_CLOCK}}, tids)
	}
	return c, err
}

func open(unit string, events []event, tids []int) (*Counter, error) {
	c := &Counter{Unit: unit}
	for i, e := range events {
		attr := &unix.PerfEventAttr{Type: e.kind, Config: e.number, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
			Read_format: unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING}
		for _, tid := range tids {
			fd, err := unix.PerfEventOpen(attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err != nil {
				c.Close()
				return nil, fmt.Errorf("cycles: thread %d: %w", tid, os.NewSyscallError("perf_event_open", err))
			}
			c.fds[i] = append(c.fds[i], fd)
		}
	}
	return c, nil
}

// A Count is what has been counted.
type Count struct{ Cycles, Instructions float64 }

// Sub returns what came after b.
func (a Count) Sub(b Count) Count {
	return Count{a.Cycles - b.Cycles, a.Instructions - b.Instructions}
}

// Read returns the counts so far, scaled up if the counters were shared.
func (c *Counter) Read() Count {
	sum := func(fds []int) (total float64) {
		for _, fd := range fds {
			var b [24]byte
			if n, err := unix.Read(fd, b[:]); n != len(b) || err != nil {
				continue
			}
			v, enabled, running := binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[8:]), binary.NativeEndian.Uint64(b[16:])
			if running > 0 {
				total += float64(v) * float64(enabled) / float64(running)
			}
		}
		return total
	}
	return Count{sum(c.fds[0]), sum(c.fds[1])}
}

// Close ends the counting.
func (c *Counter) Close() {
	for _, fds := range c.fds {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// Self is the calling thread, which the caller has locked.
func Self() int { return unix.Gettid() }

// Ksoftirqd returns the kernel's thread that does what softirqs leave over on a
// CPU; 0 if it is not found.
func Ksoftirqd(cpu int) int {
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range all {
		if b, _ := os.ReadFile(p); strings.TrimSpace(string(b)) == fmt.Sprintf("ksoftirqd/%d", cpu) {
			tid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return tid
		}
	}
	return 0
}

// Pin locks the goroutine to its thread, and that to a CPU.
func Pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &set))
}

// Median returns the middle of v, and its least and most.
func Median(v []float64) (median, least, most float64) {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return
	}
	return s[len(s)/2], s[0], s[len(s)-1]
}
