// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// What a new configuration takes away, brings back or changes has its file
// replaced no more: what is in it stays, and another one goes on. What had been
// written, and was counted as that, used to be gone.
func TestRerouteKeepsWhatWasWritten(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	path, good := filepath.Join(dir, "x.pcapng"), filepath.Join(dir, "good.pcapng")
	outs := func(files ...File) Outputs { return Outputs{Files: append(files, File{Path: good})} }
	r := reroute(t, keys, outs(File{Path: path}))
	f := flowing(t, keys, 2, r.addr)
	goOn := func() {
		n := r.unpacked()
		r.until("frames went on", func() bool { return r.unpacked() > n+500 })
	}
	goOn()
	r.to(outs(), nil)
	goOn()
	r.to(outs(File{Path: path}), nil)
	goOn()
	r.to(outs(File{Path: path, Buffer: 8 << 20}), nil)
	goOn()
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	inOrder(t, "good", testnet.ReadCapture(t, good), f.sent)
	packets := 0
	for _, name := range []string{path, again(path, 2), again(path, 3)} {
		n := len(testnet.ReadCapture(t, name))
		if packets += n; n < 100 {
			t.Errorf("%d frames in %s", n, name)
		}
	}
	if s := r.sum("x.pcapng"); s.Delivered != uint64(packets) || s.Refused > uint64(all) {
		t.Errorf("%d frames in the files, %d are counted as written", packets, s.Delivered)
	}
}

// A file has one writer: another output that names it in other words, or another
// collector, is refused, and says why. Both used to write it, one over the other's
// frames.
func TestOneFileOneWriter(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	path, link := filepath.Join(dir, "x.pcapng"), filepath.Join(dir, "link.pcapng")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	null := File{Path: os.DevNull}
	r := reroute(t, keys, Outputs{Files: []File{{Path: path}, {Path: link}, {Path: dir + "/./x.pcapng"}, null, {Path: "/dev/../dev/null"}}})
	const why = "is written by another output, or by another collector"
	if n := strings.Count(fmt.Sprint(r.log.all()), why); n != 2 {
		t.Errorf("%d outputs are told that it is written:\n%v", n, r.log.all())
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if _, err := Run(ctx, Config{Listen: "127.0.0.1:0", Keys: keys, Write: path}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("another collector: %v", err)
	}
	f := flowing(t, keys, 2, r.addr)
	r.until("frames came", func() bool { return r.unpacked() > 500 })
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	inOrder(t, "x", testnet.ReadCapture(t, path), f.sent)
	for _, name := range []string{"link.pcapng", "/./x.pcapng"} {
		if s := r.sum(name); s.Delivered != 0 || s.Refused != uint64(all) {
			t.Errorf("%s: %+v, of %d", name, s, all)
		}
	}
	if s := r.sum("/dev/../dev/null"); s.Delivered != uint64(all) {
		t.Errorf("/dev/null takes any number of outputs: %+v", s)
	}
}

// Standard output that is a terminal is refused, with what to do: it used to be filled
// with what it cannot show. What is no terminal is not.
func TestTerminalRefused(t *testing.T) {
	path, _ := blockedFile(t)
	terminal, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if _, err := openFile(t.Context(), File{Path: "-"}, false, terminal, func(error) {}); err == nil || !strings.Contains(err.Error(), "is a terminal") || !strings.Contains(err.Error(), "-w FILE") {
		t.Errorf("%v", err)
	}
	// Also where there is another output: it is a mistake at the start, and nothing to wait for.
	good := filepath.Join(t.TempDir(), "x.pcapng")
	cfg := Config{Listen: "127.0.0.1:0", Keys: testKeys(t), Stdout: terminal, Outputs: Outputs{Files: []File{{Path: good}, {Path: "-"}}}}
	if r, err := Listen(t.Context(), cfg); !errors.Is(err, errTerminal) {
		t.Errorf("%v, %v", r, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, to := range []*os.File{w, null, file} {
		if isTerminal(to) {
			t.Errorf("%s is taken for a terminal", to.Name())
		}
	}
}
