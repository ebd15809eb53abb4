// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// What a filter says is what comes out, live: a filter on VLANs too, where the
// kernel has taken the tag out of the frame. One compiled for files would look
// for the tag where it is not.
func TestFilterLive(t *testing.T) {
	t.Parallel()
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
		{"file", func(w *world) []string {
			file := filepath.Join(w.dir, "filter")
			if err := os.WriteFile(file, []byte("# tagged frames\nvlan 100\nand greater 200 # bytes\n"), 0o600); err != nil {
				w.t.Fatal(err)
			}
			return []string{"-F", file}
		}, func(f []byte) bool { return vlan(f) && len(f) >= 204 }, append(tagged("end"), make([]byte, 200)...)},
		{"bytecode of ntap filter", func(w *world) []string {
			file := filepath.Join(w.dir, "bytecode")
			text := w.must(ntapBinary, "filter", "-ddd", "--live", "vlan", "100")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				w.t.Fatal(err)
			}
			return []string{"--filter-bytecode", file}
		}, vlan, tagged("end")},
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

// A filter that is changed by SIGHUP takes the place of the one before it
// between two frames: what both take is never missed. One that is wrong changes
// nothing.
func TestFilterChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.startCollector("-i", "ntap0")
	out := filepath.Join(w.dir, "tap.pcap")
	onTap := w.startTcpdump(w.collector, "ntap0", out, "-s", "1600")
	file := filepath.Join(w.dir, "filter")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kind := func(k int) string { return fmt.Sprintf("0x%x", 0x9100+k) }
	probe := func(k int, text string) []byte {
		f := marker(text)
		f[12], f[13] = 0x91, byte(k)
		return f
	}
	write("ether proto 0x88b5 or ether proto " + kind(1) + " # the first")
	r := w.startRemote("-i", "t0", "-F", file, "--workers", "2")
	f := w.flow()
	for k := 2; k < 8; k++ {
		before := strings.Count(r.text(), "the filter stays as it was")
		if k == 4 {
			write("ether proto 0x88b5 or ethr proto " + kind(k))
			r.cmd.Process.Signal(syscall.SIGHUP)
			r.until("it said what is wrong", func() bool { return strings.Count(r.text(), "the filter stays as it was") > before })
			if !strings.Contains(r.text(), "column 23") || !strings.Contains(r.text(), "did you mean ether?") {
				t.Errorf("no word of what is wrong:\n%s", r.text())
			}
			onTap.until("the filter before still holds", func() bool {
				w.inject(w.peer, "p0", probe(k-1, "still"))
				return fileHas(out, probe(k-1, "still"))
			})
		}
		write("ether proto 0x88b5 or ether proto " + kind(k))
		r.cmd.Process.Signal(syscall.SIGHUP)
		onTap.until("the new filter holds", func() bool {
			w.inject(w.peer, "p0", probe(k, "new"))
			return fileHas(out, probe(k, "new"))
		})
	}
	end := probe(7, "end")
	r.until("both shards have the last filter", func() bool { return strings.Count(r.text(), "new filter") == 6 })
	onTap.until("much was sent meanwhile", func() bool { return fileHas(out, testnet.Numbered(499, 100+499)) })
	w.inject(w.peer, "p0", probe(6, "old"), probe(2, "old"), end)
	onTap.until("the end came out", func() bool { return fileHas(out, end) })
	sent := f.end()
	onTap.until("the last frame came out", func() bool { return fileHas(out, testnet.Numbered(sent-1, 100+(sent-1)%1000)) })
	text := r.stop()
	onTap.stop()
	c.stop()
	got := numbers(t, out)
	slices.Sort(got) // two shards
	for i, n := range got {
		if i != n {
			t.Fatalf("frame %d is missing, of %d:\n%s", i, sent, text)
		}
	}
	if len(got) != sent || sent < 500 {
		t.Errorf("%d frames of %d", len(got), sent)
	}
	if fileHas(out, probe(6, "old")) || fileHas(out, probe(2, "old")) {
		t.Error("an old filter still holds")
	}
	if n := strings.Count(text, "new filter"); n != 6 {
		t.Errorf("%d changes:\n%s", n, text)
	}
}

// A remote's configuration file is read anew at SIGHUP: its filter is in force
// at once, whichever way it is given now; a file that cannot be used leaves the
// old one in force, and so does one whose filter cannot; other settings are
// named.
func TestRemoteConfigChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", out)
	config, expression := filepath.Join(w.dir, "remote.yaml"), filepath.Join(w.dir, "expression")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base := fmt.Sprintf("interface: t0\ncollector: 10.99.0.2:5678\nkey-file: %s\ntap: 1\n", w.key)
	probe := func(k byte, text string) []byte {
		f := marker(text)
		f[12], f[13] = 0x91, k
		return f
	}
	write(config, base+"filter: ether proto 0x9101\n")
	r := w.start(w.sender, ntapBinary, "remote", "--config", config)
	r.wait("remote started")
	hup := func(says ...string) {
		t.Helper()
		at := len(r.text())
		r.cmd.Process.Signal(syscall.SIGHUP)
		for _, words := range says {
			r.until(words, func() bool { return strings.Contains(r.text()[at:], words) })
		}
	}
	holds := func(k byte, text string) {
		t.Helper()
		r.until(text, func() bool {
			w.inject(w.peer, "p0", probe(k, text))
			return fileHas(out, probe(k, text))
		})
	}
	holds(1, "as it was started")
	write(config, base+"filter: ether proto 0x9102\nsnaplen: 100\n")
	hup("settings=[\"snaplen\"]", "new filter")
	holds(2, "the second")
	w.inject(w.peer, "p0", probe(1, "before"))
	write(config, base+"filter: ether proto 0x9103\nsnaplength: 100\n")
	hup("the configuration stays as it was", "remote.yaml:6", "unknown field")
	write(config, base+"filter: ethr proto 0x9103\n")
	hup("the filter stays as it was", "column 1")
	holds(2, "still the second")
	w.inject(w.peer, "p0", probe(3, "never"))
	write(expression, "ether proto 0x9104")
	write(config, base+"filter-file: "+expression+"\n")
	hup("new filter")
	holds(4, "of a file")
	write(config, base)
	hup("new filter")
	holds(5, "without a filter")
	text := r.stop()
	c.stop()
	if fileHas(out, probe(1, "before")) || fileHas(out, probe(3, "never")) {
		t.Error("a filter that is not in force holds")
	}
	if n := strings.Count(text, "new filter"); n != 3 {
		t.Errorf("%d changes:\n%s", n, text)
	}
}
