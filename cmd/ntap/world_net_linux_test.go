// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A world is what the whole-binary tests run in, made of namespaces of their
// own:
//
//	peer ──(p0 ═ t0)── sender ──(up0 ═ up1)── collector
//	                   remote taps t0          TAP ntap0
//
// up0 is 10.99.0.1 and fd99::1, up1 10.99.0.2 and fd99::2; t0 is 10.98.0.1 and
// fd98::1, p0 10.98.0.2 and fd98::2.
type world struct {
	t                       *testing.T
	dir                     string
	peer, sender, collector string // namespaces
	key                     string // of the master, a file
	sleepers                []*exec.Cmd
}

var worlds atomic.Int64

func newWorld(t *testing.T) *world {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "ip", "tcpdump")
	w := &world{t: t, dir: t.TempDir()}
	w.peer, w.sender, w.collector = w.namespace("ntp"), w.namespace("nts"), w.namespace("ntc")
	w.link(w.sender, "up0", w.collector, "up1", "99")
	w.link(w.sender, "t0", w.peer, "p0", "98")
	w.key = filepath.Join(w.dir, "master.key")
	w.must(ntapBinary, "key", "new", "--out", w.key)
	return w
}

// namespace makes a network namespace, which goes with the test.
func (w *world) namespace(name string) string {
	w.t.Helper()
	ns := fmt.Sprintf("%s%d-%d", name, os.Getpid(), worlds.Add(1))
	w.must("ip", "netns", "add", ns)
	w.t.Cleanup(func() { testnet.Command(w.t, "ip", "netns", "del", ns).Run() })
	w.in(ns, "ip", "link", "set", "lo", "up")
	// No router solicitations and neighbour discovery at odd moments: tests
	// count frames.
	w.in(ns, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/default/router_solicitations")
	return ns
}

// link joins two namespaces by a veth with addresses .1 and .2.
func (w *world) link(a, ifA, b, ifB, net string) {
	w.t.Helper()
	w.must("ip", "link", "add", ifA, "netns", a, "type", "veth", "peer", "name", ifB, "netns", b)
	for i, end := range [][2]string{{a, ifA}, {b, ifB}} {
		host := strconv.Itoa(i + 1)
		w.in(end[0], "ip", "addr", "add", "10."+net+".0."+host+"/24", "dev", end[1])
		w.in(end[0], "ip", "addr", "add", "fd"+net+"::"+host+"/64", "dev", end[1], "nodad")
		w.in(end[0], "sh", "-c", "ip link set "+end[1]+" up; "+staleLate(end[1]))
	}
	w.waitUp(a, ifA)
	w.waitUp(b, ifB)
}

// staleLate is a command by which an interface keeps what it knows of neighbours
// for long: it asked them again five seconds after it had last sent to them, at
// odd moments.
func staleLate(iface string) string {
	return "for v in 4 6; do at=/proc/sys/net/ipv$v/neigh/" + iface + "; echo 3600 >$at/delay_first_probe_time; echo 3600000 >$at/base_reachable_time_ms; done"
}

// waitUp waits until an interface carries, see testnet.WaitUp.
func (w *world) waitUp(ns, iface string) {
	w.t.Helper()
	testnet.Eventually(w.t, iface+" is up", func() bool { return strings.Contains(w.in(ns, "ip", "-o", "link", "show", iface), "state UP") })
}

func (w *world) must(name string, args ...string) string {
	w.t.Helper()
	out, err := testnet.Command(w.t, name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// in runs a program in a namespace, to its end.
func (w *world) in(ns, name string, args ...string) string {
	w.t.Helper()
	return w.must("ip", append([]string{"netns", "exec", ns, name}, args...)...)
}

// A proc is a program running in a namespace.
type proc struct {
	w    *world
	cmd  *exec.Cmd
	name string
	mu   sync.Mutex
	out  bytes.Buffer // stdout and stderr
	done chan struct{}
	err  error
}

func (p *proc) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *proc) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (w *world) start(ns, name string, args ...string) *proc {
	w.t.Helper()
	p := &proc{w: w, name: filepath.Base(name) + " " + args[0], done: make(chan struct{})}
	p.cmd = testnet.Daemon(w.t, "ip", append([]string{"netns", "exec", ns, name}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	w.t.Cleanup(func() {
		p.cmd.Process.Kill()
		testnet.Receive(w.t, "the end of "+p.name+", which was killed", p.done)
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", p.name, p.text())
		}
	})
	return p
}

// wait waits for text in what the program prints.
func (p *proc) wait(text string) {
	p.w.t.Helper()
	p.until("it printed "+strconv.Quote(text), func() bool { return strings.Contains(p.text(), text) })
}

// until waits for a condition, while the program runs.
func (p *proc) until(what string, ok func() bool) {
	p.w.t.Helper()
	for deadline := time.Now().Add(testnet.Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.done:
			if ok() {
				return
			}
			p.w.t.Fatalf("%s ended (%v) before %s:\n%s", p.name, p.err, what, p.text())
		default:
		}
		if time.Now().After(deadline) {
			p.w.t.Fatalf("%s: %v, and not yet: %s\n%s", p.name, testnet.Patience, what, p.text())
		}
	}
}

// stop sends SIGINT, waits for the end, and wants exit status 0.
func (p *proc) stop() string {
	p.w.t.Helper()
	p.cmd.Process.Signal(syscall.SIGINT)
	return p.end()
}

// end waits for the end by itself, and wants exit status 0.
func (p *proc) end() string {
	p.w.t.Helper()
	select {
	case <-p.done:
	case <-time.After(testnet.Patience):
		p.w.t.Fatalf("%s does not end:\n%s", p.name, p.text())
	}
	if p.err != nil {
		p.w.t.Fatalf("%s: %v\n%s", p.name, p.err, p.text())
	}
	return p.text()
}

// startCollector starts a collector on port 5678 and waits until it listens.
func (w *world) startCollector(args ...string) *proc {
	w.t.Helper()
	p := w.start(w.collector, ntapBinary, append([]string{"collector", "-p", "5678", "--key-file", w.key,
		"--state", filepath.Join(w.dir, "state")}, args...)...)
	p.wait("collector started")
	return p
}

// startRemote starts a remote for tap 1 towards the collector and waits until it
// captures.
func (w *world) startRemote(args ...string) *proc {
	w.t.Helper()
	p := w.start(w.sender, ntapBinary, append([]string{"remote", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1"}, args...)...)
	p.wait("remote started")
	return p
}

// startTcpdump records an interface into a file until stopped: frames of up to
// 10,000 bytes, or what -s says. Its buffer has room for so many of those as it
// would for the longest, 6,700, however short they are: a burst has to fit it.
func (w *world) startTcpdump(ns, iface, file string, filter ...string) *proc {
	w.t.Helper()
	p := w.start(ns, "tcpdump", append([]string{"-i", iface, "-n", "-s", "10000", "-B", "65536", "--immediate-mode", "-U",
		"--time-stamp-precision=nano", "-w", file, "-Z", "root"}, filter...)...)
	p.wait("listening on")
	return p
}

// account reads "12345 frames captured …" lines: the sum of the numbers in
// front of the words.
func account(text, words string) (n int) {
	for _, m := range regexp.MustCompile(`(?m)(\d+) `+regexp.QuoteMeta(words)).FindAllStringSubmatch(text, -1) {
		v, _ := strconv.Atoi(m[1])
		n += v
	}
	return n
}

// counter reads one of an interface's statistics.
func (w *world) counter(ns, iface, name string) int {
	w.t.Helper()
	out := strings.TrimSpace(w.in(ns, "cat", "/sys/class/net/"+iface+"/statistics/"+name))
	n, err := strconv.Atoi(out)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// inside runs do on a thread in a namespace: sockets that it opens stay there.
func (w *world) inside(ns string, do func() error) {
	w.t.Helper()
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if err == nil {
			err = do()
		}
		errs <- err
	}()
	if err := testnet.Receive(w.t, "what is done in "+ns, errs); err != nil {
		w.t.Fatalf("in %s: %v", ns, err)
	}
}

// inject sends raw frames out of an interface.
func (w *world) inject(ns, iface string, frames ...[]byte) {
	w.t.Helper()
	w.inside(ns, func() error {
		wire, err := testnet.OpenWire(iface)
		if err != nil {
			return err
		}
		defer wire.Close()
		for _, f := range frames {
			if err := wire.Send(f); err != nil {
				return fmt.Errorf("%d bytes: %w", len(f), err)
			}
		}
		return nil
	})
}

// fileHas says whether a file contains b by now.
func fileHas(path string, b []byte) bool {
	all, err := os.ReadFile(path)
	return err == nil && bytes.Contains(all, b)
}

// soFar returns the packets that are whole in a file which is still written: its
// end may be within one, of which readers of files make an error.
func soFar(path string) []testnet.Packet {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := testnet.DecodeGopacket(f)
	return all
}

// sideBySide sets how many tests run at once, unless -parallel says so: most of
// them mostly wait, in namespaces and with ports of their own. Those that look at
// what the machine does, or change what is the process's, have no t.Parallel and
// run alone, before.
func sideBySide() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(testsPerCPU*runtime.NumCPU()))
	}
}

// Chosen: with 2 CPUs all tests take 454 s one by one and 206 s six at once; with
// ten at once they take 173 s, and what a wire should see comes late.
const testsPerCPU = 3

// ntapBinary is the program under test, built once by TestMain.
var ntapBinary string

func TestMain(m *testing.M) {
	if os.Getenv(noUring) != "" {
		fmt.Fprintln(os.Stderr, becomeWithoutUring(os.Args[1:]))
		os.Exit(1)
	}
	if os.Getenv(scanFile) != "" {
		if err := scanMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "ntap-test")
	if err == nil {
		ntapBinary = filepath.Join(dir, "ntap")
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute) // it may have to compile all
		defer stop()
		cmd := exec.CommandContext(ctx, "go", "build", "-o", ntapBinary, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "building ntap:", err)
		os.Exit(1)
	}
	sideBySide()
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}
