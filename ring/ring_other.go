// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ring

import (
	"errors"
	"time"

	"golang.org/x/net/bpf"
)

type Ring struct{}

func Open(Config) (*Ring, error)                   { return nil, errors.ErrUnsupported }
func OpenFanout(Config, int) ([]*Ring, error)      { return nil, errors.ErrUnsupported }
func (*Ring) Take(time.Duration) (*Block, error)   { return nil, errors.ErrUnsupported }
func (*Ring) Quiesce() error                       { return errors.ErrUnsupported }
func (*Ring) SetFilter([]bpf.RawInstruction) error { return errors.ErrUnsupported }
func (*Ring) Stats() (Stats, error)                { return Stats{}, errors.ErrUnsupported }
func (*Ring) Interface() Interface                 { return Interface{} }
func (*Ring) Close() error                         { return nil }

type Block struct{}

func (*Block) Len() int             { return 0 }
func (*Block) Next() (*Frame, bool) { return nil, false }
func (*Block) Release()             {}

func LookUp(string) (Interface, error) { return Interface{}, errors.ErrUnsupported }
