// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives the file at path to whom the file that info is of belongs to:
// a key that root has rotated for a service is the service's still.
func keepOwner(path string, info fs.FileInfo) error {
	fresh, err := os.Stat(path)
	if err != nil {
		return err
	}
	old, is := info.Sys().(*syscall.Stat_t), fresh.Sys().(*syscall.Stat_t)
	switch {
	case is.Uid != old.Uid:
		return os.Chown(path, int(old.Uid), int(old.Gid))
	case is.Gid != old.Gid:
		os.Chown(path, -1, int(old.Gid)) // not all may; the mode leaves a group nothing
	}
	return nil
}
