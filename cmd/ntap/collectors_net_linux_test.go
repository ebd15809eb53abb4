// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// another starts a second collector beside that of startCollector.
func (w *world) another(port, file string) *proc {
	w.t.Helper()
	p := w.start(w.collector, ntapBinary, "collector", "-p", port, "--key-file", w.key, "--state", "none", "--no-tap", "-w", file)
	p.wait("collector started")
	return p
}

// flowFrames returns a frame for each direction of n UDP flows, numbered.
func flowFrames(n int) (out [][]byte) {
	for i := range n {
		for dir := range 2 {
			a, b := uint16(20000+i), uint16(53)
			src, dst := byte(1), byte(2)
			if dir == 1 {
				a, b, src, dst = b, a, dst, src
			}
			f := append(bytes.Repeat([]byte{2, 0, 0, 0, 0, 9}, 2), 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 50, 0, src, 10, 50, 0, dst)
			f = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(f, a), b)
			f = append(f, 0, 26, 0, 0)
			out = append(out, append(f, fmt.Sprintf("flow %06d dir %d  ", i, dir)...))
		}
	}
	return out
}

// flowsIn counts those frames in a file.
func flowsIn(t *testing.T, file string) map[string]int {
	t.Helper()
	return flowsAmong(testnet.ReadCapture(t, file))
}

func flowsAmong(packets []testnet.Packet) map[string]int {
	out := map[string]int{}
	for _, p := range packets {
		if bytes.Contains(p.Data, []byte("flow 0")) {
			out[string(p.Data)]++
		}
	}
	return out
}

// Two collectors get a copy each, while two others are dead: one does not
// answer to ARP, the other's name is not known. Nothing is lost for it, and the
// account holds towards each of the four. What goes to any of them is not
// captured, though here nothing marks it.
func TestCollectorsGetCopies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := filepath.Join(w.dir, "one.pcapng"), filepath.Join(w.dir, "two.pcapng")
	c := w.startCollector("--no-tap", "-w", one)
	d := w.another("5679", two)
	r := w.startRemote("-i", "any", "--mark", "0", "-c", "10.99.0.77:5678", "-c", "10.99.0.2:5679", "-c", "ntap-test.invalid:5678")
	frames := flowFrames(1000)
	for at := 0; at < len(frames); at += 200 { // in several blocks
		w.inject(w.peer, "p0", frames[at:at+200]...)
	}
	w.inject(w.peer, "p0", marker("end"))
	for p, file := range map[*proc]string{c: one, d: two} {
		p.until("the end is written", func() bool { return fileHas(file, marker("end")) })
	}
	rText := r.stop()
	// Of the one whose name is not known it used to say "invalid AddrPort", and
	// nothing of why.
	if want := "and to ntap-test.invalid:5678, session"; !strings.Contains(rText, want) || strings.Contains(rText, "invalid AddrPort") ||
		!regexp.MustCompile(`WRN it cannot be reached now.*ntap-test\.invalid`).MatchString(rText) {
		t.Errorf("not %q, or no word of why:\n%s", want, rText)
	}
	want := map[string]int{}
	for _, f := range frames {
		want[string(f)] = 1
	}
	for p, file := range map[*proc]string{c: one, d: two} {
		text := p.stop()
		if got := flowsIn(t, file); !maps.Equal(got, want) {
			t.Errorf("%s: %d different frames of %d", file, len(got), len(want))
		}
		if own := byInterface(t, file, func(p *testnet.Packet) bool {
			return len(p.Data) > 42 && p.Data[12] == 8 && p.Data[23] == 17 && binary.BigEndian.Uint16(p.Data[36:])/2 == 5678/2 // 5678 and 5679
		}); len(own) > 0 {
			t.Errorf("%s: the tap's own datagrams were captured: %v", file, own)
		}
		if account(text, "frames lost") != 0 || account(text, "frames captured by the remote") != account(rText, "frames captured on") {
			t.Errorf("%s:\n%s", file, text)
		}
	}
	captured := account(rText, "frames captured on")
	if n := account(rText, "frames,"); n != 4*captured || captured < len(frames) {
		t.Errorf("%d captured, %d sealed for four collectors:\n%s", captured, n, rText)
	}
	if strings.Count(rText, "\nand to ") != 3 || account(rText, "not taken by the kernel") == 0 {
		t.Errorf("the account of the dead ones:\n%s", rText)
	}
}

// Collectors share the flows: each frame comes to exactly one of them, both
// directions of a flow to the same, and each one's account is exact.
func TestCollectorsShareFlows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := filepath.Join(w.dir, "one.pcapng"), filepath.Join(w.dir, "two.pcapng")
	c := w.startCollector("--no-tap", "-w", one)
	d := w.another("5679", two)
	r := w.startRemote("-i", "t0", "--workers", "2", "-c", "10.99.0.2:5679", "--send", "share", "udp", "port", "53")
	frames := flowFrames(500)
	w.inject(w.peer, "p0", frames[:len(frames)/2]...)
	w.inject(w.sender, "t0", frames[len(frames)/2:]...) // what the host sends is captured too
	c.until("all came", func() bool { return len(flowsAmong(soFar(one)))+len(flowsAmong(soFar(two))) >= len(frames) })
	rText := r.stop()
	cText, dText := c.stop(), d.stop()
	a, b := flowsIn(t, one), flowsIn(t, two)
	for _, f := range frames {
		if a[string(f)]+b[string(f)] != 1 {
			t.Fatalf("%q came %d and %d times", f[42:], a[string(f)], b[string(f)])
		}
		other := strings.Replace(string(f), "dir 0", "dir 1", 1)
		if strings.Contains(string(f), "dir 0") {
			for k := range a {
				if k[42:] == other[42:] && a[string(f)] == 0 {
					t.Fatalf("the two directions of %q came to different collectors", f[42:])
				}
			}
		}
	}
	if len(a) < len(frames)/4 || len(b) < len(frames)/4 {
		t.Errorf("%d and %d frames: not shared", len(a), len(b))
	}
	captured := account(rText, "frames captured on")
	sum := account(cText, "frames captured by the remote") + account(dText, "frames captured by the remote")
	if captured != len(frames) || sum != captured || account(rText, "frames,") != captured || account(cText+dText, "frames lost") != 0 {
		t.Errorf("%d captured, the collectors know of %d:\n%s%s%s", captured, sum, rText, cText, dText)
	}
}
