// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// empty makes a folder with the program and nothing else than the files given,
// by the names that they get in there.
func (w *world) empty(files map[string]string) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "scratch")
	if err != nil {
		w.t.Fatal(err)
	}
	files["ntap"] = ntapBinary
	for name, from := range files {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o700)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// The program needs nothing but itself: in a file system that holds only it and
// its files (a container FROM scratch), without /proc, /sys, /etc and /dev, a
// remote sends a capture file and captures live, and a collector records.
func TestFromScratch(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "chroot")
	w := newWorld(t)
	capture := filepath.Join("..", "..", "internal", "testnet", "testdata", "captures", "arp-oobr.pcap")
	there := w.empty(map[string]string{"key": w.key, "in.pcap": capture})
	here := w.empty(map[string]string{"key": w.key})
	in := func(ns, dir string, args ...string) *proc {
		return w.start(ns, "chroot", append([]string{dir, "/ntap"}, args...)...)
	}
	remote := []string{"remote", "-c", "10.99.0.2:5678", "--key-file", "/key", "--tap", "1"}
	file := filepath.Join(here, "out.pcapng")
	c := in(w.collector, here, "collector", "-p", "5678", "--key-file", "/key", "--state", "/state", "--no-tap", "-w", "/out.pcapng")
	c.wait("collector started")
	in(w.sender, there, append(remote, "-r", "/in.pcap", "--pace", "max")...).end()
	for _, i := range []string{"t0", "any"} {
		r := in(w.sender, there, append(remote, "-i", i)...)
		r.wait("remote started")
		w.inject(w.peer, "p0", marker("live "+i))
		c.until("the live frame is written", func() bool { return fileHas(file, marker("live "+i)) })
		r.stop()
	}
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Error(text)
	}
	want, got := testnet.ReadCapture(t, capture), testnet.ReadCapture(t, file)
	if len(want) == 0 || len(got) < len(want) {
		t.Fatalf("%d packets went in, %d came out", len(want), len(got))
	}
	for i := range want {
		if !bytes.Equal(got[i].Data, want[i].Data) || got[i].Time != want[i].Time || got[i].OrigLen != want[i].OrigLen {
			t.Fatalf("packet %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	for _, dir := range []string{there, here} {
		names, err := os.ReadDir(dir)
		if err != nil || len(names) > 5 {
			t.Errorf("%v: %v", names, err)
		}
	}
	// What needs more says so, and is no panic.
	out, _ := testnet.Command(t, "ip", "netns", "exec", w.sender, "chroot", there, "/ntap", "doctor").CombinedOutput()
	if !strings.Contains(string(out), "capture") || strings.Contains(string(out), "panic") {
		t.Errorf("doctor:\n%s", out)
	}
}

// noUring is set for a process that is to become another program without
// io_uring, as Docker's and containerd's seccomp profiles have it.
const noUring = "NTAP_TEST_NO_URING"

// becomeWithoutUring does that.
func becomeWithoutUring(args []string) error {
	if err := testnet.Deny(unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_REGISTER, unix.EPERM); err != nil {
		return err
	}
	os.Unsetenv(noUring)
	return syscall.Exec(args[0], args, os.Environ())
}

// contained returns the command line of ntap as in an unprivileged container:
// of the capabilities only those given, no io_uring.
func contained(t *testing.T, capabilities string, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"env", noUring + "=1", "setpriv", "--bounding-set=" + capabilities, "--inh-caps=" + capabilities, self, ntapBinary}, args...)
}

