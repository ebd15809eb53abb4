// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/proto"
)

// tinyDisk mounts a file system of size bytes in a mount namespace of the
// test's own, which ends with the test's goroutine.
func tinyDisk(t *testing.T, options string) string {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") == "true" {
		skip = t.Fatalf
	}
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		skip("no mount namespace: %v (run: sudo make test)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		skip("make / private: %v (run: sudo make test)", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		skip("mount tmpfs: %v (run: sudo make test)", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A disk that is full costs frames, which are counted, and never the file;
// with room again it goes on.
func TestPcapngDiskFull(t *testing.T) {
	dir := tinyDisk(t, "size=256k")
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	var warned []string
	f, err := newPcapngFile(pcapngConfig{Path: path, Warn: func(err error) { warned = append(warned, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	s, o := f.sink(), origin(1, nil)
	const frames = 300
	write := func() {
		for range frames {
			s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write() // 300 KB onto 192 KiB
	first := s.Counts().Delivered.Load()
	if first == 0 || first == frames || s.Counts().Full.Load() == 0 {
		t.Fatalf("%d delivered, %d full of %d", first, s.Counts().Full.Load(), frames)
	}
	for range 3 {
		s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write() // and full once more, to the end
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	c := s.Counts()
	if c.Delivered.Load() < first+3 || c.Delivered.Load()+c.Full.Load() != 2*frames+6 {
		t.Errorf("%d delivered first, then %d; %d full", first, c.Delivered.Load(), c.Full.Load())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, packets, _ := blocks(t, b); len(packets) != int(c.Delivered.Load()) {
		t.Errorf("%d packets in the file, %d counted", len(packets), c.Delivered.Load())
	}
	if len(warned) != 3 || !strings.Contains(warned[0], "no space left") || !strings.Contains(warned[1], "room again") || !strings.Contains(warned[2], "no space left") {
		t.Errorf("warned %q", warned)
	}
}
