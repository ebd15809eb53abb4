// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// fields asks tshark for fields of the frames that a filter takes, a line each.
func (w *world) fields(file, filter string, names ...string) []string {
	w.t.Helper()
	args := []string{"-r", file, "-Y", filter, "-T", "fields"}
	for _, n := range names {
		args = append(args, "-e", n)
	}
	text := withoutRootWarning(w.must("tshark", args...))
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// With -s, frames come out cut to that length, a VLAN tag counted, and keep the
// length that the wire had, as tcpdump and tshark have it. Of a GSO frame the
// frames come out that the wire saw, each with its length and no more bytes than -s.
func TestSnapLenLive(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	w := newWorld(t)
	out, wire := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "wire.pcap")
	const snap = 96
	c := w.startCollector("--no-tap", "-w", out)
	dump := w.startTcpdump(w.peer, "p0", wire, "-s", "66000")
	r := w.startRemote("-i", "t0", "-s", fmt.Sprint(snap), "--ring", "268435456")
	sent := append(taggedFrames(1), mixedFrames()[:36]...)
	w.inject(w.peer, "p0", sent...)
	w.inject(w.sender, "t0", taggedFrames(2)...)
	const size = 2 << 20
	w.exchange(w.peer, w.sender, "10.98.0.1", size)
	w.exchange(w.sender, w.peer, "10.98.0.2", size)
	w.inject(w.peer, "p0", marker("end"))
	dump.until("the end was captured", func() bool { return fileHas(wire, marker("end")) })
	r.until("the end came out", func() bool { return fileHas(out, marker("end")) })
	rText := r.stop()
	dump.stop()
	if text := c.stop(); account(text, "frames lost") != 0 || account(rText, "frames dropped by the kernel") != 0 || account(text, "frames more") == 0 {
		t.Fatalf("frames were lost, or none was cut:\n%s%s", rText, text)
	}

	// All but TCP, and what IPv6 says of its own accord: the beginning of each frame, and its length.
	want, got := multiset{}, multiset{}
	tagged := 0
	for _, p := range testnet.ReadCapture(t, wire) {
		if kind := ipKind(p.Data); kind != "TCP" && kind != "ICMPv6" {
			want[fmt.Sprintf("%d bytes, %x", len(p.Data), p.Data[:min(len(p.Data), snap)])]++
			if len(p.Data) > snap && (kind == "VLAN" || kind == "QinQ" || kind == "802.1ad") {
				tagged++
			}
		}
	}
	for _, p := range testnet.ReadCapture(t, out) {
		if kind := ipKind(p.Data); kind != "TCP" && kind != "ICMPv6" {
			got[fmt.Sprintf("%d bytes, %x", p.OrigLen, p.Data)]++
		}
	}
	if d := got.against(want); d != "" || tagged < 20 {
		t.Errorf("%d frames came out, tcpdump has %d, %d of them cut with a tag:\n%.2000s", got.sum(), want.sum(), tagged, d)
	}
	lengths, judge := multiset{}, multiset{}
	for _, l := range w.fields(out, "!tcp && !ipv6", "frame.len", "frame.cap_len") {
		lengths[l]++
	}
	for _, l := range w.fields(wire, "!tcp && !ipv6", "frame.len") {
		var n int
		fmt.Sscan(l, &n)
		judge[fmt.Sprintf("%d\t%d", n, min(n, snap))]++
	}
	if d := lengths.against(judge); d != "" {
		t.Errorf("frame.len and frame.cap_len, in hexadecimal:\n%s", d)
	}
	// TCP: as many bytes as on the wire, in frames as the wire had them.
	sum := func(file, filter string) (n int) {
		for _, l := range w.fields(file, filter, "tcp.len") {
			var k int
			fmt.Sscan(l, &k)
			n += k
		}
		return n
	}
	if a, b := sum(out, "tcp"), sum(wire, "tcp"); a != b || a < 2*size {
		t.Errorf("%d bytes of TCP came out, tcpdump has %d", a, b)
	}
	if bad := w.fields(out, fmt.Sprintf("tcp && (frame.cap_len > %d || frame.len > 1514 || frame.len != ip.len + 14 && frame.len > 60)", snap), "frame.number", "frame.len", "frame.cap_len", "ip.len"); bad != nil {
		t.Errorf("%d frames of TCP are longer: %.300q", len(bad), bad)
	}
	if long := w.fields(wire, "frame.len > 1514", "frame.number"); long == nil {
		t.Error("no GSO frame was on the wire")
	}
}

// ipKind is etherKind, but ICMPv6 is so behind a hop-by-hop header too.
func ipKind(f []byte) string {
	if kind := etherKind(f); kind != "" || len(f) < 21 || f[20] != 0 {
		return kind
	}
	return "ICMPv6"
}
