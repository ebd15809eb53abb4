// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"slices"
)

// A Machine is what the choice of CPUs looks at. ReadMachine fills it in.
type Machine struct {
	CPUs     []CPU   // that this process may run on, by number
	Quota    float64 // CPUs' worth of time that its cgroup has; 0: no limit
	Isolated []int   // CPUs that the scheduler leaves alone, and that this process was not given
}

// A CPU is one hardware thread.
type CPU struct {
	ID       int
	Node     int  // NUMA node; Unknown: the machine does not say
	Core     int  // the lowest number among the threads of its core
	Isolated bool // the scheduler leaves it alone (isolcpus): who may run here was put here
}

// A NIC is one network interface as far as the choice of CPUs goes. For an
// interface on top of others (VLAN, bond, bridge) it sums those up.
type NIC struct {
	Name   string
	Node   int   // NUMA node that it is attached to; Unknown: it does not say, as virtual ones do not
	Queues int   // receive queues
	IRQs   []int // CPUs that serve its interrupts, or to which receive packet steering hands frames
}

// Unknown is the number of a NUMA node that is not known.
const Unknown = -1

// maxAuto bounds the number of workers that nobody asked for.
const maxAuto = 16

// Workers returns how many shards suit an interface when shards of several
// interfaces share the machine: one for each receive queue, as long as each
// has a core of its own on the interface's node and time in the cgroup's quota.
// An interface with one queue has its shards fed by one CPU: that stays free.
func (m *Machine) Workers(nic NIC, interfaces int) int {
	near, all := map[int]bool{}, map[int]bool{}
	for _, c := range m.CPUs {
		all[c.Core] = true
		if c.Node == nic.Node {
			near[c.Core] = true
		}
	}
	n := len(near)
	if nic.Node == Unknown || n == 0 {
		n = len(all)
	}
	if m.Quota > 0 {
		n = min(n, int(m.Quota))
	}
	if nic.Queues > 1 {
		n = min(n, nic.Queues)
	} else {
		n--
	}
	return max(1, min(n, maxAuto)/max(interfaces, 1))
}

// Place chooses a CPU for each shard, of which it is told the interface that
// the shard serves:
//
//   - no CPU twice before all were taken once, and no second thread of a core
//     before all cores were;
//   - isolated CPUs first, if this process may run on some: they are free of
//     all else;
//   - those of the interface's NUMA node before others: what the NIC writes is
//     then in near memory (M. Majkowski, "How to receive a million packets per
//     second", Cloudflare 2015, measured it), and so are rings and arenas,
//     which Near has mapped there;
//   - those that serve the interface's interrupts after others, and cores that
//     share a thread with such a one in between: softirq and shard would take
//     turns there.
func (m *Machine) Place(shards []NIC) []int {
	out := make([]int, len(shards))
	if len(m.CPUs) == 0 {
		for i := range out {
			out[i] = Unpinned
		}
		return out
	}
	cpuTaken, coreTaken := map[int]int{}, map[int]int{}
	for i, nic := range shards {
		irqCores := map[int]bool{}
		for _, c := range m.CPUs {
			if slices.Contains(nic.IRQs, c.ID) {
				irqCores[c.Core] = true
			}
		}
		best := slices.MinFunc(m.CPUs, func(a, b CPU) int {
			price := func(c CPU) [6]int {
				p := [6]int{cpuTaken[c.ID], coreTaken[c.Core], 0, 0, 0, c.ID}
				if !c.Isolated {
					p[2] = 1
				}
				if nic.Node != Unknown && c.Node != nic.Node {
					p[3] = 1
				}
				if slices.Contains(nic.IRQs, c.ID) {
					p[4] = 2
				} else if irqCores[c.Core] {
					p[4] = 1
				}
				return p
			}
			x, y := price(a), price(b)
			for k := range x {
				if d := cmp.Compare(x[k], y[k]); d != 0 {
					return d
				}
			}
			return 0
		})
		out[i] = best.ID
		cpuTaken[best.ID]++
		coreTaken[best.Core]++
	}
	return out
}
