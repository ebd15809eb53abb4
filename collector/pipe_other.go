// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package collector

import "os"

func newPipeEnd(f *os.File, _ bool) (*os.File, error) { return f, nil }
