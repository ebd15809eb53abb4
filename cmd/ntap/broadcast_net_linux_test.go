// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// toIP returns an Ethernet frame with an IPv4 packet to an address.
func toIP(dst, text string) []byte {
	to := netip.MustParseAddr(dst).As4()
	ip := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0, 10, 1, 0, 2}, to[:]...)
	ip = append(ip, "ntap test "+text...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	return append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0x5e, 0, 0, 9, 8, 0}, ip...)
}

// ip broadcast means on each interface of several what it means there: with the
// netmask that it has at the time, by tcpdump, which is told in numbers; and
// where there is none, or no broadcast address, 255.255.255.255 and 0.0.0.0. It
// used to mean those two on all of them.
func TestBroadcastOfEachInterface(t *testing.T) {
	for _, pattern := range []string{"b[0-9]", "any"} {
		t.Run(pattern, func(t *testing.T) {
			w := newWorld(t)
			address := map[string]string{"b0": "10.1.0.1/26", "b1": "10.1.0.1/16", "b2": "", "b3": "10.1.0.1/31", "b4": "10.1.0.1/26"}
			for name, a := range address {
				w.must("ip", "link", "add", name, "netns", w.sender, "type", "veth", "peer", "name", "far"+name, "netns", w.peer)
				for ns, iface := range map[string]string{w.sender: name, w.peer: "far" + name} {
					w.in(ns, "ip", "link", "set", iface, "addrgenmode", "none")
					w.in(ns, "ip", "link", "set", iface, "up")
				}
				if a != "" {
					w.in(w.sender, "ip", "addr", "add", a, "dev", name)
				}
			}
			for name := range address {
				w.waitUp(w.peer, "far"+name)
			}
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			r := w.startRemote("-i", pattern, "ip broadcast")
			everywhere := []string{"255.255.255.255", "0.0.0.0"}
			all := append([]string{"10.1.0.63", "10.1.0.255", "10.1.255.255", "10.1.0.2", "10.1.0.0"}, everywhere...)
			dumps, judged := map[string]*proc{}, map[string]string{}
			for name, hosts := range map[string]string{"b0": "0x3f", "b1": "0xffff", "b4": "0x3f"} {
				judged[name] = filepath.Join(w.dir, name+".pcap")
				dumps[name] = w.startTcpdump(w.sender, name, judged[name], "ip and (ip[16:4] & "+hosts+" = 0 or ip[16:4] & "+hosts+" = "+hosts+")")
			}
			want := map[string]int{"b2/1": len(everywhere), "b3/1": len(everywhere)}
			for name := range address {
				for _, to := range all {
					w.inject(w.peer, "far"+name, toIP(to, "first "+name+" "+to))
				}
			}
			for name, dump := range dumps {
				last := toIP("0.0.0.0", "first "+name+" 0.0.0.0")
				dump.until("the last is written", func() bool { return fileHas(judged[name], last) })
				dump.stop()
				want[name+"/1"] = len(testnet.ReadCapture(t, judged[name]))
			}
			if n := fmt.Sprint(want["b0/1"], want["b1/1"], want["b4/1"]); n != "6 4 6" {
				t.Errorf("tcpdump took %s", n)
			}
			// One gets a netmask under way, and another has another.
			w.in(w.sender, "ip", "addr", "add", "10.1.0.1/28", "dev", "b2")
			w.in(w.sender, "ip", "addr", "del", "10.1.0.1/26", "dev", "b0")
			w.in(w.sender, "ip", "addr", "add", "10.1.0.1/24", "dev", "b0")
			for name, to := range map[string]string{"b2": "10.1.0.15", "b0": "10.1.0.255"} {
				r.until("the new netmask holds on "+name, func() bool {
					w.inject(w.peer, "far"+name, toIP(to, "try "+name))
					return fileHas(file, toIP(to, "try "+name))
				})
			}
			w.inject(w.peer, "farb0", toIP("10.1.0.63", "never"))
			w.inject(w.peer, "farb0", toIP("255.255.255.255", "the end"))
			c.until("the end is written", func() bool { return fileHas(file, toIP("255.255.255.255", "the end")) })
			text := r.stop()
			c.stop()
			got := byInterface(t, file, func(p *testnet.Packet) bool { return bytes.Contains(p.Data, []byte("ntap test first")) })
			if !maps.Equal(got, want) {
				t.Errorf("frames by interface and link type: %v, want %v\n%s", got, want, text)
			}
			if fileHas(file, toIP("10.1.0.63", "never")) || strings.Contains(text, "alone") {
				t.Errorf("the old netmask holds, or none is known:\n%s", text)
			}
		})
	}
}

// Where an interface that is named has no netmask, the log says what ip
// broadcast means, and so it does where there are more netmasks than a filter has
// room for; nothing is left out for that.
func TestBroadcastWithoutNetmask(t *testing.T) {
	w := newWorld(t)
	w.in(w.sender, "ip", "addr", "flush", "dev", "t0")
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file)
	r := w.startRemote("-i", "t0", "ip broadcast")
	r.wait("the interface has no IPv4 address")
	w.inject(w.peer, "p0", toIP("10.98.0.255", "never"), toIP("255.255.255.255", "one"))
	c.until("a frame is written", func() bool { return fileHas(file, toIP("255.255.255.255", "one")) })
	r.stop()
	var ports []string
	for i := range 60 {
		ports = append(ports, fmt.Sprint("portrange ", 1000+200*i, "-", 1100+200*i))
	}
	expression := "ip broadcast or " + strings.Join(ports, " or ")
	r = w.startRemote("-i", "any", expression)
	for i := range 20 { // /11 to /30
		name := fmt.Sprint("m", i)
		w.in(w.sender, "ip", "link", "add", name, "type", "veth", "peer", "name", "n"+name)
		w.in(w.sender, "ip", "addr", "add", fmt.Sprintf("10.%d.0.1/%d", i, 11+i), "dev", name)
	}
	r.wait("there is no room for a program for each netmask")
	w.inject(w.peer, "p0", toIP("10.98.0.255", "never"), toIP("255.255.255.255", "two"))
	c.until("a frame is written", func() bool { return fileHas(file, toIP("255.255.255.255", "two")) })
	r.stop()
	c.stop()
	if fileHas(file, toIP("10.98.0.255", "never")) {
		t.Error("a netmask that is not there")
	}
}
