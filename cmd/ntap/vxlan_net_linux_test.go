// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A vtepWorld is a world with a fourth namespace, where VXLAN comes out, and a
// second tapped interface:
//
//	peer ──(p8 ═ t8)── sender      collector ──(v0 ═ v1)── vtep
//
// v0 is 10.97.0.1 and fd97::1, v1 10.97.0.2 and fd97::2.
type vtepWorld struct {
	*world
	vtep string // namespace
}

func newVTEPWorld(t *testing.T) *vtepWorld {
	t.Helper()
	testnet.RequireTool(t, "ethtool")
	w := &vtepWorld{world: newWorld(t)}
	w.vtep = w.namespace("ntv")
	w.link(w.collector, "v0", w.vtep, "v1", "97")
	w.link(w.sender, "t8", w.peer, "p8", "96")
	// The datagrams of a run are cut, and their checksums finished, before they
	// enter the veth, as they are before they leave a real device.
	w.in(w.collector, "ethtool", "-K", "v0", "tx", "off", "tx-udp-segmentation", "off")
	for _, end := range [][3]string{{w.sender, "t0", "98"}, {w.sender, "t8", "96"}, {w.peer, "p0", "98"}, {w.peer, "p8", "96"}} {
		w.in(end[0], "ethtool", "-K", end[1], "gro", "off", "gso", "off", "tso", "off", "tx", "off", "rx", "off")
		// Frames of 9000 bytes are those that a test injects.
		w.in(end[0], "ip", "link", "set", end[1], "mtu", "9000")
		w.in(end[0], "ip", "route", "replace", "10."+end[2]+".0.0/24", "dev", end[1], "proto", "kernel", "scope", "link", "mtu", "lock", "1500")
	}
	return w
}

// jumbo makes the path to the vtep carry what tapped interfaces of 9000 bytes
// need as VXLAN.
func (w *vtepWorld) jumbo() {
	w.t.Helper()
	w.in(w.collector, "ip", "link", "set", "v0", "mtu", "9500")
	w.in(w.vtep, "ip", "link", "set", "v1", "mtu", "9500")
}

// device makes a VXLAN device of the kernel's in the vtep.
func (w *vtepWorld) device(name, local string, port, vni int) {
	w.t.Helper()
	w.deviceOn("v1", name, local, port, vni)
}

// deviceOn makes one whose datagrams come to another interface of the vtep.
func (w *vtepWorld) deviceOn(under, name, local string, port, vni int) {
	w.t.Helper()
	w.in(w.vtep, "ip", "link", "add", name, "type", "vxlan", "id", fmt.Sprint(vni), "local", local, "dstport", fmt.Sprint(port), "dev", under, "nolearning")
	w.in(w.vtep, "ip", "link", "set", name, "addrgenmode", "none")
	w.in(w.vtep, "ethtool", "-K", name, "gro", "off")
	w.in(w.vtep, "ip", "link", "set", name, "up")
}

// a tapped interface of the sender, and the program that records it.
type wire struct {
	iface, peer string
	file        string
	dump        *proc
	remote      *proc
}

// tapped starts a remote on an interface, with a recording to compare with.
func (w *vtepWorld) tapped(iface, peer, tap string, args ...string) *wire {
	w.t.Helper()
	x := &wire{iface: iface, peer: peer, file: filepath.Join(w.dir, iface+".pcap")}
	x.dump = w.startTcpdump(w.sender, iface, x.file)
	x.remote = w.start(w.sender, ntapBinary, append([]string{"remote", "-i", iface, "--tap", tap}, args...)...)
	x.remote.wait("remote started")
	return x
}

// traffic sends frames of all kinds both ways over a tapped interface, between
// the markers. After each burst comes what between does.
func (w *vtepWorld) traffic(x *wire, between func()) {
	w.t.Helper()
	w.inject(w.peer, x.peer, marker("begin"))
	there := map[string]string{"t0": "98", "t8": "96"}[x.iface]
	w.in(w.peer, "ping", "-q", "-c", "5", "-i", "0.02", "-s", "1000", "10."+there+".0.1")
	w.in(w.peer, "ping", "-q", "-c", "5", "-i", "0.02", "fd"+there+"::1")
	between()
	if x.iface == "t0" {
		w.http(25_000, 4, between)
		w.udp(20)
		between()
	}
	for _, f := range mixedFrames() {
		w.inject(w.peer, x.peer, f)
		w.inject(w.sender, x.iface, f)
		between()
	}
	w.inject(w.peer, x.peer, marker("end"))
	x.dump.until("the end was captured", func() bool { return fileHas(x.file, marker("end")) })
}

