// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// stated reads what a remote says of its memory, bytes by name.
func stated(t *testing.T, text string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "memory for frames") {
			for _, m := range regexp.MustCompile(`(\w+)=(\d+)`).FindAllStringSubmatch(line, -1) {
				out[m[1]], _ = strconv.Atoi(m[2])
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("no word of memory:\n%s", text)
	}
	return out
}

// resident returns the pages that a process has of its own, and all, in bytes.
func resident(t *testing.T, pid int) (own, all int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var n int
		if k, _ := fmt.Sscanf(line, "RssAnon: %d kB", &n); k == 1 {
			own = n << 10
		}
		if k, _ := fmt.Sscanf(line, "VmRSS: %d kB", &n); k == 1 {
			all = n << 10
		}
	}
	if own == 0 || all < own {
		t.Fatalf("%s", text)
	}
	return own, all
}

// What a remote says of its memory at the start is what it has under traffic:
// rings are mapped, sockets have the buffers, and pages of its own are no more
// than flights, or the frames that it cuts, the table of --dedup and what the
// program takes; ten times the traffic takes nothing more. One that sends VXLAN
// used to say nothing.
func TestMemoryIsAsStated(t *testing.T) {
	testnet.RequireTool(t, "ss")
	const ring = 8388608
	for _, v := range []struct {
		name           string
		rings, sockets int
		args           []string
	}{
		{"to two collectors", 4, 8, []string{"-i", "any", "-c", "10.99.0.2:5678", "-c", "10.99.0.2:5679"}},
		{"as VXLAN", 2, 2 * 12, []string{"--to-vxlan", "10.99.0.2", "--vxlan-ports", "12"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			c := w.startCollector("--no-tap", "-w", filepath.Join(w.dir, "out.pcapng"))
			d := w.another("5679", filepath.Join(w.dir, "other.pcapng"))
			args := append(v.args, "-i", "t0", "--workers", "2", "--ring", strconv.Itoa(ring), "--dedup", "100ms")
			if v.name == "to two collectors" {
				args = append(args, "--key-file", w.key)
			}
			r := w.start(w.sender, ntapBinary, append(append([]string{"remote", "--tap", "1"}, args...), "ether proto 0x88b5 or tcp")...)
			r.wait("remote started")
			says, pid := stated(t, r.text()), r.cmd.Process.Pid
			look := func(what string) int { return w.looksAsStated(what, pid, says, v.rings*ring, v.sockets) }
			sent, stop := w.flood(w.peer, "p0", 600)
			after := func(n int64) func() bool { return func() bool { return sent.Load() >= n } }
			r.until("some traffic passed", after(1000))
			w.transfer("10.98.0.1", 1<<20) // frames of up to 64 KB, where they are cut
			first := look("at the beginning")
			r.until("ten times as much passed", after(10000))
			if last := look("at the end"); last > first+says["dedup"]+8<<20 {
				t.Errorf("it had %d bytes, and then %d", first, last)
			}
			stop()
			if text := r.stop(); account(text, "frames captured on") < 10000 {
				t.Error(text)
			}
			c.stop()
			d.stop()
		})
	}
}

// looksAsStated holds a remote's memory and sockets against what it says of them,
// and returns the pages of its own, bytes.
func (w *world) looksAsStated(what string, pid int, says map[string]int, rings, sockets int) int {
	const program = 40 << 20 // Go's heap and stacks, and what it keeps for garbage collection
	t := w.t
	t.Helper()
	own, all := resident(t, pid)
	if most := says["flights"] + says["cuts"] + says["dedup"] + program; own > most || all > most+says["rings"] {
		t.Errorf("%s: %d bytes of its own, %d in all; it said %v", what, own, all, says)
	}
	if n := ringsMapped(t, pid); n != says["rings"] || n != rings {
		t.Errorf("%s: %d bytes of rings are mapped; it said %v", what, n, says)
	}
	n, buffers := 0, 0
	for _, m := range regexp.MustCompile(`skmem:\(r\d+,rb\d+,t(\d+),tb(\d+)`).FindAllStringSubmatch(w.in(w.sender, "ss", "-H", "-u", "-n", "-m", "dst", "10.99.0.2"), -1) {
		waits, _ := strconv.Atoi(m[1])
		most, _ := strconv.Atoi(m[2])
		if n++; waits > most {
			t.Errorf("%s: %d bytes wait in a socket for %d", what, waits, most)
		}
		buffers += most
	}
	if n != sockets || buffers != says["socket_buffers"] {
		t.Errorf("%s: %d sockets with buffers of %d bytes; it said %v", what, n, buffers, says)
	}
	return own
}

