// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package engine

import "errors"

func CPUs() ([]int, error) { return nil, errors.ErrUnsupported }

func ParseCPUs(string) ([]int, error) { return nil, errors.ErrUnsupported }

// ReadMachine knows nothing here.
func ReadMachine() *Machine { return &Machine{} }

// ReadNIC knows nothing here.
func ReadNIC(name string) NIC { return NIC{Name: name, Node: Unknown} }

func pin(cpu int) error {
	if cpu == Unpinned {
		return nil
	}
	return errors.ErrUnsupported
}

func pinned(int) (func() error, error) { return nil, errors.ErrUnsupported }
