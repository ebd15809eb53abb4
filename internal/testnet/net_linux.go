// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Veth moves the calling test into a new network namespace with one veth pair,
// both ends up. Sockets stay in the namespace that they were opened in: open
// them on the test's goroutine, use them anywhere.
func Veth(t testing.TB) (a, b string) {
	t.Helper()
	Namespace(t)
	Run(t, "ip link add va type veth peer name vb")
	for _, name := range []string{"va", "vb"} {
		Run(t, "ip link set "+name+" addrgenmode none") // no IPv6, and none of its noise
		Run(t, "ip link set "+name+" up")
	}
	WaitUp(t, "va")
	WaitUp(t, "vb")
	return "va", "vb"
}

// No test is to run on the process's first thread: one that moves to another
// namespace there would take /proc/self along, and hold the namespace after its
// end (see ring.Apart). So the main goroutine keeps that thread.
func init() { runtime.LockOSThread() }

// WaitUp waits until an interface carries: the kernel activates its queue some
// time after it was set up, and drops what is sent before (net/core/link_watch.c).
func WaitUp(t testing.TB, iface string) {
	t.Helper()
	Eventually(t, iface+" is up", func() bool { return strings.Contains(Run(t, "ip -o link show "+iface), "state UP") })
}

// Namespace moves the calling test into a new network namespace, which ends
// with the test.
func Namespace(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	runtime.LockOSThread() // never unlocked: thread and namespace end with the test's goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		Missing(t, "no network namespace: "+err.Error()+"; run: sudo make test")
	}
	Run(t, "ip link set lo up")
}

// Run runs a command line, without quotes, in the namespace of the calling
// thread, and returns what it prints.
func Run(t testing.TB, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := Command(t, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
