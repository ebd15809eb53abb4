// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// statistics are those of one interface in a file; -1: the file does not say.
type statistics struct {
	name, about, comment                   string // of the interface, and of its statistics
	received, dropped, accepted, delivered int
}

// readStatistics has tshark read the statistics of a file, and capinfos that there is
// one block for each interface.
func readStatistics(t *testing.T, w *world, file string) (all []statistics) {
	t.Helper()
	testnet.RequireTool(t, "tshark", "capinfos")
	text := w.must("tshark", "-X", "read_format:MIME Files Format", "-r", file, "-V")
	value := func(block, name string) string {
		if m := regexp.MustCompile(`(?m)^ *` + name + `(.*)$`).FindStringSubmatch(block); m != nil {
			return strings.TrimSpace(m[1])
		}
		return ""
	}
	number := func(block, name string) int {
		n, err := strconv.Atoi(value(block, name+": "))
		if err != nil {
			return -1
		}
		return n
	}
	for _, block := range strings.Split(text, "    Block: ")[1:] {
		switch {
		case strings.HasPrefix(block, "Interface Description Block"):
			all = append(all, statistics{name: value(block, "Option: Interface Name = "), about: value(block, "Option: Comment = "), received: -1, dropped: -1})
		case strings.HasPrefix(block, "Interface Statistics Block"):
			s := &all[number(block, "Interface")]
			s.comment = value(block, "Option: Comment = ")
			s.received, s.dropped = number(block, "Number of Received Packets"), number(block, "Number of Dropped Packets")
			s.accepted, s.delivered = number(block, "Number of Accepted by Filter Packets"), number(block, "Number of Delivered to the User Packets")
		}
	}
	infos := w.must("capinfos", file)
	if n := strings.Count(infos, "Number of stat entries = 1"); n != len(all) || strings.Count(infos, "Number of stat entries") != n || n == 0 {
		t.Errorf("%s: %d interfaces\n%s", file, len(all), infos)
	}
	return all
}

// markers are n frames of a name, of 300 bytes.
func markers(name string, n int) (frames [][]byte) {
	for i := range n {
		frames = append(frames, append(numberedMark(name, i), make([]byte, 240)...))
	}
	return frames
}

// overflow has a remote's ring be full: it stands still while frames come.
func (w *world) overflow(r *proc) {
	w.t.Helper()
	r.cmd.Process.Signal(syscall.SIGSTOP)
	w.inject(w.peer, "p0", markers("much", 6000)...)
	r.cmd.Process.Signal(syscall.SIGCONT)
}

// smallRing is less than what overflow sends.
var smallRing = []string{"--ring", "524288", "--block", "65536"}

// Of an interface by name, whose frames two shards have, the statistics of a file
// say what the remote itself says that its kernel captured and dropped there, for
// each of its runs; what was not dropped is in the file. Over the files of a
// recording they add up to the same.
func TestInterfaceStatistics(t *testing.T) {
	w := newWorld(t)
	all, parts := filepath.Join(w.dir, "all.pcapng"), filepath.Join(w.dir, "part-%n.pcapng")
	c := w.startCollector("--no-tap", "-w", all, "-w", parts, "--set", parts+" rotate-size=1000k")
	type counts struct{ received, dropped, accepted int }
	want := map[string]counts{}
	for run := range 2 {
		r := w.startRemote(append([]string{"-i", "t0", "--workers", "2", "--fanout", "hash"}, smallRing...)...)
		for n := range 12 { // no more at once than the ring has room for, and more than a file has
			last := fmt.Sprintf("run%d part%d", run, n)
			w.inject(w.peer, "p0", append(markers("few", 400), marker(last))...)
			c.until("what was sent is written: "+last, func() bool { return fileHas(all, marker(last)) })
		}
		w.overflow(r)
		end := marker(fmt.Sprintf("end of run%d", run))
		c.until("the end is written", func() bool { // it may find the ring full
			w.inject(w.peer, "p0", end)
			return fileHas(all, end)
		})
		text := r.stop()
		session := regexp.MustCompile(`session ([0-9a-f]{16}), `).FindStringSubmatch(text)[1]
		is := counts{account(text, "frames captured on"), account(text, "frames dropped by the kernel"), account(text, "frames, ")}
		if is.dropped == 0 || is.received != is.dropped+is.accepted {
			t.Errorf("%+v:\n%s", is, text)
		}
		want[fmt.Sprintf("tap 1, session %s, interface 0", session)] = is
	}
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Fatalf("frames were lost on the way:\n%s", text)
	}
	files, _ := filepath.Glob(filepath.Join(w.dir, "part-*.pcapng"))
	if len(files) < 3 {
		t.Errorf("the recording has %d files", len(files))
	}
	for what, files := range map[string][]string{"one file": {all}, "a recording": files} {
		got := map[string]counts{}
		for _, file := range files {
			for _, s := range readStatistics(t, w, file) {
				sum := got[s.about]
				got[s.about] = counts{sum.received + s.received, sum.dropped + s.dropped, sum.accepted + s.accepted}
				if s.name != "t0" || s.comment != "" || s.delivered != s.accepted || s.received < 0 || s.dropped < 0 {
					t.Errorf("%s: %+v", file, s)
				}
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		for about, is := range want {
			if got[about] != is {
				t.Errorf("%s, %s: %+v, the remote says %+v", what, about, got[about], is)
			}
		}
	}
}

// With -i any a ring is common to all interfaces: as long as it drops nothing, the
// statistics say what was captured of each; when it did, they say how many frames it
// was that some interface lost, and nothing of any one.
func TestInterfaceStatisticsOfAny(t *testing.T) {
	for _, drops := range []bool{false, true} {
		t.Run(fmt.Sprintf("drops %v", drops), func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			r := w.startRemote(append([]string{"-i", "any"}, smallRing...)...)
			w.inject(w.peer, "p0", markers("t0", 200)...)
			w.inject(w.collector, "up1", markers("up0", 100)...)
			if drops {
				w.overflow(r)
			}
			c.until("the end is written", func() bool {
				w.inject(w.peer, "p0", marker("end"))
				return fileHas(file, marker("end"))
			})
			text := r.stop()
			c.stop()
			dropped := account(text, "frames dropped by the kernel")
			found := 0
			for _, s := range readStatistics(t, w, file) {
				if s.name == "t0" || s.name == "up0" {
					found++
				}
				if taken := account(text, "of those on "+s.name+","); s.accepted != taken || !drops && (s.received != taken || s.dropped != 0 || s.comment != "") {
					t.Errorf("%+v; the remote says %d", s, taken)
				}
				about := fmt.Sprintf("ntap: %d frames were dropped by the kernel of the interfaces that share a ring with this one: how many of this one is not known", dropped)
				if drops && (s.received >= 0 || s.dropped >= 0 || s.comment != about) {
					t.Errorf("%+v, want %q", s, about)
				}
			}
			if found != 2 || drops != (dropped > 0) {
				t.Errorf("%d interfaces; the remote says\n%s", found, text)
			}
		})
	}
}

// A capture file was captured by others: of its interfaces nothing is told but what
// came.
func TestInterfaceStatisticsOfFile(t *testing.T) {
	w := newWorld(t)
	in, out := protocols(t, 50), filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", out, "--once")
	r := w.start(w.sender, ntapBinary, "remote", "-r", in, "--pace", "max", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1")
	r.end()
	c.end()
	for _, s := range readStatistics(t, w, out) {
		if s.received >= 0 || s.dropped >= 0 || s.accepted == 0 || s.comment != "" {
			t.Errorf("%+v", s)
		}
	}
}
