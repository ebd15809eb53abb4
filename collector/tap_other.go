// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package collector

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A tapSet is a set of TAP devices; only Linux has them.
type tapSet struct{}

func newTapSet(tapConfig) (*tapSet, error) {
	return nil, fmt.Errorf("collector: TAP devices: %w", errors.ErrUnsupported)
}

func (*tapSet) perTap() bool                              { return false }
func (*tapSet) queue(uint32, int) (int, string, error)    { return -1, "", errors.ErrUnsupported }
func (*tapSet) again(uint32, int, int) (int, bool, error) { return -1, false, errors.ErrUnsupported }
func (*tapSet) raise(uint32, int) int                     { return 0 }
func (*tapSet) tick(time.Time)                            {}
func (*tapSet) alien(proto.LinkType)                      {}
func (*tapSet) warn(error)                                {}
func (*tapSet) refused(string, error)                     {}
func (*tapSet) Close() error                              { return nil }

const errDeleted = syscall.ENXIO

func nonblock(int) {}

func writeFrame(int, []byte) syscall.Errno { return syscall.ENOSYS }
