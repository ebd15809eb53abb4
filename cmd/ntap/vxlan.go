// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
)

// A vxlanFlags are the collector's flags about VXLAN.
type vxlanFlags struct {
	to            []string
	vni, oversize string
	mtu, ports    int
}

func (v *vxlanFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&v.to, "vxlan", nil, "send frames as VXLAN to HOST[:PORT], in clear; may be given again: each gets all")
	f.StringVar(&v.vni, "vni", "tap", "VNI of the frames: tap (the tap ID), a number, or a list as in 7=1001,8=1002,tap; taps by ID or name")
	f.StringVar(&v.oversize, "vxlan-oversize", "drop", "what becomes of frames that do not fit the path's MTU: drop, slice or fragment")
	f.IntVar(&v.mtu, "vxlan-mtu", 0, "IP MTU of the path to the VTEPs; default: what the route says")
	f.IntVar(&v.ports, "vxlan-ports", vxlanPorts, "UDP source ports over which flows are spread")
}

// A tunnelFlags are the remote's flags about VXLAN.
type tunnelFlags struct {
	to, vni, oversize string
	ports             int
}

func (v *tunnelFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&v.to, "to-vxlan", "", "send VXLAN to HOST[:PORT] without a collector, in clear, with no key")
	f.StringVar(&v.vni, "vni", "tap", "VNI of that: tap (the tap ID) or a number")
	f.StringVar(&v.oversize, "vxlan-oversize", "drop", "what becomes of frames that do not fit the path's MTU: drop, slice or fragment")
	f.IntVar(&v.ports, "vxlan-ports", vxlanPorts, "UDP source ports over which flows are spread")
}

// tunnel returns what the flags say for a tap ID, or nil if they say nothing.
func (v *tunnelFlags) tunnel(c *cobra.Command, tap int64) (*remote.VXLAN, uint32, error) {
	given := func(names ...string) string {
		for _, name := range names {
			if c.Flags().Changed(name) {
				return name
			}
		}
		return ""
	}
	if v.to == "" {
		if name := given("vni", "vxlan-oversize", "vxlan-ports"); name != "" {
			return nil, 0, usagef("--%s without --to-vxlan HOST: there is no VXLAN that it could be about", name)
		}
		return nil, 0, nil
	}
	if given("collector") != "" {
		return nil, 0, usagef("-c and --to-vxlan exclude each other: with a collector, that one sends VXLAN (ntap collector --vxlan)")
	}
	if name := given("key-file", "passphrase", "collector-key", "identity", "clear", "suite", "pad"); name != "" {
		return nil, 0, usagef("--%s and --to-vxlan exclude each other: VXLAN goes in clear, with no key", name)
	}
	if _, err := proto.VXLANAddress(v.to); err != nil {
		return nil, 0, usageError{err}
	}
	if tap < 0 {
		tap = 1
	} else if tap > math.MaxUint32 {
		return nil, 0, usagef("--tap %d: a tap ID is a number from 0 to %d", tap, uint32(math.MaxUint32))
	}
	out := &remote.VXLAN{To: v.to, Ports: v.ports}
	vnis, err := collector.ParseVNI(v.vni)
	if err == nil {
		out.VNI, err = vnis.Of(uint32(tap))
	}
	if err != nil {
		return nil, 0, usagef("--vni: %w", err)
	}
	if out.Oversize, err = proto.ParseOversize(v.oversize); err != nil {
		return nil, 0, usagef("--vxlan-oversize %w", err)
	}
	return out, uint32(tap), within("--vxlan-ports", v.ports, 1, batch.MaxPorts)
}

// outputs returns what the flags say. Taps may be called by their names in the file.
func (v *vxlanFlags) outputs(c *cobra.Command, file *configFile) ([]collector.VXLAN, error) {
	if len(v.to) == 0 {
		for _, name := range []string{"vni", "vxlan-oversize", "vxlan-mtu", "vxlan-ports"} {
			if c.Flags().Changed(name) {
				return nil, usagef("--%s without --vxlan HOST: there is no VXLAN output that it could be about", name)
			}
		}
		return nil, nil
	}
	how := collector.VXLAN{MTU: v.mtu, Ports: v.ports}
	var err error
	if how.VNI, err = file.vnis(v.vni); err != nil {
		return nil, usagef("--vni: %w", err)
	}
	if how.Oversize, err = proto.ParseOversize(v.oversize); err != nil {
		return nil, usagef("--vxlan-oversize %w", err)
	}
	if how.Oversize == proto.OversizeFragment && v.mtu != 0 {
		return nil, usagef("--vxlan-mtu and --vxlan-oversize fragment exclude each other: fragments are made for the route's MTU (ip route change … mtu N)")
	}
	if err := errors.Join(
		oneOf0("--vxlan-mtu", v.mtu, 576, 65535),
		within("--vxlan-ports", v.ports, 1, batch.MaxPorts),
	); err != nil {
		return nil, err
	}
	var all []collector.VXLAN
	for _, to := range v.to {
		if _, err := proto.VXLANAddress(to); err != nil {
			return nil, usageError{err}
		}
		how.To = to
		all = append(all, how)
	}
	return all, nil
}
