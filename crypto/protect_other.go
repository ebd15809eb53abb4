// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package crypto

import "errors"

func Protect() (unlocked, err error) { return errors.ErrUnsupported, errors.ErrUnsupported }
func CanLock() error                 { return errors.ErrUnsupported }
func lockPages([]byte) error         { return errors.ErrUnsupported }
