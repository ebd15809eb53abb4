// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// injectUntil sends a marker again and again until a recording has it: a
// collector that has just started may not know the tap's session yet.
func (w *world) injectUntil(text, file string) {
	w.t.Helper()
	w.injectFrameUntil(text, file, marker(text))
}

func (w *world) injectFrameUntil(text, file string, frame []byte) {
	w.t.Helper()
	last := time.Time{}
	testnet.Eventually(w.t, "the marker "+text+" in "+filepath.Base(file), func() bool {
		if time.Since(last) > 200*time.Millisecond {
			w.inject(w.peer, "p0", frame)
			last = time.Now()
		}
		return fileHas(file, frame)
	})
}

// A program that reads a TAP in another namespace, as a container's, sees frames
// before and after a restart of the collector: the TAP is the same one.
func TestTapOutlivesTheCollector(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := w.namespace("ntx")
	file := filepath.Join(w.dir, "keep0.pcap")
	args := []string{"-i", "keep0", "--persist", "--netns", far}
	c := w.startCollector(args...)
	index := w.in(far, "cat", "/sys/class/net/keep0/ifindex")
	dump := w.startTcpdump(far, "keep0", file)
	w.startRemote("-i", "t0")
	w.injectUntil("first", file)
	c.stop()
	w.in(far, "ip", "link", "show", "keep0")
	c = w.startCollector(args...)
	w.injectUntil("second", file)
	c.stop()
	if again := w.in(far, "cat", "/sys/class/net/keep0/ifindex"); again != index {
		t.Errorf("interface %s before, %s after", index, again)
	}
	dump.stop() // it ran all the time
}

