// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package engine

import "errors"

func CPUs() ([]int, error) { return nil, errors.ErrUnsupported }

func ParseCPUs(list string) ([]int, error) {
	if list == "none" || list == "" {
		return nil, nil
	}
	return nil, errors.ErrUnsupported
}

func pin(cpu int) error {
	if cpu == Unpinned {
		return nil
	}
	return errors.ErrUnsupported
}
