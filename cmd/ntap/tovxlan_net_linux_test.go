// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A remote sends what it captures to the kernel's VXLAN device, without a
// collector and without a key: byte for byte, each flow in order.
func TestRemoteToVXLAN(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		at, tap, vni, workers string
		want                  int
	}{
		{"10.99.0.2", "7", "tap", "1", 7},
		{"fd99::2", "4294967295", "1001", "2", 1001}, // the kernel's flows are others: of ICMP also by type
	} {
		t.Run(v.at, func(t *testing.T) {
			w := newVTEPWorld(t)
			w.vtep = w.collector
			for ns, iface := range map[string]string{w.sender: "up0", w.collector: "up1"} {
				w.in(ns, "ip", "link", "set", iface, "mtu", "9500")
			}
			w.in(w.sender, "ping", "-q", "-c", "1", "-w", "60", v.at)
			w.deviceOn("up1", "vx", v.at, 4789, v.want)
			file := filepath.Join(w.dir, "vx.pcap")
			dump := w.startTcpdump(w.vtep, "vx", file)
			x := w.tapped("t0", "p0", v.tap, "--to-vxlan", v.at, "--vni", v.vni, "--workers", v.workers)
			w.traffic(x, func() {})
			text := x.remote.stop()
			x.dump.stop()
			captured := account(text, "frames captured on")
			w.recorded(dump, file, captured)
			w.compare(x, file, v.workers == "1", "ICMP", "VLAN", "QinQ", "802.1ad", "ICMPv6", "TCP", "UDP")
			if n := account(text, "frames sent as VXLAN"); n != captured || !strings.Contains(text, "sent in clear") {
				t.Errorf("%d captured, %d sent:\n%s", captured, n, text)
			}
		})
	}
}

// A TCP transfer that is captured as frames of up to 64 KB comes out as a wire
// would have seen it: see TestOffloadsComeOutAsTheWireSawThem.
func TestRemoteToVXLANCutsGSO(t *testing.T) {
	testnet.RequireTool(t, "tshark")
	w := newVTEPWorld(t)
	w.vtep = w.collector
	for _, end := range [][2]string{{w.sender, "t0"}, {w.peer, "p0"}} {
		w.in(end[0], "ip", "link", "set", end[1], "mtu", "1500")
		w.in(end[0], "ethtool", "-K", end[1], "gro", "on", "gso", "on", "tso", "on", "tx", "on", "rx", "on")
	}
	for ns, iface := range map[string]string{w.sender: "up0", w.collector: "up1"} {
		w.in(ns, "ip", "link", "set", iface, "mtu", "1550")
	}
	w.deviceOn("up1", "vx", "10.99.0.2", 4789, 1)
	file := filepath.Join(w.dir, "vx.pcap")
	dump := w.startTcpdump(w.vtep, "vx", file, "-s", "1600")
	r := w.start(w.sender, ntapBinary, "remote", "-i", "t0", "--to-vxlan", "10.99.0.2", "--ring", "268435456")
	r.wait("without a collector")
	const size = 1 << 20
	streams := []stream{w.transfer("10.98.0.1", size), w.transfer("fd98::1", size)}
	text := r.stop()
	sent := account(text, "frames sent as VXLAN")
	if captured := account(text, "frames captured on"); captured == 0 || sent <= captured || account(text, "too long for the path") != 0 {
		t.Fatalf("%d frames captured, %d sent: nothing was cut\n%s", captured, sent, text)
	}
	w.recorded(dump, file, sent)
	w.judge(file, whole, streams...)
}

// A capture file goes the same way.
func TestRemoteToVXLANFromFile(t *testing.T) {
	t.Parallel()
	in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	roomy(in)
	const count = 2000
	file := numbered(t, count, 700, time.Microsecond)
	status, out := try(t, "remote", "-r", file, "--pace", "max", "--to-vxlan", in.LocalAddr().String(), "--tap", "5")
	if status != 0 || account(out, "frames sent as VXLAN") != count {
		t.Fatalf("status %d:\n%s", status, out)
	}
	left := map[string]int{}
	for _, p := range testnet.ReadCapture(t, file) {
		left[string(p.Data)]++
	}
	buf := make([]byte, 1<<16)
	for range count {
		in.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := in.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		vni, frame, ok := proto.ParseVXLAN(buf[:n])
		if !ok || vni != 5 || left[string(frame)] == 0 {
			t.Fatalf("VNI %d, %d bytes: none of the file's", vni, len(frame))
		}
		left[string(frame)]--
	}
}

