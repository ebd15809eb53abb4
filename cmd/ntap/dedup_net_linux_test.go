// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/internal/testnet"
)

// bridged makes a bridge of the sender: t0 towards the peer, q0 towards a third
// host, and the sender itself at br0, 10.98.0.1. The third host is 10.98.0.3.
func (w *world) bridged() (third string) {
	w.t.Helper()
	third = w.namespace("ntq")
	w.must("ip", "link", "add", "q0", "netns", w.sender, "type", "veth", "peer", "name", "q1", "netns", third)
	for _, line := range []string{
		"addr flush dev t0", "link add br0 type bridge stp_state 0 mcast_snooping 0", "link set t0 master br0", "link set q0 master br0",
		"link set q0 up", "link set br0 up", "addr add 10.98.0.1/24 dev br0",
	} {
		w.in(w.sender, "ip", strings.Fields(line)...)
	}
	w.in(third, "ip", "link", "set", "q1", "up")
	w.in(third, "ip", "addr", "add", "10.98.0.3/24", "dev", "q1")
	w.in(third, "sh", "-c", staleLate("q1"))
	w.in(w.sender, "sh", "-c", staleLate("br0"))
	w.waitUp(third, "q1")
	w.waitUp(w.sender, "q0")
	w.waitUp(w.sender, "br0")
	return third
}

// offload switches what frames are left to the card for, of interfaces in a
// namespace.
func (w *world) offload(state, ns string, ifaces ...string) {
	w.t.Helper()
	for _, i := range ifaces {
		w.in(ns, "ethtool", "-K", i, "gso", state, "tso", state, "tx", state, "rx", state, "gro", "off")
	}
}

// A count of frames by their bytes.
type multiset map[string]int

// ofTest counts the frames of a file that tests make: IPv4, ARP, tags, the
// experimental EtherTypes. What IPv6 says of its own accord is none of them.
func ofTest(t *testing.T, file string) multiset {
	t.Helper()
	m := multiset{}
	for _, p := range testnet.ReadCapture(t, file) {
		if len(p.Data) > 14 && p.OrigLen == uint32(len(p.Data)) && binary.BigEndian.Uint16(p.Data[12:]) != 0x86DD {
			m[string(p.Data)]++
		}
	}
	return m
}

func (m multiset) sum() (n int) {
	for _, c := range m {
		n += c
	}
	return n
}

// against says where two counts differ.
func (m multiset) against(judge multiset) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(judge)) {
		if m[k] != judge[k] {
			fmt.Fprintf(&b, "%d of %d: %x\n", m[k], judge[k], head([]byte(k)))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if judge[k] == 0 {
			fmt.Fprintf(&b, "%d of none: %x\n", m[k], head([]byte(k)))
		}
	}
	return b.String()
}

// twiceTagged returns tagged and other frames, from the peer to everybody, each
// twice: it was sent twice.
func twiceTagged() (out [][]byte) {
	for _, f := range taggedFrames(0x77) {
		f[0], f[5] = 3, 8 // a group that nobody is in: the bridge sends it to all
		out = append(out, f, f)
	}
	return out
}

