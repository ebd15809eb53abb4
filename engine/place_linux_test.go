// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// recorded lays a file of testdata out as a tree.
func recorded(t *testing.T, name string) tree {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		path, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(value, "-> "); ok {
			if err := os.Symlink(filepath.Join(root, to), at); err != nil {
				t.Fatal(err)
			}
			continue
		}
		f, err := os.OpenFile(at, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(value + "\n")
		f.Close()
	}
	return tree(root)
}

// The choice on machines of several kinds. vm-virtio.txt is the recording of a
// virtual machine (testdata/record.sh); the others are written in its form:
// two sockets numbered one behind the other and in turn, four nodes on one
// socket, isolated CPUs that the process was and was not given, containers
// with a cpuset and a quota, CPUs that are offline, a bond with a VLAN, and a machine without nodes
// whose one queue is steered.
func TestPlaceOnRecordedMachines(t *testing.T) {
	for _, c := range []struct {
		machine, nics string
		ask           Ask
		workers       int
		cpus          []int
	}{
		// Interrupts on both CPUs: each has its turn.
		{"vm-virtio", "eth0", Ask{Workers: "2"}, 2, []int{0, 1}},
		{"vm-virtio", "eth0", Ask{Workers: "1"}, 1, nil},
		{"vm-virtio", "eth0", Ask{Workers: "1", CPUs: "auto"}, 1, []int{0}},
		{"vm-virtio", "eth0", Ask{Workers: "2", CPUs: "none"}, 2, nil},
		{"vm-virtio", "eth0", Ask{Workers: "auto"}, 1, nil}, // one queue: its CPU stays free
		{"vm-virtio", "eth0", Ask{Workers: "5"}, 5, []int{0, 1, 0, 1, 0}},
		// Eight queues of 16 cores on node 1, interrupts on the first half: the
		// other half is taken, no second thread, nothing of node 0.
		{"two-socket", "ens1", Ask{Workers: "auto"}, 8, []int{24, 25, 26, 27, 28, 29, 30, 31}},
		// Then the other threads of cores with interrupts, then node 0, and only then second threads.
		{"two-socket", "ens1", Ask{Workers: "18"}, 18, []int{24, 25, 26, 27, 28, 29, 30, 31, 48, 49, 50, 51, 52, 53, 54, 55, 0, 1}},
		{"two-socket", "ens1", Ask{Workers: "34"}, 34, []int{24, 25, 26, 27, 28, 29, 30, 31, 48, 49, 50, 51, 52, 53, 54, 55,
			0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 56, 57}},
		// Node 0's NIC has one interrupt, on CPU 0, whose second thread is 32.
		{"two-socket", "ens2", Ask{Workers: "3"}, 3, []int{1, 2, 3}},
		{"two-socket", "ens2", Ask{Workers: "16"}, 16, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 32}},
		// Two interfaces: each near its own.
		{"two-socket", "ens1 ens2", Ask{Workers: "2"}, 2, []int{24, 25, 1, 2}},
		{"two-socket", "ens1 ens2", Ask{Workers: "auto"}, 4, []int{24, 25, 26, 27, 1, 2, 3, 4}},
		// Interrupts on every core of the node: still that node.
		{"interleaved", "eno1", Ask{Workers: "4"}, 4, []int{17, 19, 21, 23}},
		{"interleaved", "eno1", Ask{Workers: "auto"}, 8, []int{17, 19, 21, 23, 25, 27, 29, 31}},
		{"four-nodes", "enp33s0", Ask{Workers: "auto"}, 16, []int{96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111}},
		{"four-nodes", "", Ask{Workers: "3"}, 3, []int{0, 1, 2}},
		// Isolated CPUs are left alone, unless the process was put there.
		{"isolated-apart", "eth0", Ask{Workers: "2"}, 2, []int{2, 3}},
		{"isolated-apart", "eth0", Ask{Workers: "auto"}, 2, []int{2, 3}},
		{"isolated-given", "eth0", Ask{Workers: "4"}, 4, []int{5, 6, 7, 4}},
		// A cpuset of four, two of which the quota pays for; no device.
		{"container", "eth0", Ask{Workers: "auto"}, 1, nil},
		{"container", "eth0", Ask{Workers: "3"}, 3, []int{8, 9, 10}},
		{"container-v1", "eth0", Ask{Workers: "auto"}, 3, []int{0, 1, 2}},
		// What is on top of others sums them up.
		{"bond", "bond0.7", Ask{Workers: "auto"}, 2, []int{2, 3}},
		{"bond", "bond0", Ask{Workers: "4"}, 4, []int{2, 3, 0, 1}},
		{"bond", "loop0", Ask{Workers: "2"}, 2, []int{0, 1}}, // a circle ends
		{"bond", "no-such", Ask{Workers: "2"}, 2, []int{0, 1}},
		{"bond", "../../../..", Ask{Workers: "2"}, 2, []int{0, 1}},
		// CPUs that are offline are not taken, although the process may have them; half a CPU's time is for one.
		{"offline", "eth0", Ask{Workers: "4"}, 4, []int{0, 3, 4, 0}},
		{"offline", "eth0", Ask{Workers: "auto", CPUs: "auto"}, 1, []int{0}},
		{"steered", "eth0", Ask{Workers: "auto"}, 7, []int{2, 3, 32, 34, 35, 0, 1}},
	} {
		root := recorded(t, c.machine)
		var nics []NIC
		for name := range strings.FieldsSeq(c.nics) {
			nics = append(nics, root.nic(name, 4))
		}
		p, err := root.machine().arrange(c.ask, nics)
		if err != nil || p.Workers != c.workers || !slices.Equal(p.CPUs, c.cpus) {
			t.Errorf("%s, %s, %+v: %v, %v; want %v", c.machine, c.nics, c.ask, p, err, Plan{c.workers, c.cpus})
		}
	}
}