// A remote that taps the interface on which it sends VXLAN never captures its
// own, whole or in fragments, by mark or by content, and leaves out nothing
// else that goes to the VTEP: without the rule each datagram would make
// another, without end.
func TestRemoteNeverTapsItsOwnVXLAN(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ at, mark, oversize string }{
		{"10.99.0.2", "0x3074", "drop"}, {"10.99.0.2", "0", "drop"}, {"10.99.0.2", "0", "fragment"}, {"10.99.0.2", "0x3074", "fragment"},
		{"fd99::2", "0", "slice"}, {"fd99::2", "0", "fragment"},
	} {
		t.Run(v.at+"/"+v.mark+"/"+v.oversize, func(t *testing.T) {
			t.Parallel()
			w := newVTEPWorld(t)
			w.vtep = w.collector
			w.in(w.sender, "ping", "-q", "-c", "1", "-w", "60", v.at)
			w.deviceOn("up1", "vx", v.at, 4789, 7)
			w.deviceOn("up1", "other", v.at, 4790, 8)
			file := filepath.Join(w.dir, "vx.pcap")
			dump := w.startTcpdump(w.vtep, "vx", file)
			r := w.start(w.sender, ntapBinary, "remote", "-i", "up0", "--tap", "7", "--to-vxlan", v.at, "--mark", v.mark, "--vxlan-oversize", v.oversize)
			r.wait("without a collector")
			const pings = 20
			w.in(w.sender, "ping", "-q", "-c", fmt.Sprint(pings), "-i", "0.05", v.at)
			w.in(w.sender, "ping", "-q", "-c", "5", "-i", "0.05", "-s", "1450", v.at) // frames that do not fit
			// VXLAN of others: another VNI from the same source port, the same
			// VNI to another port, and the same VNI from another source port.
			want := 0
			for _, c := range []struct{ vni, port, source int }{{9, 4789, 49153}, {7, 4790, 49153}, {7, 4789, 48000}} {
				w.inside(w.sender, func() error {
					other, err := net.DialUDP("udp", &net.UDPAddr{Port: c.source}, &net.UDPAddr{IP: net.ParseIP(v.at), Port: c.port})
					if err != nil { // the remote has that one
						other, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(v.at), Port: c.port})
					}
					if err != nil {
						return err
					}
					defer other.Close()
					for range 3 {
						other.Write(append(proto.AppendVXLAN(nil, uint32(c.vni)), marker("of another")...))
						want++
					}
					return nil
				})
			}
			time.Sleep(300 * time.Millisecond) // for what would go round
			text := r.stop()
			sent := account(text, "frames sent as VXLAN")
			w.recorded(dump, file, sent)
			got, echo := 0, 0
			for _, p := range testnet.ReadCapture(t, file) {
				if bytes.Contains(p.Data, marker("of another")) && etherKind(p.Data) == "UDP" {
					got++
				}
				if k := etherKind(p.Data); k == "ICMP" || k == "ICMPv6" && len(p.Data) == 118 {
					echo++
				}
				if ip := p.Data[14:]; etherKind(p.Data) == "UDP" && !bytes.Contains(p.Data, marker("of another")) &&
					(ip[0]>>4 == 4 && binary.BigEndian.Uint16(ip[22:]) == 4789 || ip[0]>>4 == 6 && binary.BigEndian.Uint16(ip[42:]) == 4789) {
					t.Fatalf("the remote captured its own VXLAN: %x", head(p.Data))
				}
			}
			if captured := account(text, "frames captured on"); captured > 200 || got != want || echo < 2*pings {
				t.Errorf("%d frames captured; %d of %d of others' VXLAN, %d ICMP:\n%s", captured, got, want, echo, text)
			}
		})
	}
}

// What users do wrong with --to-vxlan.
func TestRemoteToVXLANWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{2, "exclude each other: with a collector", []string{"-c", "127.0.0.1:9", "--to-vxlan", "127.0.0.1"}},
		{2, "--key-file and --to-vxlan exclude", []string{"--key-file", "x", "--to-vxlan", "127.0.0.1"}},
		{2, "want HOST[:PORT]", []string{"--to-vxlan", "a:b:c"}},
		{2, "more than 24 bits", []string{"--to-vxlan", "127.0.0.1", "--tap", "16777216"}},
		{2, "--tap 4294967296", []string{"--to-vxlan", "127.0.0.1", "--tap", "4294967296"}},
		{2, "two rules", []string{"--to-vxlan", "127.0.0.1", "--vni", "5,6"}},
		{2, "without --to-vxlan", []string{"-c", "127.0.0.1:9", "--vni", "5"}},
		{2, "not for --to-vxlan", []string{"--to-vxlan", "127.0.0.1", "--pace", "1M"}},
		{1, "VTEP \"nosuch.invalid:4789\"", []string{"--to-vxlan", "nosuch.invalid"}},
		{1, "an MTU is not for", []string{"--to-vxlan", "127.0.0.1", "--mtu", "1500", "--vxlan-oversize", "fragment"}},
	} {
		status, out := try(t, append([]string{"remote", "-r", numbered(t, 1, 60, 0)}, c.args...)...)
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%v: status %d, want %d with %q:\n%s", c.args, status, c.status, c.want, out)
		}
	}
}
