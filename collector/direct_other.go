// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package collector

import (
	"errors"
	"os"
)

func setDirect(*os.File) error { return errors.ErrUnsupported }

func allocate(*os.File, int64, int64) bool { return false }

func gainsByAllocation(*os.File) bool { return false }