// A bridge and its ports are tapped together, or all there is. What the peer has
// on its cable, as tcpdump records it there, comes out frame for frame, as often
// as it passed: what the peer and the tapped host say to each other, what the
// bridge forwards between two hosts, with tags that are in the frame on one
// interface and beside it on the other. All the rest is counted as seen before.
func TestDedupOfABridge(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "ethtool")
	for name, args := range map[string][]string{
		"bridge and ports": {"-i", "br0", "-i", "t0", "-i", "q0"}, "bridge and port": {"-i", "br0", "-i", "t0"}, "any": {"-i", "any", "--workers", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			third := w.bridged()
			w.offload("off", w.sender, "t0", "q0", "br0")
			w.offload("off", w.peer, "p0")
			w.offload("off", third, "q1")
			out, wire := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "wire.pcap")
			c := w.startCollector("--no-tap", "-w", out)
			dump := w.startTcpdump(w.peer, "p0", wire, "-s", "1600")
			r := w.startRemote(append(args, "--dedup", "500ms", "--ring", "67108864", "--", "not", "(port", "5678", "or", "net", "10.99.0.0/24)")...)
			w.inject(w.peer, "p0", marker("begin"))
			w.exchange(w.peer, w.sender, "10.98.0.1", 300_000)
			w.exchange(w.sender, w.peer, "10.98.0.2", 300_000)
			w.exchange(third, w.peer, "10.98.0.2", 300_000)
			w.in(w.peer, "ping", "-q", "-c", "5", "-i", "0.05", "-s", "1000", "10.98.0.3")
			w.in(w.sender, "ping", "-q", "-c", "5", "-i", "0.05", "10.98.0.2")
			w.inject(w.peer, "p0", twiceTagged()...)
			w.inject(third, "q1", twiceTagged()...)
			w.inject(w.peer, "p0", marker("end"))
			dump.until("the end was captured", func() bool { return fileHas(wire, marker("end")) })
			r.until("the end came out", func() bool { return fileHas(out, marker("end")) })
			rText := r.stop()
			dump.stop()
			cText := c.stop()

			judge, got := ofTest(t, wire), ofTest(t, out)
			if d := got.against(judge); d != "" {
				t.Errorf("%d frames came out, tcpdump has %d:\n%.3000s\n%s", got.sum(), judge.sum(), d, rText)
			}
			if n := len(between(t, out)); n < 500 {
				t.Errorf("only %d frames", n)
			}
			captured, twice := account(rText, "frames captured on"), account(rText, "frames seen before on another interface")
			delivered := account(cText, "frames delivered")
			if account(rText, "frames dropped by the kernel") != 0 || captured != twice+delivered || twice < got.sum()/2 {
				t.Errorf("%d captured, %d seen before, %d delivered:\n%s%s", captured, twice, delivered, rText, cText)
			}
		})
	}
}

// A side of a TCP connection, as a judge sees it.
type tcpSide struct {
	segments int
	bytes    int // of payload, those sent twice too
	covered  int // different ones
	first    uint32
}

// tcpSides reads the TCP connections of a file with gopacket.
func tcpSides(t *testing.T, file string) map[string]*tcpSide {
	t.Helper()
	out, seen := map[string]*tcpSide{}, map[string][]bool{}
	for _, p := range testnet.ReadCapture(t, file) {
		packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.Default)
		ip, _ := packet.NetworkLayer().(*layers.IPv4)
		tcp, _ := packet.TransportLayer().(*layers.TCP)
		if ip == nil || tcp == nil || ip.SrcIP.To4()[3] > 3 {
			continue
		}
		key := fmt.Sprint(ip.NetworkFlow(), tcp.TransportFlow())
		side := out[key]
		if side == nil {
			side = &tcpSide{first: tcp.Seq}
			out[key] = side
			seen[key] = make([]bool, 16<<20)
		}
		n := int(ip.Length) - int(ip.IHL)*4 - int(tcp.DataOffset)*4
		if ip.Length == 0 { // BIG TCP
			n = len(p.Data) - 14 - int(ip.IHL)*4 - int(tcp.DataOffset)*4
		}
		side.segments++
		side.bytes += n
		at := int(int32(tcp.Seq-side.first)) + 8<<20 // one of another shard may come before the first
		for i := at; i < at+n; i++ {
			if i >= 0 && i < 16<<20 && !seen[key][i] {
				seen[key][i] = true
				side.covered++
			}
		}
	}
	return out
}

// With offloads on, frames of 64 KB with unfinished checksums pass the bridge and
// its ports: they are the same on all of them, and each comes out once. As
// often as the peer's tcpdump has a byte of a connection, it comes out.
func TestDedupOfOffloads(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	for name, args := range map[string][]string{"bridge and ports": {"-i", "br0", "-i", "t0", "-i", "q0"}, "any": {"-i", "any", "--workers", "2"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			third := w.bridged()
			out, wire := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "wire.pcap")
			c := w.startCollector("--no-tap", "-w", out)
			dump := w.startTcpdump(w.peer, "p0", wire, "-s", "66000", "tcp")
			r := w.startRemote(append(args, "--dedup", "500ms", "--ring", "268435456", "--", "tcp", "and", "net", "10.98.0.0/24")...)
			const size = 3 << 20
			w.exchange(w.peer, w.sender, "10.98.0.1", size)
			w.exchange(w.sender, w.peer, "10.98.0.2", size)
			w.exchange(third, w.peer, "10.98.0.2", size)
			w.settled(r, out, dump, wire)
			rText := r.stop()
			dump.stop()
			cText := c.stop()
			if account(cText, "frames more") == 0 || account(cText, "frames lost") != 0 || account(rText, "frames dropped by the kernel") != 0 {
				t.Fatalf("nothing was cut, or frames were lost:\n%s%s", rText, cText)
			}
			judge, got := tcpSides(t, wire), tcpSides(t, out)
			if len(judge) != 6 || len(got) != 6 {
				t.Fatalf("tcpdump has %d sides of connections, %d came out", len(judge), len(got))
			}
			for key, j := range judge {
				if g := got[key]; g == nil || g.bytes != j.bytes || g.covered != j.covered {
					t.Errorf("%s: %+v came out, tcpdump has %+v", key, g, j)
				}
			}
			if twice, captured := account(rText, "frames seen before on another interface"), account(rText, "frames captured on"); twice < captured/3 {
				t.Errorf("%d of %d seen before:\n%s", twice, captured, rText)
			}
		})
	}
}