// syn returns a SYN from 10.98.0.77, port 7777, to port 80 of the collector's
// own address, for the interface of that MAC.
func syn(mac []byte) []byte {
	f := append(bytes.Clone(mac), 2, 0, 0, 0, 0, 8, 8, 0,
		0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 98, 0, 77, 10, 99, 0, 2,
		0x1E, 0x61, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xFF, 0xFF, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(f[24:], checksum(f[14:34], nil))
	binary.BigEndian.PutUint16(f[50:], checksum(append(bytes.Clone(f[26:34]), 0, 6, 0, 20), f[34:54]))
	return append(f, make([]byte, 6)...)
}

// A captured SYN for the collector's own address, which its stack would answer,
// gets no answer, while tcpdump on the TAP sees it. With --isolate=false it is
// answered.
func TestIsolatedTapAnswersNothing(t *testing.T) {
	t.Parallel()
	for _, isolate := range []bool{true, false} {
		t.Run(strconv.FormatBool(isolate), func(t *testing.T) {
			w := newWorld(t)
			c := w.startCollector("-i", "ntap0", "--isolate="+strconv.FormatBool(isolate))
			w.in(w.collector, "ip", "route", "add", "default", "via", "10.99.0.1")
			w.in(w.collector, "sh", "-c", "for i in all ntap0 up1; do echo 0 >/proc/sys/net/ipv4/conf/$i/rp_filter; done")
			var mac []byte
			for part := range strings.SplitSeq(strings.TrimSpace(w.in(w.collector, "cat", "/sys/class/net/ntap0/address")), ":") {
				b, err := strconv.ParseUint(part, 16, 8)
				if err != nil {
					t.Fatal(err)
				}
				mac = append(mac, byte(b))
			}
			file, answers := filepath.Join(w.dir, "ntap0.pcap"), filepath.Join(w.dir, "up0.pcap")
			w.startTcpdump(w.collector, "ntap0", file)
			w.startTcpdump(w.sender, "up0", answers, "host 10.98.0.77 or icmp")
			r := w.startRemote("-i", "t0")
			w.inject(w.peer, "p0", syn(mac))
			testnet.Eventually(w.t, "tcpdump on the TAP saw the SYN", func() bool { return fileHas(file, syn(mac)) })
			// What the stack had to say, it has said before this.
			w.in(w.collector, "ping", "-q", "-c", "1", "-w", "60", "-p", "6e746170", "10.99.0.1")
			testnet.Eventually(w.t, "the ping was recorded", func() bool { return fileHas(answers, []byte("ntapntap")) })
			answer := false
			for _, p := range testnet.ReadCapture(t, answers) {
				answer = answer || bytes.Equal(p.Data[26:34], []byte{10, 99, 0, 2, 10, 98, 0, 77})
			}
			if answer == isolate {
				t.Errorf("isolated: %v; answered: %v", isolate, answer)
			}
			r.stop()
			c.stop()
		})
	}
}

// Packets of a TUN interface, which have no Ethernet header, come out of a TAP
// and of a VXLAN device of the kernel's with one, and in pcapng as they were.
func TestPacketsOfATun(t *testing.T) {
	t.Parallel()
	w := newVTEPWorld(t)
	w.jumbo()
	w.in(w.collector, "ping", "-q", "-c", "1", "-w", "60", "10.97.0.2")
	w.device("vx1", "10.97.0.2", 4789, 1)
	fd := -1
	w.inside(w.sender, func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq("tun9")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	defer unix.Close(fd)
	w.in(w.sender, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/tun9/disable_ipv6; ip link set tun9 up")
	pcapng := filepath.Join(w.dir, "tun.pcapng")
	c := w.startCollector("-i", "ntap0", "-w", pcapng, "--vxlan", "10.97.0.2")
	files := []string{filepath.Join(w.dir, "ntap0.pcap"), filepath.Join(w.dir, "vx1.pcap")}
	dumps := []*proc{w.startTcpdump(w.collector, "ntap0", files[0]), w.startTcpdump(w.vtep, "vx1", files[1])}
	r := w.startRemote("-i", "tun9")
	var packets [][]byte
	for i := range 20 {
		p := make([]byte, 100+i*50)
		for j := range p {
			p[j] = byte(i + j)
		}
		n := binary.BigEndian.AppendUint16(nil, uint16(len(p)))
		copy(p, []byte{0x45, 0, n[0], n[1], 0, byte(i), 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
		if i%2 == 1 {
			binary.BigEndian.PutUint16(n, uint16(len(p)-40))
			copy(p, append([]byte{0x60, 0, 0, 0, n[0], n[1], 17, 64, 0x20, 1, 0x0d, 0xb8}, make([]byte, 28)...))
		}
		packets = append(packets, p)
		if _, err := unix.Write(fd, p); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range dumps {
		d.until("all packets were there", func() bool { return fileHas(files[i], packets[19]) })
		d.stop()
	}
	says := r.stop()
	text := c.stop()
	for _, file := range files {
		got := testnet.ReadCapture(t, file)
		// VXLAN keeps the order of a flow, and these are two.
		slices.SortStableFunc(got, func(a, b testnet.Packet) int { return len(a.Data) - len(b.Data) })
		if len(got) != len(packets) {
			t.Fatalf("%s: %d frames, want %d\n%s%s", filepath.Base(file), len(got), len(packets), says, text)
		}
		for n, p := range packets {
			kind := map[byte]string{4: "\x08\x00", 6: "\x86\xDD"}[p[0]>>4]
			if want := append([]byte("\x02ntap\x02\x02ntap\x01"+kind), p...); !bytes.Equal(got[n].Data, want) {
				t.Errorf("%s: packet %d came as %x, want %x", filepath.Base(file), n, head(got[n].Data), head(want))
			}
		}
	}
	got := testnet.ReadCapture(t, pcapng)
	for n, p := range packets {
		if len(got) != len(packets) || !bytes.Equal(got[n].Data, p) || got[n].LinkType != 101 {
			t.Fatalf("pcapng: %d packets; number %d of link type %d: %x", len(got), n, got[n].LinkType, head(got[n].Data))
		}
	}
}

// A TAP that stays is a port of Open vSwitch, which forwards its frames byte for
// byte, also those of a collector that was started anew.
func TestTapAsAPortOfOpenVSwitch(t *testing.T) {
	o := newOpenVSwitch(t)
	if out, ok := o.ntap("setup", "--datapath", "netdev"); !ok {
		t.Fatal(out)
	}
	o.in(o.vtep, "ip", "link", "add", "o7", "mtu", "9500", "type", "veth", "peer", "name", "o7p", "mtu", "9500")
	for _, end := range []string{"o7", "o7p"} {
		o.in(o.vtep, "ip", "link", "set", end, "addrgenmode", "none", "up")
	}
	o.waitUp(o.vtep, "o7")
	o.vsctl("add-port", "ntap", "o7")
	c := o.startCollector("-i", "ntap0", "--persist", "--netns", o.vtep)
	o.asDocumented("An interface as a port", 1)
	file := filepath.Join(o.dir, "o7p.pcap")
	dump := o.startTcpdump(o.vtep, "o7p", file)
	x := o.tapped("t0", "p0", "7", "-c", "10.99.0.2:5678", "--key-file", o.key)
	o.injectUntil("early", file)
	c.stop()
	c = o.startCollector("-i", "ntap0", "--persist", "--netns", o.vtep)
	o.injectUntil("ready", file)
	// Open vSwitch reads frames up to the MTU that it knows the port by, and
	// learns of a greater one a moment after it was set: frames of that moment
	// it loses.
	o.injectFrameUntil("large", file, append(marker("large"), make([]byte, 9000-60)...))
	o.inject(o.peer, "p0", marker("begin"))
	for _, f := range mixedFrames() {
		o.inject(o.peer, "p0", f)
		// Open vSwitch reads its port through a socket with the system's small
		// buffer, which all of them together overflow if it does not run meanwhile.
		dump.until("the frame came out", func() bool { return fileHas(file, f) })
	}
	o.inject(o.peer, "p0", marker("end"))
	dump.until("the end came out", func() bool { return fileHas(file, marker("end")) })
	x.dump.until("the end was captured", func() bool { return fileHas(x.file, marker("end")) })
	x.remote.stop()
	x.dump.stop()
	dump.stop()
	c.stop()
	o.compare(x, file, false)
	if _, err := os.Stat("/sys/class/net/ntap0"); err == nil {
		t.Error("the TAP is in the test's own namespace")
	}
}
