// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// packetSockets returns the packet sockets of this process.
func packetSockets(t *testing.T) map[int]bool {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]bool{}
	for _, f := range all {
		fd, _ := strconv.Atoi(f.Name())
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_PACKET {
			out[fd] = true
		}
	}
	return out
}

// attached returns the program that a socket has.
func attached(t *testing.T, fd int) []bpf.RawInstruction {
	t.Helper()
	program := make([]bpf.RawInstruction, 4096)
	n := uint32(len(program))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER, uintptr(unsafe.Pointer(&program[0])), uintptr(unsafe.Pointer(&n)), 0); e != 0 {
		t.Fatal(e)
	}
	return program[:n]
}

// A filter that one of several rings does not take is in none of them: not in
// those of other shards, of a set, or of another interface. Those before the
// one that failed used to have it, while the log said that all was as before.
// The next one, that all take, is in all.
func TestFilterIsInAllRingsOrNone(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for _, v := range []struct {
		interfaces []string
		workers    int
	}{{[]string{iface}, 2}, {[]string{"any"}, 2}, {[]string{"any", iface}, 1}, {[]string{iface, "lo"}, 1}} {
		for refuses := range 2 {
			// Not a subtest: its goroutine would be in another namespace.
			var log bytes.Buffer
			tp := testTap(t, Config{Interfaces: v.interfaces, Workers: v.workers, Filter: Filter{Text: "udp port 1111"}, Log: zerolog.New(&log)})
			others := packetSockets(t)
			_, closeAll, err := tp.open()
			if err != nil {
				closeAll()
				t.Fatal(err)
			}
			sockets := packetSockets(t)
			maps.DeleteFunc(sockets, func(fd int, _ bool) bool { return others[fd] })
			fds := slices.Sorted(maps.Keys(sockets))
			if len(fds) != 2 {
				t.Fatalf("%v: %d rings", v, len(fds))
			}
			before := [][]bpf.RawInstruction{attached(t, fds[0]), attached(t, fds[1])}
			// The kernel takes no other filter for that socket.
			if err := unix.SetsockoptInt(fds[refuses], unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1); err != nil {
				t.Fatal(err)
			}
			tp.change(Filter{Text: "udp port 2222 or tcp port 3333"})
			for i, fd := range fds {
				if !slices.Equal(attached(t, fd), before[i]) {
					t.Errorf("%v: ring %d refused the filter, and ring %d has another one than before", v, refuses, i)
				}
			}
			if text := log.String(); !strings.Contains(text, "the filter stays as it was") || strings.Contains(text, "all the same") || tp.filter.Load().Text != "udp port 1111" {
				t.Errorf("%v: filter %q: %s", v, tp.filter.Load().Text, text)
			}
			closeAll()
		}
	}
}

// A filter that all rings take is in all of them, and in rings that are opened
// anew.
func TestFilterIsInAllRings(t *testing.T) {
	iface, _ := testnet.Veth(t)
	others := packetSockets(t)
	s := openShards(t, iface)[0]
	own := func() (program []bpf.RawInstruction) {
		for fd := range packetSockets(t) {
			if !others[fd] {
				program = attached(t, fd)
			}
		}
		return program
	}
	all := own()
	s.tap.change(Filter{Text: "udp port 2222"})
	one := own()
	if slices.Equal(all, one) || s.tap.filter.Load().Text != "udp port 2222" {
		t.Error("the filter is the one before")
	}
	openAnew(t, s)
	if !slices.Equal(own(), one) {
		t.Error("a ring that is opened anew has another filter")
	}
}