// What is read, where the choice alone would not show it.
func TestReadRecordedMachines(t *testing.T) {
	m := recorded(t, "container").machine()
	if m.Quota != 2.5 || len(m.CPUs) != 4 || m.CPUs[0] != (CPU{ID: 8, Core: 8, Node: 0}) {
		t.Errorf("container: %+v", m)
	}
	if m := recorded(t, "container-v1").machine(); m.Quota != 4 {
		t.Errorf("container-v1: quota %v", m.Quota)
	}
	if m := recorded(t, "isolated-apart").machine(); !slices.Equal(m.Isolated, []int{4, 5, 6, 7}) || len(m.CPUs) != 4 {
		t.Errorf("isolated-apart: %+v", m)
	}
	if m := recorded(t, "offline").machine(); m.Quota != 0.5 || len(m.CPUs) != 3 || !slices.Equal(m.Isolated, []int{5}) {
		t.Errorf("offline: %+v", m)
	}
	if m := recorded(t, "isolated-given").machine(); m.Isolated != nil || !m.CPUs[4].Isolated || m.CPUs[3].Isolated {
		t.Errorf("isolated-given: %+v", m)
	}
	for _, c := range []struct {
		machine string
		want    NIC
	}{
		{"vm-virtio", NIC{"eth0", Unknown, 1, []int{0, 1}}},
		{"two-socket", NIC{"ens1", 1, 8, []int{16, 17, 18, 19, 20, 21, 22, 23}}}, // not CPU 0, where the interrupt that never came would go
		{"bond", NIC{"bond0.7", 1, 4, []int{2, 3, 6, 7}}},
		{"container", NIC{"eth0", Unknown, 1, nil}},
		{"steered", NIC{"eth0", Unknown, 1, []int{0, 1, 33}}},
	} {
		got := recorded(t, c.machine).nic(c.want.Name, 4)
		if got.Name != c.want.Name || got.Node != c.want.Node || got.Queues != c.want.Queues || !slices.Equal(got.IRQs, c.want.IRQs) {
			t.Errorf("%s: %+v, want %+v", c.machine, got, c.want)
		}
	}
}

