// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is what /proc counts CPU time in: USER_HZ is 100 on every architecture
// that Go knows, asm-generic/param.h.
const tick = 10 * time.Millisecond

// A MachineTime is what /proc/stat says of all CPUs together, and when.
type MachineTime struct {
	At                   time.Time
	CPUs                 int
	Idle, Steal, SoftIRQ time.Duration
}

// ReadMachineTime reads /proc/stat.
func ReadMachineTime() (MachineTime, error) {
	b, err := os.ReadFile("/proc/stat")
	m := MachineTime{At: time.Now()}
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		if f[0] != "cpu" {
			m.CPUs++
			continue
		}
		// cpu user nice system idle iowait irq softirq steal, proc_stat(5)
		at := func(i int) time.Duration {
			n, _ := strconv.ParseInt(f[i], 10, 64)
			return time.Duration(n) * tick
		}
		m.Idle, m.SoftIRQ, m.Steal = at(4)+at(5), at(7), at(8)
	}
	if m.CPUs == 0 {
		return m, fmt.Errorf("/proc/stat has no CPUs")
	}
	return m, nil
}

// BusySince returns how long CPUs were busy since a, all added up: user,
// system and interrupts. Idle time is exact on a tickless kernel, the parts of
// the rest are samples; what the hypervisor took counts as neither.
func (m MachineTime) BusySince(a MachineTime) time.Duration {
	return time.Duration(m.CPUs)*m.At.Sub(a.At) - (m.Idle - a.Idle) - (m.Steal - a.Steal)
}

// A ProcessTime is the CPU time and memory of one process.
type ProcessTime struct {
	CPU time.Duration // user and system
	RSS uint64        // bytes
}

// ReadProcessTime asks the process's clock, which is exact, and reads
// /proc/PID/stat.
func ReadProcessTime(pid int) (p ProcessTime, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, err
	}
	// The name, in brackets, may hold anything: proc_pid_stat(5).
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 22 {
		return p, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	pages, _ := strconv.ParseUint(string(f[21]), 10, 64)
	p.RSS = pages * uint64(os.Getpagesize())
	// clock_getcpuclockid(3): the process in the high bits, inverted, and
	// CPUCLOCK_SCHED, linux/posix-timers.h.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return p, fmt.Errorf("CPU clock of process %d: %w", pid, os.NewSyscallError("clock_gettime", err))
	}
	p.CPU = time.Duration(ts.Nano())
	return p, nil
}
