// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// CPUs returns the CPUs that the calling thread may run on: those of its cpuset
// and affinity mask, in order.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("engine: %w", os.NewSyscallError("sched_getaffinity", err))
	}
	var out []int
	for cpu := range len(set) * strconv.IntSize {
		if set.IsSet(cpu) {
			out = append(out, cpu)
		}
	}
	return out, nil
}

// ParseCPUs reads a list as in "0-3,6", on each of which a thread of this
// process can run: that is more than those of its affinity mask, which leaves
// out isolated CPUs, and less than those online where there is a cpuset.
func ParseCPUs(list string) ([]int, error) {
	cpus, err := parseList(list)
	if err != nil {
		return nil, err
	}
	allowed, err := CPUs()
	if err != nil {
		return nil, err
	}
	var bad error
	done := make(chan struct{})
	go func() { // on a thread that ends with what was tried on it
		defer close(done)
		runtime.LockOSThread()
		for _, cpu := range cpus {
			if !slices.Contains(allowed, cpu) && pin(cpu) != nil {
				bad = fmt.Errorf("engine: CPUs %q: CPU %d is not there, or not among those that this process may use: %s", list, cpu, FormatCPUs(allowed))
				return
			}
		}
	}()
	<-done
	if bad != nil {
		return nil, bad
	}
	return cpus, nil
}

// pin ties the calling thread to a CPU.
func pin(cpu int) error {
	if cpu == Unpinned {
		return nil
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		allowed := ""
		if cpus, e := CPUs(); e == nil {
			allowed = "; this process may use " + FormatCPUs(cpus)
		}
		return fmt.Errorf("cpu %d: %w%s", cpu, os.NewSyscallError("sched_setaffinity", err), allowed)
	}
	return nil
}

// pinned ties the calling thread to a CPU until back.
func pinned(cpu int) (back func() error, err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	if err := pin(cpu); err != nil {
		return nil, err
	}
	return func() error { return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &before)) }, nil
}