// Where the kernel joins frames between two interfaces (GRO), the joined one is
// another frame: it comes out beside those that it was made of. Nothing is
// missing, and nothing comes more than twice.
func TestDedupAcrossGRO(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	w := newWorld(t)
	third := w.bridged()
	// peer ── t0 ═ br0 ═ v0 ── v1 ═ br1 ═ q0 ── third: v1 joins what comes to it.
	for _, line := range []string{
		"link add br1 type bridge stp_state 0 mcast_snooping 0", "link add v0 type veth peer name v1", "link set v0 master br0", "link set v1 master br1",
		"link set q0 master br1", "link set br1 up", "link set v0 up", "link set v1 up",
	} {
		w.in(w.sender, "ip", strings.Fields(line)...)
	}
	w.waitUp(w.sender, "v0")
	w.waitUp(w.sender, "br1")
	w.offload("off", w.sender, "t0", "q0", "br0", "br1", "v0", "v1")
	w.offload("off", w.peer, "p0")
	w.offload("off", third, "q1")
	w.in(w.sender, "ethtool", "-K", "v1", "gro", "on")
	out, wire := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "wire.pcap")
	c := w.startCollector("--no-tap", "-w", out)
	dump := w.startTcpdump(w.peer, "p0", wire, "-s", "66000", "tcp")
	r := w.startRemote("-i", "any", "--dedup", "500ms", "--ring", "268435456", "--", "tcp", "and", "net", "10.98.0.0/24")
	w.exchange(w.peer, third, "10.98.0.3", 3<<20)
	w.settled(r, out, dump, wire)
	rText := r.stop()
	dump.stop()
	cText := c.stop()
	if account(cText, "frames lost") != 0 || account(rText, "frames dropped by the kernel") != 0 {
		t.Fatalf("frames were lost:\n%s%s", rText, cText)
	}
	judge, got := tcpSides(t, wire), tcpSides(t, out)
	if len(judge) != 2 || len(got) != 2 {
		t.Fatalf("tcpdump has %d sides of connections, %d came out", len(judge), len(got))
	}
	again := 0
	for key, j := range judge {
		g := got[key]
		if g == nil || g.covered != j.covered || g.bytes > 2*j.bytes {
			t.Errorf("%s: %+v came out, tcpdump has %+v", key, g, j)
		} else {
			again += g.bytes - j.bytes
		}
	}
	if joined := account(cText, "frames more"); joined == 0 || again == 0 {
		t.Errorf("%d frames cut, %d bytes twice: GRO joined nothing, so nothing was shown", joined, again)
	}
	if captured, twice := account(rText, "frames captured on"), account(rText, "frames seen before on another interface"); captured != twice+account(rText, "frames,") {
		t.Errorf("the account:\n%s", rText)
	}
}

// settled waits until the last of the traffic was recorded by both: connections
// end some time after what they carry.
func (w *world) settled(r *proc, out string, dump *proc, wire string) {
	w.t.Helper()
	end := flowFrames(1)[0]
	end = append(bytes.Clone(end[:14]), 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 98, 0, 9, 10, 98, 0, 8, 1, 1, 2, 2, 9, 9, 9, 9, 0, 0, 0, 0, 0x50, 4, 0, 0, 0, 0, 0, 0)
	w.inject(w.peer, "p0", end)
	dump.until("the end was captured", func() bool { return fileHas(wire, end) })
	r.until("the end came out", func() bool { return fileHas(out, end) })
}
