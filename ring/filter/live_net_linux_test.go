// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Live, where the kernel takes the VLAN tag out of the frame, an expression
// means what it means to tcpdump on a live interface.
func TestMeaningLive(t *testing.T) {
	testnet.RequireTool(t, "tcpdump", "ip")
	a, _ := testnet.Veth(t)
	// Tcpdump looks at the interface, in the namespace of this thread. The
	// kernel takes 50 ms to let go of its socket, so many wait at once.
	r := &trial{link: Ethernet, options: Options{LinkType: Ethernet, Live: true}, tcpdump: []string{"-i", a}, workers: 16}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	r.enter = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its worker
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
	}
	r.frames = stripped(append(captured(t, Ethernet), etherFrames(77, 1500, 1000, 10)...))
	var expressions []string
	for _, e := range liveExpressions(77, 400) {
		if strings.Contains(e, "broadcast") && strings.Contains(e, "ip") {
			continue // tcpdump takes the netmask of the interface, which has none
		}
		expressions = append(expressions, e)
	}
	expressions = append(expressions, "inbound", "outbound", "inbound and tcp port 80", "vlan 5 and inbound", "not outbound")
	r.all(t, expressions)
}

// What the table of deviations says of live capture is still so.
func TestLiveDeviationsAreTrue(t *testing.T) {
	testnet.RequireTool(t, "tcpdump", "ip")
	a, _ := testnet.Veth(t)
	frames, n := stripped(etherFrames(9, 3000, 0, 30)), 0
	for _, d := range deviations {
		if d.live {
			d.isSo(t, Options{LinkType: Ethernet, Live: true}, frames, "-i", a)
			n++
		}
	}
	if n == 0 {
		t.Error("the table has none")
	}
}

// On a real interface the kernel lets through exactly what it lets through for
// a tcpdump with the same expression, at the same time, of what comes in and of
// what goes out.
func TestLiveBesideTcpdump(t *testing.T) {
	testnet.RequireTool(t, "tcpdump", "ip")
	for i, e := range []string{
		"vlan 5", "vlan and ip", "not vlan", "vlan 5 and vlan", "vlan and tcp port 80", "ip or vlan and tcp", "vlan 100 and not ip6",
		"tcp port 80 or udp port 53", "mpls and ip", "geneve and ip", "greater 100", "ether broadcast", "arp or rarp", "inbound",
		"outbound", "not inbound", "not outbound", "vlan 5 and outbound", "inbound and vlan and tcp", "vlan and vlan and not inbound", "outbound and not vlan or arp",
	} {
		t.Run(e, func(t *testing.T) {
			a, b := testnet.Veth(t)
			program, err := Compile(e, Options{LinkType: Ethernet, Live: true, SnapLen: 1 << 18})
			if err != nil {
				t.Fatal(err)
			}
			ours := openLive(t, a, program)
			file := filepath.Join(t.TempDir(), "tcpdump.pcap")
			// The mark comes first: behind vlan, offsets are those behind a tag.
			// With -O, since for this libpcap's optimiser moves the tests of
			// what is behind the tag before the test for the tag.
			dump := testnet.Daemon(t, "tcpdump", "-i", a, "-O", "-w", file, "-U", "-s", "2000", "-B", "16384", "--immediate-mode", "--", "ether proto 0x88b6 or ("+e+")")
			var said bytes.Buffer
			dump.Stderr = &said
			if err := dump.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { dump.Process.Kill(); dump.Wait() }()
			mark := func(n byte) []byte { return ether(0x88B6, append(make([]byte, 46), n)) }
			has := func(f []byte) bool {
				text, err := os.ReadFile(file)
				return err == nil && bytes.Contains(text, f[12:])
			}
			until := func(f []byte) {
				t.Helper()
				for end := time.Now().Add(time.Minute); !has(f); time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("tcpdump does not see the mark: %s", said.String())
					}
					if !bytes.Equal(f, mark(1)) {
						continue
					}
					testnet.SendFrames(t, b, f) // it may not be listening yet
				}
			}
			until(mark(1))
			// What was in tcpdump's ring before its filter was set, up to that
			// many frames, libpcap filters itself, and its own machine knows
			// no direction: these go first.
			for range 64 {
				testnet.SendFrames(t, b, mark(1))
			}
			var in, out [][]byte
			for n, f := range etherFrames(uint64(i), 800, 200, 0) {
				switch {
				case len(f.data) < 14 || len(f.data) > 1514:
				case n%2 == 0:
					in = append(in, f.data)
				default:
					out = append(out, f.data)
				}
			}
			testnet.SendFrames(t, b, in...)
			testnet.SendFrames(t, a, out...)
			testnet.SendFrames(t, b, mark(2))
			until(mark(2))
			dump.Process.Signal(os.Interrupt)
			dump.Wait()
			if !strings.Contains(said.String(), "\n0 packets dropped by kernel") {
				t.Fatalf("tcpdump lost something: %s", said.String())
			}
			var want [][]byte
			for _, p := range testnet.ReadCapture(t, file) {
				if !bytes.Equal(p.Data[12:14], []byte{0x88, 0xB6}) {
					want = append(want, p.Data)
				}
			}
			got := ours(t)
			// What comes in may pass what goes out on another CPU.
			slices.SortFunc(got, bytes.Compare)
			slices.SortFunc(want, bytes.Compare)
			all, known := map[string]int{"inbound": len(in), "not outbound": len(in), "outbound": len(out), "not inbound": len(out)}[e]
			if len(got) != len(want) || len(want) == 0 || len(want) >= len(in)+len(out) || known && len(want) != all {
				t.Fatalf("%d frames, tcpdump has %d, of %d in and %d out", len(got), len(want), len(in), len(out))
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("frame %d is %x, tcpdump has %x", i, got[i], want[i])
				}
			}
		})
	}
}

