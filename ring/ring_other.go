// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ring

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
)

// A Ring is a TPACKET_V3 ring; only Linux has them.
type Ring struct{}

// Open fails: there is no TPACKET_V3 here.
func Open(Config) (*Ring, error) { return nil, errors.ErrUnsupported }

// OpenFanout fails as Open does.
func OpenFanout(Config, int) ([]*Ring, error) { return nil, errors.ErrUnsupported }

// LookUp fails: capture is Linux only.
func LookUp(string) (Interface, error) { return Interface{}, errors.ErrUnsupported }

// Netmask finds none: capture is Linux only.
func Netmask(string) netip.Addr { return netip.Addr{} }

func (r *Ring) Take(time.Duration) (*Block, error)   { return nil, errors.ErrUnsupported }
func (r *Ring) SetFilter([]bpf.RawInstruction) error { return errors.ErrUnsupported }
func (r *Ring) Swap([]bpf.RawInstruction) error      { return errors.ErrUnsupported }
func (r *Ring) Promiscuous(int) error                { return errors.ErrUnsupported }
func (r *Ring) Quiesce() error                       { return errors.ErrUnsupported }
func (r *Ring) Stats() (Stats, error)                { return Stats{}, errors.ErrUnsupported }
func (r *Ring) Interface() Interface                 { return Interface{} }
func (r *Ring) Name() (string, error)                { return "", errors.ErrUnsupported }
func (r *Ring) Clock() error                         { return errors.ErrUnsupported }
func (r *Ring) Offloads() bool                       { return false }
func (r *Ring) Close() error                         { return nil }

// Links tells of interfaces; only Linux has its netlink.
type Links struct{}

// OpenLinks fails: netlink is Linux only.
func OpenLinks() (*Links, error) { return nil, errors.ErrUnsupported }

func (l *Links) List() ([]Interface, error)          { return nil, errors.ErrUnsupported }
func (l *Links) Changed(time.Duration) (bool, error) { return false, errors.ErrUnsupported }
func (l *Links) Netmask(string) netip.Addr           { return netip.Addr{} }
func (l *Links) Close() error                        { return nil }

// Inside fails: network namespaces are Linux only.
func Inside(string, func() error) error { return errors.ErrUnsupported }