// In a container with CAP_NET_RAW and nothing else a remote captures, and all
// that it does without is in the log: buffers beyond the limits, other
// namespaces, io_uring. A collector there needs no right at all, but for a TAP.
func TestUnprivilegedContainer(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "setpriv", "env")
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	const raw, none = "-all,+net_raw", "-all"
	collector := contained(t, none, "collector", "-p", "5678", "--key-file", w.key, "--state", "none", "--no-tap", "-w", file, "--receive-buffer", "1000000000")
	c := w.start(w.collector, collector[0], collector[1:]...)
	c.wait("collector started")
	c.wait("the kernel limits the socket's buffer")
	remote := func(more ...string) []string {
		return contained(t, raw, append([]string{"remote", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1"}, more...)...)
	}
	want := map[string]int{}
	for _, i := range []string{"t0", "any", "t*"} {
		r := w.start(w.sender, remote("-i", i)[0], remote("-i", i)[1:]...)
		r.wait("remote started")
		frame := marker("contained " + i)
		w.inject(w.peer, "p0", frame)
		want[string(frame)] = 1
		c.until("the frame is written", func() bool { return fileHas(file, frame) })
		text := r.stop()
		limit, err := os.ReadFile("/proc/sys/net/core/wmem_max")
		if n, _ := strconv.Atoi(strings.TrimSpace(string(limit))); err == nil && n < 4<<20 && !strings.Contains(text, "the kernel limits the socket's buffer") {
			t.Errorf("net.core.wmem_max is %d, and nothing is said of it:\n%s", n, text)
		}
	}
	text := c.stop()
	got := map[string]int{}
	for _, p := range testnet.ReadCapture(t, file) {
		if bytes.Contains(p.Data, []byte("contained")) {
			got[string(p.Data)]++
		}
	}
	if !maps.Equal(got, want) || account(text, "frames lost") != 0 {
		t.Errorf("%v, want %v\n%s", got, want, text)
	}
	for _, v := range []struct {
		args []string
		says string
	}{
		{remote("-i", "t0", "--io", "uring"), "io_uring"},
		{remote("-i", "t0", "--io", "zerocopy"), "use --io mmsg"},
		{remote("--netns", w.peer), "CAP_SYS_ADMIN"},
		{contained(t, none, "remote", "-i", "t0", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1"), "CAP_NET_RAW"},
		{contained(t, raw, "collector", "-p", "5678", "--key-file", w.key, "--state", "none", "-i", "ntap0"), "CAP_NET_ADMIN"},
	} {
		out, err := testnet.Command(t, "ip", append([]string{"netns", "exec", w.sender}, v.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), v.says) || strings.Contains(string(out), "panic") {
			t.Errorf("%q: %v, want %q:\n%s", v.args, err, v.says, out)
		}
	}
	// What is sent of a file is captured by nobody: that it has no mark is no
	// warning, as it used to be.
	all := testnet.Captures(t)
	tftp := all[slices.IndexFunc(all, func(p string) bool { return filepath.Base(p) == "tftp.pcap" })]
	args := contained(t, none, "remote", "-r", tftp, "--pace", "max", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1")
	if out := w.in(w.sender, args[0], args[1:]...); strings.Contains(out, "no mark") {
		t.Errorf("of a file:\n%s", out)
	}
	out, _ := testnet.Command(t, "ip", append([]string{"netns", "exec", w.sender}, contained(t, raw, "doctor")...)...).CombinedOutput()
	for _, line := range []string{`ok +capture`, `fail +virtual interfaces`, `warn +other namespaces`, `warn +io_uring`, `(ok|warn) +memory`} {
		if !regexp.MustCompile(`(?m)^` + line).Match(out) {
			t.Errorf("doctor has no line %q:\n%s", line, out)
		}
	}
	if text := string(out); !strings.Contains(text, "a seccomp profile that allows io_uring_setup") || strings.Contains(text, "kernel.io_uring_disabled=0") {
		t.Errorf("doctor does not mend what keeps io_uring from being used here:\n%s", out)
	}
}

// A tap leaves its interface as it found it, after kill -9 too: promiscuous mode
// goes with the socket, offloads and queueing are never touched. It takes the
// memory that it says, and no other place in the schedule than it was given.
func TestTapDoesNoHarm(t *testing.T) {
	testnet.RequireTool(t, "ethtool", "nice", "tc")
	w := newWorld(t)
	look := func() string {
		return w.in(w.sender, "ip", "-d", "link", "show", "t0") + w.in(w.sender, "ip", "addr", "show", "t0") +
			w.in(w.sender, "ethtool", "-k", "t0") + w.in(w.sender, "tc", "qdisc", "show", "dev", "t0") +
			w.in(w.sender, "sh", "-c", "cat /proc/sys/net/ipv4/conf/t0/* /proc/sys/net/ipv6/conf/t0/* 2>/dev/null; true")
	}
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 less the nice value, see getpriority(2)
	if err != nil {
		t.Fatal(err)
	}
	niced := strconv.Itoa(min(20-own+7, 19))
	promiscuity := regexp.MustCompile(`promiscuity (\d+)`)
	before := look()
	for _, v := range []struct {
		iface, want string // promiscuity while it runs: one of each ring
		signal      os.Signal
	}{{"t0", "2", unix.SIGINT}, {"t0", "2", unix.SIGKILL}, {"t[0-9]", "1", unix.SIGKILL}, {"any", "0", unix.SIGKILL}} {
		r := w.start(w.sender, "nice", "-n", "7", ntapBinary, "remote", "-i", v.iface, "--ring", "8388608", "--workers", "2",
			"-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1")
		r.wait("remote started")
		during := look()
		if got := promiscuity.FindStringSubmatch(during); got == nil || got[1] != v.want {
			t.Errorf("%s: promiscuity %q while it runs, want %s", v.iface, got, v.want)
		}
		if was, is := promiscuity.ReplaceAllString(before, ""), promiscuity.ReplaceAllString(during, ""); strings.ReplaceAll(is, "PROMISC,", "") != was {
			t.Errorf("%s: the interface is not as it was:\n%s\nbefore:\n%s", v.iface, is, was)
		}
		if stated, is := ringsStated(t, r.text()), ringsMapped(t, r.cmd.Process.Pid); stated != 2*8388608 || is != stated {
			t.Errorf("%s: %d bytes of rings stated, %d mapped", v.iface, stated, is)
		}
		for _, task := range tasks(t, r.cmd.Process.Pid) {
			if nice, policy := task[16], task[38]; nice != niced || policy != "0" { // proc(5), stat, fields 19 and 41
				t.Errorf("a thread has nice %s and policy %s", nice, policy)
			}
		}
		r.cmd.Process.Signal(v.signal)
		testnet.Receive(t, "the remote's end", r.done)
		testnet.Eventually(w.t, "all is as before", func() bool { return look() == before }) // sockets go a moment after the process
	}
}

func ringsStated(t *testing.T, text string) int {
	t.Helper()
	m := regexp.MustCompile(`rings=(\d+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no word of memory:\n%s", text)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// ringsMapped adds up what a process has mapped of sockets.
func ringsMapped(t *testing.T, pid int) (sum int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var from, to int
		if n, _ := fmt.Sscanf(line, "%x-%x", &from, &to); n == 2 && strings.Contains(line, "socket:[") {
			sum += to - from
		}
	}
	return sum
}

// tasks returns the fields of /proc/PID/task/*/stat from the third on.
func tasks(t *testing.T, pid int) (out [][]string) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		out = append(out, strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])))
	}
	if len(out) < 2 {
		t.Fatalf("%d threads", len(out))
	}
	return out
}
