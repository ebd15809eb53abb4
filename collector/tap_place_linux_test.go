// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

func linkMTU(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().MTU
}

// tapped gives frames to a sink, all of which have to be delivered.
func tapped(t *testing.T, s *tapSink, o *Origin, frames ...[]byte) {
	t.Helper()
	before := s.counts.Delivered.Load()
	for _, f := range frames {
		s.Write(o, ethernet(f))
	}
	if err := s.Flush(); err != nil || s.counts.Delivered.Load()-before != uint64(len(frames)) {
		t.Fatalf("%d of %d delivered, %v", s.counts.Delivered.Load()-before, len(frames), err)
	}
}

// The MTU of a TAP is that of the frames that come: with steps, without VLAN
// tags, for each device of its own, and never lowered.
func TestTapMTUFollowsTheFrames(t *testing.T) {
	tagged := func(size int) []byte {
		f := numbered(size, 0)
		copy(f[12:], []byte{0x88, 0xA8, 0, 5, 0x81, 0, 0, 6, 0x88, 0xB5})
		return f
	}
	for _, name := range []string{"mtu1", "mtu%t"} {
		ownNet(t)
		devs := openTaps(t, tapConfig{Name: name, Workers: 2, Isolate: true})
		s, second := openSink(t, devs, 0, ioAuto), openSink(t, devs, 1, ioAuto)
		o := &Origin{Tap: 1}
		for _, step := range []struct {
			frame []byte
			want  int
		}{
			{numbered(60, 0), 1500}, {numbered(1514, 0), 1500}, {tagged(1522), 1500}, {numbered(1515, 0), 1508}, {tagged(1523), 1508},
			{numbered(9014, 0), 9000}, {numbered(100, 0), 9000}, {numbered(9019, 0), 9216}, {numbered(65549, 0), 65521}, {numbered(65549, 0), 65521},
		} {
			tapped(t, s, o, step.frame)
			tapped(t, second, o, step.frame)
			if got := linkMTU(t, "mtu1"); got != step.want {
				t.Errorf("%s: MTU %d after a frame of %d bytes, want %d", name, got, len(step.frame), step.want)
			}
		}
		if name == "mtu%t" {
			tapped(t, s, &Origin{Tap: 2}, numbered(300, 0))
			testnet.Run(t, "ip link set mtu2 mtu 4000")
			tapped(t, s, &Origin{Tap: 2}, numbered(1800, 0))
			if got := linkMTU(t, "mtu2"); got != 4000 {
				t.Errorf("MTU %d, set by hand to 4000", got)
			}
		}
	}
}

// A packet of IP without a link-layer header gets one of Ethernet, in batches
// with frames that have theirs; what no Ethernet carries is counted, and said
// once for all workers.
func TestTapSinkRawIP(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg} {
		t.Run(io, func(t *testing.T) {
			ownNet(t)
			var warnings []string
			devs := openTaps(t, tapConfig{Name: "raw0", Workers: 2, Isolate: true, Warn: func(err error) { warnings = append(warnings, err.Error()) }})
			s, second := openSink(t, devs, 0, io), openSink(t, devs, 1, io)
			p, index := listen(t), linkIndex(t, "raw0")
			var want [][]byte
			for i := range 300 {
				size := []int{100, 1514, 9000, 65535}[i%4]
				if i%3 == 0 {
					f := numbered(size, i)
					s.Write(&Origin{}, ethernet(f))
					want = append(want, f)
					continue
				}
				packet, kind := bytes.Repeat([]byte{byte(i)}, size), []byte{8, 0}
				packet[0] = 0x45
				if i%2 == 1 {
					packet[0], kind = 0x60, []byte{0x86, 0xDD}
				}
				r := ethernet(packet)
				if r.LinkType = proto.LinkTypeRaw; i%5 == 0 {
					r.LinkType = map[byte]proto.LinkType{0x45: 228, 0x60: 229}[packet[0]]
				}
				s.Write(&Origin{}, r)
				want = append(want, append(append([]byte("\x02ntap\x02\x02ntap\x01"), kind...), packet...))
			}
			for _, w := range []*tapSink{s, second} {
				for range 3 {
					radio := ethernet(numbered(100, 0))
					radio.LinkType = 127
					w.Write(&Origin{}, radio)
				}
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
				if n := w.counts.NotEthernet.Load(); n != 3 {
					t.Errorf("%d not Ethernet, want 3", n)
				}
			}
			for i, f := range want {
				if got := p.next(index, false, time.Minute); !bytes.Equal(got, f) {
					t.Fatalf("frame %d: %d bytes %x, want %d %x", i, len(got), head(got)[:min(len(got), 40)], len(f), f[:40])
				}
			}
			if len(warnings) != 1 || !strings.Contains(warnings[0], "TAP raw0: frames of link type 127 fit no Ethernet") {
				t.Errorf("warnings %q", warnings)
			}
			packet := ethernet(append([]byte{0x45}, make([]byte, 99)...))
			packet.LinkType = proto.LinkTypeRaw
			if n := testing.AllocsPerRun(20, func() {
				for range 200 {
					s.Write(&Origin{}, packet)
				}
				s.Flush()
			}); n != 0 {
				t.Errorf("%v allocations for 200 packets", n)
			}
		})
	}
}

