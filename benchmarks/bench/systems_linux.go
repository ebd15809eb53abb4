// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// What is measured. Each gets the same frames on the same device from a traffic
// source of its own.
const (
	sysSource    = "source"             // and nothing else
	sysNtap      = "ntap"               // capture to TAP, encrypted
	sysClear     = "ntap in clear"      // the same without encryption
	sysRemote    = "ntap remote"        // what it sends is dropped behind the wire
	sysTcpdump   = "tcpdump"            // to /dev/null: the capture alone
	sysVXLAN     = "kernel VXLAN"       // tc mirred, in clear
	sysWireGuard = "VXLAN in WireGuard" // the same over wireguard-go: encrypted

	sysCollectorTAP   = "collector alone, TAP" // one worker, of taps that are played on another CPU
	sysCollectorVXLAN = "collector alone, VXLAN"
)

var systemsAll = []string{sysSource, sysNtap, sysClear, sysRemote, sysTcpdump, sysVXLAN, sysWireGuard}

// linkMTU is that of the wire between both hosts.
const linkMTU = 1500

// A system is one of those, set up and idle.
type system struct {
	name string
	rig  *measure.Rig
}

// open sets systems up, all at once, so that they can take turns. A peer that
// cannot be had is left out, and why is noted; ntap has to be there.
func (b *bench) open(ctx context.Context, names ...string) (all []system, err error) {
	defer func() {
		if err != nil {
			shut(all)
		}
	}()
	for _, name := range names {
		r, err := measure.NewRig(linkMTU)
		if err != nil {
			return all, err
		}
		how, err := b.setUp(ctx, name, r)
		if err != nil && !slices.Contains([]string{sysTcpdump, sysVXLAN, sysWireGuard}, name) || ctx.Err() != nil {
			r.Close()
			return all, fmt.Errorf("%s: %w", name, err)
		}
		if how != "" || err != nil {
			b.peer(name, how, err)
		}
		if err != nil {
			r.Close()
			continue
		}
		all = append(all, system{name, r})
	}
	return all, nil
}

func shut(all []system) {
	for _, s := range all {
		s.rig.Close()
	}
}

// balance ends what is of ntap, and returns an error if an account does not add up.
func balance(ctx context.Context, all []system) error {
	for _, s := range all {
		switch s.name {
		case sysNtap, sysClear, sysRemote:
			if err := s.rig.Balance(ctx); err != nil {
				return fmt.Errorf("%s: the account does not add up: %w", s.name, err)
			}
		}
	}
	return nil
}

// peer notes how a peer is set up, or why it is not.
func (b *bench) peer(name, how string, err error) {
	p := outcome.Peer{Name: name, Available: err == nil, How: how}
	if err != nil {
		p.How = err.Error()
		b.say("%s is not available: %s", name, p.How)
	}
	for i := range b.results.Peers {
		if b.results.Peers[i].Name == name {
			b.results.Peers[i] = p
			return
		}
	}
	b.results.Peers = append(b.results.Peers, p)
}

// setUp makes a rig a system. how says what a peer is made of.
func (b *bench) setUp(ctx context.Context, name string, r *measure.Rig) (how string, err error) {
	// Who counts what arrives comes first, then the source, then who captures.
	switch name {
	case sysNtap, sysClear:
		if err := r.Collector(ctx, measure.CollectorConfig{Clear: name == sysClear}); err != nil {
			return "", err
		}
	case sysRemote:
		if _, err := r.B.DropAll(measure.LinkB); err != nil {
			return "", err
		}
	}
	if err := r.Source(ctx, measure.Traffic{Frame: "300"}, b.Source); err != nil {
		return "", err
	}
	switch name {
	case sysNtap, sysRemote:
		return "", r.Remote(ctx, measure.RemoteConfig{})
	case sysClear:
		return "", r.Remote(ctx, measure.RemoteConfig{Suite: "plaintext"})
	case sysTcpdump:
		return "tcpdump -B 65536 -w /dev/null", tcpdump(r)
	case sysVXLAN:
		return mirror(r, measure.LinkA, measure.AddrA, measure.AddrB)
	case sysWireGuard:
		over, err := tunnel(ctx, r, b.wireguard)
		if err != nil {
			return "", err
		}
		how, err := mirror(r, over, tunnelA, tunnelB)
		return how + "; golang.zx2c4.com/wireguard as benchmarks/peers/go.mod pins it", err
	}
	return "", nil
}

// byName finds a system.
func byName(all []system, name string) *system {
	for i := range all {
		if all[i].name == name {
			return &all[i]
		}
	}
	return nil
}

// traffic is what a source sends of a frame size: UDP over IPv4, all alike, for
// comparisons; where sizes are mixed, all else is too: TCP, IPv6, VLAN tags.
func traffic(frame string) measure.Traffic {
	if frame == "imix" {
		return measure.Mixed(frame)
	}
	return measure.Traffic{Frame: frame}
}
