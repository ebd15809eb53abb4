// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A tree is a directory that holds proc and sys: "/", or a recorded one.
type tree string

// text returns a file without the white space around it; "" if it cannot be
// read: what is not known is left out of the choice.
func (t tree) text(path string) string {
	b, _ := os.ReadFile(filepath.Join(string(t), path))
	return strings.TrimSpace(string(b))
}

// list reads a list of CPUs, as in "0-3,6".
func (t tree) list(path string) []int {
	out, _ := parseList(t.text(path))
	return out
}

// number reads a number; no is what it is if there is none.
func (t tree) number(path string, no int) int {
	if n, err := strconv.Atoi(t.text(path)); err == nil {
		return n
	}
	return no
}

// names returns what a directory holds.
func (t tree) names(path string) (out []string) {
	all, _ := os.ReadDir(filepath.Join(string(t), path))
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}

// ReadMachine reads what the kernel says of this machine. What it does not say
// is left unknown.
func ReadMachine() *Machine { return tree("/").machine() }

// ReadNIC reads what the kernel says of a network interface of the namespace
// that /sys was mounted for.
func ReadNIC(name string) NIC { return tree("/").nic(name, 4) }

const cpuDir = "sys/devices/system/cpu/"

func (t tree) machine() *Machine {
	m := &Machine{Quota: t.quota()}
	isolated := map[int]bool{}
	for _, cpu := range t.list(cpuDir + "isolated") {
		isolated[cpu] = true
	}
	online := t.list(cpuDir + "online")
	for _, cpu := range t.allowed() {
		if len(online) > 0 && !slices.Contains(online, cpu) {
			continue
		}
		c := CPU{ID: cpu, Node: Unknown, Core: cpu, Isolated: isolated[cpu]}
		threads := t.list(fmt.Sprintf(cpuDir+"cpu%d/topology/thread_siblings_list", cpu))
		if len(threads) > 0 {
			c.Core = slices.Min(threads)
		}
		m.CPUs = append(m.CPUs, c)
		delete(isolated, cpu)
	}
	for cpu := range isolated {
		if len(online) == 0 || slices.Contains(online, cpu) {
			m.Isolated = append(m.Isolated, cpu)
		}
	}
	slices.Sort(m.Isolated)
	for _, node := range t.names("sys/devices/system/node") {
		n, err := strconv.Atoi(strings.TrimPrefix(node, "node"))
		if err != nil {
			continue
		}
		for _, cpu := range t.list("sys/devices/system/node/" + node + "/cpulist") {
			if i := slices.IndexFunc(m.CPUs, func(c CPU) bool { return c.ID == cpu }); i >= 0 {
				m.CPUs[i].Node = n
			}
		}
	}
	return m
}

// allowed returns the CPUs that the process may run on: its cpuset and affinity
// mask in one (Cpus_allowed_list, proc_pid_status(5)).
func (t tree) allowed() []int {
	for line := range strings.Lines(t.text("proc/self/status")) {
		if v, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			out, _ := parseList(strings.TrimSpace(v))
			return out
		}
	}
	return t.list(cpuDir + "online")
}