// openLive opens a packet socket with a program attached, and returns what
// reads the frames that came, with their tags put back.
func openLive(t *testing.T, name string, p Program) func(*testing.T) [][]byte {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: (*unix.SockFilter)(unsafe.Pointer(&p[0]))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		t.Fatalf("the kernel refuses the program: %v\n%v", err, p)
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)); err != nil {
		t.Fatal(err)
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: i.Index}); err != nil { // ETH_P_ALL, big-endian
		t.Fatal(err)
	}
	return func(t *testing.T) (frames [][]byte) {
		buf, control := make([]byte, 1<<17), make([]byte, 256)
		for {
			n, c, _, _, err := unix.Recvmsg(fd, buf, control, 0)
			if errors.Is(err, unix.EAGAIN) {
				return frames
			}
			if err != nil {
				t.Fatal(err)
			}
			f := bytes.Clone(buf[:n])
			messages, err := unix.ParseSocketControlMessage(control[:c])
			if err != nil || len(messages) != 1 {
				t.Fatalf("%v, %v", messages, err)
			}
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&messages[0].Data[0]))
			if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
				f = join(f[:12], be16(aux.Vlan_tpid), be16(aux.Vlan_tci), f[12:])
			}
			if typ := f[12:14]; !bytes.Equal(typ, []byte{0x88, 0xB6}) {
				frames = append(frames, f)
			}
		}
	}
}

// The kernel takes every program that it can be given: its own checks find no
// fault.
func TestKernelTakesPrograms(t *testing.T) {
	testnet.RequireTool(t, "ip")
	testnet.Namespace(t)
	w := newWriter(5)
	expressions := append(written(), w.expressions(1500)...)
	var ports []string
	for i := range 400 {
		ports = append(ports, fmt.Sprintf("tcp src port %d", 2*i+1))
	}
	expressions = append(expressions, strings.Join(ports, " or "), "vlan and ("+strings.Join(ports, " or ")+")")
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	taken, longest := 0, 0
	var once sync.Once
	for _, e := range expressions {
		for _, live := range []bool{true, false} {
			p, err := Compile(e, Options{LinkType: Ethernet, Live: live})
			if err != nil {
				continue
			}
			prog := unix.SockFprog{Len: uint16(len(p)), Filter: (*unix.SockFilter)(unsafe.Pointer(&p[0]))}
			err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
			if errors.Is(err, unix.ENOMEM) {
				once.Do(func() { t.Logf("%d instructions are more than net.core.optmem_max allows", len(p)) })
				continue
			}
			if err != nil {
				t.Fatalf("%q: %v\n%v", e, err, p)
			}
			taken, longest = taken+1, max(longest, len(p))
		}
	}
	if taken < 1000 || longest < 400 {
		t.Errorf("%d programs, the longest of %d instructions", taken, longest)
	}
	t.Logf("%d programs, the longest of %d instructions", taken, longest)
}