// quota makes a cgroup that may use so much of each 100 ms of one CPU's time, and
// returns its folder.
func quota(t *testing.T, each time.Duration) string {
	t.Helper()
	name := fmt.Sprintf("ntap-test-%d-%d", os.Getpid(), worlds.Add(1))
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		file, value := "", ""
		switch {
		case len(f) < 4:
			continue
		case f[2] == "cgroup2":
			have, _ := os.ReadFile(filepath.Join(f[1], "cgroup.controllers"))
			if !strings.Contains(" "+strings.TrimSpace(string(have))+" ", " cpu ") {
				continue // cgroup v1 has it
			}
			os.WriteFile(filepath.Join(f[1], "cgroup.subtree_control"), []byte("+cpu"), 0)
			file, value = "cpu.max", fmt.Sprintf("%d 100000", each.Microseconds())
		case f[2] == "cgroup" && strings.Contains(","+f[3]+",", ",cpu,"):
			file, value = "cpu.cfs_quota_us", strconv.FormatInt(each.Microseconds(), 10)
		default:
			continue
		}
		dir := filepath.Join(f[1], name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			for range 6000 { // until the last process is gone
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		if os.WriteFile(filepath.Join(dir, file), []byte(value), 0) == nil {
			return dir
		}
	}
	testnet.Missing(t, "no cgroup can be made that bounds CPU time: mount cgroup2, or cgroup with cpu")
	return ""
}

// A remote whose cgroup may use little of a CPU, under more traffic than that is
// enough for, drops in its ring what it has no time for: each frame is in the
// account. It uses no more CPU than it was given, and ends when it is told to.
func TestLittleCPU(t *testing.T) {
	w := newWorld(t)
	const each, whole = 2 * time.Millisecond, 100 * time.Millisecond
	group := quota(t, each)
	c := w.startCollector("--no-tap", "-w", filepath.Join(w.dir, "out.pcapng"))
	r := w.startRemote("-i", "t0", "--workers", "2", "--ring", "1048576", "ether proto 0x88b5")
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(r.cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	used := func() time.Duration {
		stat := tasks(t, r.cmd.Process.Pid)
		ticks := 0
		for _, f := range stat {
			user, _ := strconv.Atoi(f[11]) // proc(5), stat, fields 14 and 15
			system, _ := strconv.Atoi(f[12])
			ticks += user + system
		}
		return time.Duration(ticks) * 10 * time.Millisecond // of 100 a second
	}
	throttled := func() int {
		text, err := os.ReadFile(filepath.Join(group, "cpu.stat"))
		m := regexp.MustCompile(`nr_throttled (\d+)`).FindSubmatch(text)
		if err != nil || m == nil {
			t.Fatalf("%v: %s", err, text)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	before, start, offered := used(), time.Now(), 0
	var frames [][]byte
	for i := range 4000 {
		frames = append(frames, testnet.Numbered(i, 300))
	}
	r.until("it had to wait for its CPU", func() bool {
		w.inject(w.peer, "p0", frames...)
		offered += len(frames)
		return throttled() >= 20 && time.Since(start) > 3*time.Second
	})
	took := time.Since(start)
	if u, most := used()-before, time.Duration(float64(took)*float64(each)/float64(whole))*3/2+100*time.Millisecond; u > most {
		t.Errorf("in %v it used %v of CPU time, more than %v", took, u, most)
	}
	rText := r.stop()
	cText := c.stop()
	captured, dropped, sealed := account(rText, "frames captured on"), account(rText, "frames dropped by the kernel"), account(rText, "frames,")
	if captured != offered || dropped == 0 || sealed == 0 || captured != dropped+sealed {
		t.Errorf("%d frames sent, %d captured, %d dropped by the kernel, %d sealed:\n%s", offered, captured, dropped, sealed, rText)
	}
	if account(cText, "frames captured by the remote") != offered || account(cText, "frames delivered")+account(cText, "frames lost") != sealed {
		t.Errorf("the collector's account:\n%s", cText)
	}
}

// One of two collectors is behind a path that takes a fiftieth of what is sent: a
// token bucket with a queue longer than the socket's buffer. The other gets
// every frame, and what the first does not get is counted.
func TestSlowCollectorHoldsUpNothing(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tc")
	w := newWorld(t)
	w.link(w.sender, "slow0", w.collector, "slow1", "96")
	w.in(w.sender, "tc", "qdisc", "add", "dev", "slow0", "root", "tbf", "rate", "1mbit", "burst", "20000", "limit", "100000000")
	one, two := filepath.Join(w.dir, "one.pcapng"), filepath.Join(w.dir, "two.pcapng")
	c := w.startCollector("--no-tap", "-w", one)
	d := w.another("5679", two)
	r := w.startRemote("-i", "t0", "-c", "10.96.0.2:5679", "ether proto 0x88b5")
	const n = 20000
	for at := 0; at < n; at += 1000 {
		var frames [][]byte
		for i := range 1000 {
			frames = append(frames, testnet.Numbered(at+i, 1000))
		}
		w.inject(w.peer, "p0", frames...)
		c.until("the first collector has those", func() bool { return fileHas(one, frames[999][:64]) })
	}
	if !bytes.Contains([]byte(w.in(w.sender, "tc", "-s", "qdisc", "show", "dev", "slow0")), []byte("backlog")) {
		t.Error("nothing waits on the slow path")
	}
	rText := r.stop()
	cText := c.stop()
	d.cmd.Process.Kill() // what is for it comes for another half minute
	if got := account(cText, "frames delivered"); got != n || account(cText, "frames lost") != 0 {
		t.Errorf("%d of %d frames came to the first:\n%s", got, n, cText)
	}
	first, second, ok := strings.Cut(rText, "\nand to ")
	if !ok || account(first, "frames captured on") != n || account(first, "frames dropped by the kernel") != 0 || account(first, "not taken by the kernel") != 0 {
		t.Errorf("the account towards the first:\n%s", rText)
	}
	if unsent := account(second, "not taken by the kernel"); unsent == 0 || account(second, "frames,") != n {
		t.Errorf("%d datagrams for the second were not taken:\n%s", unsent, rText)
	}
}