// quota returns how many CPUs' time the process's cgroup and those above it
// have: cpu.max of cgroup v2, cpu.cfs_quota_us of v1. 0: no limit.
func (t tree) quota() float64 {
	least := 0.0
	limit := func(quota, period string) {
		q, err1 := strconv.ParseFloat(quota, 64)
		p, err2 := strconv.ParseFloat(period, 64)
		if err1 == nil && err2 == nil && q > 0 && p > 0 && (least == 0 || q/p < least) {
			least = q / p
		}
	}
	for line := range strings.Lines(t.text("proc/self/cgroup")) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for dir := filepath.Clean("/" + parts[2]); ; dir = filepath.Dir(dir) {
			switch {
			case parts[1] == "":
				if f := strings.Fields(t.text("sys/fs/cgroup" + dir + "/cpu.max")); len(f) == 2 {
					limit(f[0], f[1])
				}
			case slices.Contains(strings.Split(parts[1], ","), "cpu"):
				at := "sys/fs/cgroup/" + parts[1] + dir
				limit(t.text(at+"/cpu.cfs_quota_us"), t.text(at+"/cpu.cfs_period_us"))
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// nic reads one interface; those below it at most depth deep.
func (t tree) nic(name string, depth int) NIC {
	n := NIC{Name: name, Node: Unknown}
	dir := "sys/class/net/" + name
	if name == "" || strings.ContainsAny(name, "/") {
		return n
	}
	for _, e := range t.names(dir) {
		below, ok := strings.CutPrefix(e, "lower_") // of a VLAN, bond, bridge, …
		if !ok || depth == 0 {
			continue
		}
		b := t.nic(below, depth-1)
		n.Queues += b.Queues
		n.IRQs = append(n.IRQs, b.IRQs...)
		if n.Node == Unknown {
			n.Node = b.Node
		}
	}
	if n.Queues == 0 {
		for _, q := range t.names(dir + "/queues") {
			if strings.HasPrefix(q, "rx-") {
				n.Queues++
				n.IRQs = append(n.IRQs, parseMask(t.text(dir+"/queues/"+q+"/rps_cpus"))...)
			}
		}
		n.device(t, dir)
	}
	slices.Sort(n.IRQs)
	n.IRQs = slices.Compact(n.IRQs)
	return n
}

// device adds the node and the interrupts of the device behind an interface. A
// virtio device has them one level up, where its PCI device is.
func (n *NIC) device(t tree, dir string) {
	real, err := filepath.EvalSymlinks(filepath.Join(string(t), dir, "device"))
	if err != nil {
		return // virtual
	}
	var irqs []string
	for range 2 {
		if rel, err := filepath.Rel(string(t), real); err == nil {
			n.Node = max(n.Node, t.number(rel+"/numa_node", Unknown))
			irqs = append(irqs, t.names(rel+"/msi_irqs")...)
			if irq := t.text(rel + "/irq"); len(irqs) == 0 && irq != "" && irq != "0" {
				irqs = append(irqs, irq)
			}
		}
		if n.Node != Unknown || len(irqs) > 0 {
			break
		}
		real = filepath.Dir(real)
	}
	// Those that never came, as that of a configuration change, tell nothing;
	// but an idle interface has only such.
	came := t.interrupts()
	used := slices.DeleteFunc(slices.Clone(irqs), func(irq string) bool { return !came[irq] })
	if len(used) > 0 {
		irqs = used
	}
	for _, irq := range irqs {
		cpus := t.list("proc/irq/" + irq + "/effective_affinity_list") // where it really goes, Linux 4.13
		if len(cpus) == 0 {
			cpus = t.list("proc/irq/" + irq + "/smp_affinity_list")
		}
		n.IRQs = append(n.IRQs, cpus...)
	}
}

// interrupts returns which interrupts have come since the start of the system.
func (t tree) interrupts() map[string]bool {
	came := map[string]bool{}
	for line := range strings.Lines(t.text("proc/interrupts")) {
		irq, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		for _, f := range strings.Fields(rest) {
			n, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				break // the counts come first
			}
			if n > 0 {
				came[irq] = true
				break
			}
		}
	}
	return came
}

// parseMask reads a mask of CPUs as sysfs prints it: groups of 32 bits in
// hexadecimal, the highest first (bitmap_print_to_pagebuf, lib/bitmap-str.c).
func parseMask(s string) (out []int) {
	groups := strings.Split(s, ",")
	slices.Reverse(groups)
	for g, text := range groups {
		v, err := strconv.ParseUint(text, 16, 32)
		if err != nil {
			return nil
		}
		for bit := range 32 {
			if v>>bit&1 == 1 {
				out = append(out, g*32+bit)
			}
		}
	}
	return out
}
