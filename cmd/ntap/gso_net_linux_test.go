// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// TCP transfers over a veth with all offloads on, which the tapped host receives
// and which it sends, are captured as frames of up to 64 KB, and of more with
// IPv6 BIG TCP, with unfinished checksums. What comes out of the collector, in
// pcapng, of a TAP and as VXLAN, is what a wire would have seen: see judge. The
// outputs used to be given the frames as they were captured.
func TestOffloadsComeOutAsTheWireSawThem(t *testing.T) {
	testnet.RequireTool(t, "tshark")
	w := newOffloadedWorld(t)
	w.jumbo()
	w.in(w.collector, "ping", "-q", "-c", "1", "-w", "60", "10.97.0.2")
	w.device("vx1", "10.97.0.2", 4789, 1)
	files := map[string]string{"pcapng": filepath.Join(w.dir, "out.pcapng"), "TAP": filepath.Join(w.dir, "ntap0.pcap"), "VXLAN": filepath.Join(w.dir, "vx1.pcap")}
	c := w.startCollector("-i", "ntap0", "-w", files["pcapng"], "--vxlan", "10.97.0.2", "--cpus", lastCPU(t))
	// tcpdump has room for the more frames the shorter they may be.
	dumps := map[string]*proc{
		"TAP":   w.startTcpdump(w.collector, "ntap0", files["TAP"], "-s", "1600"),
		"VXLAN": w.startTcpdump(w.vtep, "vx1", files["VXLAN"], "-s", "1600"),
	}
	const filter = tcpOrBig + " or ether proto 0x88b5" // and the marker
	tapped := filepath.Join(w.dir, "t0.pcap")
	dump := w.startTcpdump(w.sender, "t0", tapped, "-s", "200", filter)
	r := w.startRemote("-i", "t0", "--ring", "268435456", filter)

	const size = 4 << 20
	streams := w.bothWays(size)
	w.bigTCP()
	big := []stream{w.bulk(w.peer, w.sender, "fd98::1", size), w.bulk(w.sender, w.peer, "fd98::2", size)}
	w.injectUntil("end", files["TAP"]) // which comes behind all the rest there
	dumps["TAP"].stop()
	says := r.stop()
	w.recorded(dump, tapped, account(says, "frames captured on"))
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Fatalf("frames were lost:\n%s%s", says, text)
	}
	longest := func(s stream) int {
		if slices.Contains(big, s) {
			return 1 << 16
		}
		return 1514
	}
	streams = append(streams, big...)
	captured, _ := offloaded(t, tapped, longest, streams...)
	cut := account(text, "frames more")
	for name, file := range files {
		if name == "VXLAN" {
			w.recorded(dumps[name], file, account(text, "frames delivered to the outputs")+cut)
		}
		if n := w.judge(file, whole, streams...); n != captured+cut {
			t.Errorf("%s: %d frames of TCP; %d were captured, and %d more cut out of them", name, n, captured, cut)
		}
	}
}

// tcpOrBig also lets through what has the hop-by-hop header of BIG TCP before
// TCP's.
const tcpOrBig = "tcp or (ip6[6] == 0 and ip6[40] == 6)"

// newOffloadedWorld is a world whose tapped interface and peer have all offloads
// that a veth has.
func newOffloadedWorld(t *testing.T) *vtepWorld {
	t.Helper()
	w := newVTEPWorld(t)
	for _, end := range [][2]string{{w.sender, "t0"}, {w.peer, "p0"}} {
		w.in(end[0], "ip", "link", "set", end[1], "mtu", "1500")
		w.in(end[0], "ethtool", "-K", end[1], "sg", "on", "gso", "on", "tso", "on", "tx", "on", "rx", "on")
	}
	return w
}

// bigTCP has the tapped interface and the peer send IPv6 TCP in frames of more
// than 64 KB (BIG TCP).
func (w *vtepWorld) bigTCP() {
	w.t.Helper()
	for _, end := range [][2]string{{w.sender, "t0"}, {w.peer, "p0"}} {
		w.in(end[0], "ip", "link", "set", end[1], "gso_max_size", "180000", "gro_max_size", "180000")
	}
}

// bothWays transfers by IPv4 and IPv6, to the tapped host and from it.
func (w *vtepWorld) bothWays(size int) (all []stream) {
	for _, net := range []string{"10.98.0.", "fd98::"} {
		all = append(all, w.bulk(w.peer, w.sender, net+"1", size), w.bulk(w.sender, w.peer, net+"2", size))
	}
	return all
}

// lastCPU is one that the test may use, and not onOneCPU's if there are several.
func lastCPU(t *testing.T) (cpu string) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if may.IsSet(i) {
			cpu = strconv.Itoa(i)
		}
	}
	return cpu
}

// With --keep-gso the frames stay whole, longer than the wire had them, all bytes
// are there, and their checksums are right: they used to be those of the pseudo
// header alone, and programs that look at them threw such frames away.
func TestKeepGSO(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file, "--keep-gso")
	r := w.startRemote("-i", "t0", "--ring", "268435456")
	const size = 4 << 20
	w.transfer("10.98.0.1", size)
	r.stop()
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Fatalf("frames were lost:\n%s", text)
	}
	long, bytes := 0, 0
	for _, p := range testnet.ReadCapture(t, file) {
		if len(p.Data) > 1514 {
			long++
		}
		if len(p.Data) > 66 {
			bytes += len(p.Data) - 66 // Ethernet, IPv4, TCP with timestamps
		}
	}
	if long == 0 || bytes < size {
		t.Errorf("%d frames are longer than the MTU, %d bytes of %d\n%s", long, bytes, size, text)
	}
	if good, bad := verifiedChecksums(t, file); bad != 0 || good < long {
		t.Errorf("%d checksums are good, %d bad, of %d long frames and others", good, bad, long)
	}
}

func withoutRootWarning(s string) string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(s), "\n") {
		if l != "" && !strings.Contains(l, "Running as user") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "\n")
}

// A frame that is longer than a block of the ring is cut by the kernel, without
// a word: each is counted, and comes out with the length that it had. It used
// to be cut and not counted. One that is cut because -s says so is not one.
func TestFramesLongerThanABlock(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	for _, v := range []struct {
		name string
		args []string
		want bool
	}{
		{"small blocks", []string{"--block", "16384"}, true},
		{"small blocks, a filter", []string{"--block", "16384", "tcp"}, true},
		{"small blocks, sliced", []string{"--block", "16384", "-s", "9000"}, false},
		{"usual blocks", nil, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file, "--keep-gso")
			r := w.startRemote(append([]string{"-i", "t0", "--ring", "268435456"}, v.args...)...)
			w.transfer("10.98.0.1", 4<<20)
			text := r.stop()
			c.stop()
			cut := len(strings.Fields(withoutRootWarning(w.must("tshark", "-r", file, "-Y", "frame.cap_len < frame.len && frame.cap_len > 9000", "-T", "fields", "-e", "frame.number"))))
			if n := account(text, "frames cut, since they were longer than a block"); n != cut || v.want != (n > 0) {
				t.Errorf("%d frames came out cut, %d are counted:\n%s", cut, n, text)
			}
			if v.want != strings.Contains(text, "frames are longer than a block of the ring") {
				t.Errorf("the log says:\n%s", text)
			}
			if account(text, "frames captured") != account(text, "frames, ") {
				t.Errorf("not all were sent:\n%s", text)
			}
		})
	}
}