// compare wants the frames of the wire, from marker to marker, byte for byte
// in a recording of all that came out; each direction of each flow in order, if
// so wanted. Between directions there is none: they pass different CPUs.
func (w *vtepWorld) compare(x *wire, got string, inOrder bool, kinds ...string) {
	w.t.Helper()
	type direction struct {
		flow uint32
		from [6]byte
	}
	of := func(frame []byte) direction { return direction{proto.FlowHash(frame), [6]byte(frame[6:])} }
	seen, left, begun := map[string]int{}, map[direction][][]byte{}, map[direction]bool{}
	for _, p := range testnet.ReadCapture(w.t, got) {
		left[of(p.Data)] = append(left[of(p.Data)], p.Data)
	}
	for i, p := range between(w.t, x.file) {
		kind := etherKind(p.Data)
		seen[kind]++
		// The host's own TCP acknowledges on either CPU: two packet sockets then
		// have two orders of one direction.
		inOrder := inOrder && kind != "TCP"
		d := of(p.Data)
		at := slices.IndexFunc(left[d], func(f []byte) bool { return bytes.Equal(f, p.Data) })
		if at < 0 || inOrder && at > 0 && begun[d] {
			w.t.Fatalf("%s: frame %d, %d bytes %x, is number %d of what is left of its flow in %s; %s",
				x.iface, i, len(p.Data), head(p.Data), at, filepath.Base(got), w.where())
		}
		if inOrder {
			left[d] = left[d][at+1:] // before it came what was before the marker
		} else {
			left[d] = slices.Delete(left[d], at, at+1)
		}
		begun[d] = true
	}
	for _, k := range kinds {
		if seen[k] == 0 {
			w.t.Errorf("%s: no %s among the frames: %v", x.iface, k, seen)
		}
	}
}

// recorded waits until a recording holds n packets and more, and ends it.
func (w *vtepWorld) recorded(dump *proc, file string, n int) {
	w.t.Helper()
	dump.until(fmt.Sprintf("%d packets were there", n), func() bool { return packets(file) >= n })
	dump.stop()
}

// packets returns how many packets a pcap file holds by now.
func packets(file string) (n int) { return packetsFrom(file, nil) }

// packetsFrom counts those from the first one that is begin on: a recording may
// have begun before the remote did.
func packetsFrom(file string, begin []byte) (n int) {
	all, err := os.ReadFile(file)
	begun := begin == nil
	for at := 24; err == nil && len(all) >= at+16; { // headers of the file and of a packet
		end := at + 16 + int(binary.LittleEndian.Uint32(all[at+8:]))
		begun = begun || len(all) >= end && bytes.Equal(all[at+16:end], begin)
		if begun {
			n++
		}
		at = end
	}
	return n
}

// where tells how many packets came how far, so that a lost one is told from
// one that was never sent.
func (w *vtepWorld) where() string {
	text := ""
	for _, ns := range []string{w.collector, w.vtep} {
		out, _ := testnet.Command(w.t, "ip", "-n", ns, "-s", "link", "show").CombinedOutput()
		text += ns + ":\n" + string(out)
	}
	return text
}

// outer is what a VXLAN datagram says on the wire.
type outer struct {
	flow   uint32 // hash of the inner flow
	source uint16
}