// A TAP that is to stay does, with whoever reads there: the next collector, of
// whatever number of workers, goes on with the same one.
func TestTapPersists(t *testing.T) {
	for _, name := range []string{"stay1", "stay%t"} {
		t.Run(name, func(t *testing.T) {
			ownNet(t)
			p := listen(t)
			index, n := 0, 0
			for _, workers := range []int{1, 2, 1} {
				devs := openTaps(t, tapConfig{Name: name, Workers: workers, Isolate: true, Persist: true})
				for worker := range workers {
					s := openSink(t, devs, worker, ioAuto)
					tapped(t, s, &Origin{Tap: 1}, numbered(100, n), numbered(9014, n+1))
					s.Close()
					at := linkIndex(t, "stay1")
					if index == 0 {
						index = at
					}
					for range 2 {
						if f := p.next(index, false, time.Minute); at != index || f == nil || number(f) != n {
							t.Fatalf("%d workers: interface %d, before %d; frame %d did not come", workers, at, index, n)
						}
						n++
					}
				}
				if err := devs.Close(); err != nil {
					t.Fatal(err)
				}
				if mtu := linkMTU(t, "stay1"); mtu != 9000 {
					t.Errorf("MTU %d while no collector runs", mtu)
				}
			}
			testnet.Run(t, "ip link del stay1")
		})
	}
}

