// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// What a filter says is what comes out, live: a filter on VLANs too, where the
// kernel has taken the tag out of the frame. One compiled for files would look
// for the tag where it is not.
func TestFilterLive(t *testing.T) {
	vlan := func(f []byte) bool { return bytes.Equal(f[12:16], []byte{0x81, 0, 0x20, 100}) }
	// Frames that the filters below let through, to stand before and after.
	tagged := func(text string) []byte {
		m := marker(text)
		return append(append(bytes.Clone(m[:12]), 0x81, 0, 0x20, 100), m[12:]...)
	}
	for _, v := range []struct {
		name string
		args func(w *world) []string
		want func(f []byte) bool
		end  []byte
	}{
		{"expression on VLANs", func(*world) []string { return []string{"vlan", "100"} }, vlan, tagged("end")},
		{"nTap's flag", func(*world) []string { return []string{"-f", "vlan 100 and greater 200"} },
			func(f []byte) bool { return vlan(f) && len(f) >= 200 }, append(tagged("end"), make([]byte, 200)...)},
		{"bytecode", func(w *world) []string {
			file := filepath.Join(w.dir, "bytecode")
			// After the word vlan, offsets are those behind a tag: it comes last.
			text := w.in(w.sender, "tcpdump", "-i", "t0", "-ddd", "(ether proto 0x88b5 or ether proto 0x88b6) and not vlan")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				w.t.Fatal(err)
			}
			return []string{"--filter-bytecode", file}
		}, func(f []byte) bool { return f[12] == 0x88 && f[13] == 0xB6 }, marker("end")},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			c := w.startCollector("-i", "ntap0")
			file := filepath.Join(w.dir, "tap.pcap")
			onTap := w.startTcpdump(w.collector, "ntap0", file)
			r := w.startRemote(append([]string{"-i", "t0"}, v.args(w)...)...)
			var want [][]byte
			for _, f := range mixedFrames() {
				if len(f) > 1514 {
					continue
				}
				w.inject(w.peer, "p0", f)
				if v.want(f) {
					want = append(want, f)
				}
			}
			w.inject(w.peer, "p0", v.end)
			onTap.until("the end came out", func() bool { return fileHas(file, v.end) })
			rText := r.stop()
			onTap.stop()
			c.stop()
			got := testnet.ReadCapture(t, file)
			if len(want) < 3 || len(got) != len(want)+1 || account(rText, "frames captured") != len(got) {
				t.Fatalf("%d frames came out, want %d and the last one:\n%s", len(got), len(want), rText)
			}
			for i, f := range want {
				if !bytes.Equal(got[i].Data, f) {
					t.Errorf("frame %d is %x, want %x", i, head(got[i].Data), head(f))
				}
			}
		})
	}
}