// A tree that says nothing is a machine of which nothing is known.
func TestPlaceKnowingNothing(t *testing.T) {
	root := tree(t.TempDir())
	m := root.machine()
	if p, err := m.arrange(Ask{Workers: "auto", CPUs: "auto"}, []NIC{root.nic("eth0", 4)}); err != nil || p.Workers != 1 || p.CPUs != nil {
		t.Errorf("%v, %v", p, err)
	}
	// This machine: whatever it is, what comes out can be used.
	p, err := Arrange(Ask{Workers: "auto", CPUs: "auto", Interfaces: []string{"lo"}})
	if err != nil || len(p.CPUs) != p.Workers {
		t.Fatal(p, err)
	}
	if _, err := ParseCPUs(FormatCPUs(p.CPUs)); err != nil {
		t.Error(err)
	}
}

// Of interfaces in another network namespace only their number counts. Those of
// this one that have the same names used to be looked at in their place: their
// queues, node and interrupts.
func TestArrangeElsewhere(t *testing.T) {
	var m Machine
	for cpu := range 8 {
		m.CPUs = append(m.CPUs, CPU{ID: cpu, Node: cpu / 4, Core: cpu})
	}
	read := func(name string) NIC { return NIC{Name: name, Node: 1, Queues: 2, IRQs: []int{4, 5}} }
	for _, v := range []struct {
		elsewhere bool
		workers   int
		cpus      []int
	}{
		{false, 2, []int{6, 7}},
		{true, 7, []int{0, 1, 2, 3, 4, 5, 6}},
	} {
		ask := Ask{Workers: "auto", CPUs: "auto", Interfaces: []string{"eth0"}, Elsewhere: v.elsewhere}
		p, err := m.arrange(ask, ask.nics(read))
		if err != nil || p.Workers != v.workers || !slices.Equal(p.CPUs, v.cpus) || ask.Blind() != v.elsewhere {
			t.Errorf("elsewhere %v: %v, %v, blind %v; want %d workers on %v", v.elsewhere, p, err, ask.Blind(), v.workers, v.cpus)
		}
	}
	for _, ask := range []Ask{{Workers: "1"}, {Workers: "4", CPUs: "none"}, {Workers: "auto", CPUs: "0,1"}} {
		if ask.Elsewhere = true; ask.Blind() {
			t.Errorf("%+v is arranged by what is known of interfaces", ask)
		}
	}
	for _, ask := range []Ask{{Workers: "2"}, {Workers: "1", Interfaces: []string{"a", "b"}}, {Workers: "auto", CPUs: "none"}, {Workers: "1", CPUs: "auto"}} {
		if ask.Elsewhere = true; !ask.Blind() {
			t.Errorf("%+v is not said to be arranged without knowing interfaces", ask)
		}
	}
}

func TestArrangeRefuses(t *testing.T) {
	for _, c := range []struct{ workers, cpus, want string }{
		{"0", "", "1 to 1024"}, {"-1", "", "1 to 1024"}, {"x", "", "auto, or 1 to 1024"}, {"", "", "auto, or"}, {"1025", "", "1 to 1024"},
		{"1", "9999", "CPU 9999 is not there"}, {"auto", "a", "not a CPU"}, {"1", "3-1", "not a CPU"},
	} {
		if _, err := Arrange(Ask{Workers: c.workers, CPUs: c.cpus}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// A list decides how many, if nobody says.
	cpus, err := CPUs()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := Arrange(Ask{Workers: "auto", CPUs: FormatCPUs(cpus)}); err != nil || p.Workers != len(cpus) || !slices.Equal(p.CPUs, cpus) {
		t.Errorf("%v, %v", p, err)
	}
}

func TestParseMask(t *testing.T) {
	for s, want := range map[string][]int{"0": nil, "3": {0, 1}, "00000001,80000000": {31, 32}, "": nil, "x": nil, "2,0,0": {65}} {
		if got := parseMask(s); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}