// outers reads the VXLAN datagrams of a recording of the path, to one port. It
// wants each whole, with a UDP checksum that is right.
func outers(t *testing.T, file string, port uint16) (out []outer) {
	t.Helper()
	for i, p := range testnet.ReadCapture(t, file) {
		ip, proto4, n := p.Data[14:], byte(0), 0
		var pseudo []byte
		switch binary.BigEndian.Uint16(p.Data[12:]) {
		case 0x0800:
			proto4, n = ip[9], int(ip[0]&0xF)*4
			pseudo = bytes.Clone(ip[12:20])
			if binary.BigEndian.Uint16(ip[6:])&0x3FFF != 0 {
				t.Fatalf("packet %d is a fragment", i)
			}
		case 0x86DD:
			proto4, n = ip[6], 40
			pseudo = bytes.Clone(ip[8:40])
		}
		if proto4 != 17 || binary.BigEndian.Uint16(ip[n+2:]) != port {
			continue
		}
		udp := ip[n:]
		udp = udp[:binary.BigEndian.Uint16(udp[4:])]
		if sum := binary.BigEndian.Uint16(udp[6:]); sum == 0 || checksum(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(pseudo, uint32(len(udp))), 17), udp) != 0 {
			t.Fatalf("packet %d: UDP checksum %04x is wrong", i, sum)
		}
		_, frame, ok := proto.ParseVXLAN(udp[8:])
		if !ok || !bytes.Equal(udp[9:12], []byte{0, 0, 0}) || udp[8] != 8 || udp[15] != 0 {
			t.Fatalf("packet %d is no VXLAN: %x", i, head(udp))
		}
		out = append(out, outer{proto.FlowHash(frame), binary.BigEndian.Uint16(udp)})
	}
	return out
}

// checksum is that of RFC 1071, over both.
func checksum(a, b []byte) uint16 {
	var sum uint32
	for _, p := range [][]byte{a, b} {
		for i, c := range p {
			sum += uint32(c) << (8 * (1 - i%2))
		}
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	return ^uint16(sum)
}

// What two remotes capture comes out of the kernel's own VXLAN devices, each
// tap under its VNI, byte for byte and in order, at every one of several VTEPs;
// outside, the UDP checksum is there, and each flow has one source port.
func TestVXLANToTheKernel(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name, at, vni string
		vnis          [2]int
	}{
		{"IPv4", "10.97.0.2", "tap", [2]int{7, 8}},
		{"IPv6", "fd97::2", "7=1001,8=16777215", [2]int{1001, 16777215}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			w := newVTEPWorld(t)
			w.jumbo()
			w.in(w.collector, "ping", "-q", "-c", "1", "-w", "60", v.at)
			var dumps [4]*proc
			files := [4]string{}
			for i, name := range []string{"vx7", "vx8", "second7", "second8"} {
				w.device(name, v.at, 4789+i/2, v.vnis[i%2])
				files[i] = filepath.Join(w.dir, name+".pcap")
				dumps[i] = w.startTcpdump(w.vtep, name, files[i])
			}
			outerFile := filepath.Join(w.dir, "outer.pcap")
			outside := w.startTcpdump(w.vtep, "v1", outerFile)
			second := v.at + ":4790"
			if v.name == "IPv6" {
				second = "[" + v.at + "]:4790"
			}
			c := w.startCollector("--no-tap", "--vxlan", v.at, "--vxlan", second, "--vni", v.vni)
			wires := [2]*wire{}
			for i, iface := range []string{"t0", "t8"} {
				wires[i] = w.tapped(iface, "p"+iface[1:], fmt.Sprint(7+i), "-c", "10.99.0.2:5678", "--key-file", w.key)
			}
			for _, x := range wires {
				w.traffic(x, func() {})
			}
			text, captured := "", [2]int{}
			for i, x := range wires {
				says := x.remote.stop()
				text += says
				captured[i] = account(says, "frames captured on")
				x.dump.stop()
			}
			cText := c.stop()
			w.recorded(outside, outerFile, 2*(captured[0]+captured[1]))
			for i, d := range dumps {
				w.recorded(d, files[i], captured[i%2])
				kinds := []string{"ICMP", "VLAN", "QinQ", "802.1ad", "ICMPv6"}
				if i%2 == 0 {
					kinds = append(kinds, "TCP", "UDP")
				}
				w.compare(wires[i%2], files[i], true, kinds...)
			}
			sealed := account(text, "frames captured on")
			for _, at := range []string{":4789", ":4790"} {
				if n := account(cText, "frames written to VXLAN "+strings.TrimSuffix(second, ":4790")+at); n != sealed || sealed == 0 {
					t.Errorf("%s: %d frames captured, %d sent:\n%s", at, sealed, n, cText)
				}
			}
			sources, flows := map[uint16]bool{}, map[uint32]uint16{}
			all := outers(t, outerFile, 4789)
			for _, o := range all {
				if p := flows[o.flow]; p != 0 && p != o.source {
					t.Fatalf("a flow has source ports %d and %d", p, o.source)
				}
				flows[o.flow] = o.source
				sources[o.source] = true
				if o.source < 49152 {
					t.Errorf("source port %d", o.source)
				}
			}
			if len(all) != sealed || len(sources) < 3 {
				t.Errorf("%d datagrams on the path for %d frames, from %d ports", len(all), sealed, len(sources))
			}
		})
	}
}

