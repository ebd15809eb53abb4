// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CPUs returns the CPUs that this process may run on: those of its cpuset and
// affinity mask, in order.
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

// ParseCPUs reads a list as in "0-3,6", each of which this process may run on.
// "none" and "" give no CPUs: shards are not pinned.
func ParseCPUs(list string) ([]int, error) {
	if list == "none" || list == "" {
		return nil, nil
	}
	allowed, err := CPUs()
	if err != nil {
		return nil, err
	}
	may := make(map[int]bool)
	for _, cpu := range allowed {
		may[cpu] = true
	}
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 0 || b < a || b > 1<<16 {
			return nil, fmt.Errorf("engine: CPUs %q: %q is not a CPU or a range of them, as in 0-3,6", list, part)
		}
		for cpu := a; cpu <= b; cpu++ {
			if !may[cpu] {
				return nil, fmt.Errorf("engine: CPUs %q: CPU %d is not among those that this process may use: %s", list, cpu, format(allowed))
			}
			out = append(out, cpu)
		}
	}
	return out, nil
}

// format writes CPUs as ParseCPUs reads them.
func format(cpus []int) string {
	var b strings.Builder
	for i := 0; i < len(cpus); i++ {
		from := cpus[i]
		for i+1 < len(cpus) && cpus[i+1] == cpus[i]+1 {
			i++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		if from == cpus[i] {
			fmt.Fprintf(&b, "%d", from)
		} else {
			fmt.Fprintf(&b, "%d-%d", from, cpus[i])
		}
	}
	return b.String()
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
			allowed = "; this process may use " + format(cpus)
		}
		return fmt.Errorf("cpu %d: %w%s", cpu, os.NewSyscallError("sched_setaffinity", err), allowed)
	}
	return nil
}
