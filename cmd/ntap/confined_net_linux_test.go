// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// empty makes a folder with the program and nothing else than the files given,
// by the names that they get in there.
func (w *world) empty(files map[string]string) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "scratch")
	if err != nil {
		w.t.Fatal(err)
	}
	files["ntap"] = ntapBinary
	for name, from := range files {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o700)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// The program needs nothing but itself: in a file system that holds only it and
// its files (a container FROM scratch), without /proc, /sys, /etc and /dev, a
// remote sends a capture file and captures live, and a collector records.
func TestFromScratch(t *testing.T) {
	testnet.RequireTool(t, "chroot")
	w := newWorld(t)
	capture := filepath.Join("..", "..", "internal", "testnet", "testdata", "captures", "arp-oobr.pcap")
	there := w.empty(map[string]string{"key": w.key, "in.pcap": capture})
	here := w.empty(map[string]string{"key": w.key})
	in := func(ns, dir string, args ...string) *proc {
		return w.start(ns, "chroot", append([]string{dir, "/ntap"}, args...)...)
	}
	remote := []string{"remote", "-c", "10.99.0.2:5678", "--key-file", "/key", "--tap", "1"}
	file := filepath.Join(here, "out.pcapng")
	c := in(w.collector, here, "collector", "-p", "5678", "--key-file", "/key", "--state", "/state", "--no-tap", "-w", "/out.pcapng")
	c.wait("collector started")
	in(w.sender, there, append(remote, "-r", "/in.pcap", "--pace", "max")...).end()
	for _, i := range []string{"t0", "any"} {
		r := in(w.sender, there, append(remote, "-i", i)...)
		r.wait("remote started")
		w.inject(w.peer, "p0", marker("live "+i))
		c.until("the live frame is written", func() bool { return fileHas(file, marker("live "+i)) })
		r.stop()
	}
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Error(text)
	}
	want, got := testnet.ReadCapture(t, capture), testnet.ReadCapture(t, file)
	if len(want) == 0 || len(got) < len(want) {
		t.Fatalf("%d packets went in, %d came out", len(want), len(got))
	}
	for i := range want {
		if !bytes.Equal(got[i].Data, want[i].Data) || got[i].Time != want[i].Time || got[i].OrigLen != want[i].OrigLen {
			t.Fatalf("packet %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	for _, dir := range []string{there, here} {
		names, err := os.ReadDir(dir)
		if err != nil || len(names) > 5 {
			t.Errorf("%v: %v", names, err)
		}
	}
	// What needs more says so, and is no panic.
	out, _ := exec.Command("ip", "netns", "exec", w.sender, "chroot", there, "/ntap", "doctor").CombinedOutput()
	if !strings.Contains(string(out), "capture") || strings.Contains(string(out), "panic") {
		t.Errorf("doctor:\n%s", out)
	}
}