// A TAP in another namespace, by its name, its file or a process in it. When
// there is another namespace of that name, it goes there.
func TestTapInAnotherNamespace(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "ip")
	ownNet(t)
	name := fmt.Sprintf("ntapplace%d", os.Getpid())
	testnet.Run(t, "ip netns add "+name)
	t.Cleanup(func() { testnet.Command(t, "ip", "netns", "del", name).Run() })
	sleep := testnet.Daemon(t, "ip", "netns", "exec", name, "sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() { sleep.Process.Kill(); sleep.Wait() }
	defer stop()
	pid := strconv.Itoa(sleep.Process.Pid)
	testnet.Eventually(t, "the process is in the namespace", func() bool {
		a, _ := os.Readlink("/proc/" + pid + "/ns/net")
		b, _ := os.Readlink("/proc/thread-self/ns/net")
		return a != b
	})
	has := func() bool { return testnet.Command(t, "ip", "-n", name, "link", "show", "far1").Run() == nil }
	received := func() string {
		out, err := testnet.Command(t, "ip", "netns", "exec", name, "cat", "/sys/class/net/far1/statistics/rx_packets").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	for _, at := range []string{name, "/run/netns/" + name, pid} {
		for _, pattern := range []string{"far1", "far%t"} {
			devs := openTaps(t, tapConfig{Name: pattern, Isolate: true, NetNS: at})
			s := openSink(t, devs, 0, ioAuto)
			tapped(t, s, &Origin{Tap: 1}, numbered(100, 0), numbered(9014, 1))
			if _, err := netlink.LinkByName("far1"); err == nil || !has() || received() != "2" {
				t.Errorf("%s in %s: it is not there", pattern, at)
			}
			s.Close()
			if err := devs.Close(); err != nil || has() {
				t.Errorf("%s in %s is still there: %v", pattern, at, err)
			}
		}
	}

	var warnings []string
	devs := openTaps(t, tapConfig{Name: "far1", Isolate: true, NetNS: name, Warn: func(err error) { warnings = append(warnings, err.Error()) }})
	s := openSink(t, devs, 0, ioAuto)
	stop()
	testnet.Run(t, "ip netns del "+name)
	now := time.Now()
	tick := func() { now = now.Add(2 * tapLook); devs.tick(now) }
	tick()
	tick()
	tapped(t, s, &Origin{}, numbered(100, 0)) // nobody sees it
	testnet.Run(t, "ip netns add "+name)
	tick()
	tapped(t, s, &Origin{}, numbered(100, 0))
	tapped(t, s, &Origin{}, numbered(100, 0))
	if !has() || received() != "2" {
		t.Errorf("it is not in the new namespace")
	}
	if len(warnings) != 3 || !strings.Contains(warnings[0], "is gone") || !strings.Contains(warnings[1], "another one now") || !strings.Contains(warnings[2], "made anew") {
		t.Errorf("warnings %q", warnings)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{"nosuch.ns": "no such file", file: "no network namespace", "/proc/self/ns/uts": "no network namespace", "4294967290": "no such file"} {
		if _, err := newTapSet(tapConfig{Name: "far1", NetNS: at}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ip netns") {
			t.Errorf("%s: %v; want %q", at, err, want)
		}
	}
}

// While no interface changes, to look where devices are allocates next to nothing: it
// used to ask for each device every second, for 10 KB of garbage.
func TestLookingAtTapsIsCheap(t *testing.T) {
	testnet.Namespace(t)
	devs := openTaps(t, tapConfig{Name: "quiet0", Isolate: true})
	now := time.Now()
	tick := func() { now = now.Add(2 * tapLook); devs.tick(now) }
	if n := testing.AllocsPerRun(100, tick); n > 5 { // once or twice the device's own beginning is told of
		t.Errorf("%v allocations", n)
	}
}

// A TAP that is made the port of a bridge gives it its frames, though isolated:
// the drop is taken away meanwhile.
func TestTapAsABridgePort(t *testing.T) {
	testnet.Namespace(t)
	testnet.RequireTool(t, "ip")
	for _, line := range []string{
		"ip link add br0 type bridge", "ip link set br0 addrgenmode none", "ip link add out0 type veth peer name out1",
		"ip link set out0 addrgenmode none", "ip link set out1 addrgenmode none", "ip link set out0 master br0",
		"ip link set br0 up", "ip link set out0 up", "ip link set out1 up",
	} {
		testnet.Run(t, line)
	}
	testnet.WaitUp(t, "out0")
	var warnings []string
	devs := openTaps(t, tapConfig{Name: "port0", Isolate: true, Persist: true, Warn: func(err error) { warnings = append(warnings, err.Error()) }})
	s := openSink(t, devs, 0, ioAuto)
	now := time.Now()
	tick := func() { now = now.Add(2 * tapLook); devs.tick(now) }
	forwards := func(devs *tapSet, s *tapSink, want bool) {
		t.Helper()
		tick()
		if (devs.one.isolate == nil) != want {
			t.Errorf("isolated: %v", devs.one.isolate != nil)
		}
		if want { // the bridge hears of a carrier some time after it is there, and drops what comes before
			for _, port := range []string{"port0", "out0"} {
				testnet.Eventually(t, port+" forwards", func() bool {
					return strings.Contains(testnet.Run(t, "ip -d link show "+port), "state forwarding")
				})
			}
		}
		p := listen(t)
		for i := range 3 {
			tapped(t, s, &Origin{}, numbered(300, i))
		}
		// What the bridge itself sends, IGMP and the like, has another length.
		next := func(wait time.Duration) []byte {
			for range 100 {
				if f := p.next(linkIndex(t, "out1"), false, wait); f == nil || len(f) == 300 {
					return f
				}
			}
			return nil
		}
		for i := range 3 {
			if !want {
				if f := next(100 * time.Millisecond); f != nil {
					t.Fatalf("out of the bridge came %x", f)
				}
				return
			}
			if f := next(time.Minute); !bytes.Equal(f, numbered(300, i)) {
				t.Fatalf("frame %d came out of the bridge as %x", i, f)
			}
		}
	}
	testnet.Run(t, "ip link set port0 master br0")
	forwards(devs, s, true)
	testnet.Run(t, "ip link set port0 nomaster")
	forwards(devs, s, false)
	testnet.Run(t, "ip link set port0 master br0")
	s.Close()
	if err := devs.Close(); err != nil {
		t.Fatal(err)
	}
	devs = openTaps(t, tapConfig{Name: "port0", Isolate: true, Persist: true}) // the port as it stayed
	forwards(devs, openSink(t, devs, 0, ioAuto), true)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "TAP port0: it is the port of a bridge now") {
		t.Errorf("warnings %q", warnings)
	}
}

// Only the port of a bridge or of Open vSwitch is not isolated: in a VRF or in a
// bond a TAP gave captured frames to the host's stack.
func TestTapIsolatedUnderOthers(t *testing.T) {
	for _, c := range []struct {
		above netlink.Link
		want  bool
	}{
		{&netlink.Bridge{}, true}, {&netlink.GenericLink{LinkType: "openvswitch"}, true}, {&netlink.Vrf{}, false},
		{&netlink.Bond{}, false}, {&netlink.GenericLink{LinkType: "team"}, false}, {&netlink.GenericLink{}, false},
	} {
		if got := bridges(c.above); got != c.want {
			t.Errorf("%q: %v", c.above.Type(), got)
		}
	}
	testnet.Namespace(t)
	testnet.RequireTool(t, "ip")
	made := false
	for kind, more := range map[string]string{"vrf": " table 10", "bond": "", "team": ""} {
		if testnet.Command(t, "sh", "-c", "ip link add above type "+kind+more).Run() != nil {
			continue // not in this kernel
		}
		made = true
		name := "port-" + kind
		devs := openTaps(t, tapConfig{Name: name, Isolate: true, Warn: func(err error) { t.Errorf("%s: %v", kind, err) }})
		testnet.Run(t, "ip link set "+name+" down")
		testnet.Run(t, "ip link set "+name+" master above")
		devs.tick(time.Now().Add(2 * tapLook))
		if devs.one.isolate == nil {
			t.Errorf("%s: it is not isolated any more", kind)
		}
		testnet.Run(t, "ip link del above")
	}
	t.Logf("this kernel has one of them: %v", made)
}
