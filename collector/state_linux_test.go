// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// TestStateOnAFullDisk: the old file stays when there is no room for a new
// one, and no half of a new one is left. The disk is a tmpfs of the test's own.
func TestStateOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	runtime.LockOSThread() // never unlocked: thread and namespace end with the test's goroutine
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")
	}
	if err != nil {
		testnet.Missing(t, fmt.Sprintf("no mount namespace: %v; run: sudo make test", err))
	}
	defer unix.Unmount(dir, 0)
	path := filepath.Join(dir, "state")
	s := mustOpenState(t, path)
	s.Advance(1, 1)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	for tap := range uint32(4000) { // 120 KB of text
		s.Advance(tap, 2)
	}
	if err := s.Save(); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("Save on a full disk: %v", err)
	}
	if left, _ := filepath.Glob(path + "?*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if old := mustOpenState(t, path); old.Newest(1) != 1 || old.Newest(2) != 0 {
		t.Errorf("the old file is not the one before: %d, %d", old.Newest(1), old.Newest(2))
	}
}