// mixed returns those packets that mixedFrames made: they are one flow.
func mixed(all []testnet.Packet) (out []testnet.Packet) {
	flow := proto.FlowHash(mixedFrames()[0])
	for _, p := range all {
		if proto.FlowHash(p.Data) == flow {
			out = append(out, p)
		}
	}
	return out
}

// Frames that do not fit the underlay's MTU are told and counted, and dropped,
// cut, or sent as IP fragments, which arrive whole.
func TestVXLANOversize(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ how, at string }{{"drop", "10.97.0.2"}, {"slice", "fd97::2"}, {"fragment", "10.97.0.2"}, {"fragment", "fd97::2"}} {
		t.Run(v.how+"/"+v.at, func(t *testing.T) {
			w := newVTEPWorld(t)
			w.in(w.collector, "ping", "-q", "-c", "1", "-w", "60", v.at)
			w.device("vx7", v.at, 4789, 7)
			file, outerFile := filepath.Join(w.dir, "vx7.pcap"), filepath.Join(w.dir, "outer.pcap")
			dump, outside := w.startTcpdump(w.vtep, "vx7", file), w.startTcpdump(w.vtep, "v1", outerFile)
			c := w.startCollector("--no-tap", "--vxlan", v.at, "--vxlan-oversize", v.how)
			x := w.tapped("t0", "p0", "7", "-c", "10.99.0.2:5678", "--key-file", w.key)
			w.inject(w.peer, "p0", marker("begin"))
			w.inject(w.peer, "p0", mixedFrames()...)
			w.inject(w.peer, "p0", marker("end"))
			x.dump.until("the end was captured", func() bool { return fileHas(x.file, marker("end")) })
			captured := account(x.remote.stop(), "frames captured on")
			x.dump.stop()
			text := c.stop()
			written := account(text, "frames written to VXLAN")
			w.recorded(dump, file, written)
			w.recorded(outside, outerFile, written) // of one fragment each, and more
			room := 1500 - 20 - 8 - 8
			if strings.Contains(v.at, ":") {
				room -= 20
			}
			var want [][]byte
			long := 0
			for _, p := range mixed(testnet.ReadCapture(t, x.file)) {
				switch {
				case len(p.Data) <= room || v.how == "fragment":
					want = append(want, p.Data)
				case v.how == "slice":
					want = append(want, p.Data[:room])
					fallthrough
				default:
					long++
				}
			}
			got := mixed(testnet.ReadCapture(t, file))
			if len(got) != len(want) || v.how != "fragment" && long < 20 {
				t.Fatalf("%d frames, want %d; %d too long; %s", len(got), len(want), long, w.where())
			}
			for i := range want {
				if !bytes.Equal(got[i].Data, want[i]) {
					t.Fatalf("frame %d: %d bytes, want %d", i, len(got[i].Data), len(want[i]))
				}
			}
			fragments := 0
			for _, p := range testnet.ReadCapture(t, outerFile) {
				if ip := p.Data[14:]; ip[0]>>4 == 4 && binary.BigEndian.Uint16(ip[6:])&0x3FFF != 0 || ip[0]>>4 == 6 && ip[6] == 44 {
					fragments++
				}
			}
			if (fragments > 0) != (v.how == "fragment") {
				t.Errorf("%d IP fragments outside", fragments)
			}
			dropped := account(text, "too long for the path")
			cut := account(text, "cut")
			if n := account(text, "frames written to VXLAN"); n+dropped != captured || v.how == "drop" && dropped != long || v.how == "slice" && cut != long {
				t.Errorf("%d captured, %d sent, %d too long and %d cut of %d:\n%s", captured, n, dropped, cut, long, text)
			}
			if v.how != "fragment" && strings.Count(text, "does not fit the path's MTU of 1500") != 1 {
				t.Errorf("told otherwise than once:\n%s", text)
			}
		})
	}
}
