// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
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
	User, System time.Duration
	RSS          uint64 // bytes
}

// ReadProcessTime reads /proc/PID/stat and statm.
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
	at := func(i int) int64 {
		n, _ := strconv.ParseInt(string(f[i]), 10, 64)
		return n
	}
	p.User, p.System = time.Duration(at(11))*tick, time.Duration(at(12))*tick
	p.RSS = uint64(at(21)) * uint64(os.Getpagesize())
	return p, nil
}
