// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Several sensors behind one collector, each on an interface of its own: both
// directions of a flow come to one, all frames to exactly one, as the command of
// docs/OUTPUTS.md says. A sensor more, under traffic, takes flows, and moves none
// between the others, whose interfaces stay; taken away, its interface goes. The
// same frames go to two VTEPs, shared as well.
func TestSensors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := func(name string) string { return filepath.Join(w.dir, name) }
	write := func(sensors int) {
		t.Helper()
		text := "outputs:\n- balance: vteps\n  over: [{vxlan: 10.99.0.1}, {vxlan: '10.99.0.1:4790'}]\n- balance: sensors\n  over:\n"
		for i := range sensors {
			text += fmt.Sprintf("  - interface: s%d\n", i)
		}
		if err := os.WriteFile(path("c.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// By flags first.
	c := w.startCollector("-i", "s0", "-i", "s1", "--balance", "sensors s0 s1")
	w.in(w.collector, "ip", "link", "show", "s1")
	if out := c.stop(); !strings.Contains(out, "0 frames written to balance sensors") {
		t.Errorf("no account of the group:\n%s", out)
	}

	write(2)
	c = w.startCollector("--config", path("c.yaml"))
	indexes := func() string {
		return w.in(w.collector, "cat", "/sys/class/net/s0/ifindex", "/sys/class/net/s1/ifindex")
	}
	before := indexes()
	var dumps []*proc
	for i := range 2 {
		dumps = append(dumps, w.startTcpdump(w.collector, fmt.Sprintf("s%d", i), path(fmt.Sprintf("s%d.pcap", i)), "-s", "1600", "udp port 9753"))
	}
	r := w.startRemote("-i", "t0", "udp", "port", "9753")
	sent, stop := w.stream(w.peer, "p0", 1)
	hup := func(times int) {
		t.Helper()
		c.cmd.Process.Signal(syscall.SIGHUP)
		c.until("the configuration is in force", func() bool { return strings.Count(c.text(), "the new configuration is in force") >= times })
	}
	c.until("frames are sent", func() bool { return sent.Load() > 200 })
	write(3)
	hup(1)
	c.until("the third sensor gets frames", func() bool { return w.counter(w.collector, "s2", "rx_packets") > 0 })
	write(2)
	hup(2)
	if out, err := testnet.Command(t, "ip", "-n", w.collector, "link", "show", "s2").CombinedOutput(); err == nil {
		t.Errorf("there is still\n%s", out)
	}
	all := stop()
	r.stop()
	if after := indexes(); after != before {
		t.Errorf("the interfaces were %q, and are %q", before, after)
	}
	got := func() (n int) {
		for i := range 2 {
			n += len(oursAmong(soFar(path(fmt.Sprintf("s%d.pcap", i))))[1])
		}
		return n
	}
	third := 0
	c.until("all frames are on the interfaces", func() bool {
		out := w.in(w.collector, "cat", "/sys/class/net/s0/statistics/rx_packets", "/sys/class/net/s1/statistics/rx_packets")
		var a, b int
		fmt.Sscan(out, &a, &b)
		third = all - a - b
		return got() == a+b
	})
	for _, d := range dumps {
		d.stop() // which an interface that goes would end with an error
	}
	// An output of which more changed than what it gets is made anew, and no other.
	text, err := os.ReadFile(path("c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("c.yaml"), bytes.Replace(text, []byte("interface: s0"), []byte("interface: s0\n    isolate: false"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	hup(3)
	if was, is := strings.Fields(before), strings.Fields(indexes()); is[0] == was[0] || is[1] != was[1] {
		t.Errorf("s0 was to be made anew, and s1 not: the interfaces were %q, and are %q", was, is)
	}
	out := c.stop()
	if n := account(out, "frames written to TAP s2"); n != third || n == 0 {
		t.Errorf("%d frames, %d on the first two interfaces, %d on the third, by the account %d", all, all-third, third, n)
	}
	for words, want := range map[string]int{"frames written to balance sensors": all, "frames written to balance vteps": all} {
		if n := account(out, words); n != want {
			t.Errorf("%d %s, want %d", n, words, want)
		}
	}
	if a, b := account(out, "frames written to VXLAN 10.99.0.1:4789"), account(out, "frames written to VXLAN 10.99.0.1:4790"); a == 0 || b == 0 || a+b > all {
		t.Errorf("%d and %d frames to the VTEPs, of %d", a, b, all)
	}
	at, ways := map[uint32]int{}, map[uint32]map[int]bool{}
	for i := range 2 {
		for _, p := range ours(t, path(fmt.Sprintf("s%d.pcap", i)))[1] {
			flow, n := binary.BigEndian.Uint32(p.Data[50:]), int(binary.BigEndian.Uint32(p.Data[54:]))
			if was, seen := at[flow]; seen && was != i {
				t.Errorf("flow %d is at s%d and at s%d", flow, was, i)
			}
			if at[flow] = i; ways[flow] == nil {
				ways[flow] = map[int]bool{}
			}
			ways[flow][n%2] = true
		}
	}
	for flow, w := range ways {
		if len(w) != 2 {
			t.Errorf("flow %d has one direction only", flow)
		}
	}
}
