// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

var hostA, hostB netip.Addr

const (
	linkA    = ""
	demoPort = 0
)

type host struct{}

func (host) do(f func() error) error { return errors.ErrUnsupported }

type hosts struct{ a, b host }

func newHosts() (*hosts, error)                             { return nil, errors.ErrUnsupported }
func (*hosts) close()                                       {}
func (*hosts) traffic(context.Context, time.Duration) error { return errors.ErrUnsupported }
