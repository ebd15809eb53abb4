// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/rs/zerolog"
	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
	"github.com/ntap-project/ntap/ring/filter"
)

// noNetmask is said where a filter has ip broadcast and there is no netmask.
const noNetmask = "ip broadcast means 255.255.255.255 and 0.0.0.0 alone here, since the interface has no IPv4 address: for that of a network, write it, as dst host 192.0.2.255"

// masked says that the filter means something else on an interface with a
// netmask: ip broadcast is in it. No name is looked up for that: a resolver may
// give other addresses each time.
func (f Filter) masked() bool {
	f.lookUp = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	}
	o := filter.Options{LinkType: filter.Ethernet, Live: true}
	without, err := f.compile(o)
	o.Netmask = netip.AddrFrom4([4]byte{255, 255, 255, 0})
	with, err2 := f.compile(o)
	return err == nil && err2 == nil && !slices.Equal(without, with)
}

var errNoLinkType = errors.New("bytecode is for Ethernet, and expressions for that and raw IP")

// say tells of an interface of which nothing is captured, since the filter means
// nothing for its link type.
func (c *setFilter) say(log *zerolog.Logger, i *ring.Interface) {
	if err := c.nothing[i.LinkType]; err != nil && !c.told[i.Name] && len(c.told) < maxInterfaces {
		c.told[i.Name] = true
		log.Info().Str("interface", i.Name).Uint16("linktype", i.LinkType).Str("filter", c.Text).AnErr("why", err).Msg("nothing of it is captured: the filter means nothing there")
	}
}

// A setFilter is a filter for the interfaces of a set. The set's mutex is held
// where it is used.
type setFilter struct {
	Filter
	owns      []ring.Own
	masked    bool                                           // a program for each netmask
	made      map[netip.Addr]map[uint16][]bpf.RawInstruction // by netmask and link type; of no netmask from the start
	shortened bool                                           // there are too many netmasks: that was said
	nothing   map[uint16]error                               // why it means nothing, by link type
	told      map[string]bool                                // of these interfaces that was said
}

// compile makes the filter, and its programs for interfaces without a netmask.
func (s *set) compile(f *Filter, owns []ring.Own) (c *setFilter, nothing bool, err error) {
	c = &setFilter{Filter: *f, owns: owns, masked: f.masked(), made: map[netip.Addr]map[uint16][]bpf.RawInstruction{}, nothing: map[uint16]error{}, told: map[string]bool{}}
	nothing, err = s.programs(c, netip.Addr{})
	return c, nothing, err
}

// programs makes the programs by link type for interfaces of a netmask, each
// with what leaves out the remote's own datagrams before it. A link type for
// which the filter means nothing has none.
func (s *set) programs(c *setFilter, mask netip.Addr) (nothing bool, err error) {
	if c.made[mask] != nil {
		return false, nil
	}
	made, f := map[uint16][]bpf.RawInstruction{}, &c.Filter
	nothing = true
	for _, link := range ring.LinkTypes() {
		if f.Program != nil && link != filter.Ethernet || f.Text != "" && f.Program == nil && !filter.Supported(link) {
			c.nothing[link] = errNoLinkType
			continue
		}
		user, err := f.compile(filter.Options{LinkType: link, Live: true, SnapLen: proto.MaxFrame, Netmask: mask})
		if err != nil && link == filter.Ethernet {
			return false, err
		} else if err != nil {
			c.nothing[link] = err
			continue
		}
		nothing = nothing && user != nil && user.MatchesNothing()
		if made[link], err = exclude(user, c.owns, link); err != nil {
			return false, err
		}
	}
	c.made[mask] = made
	return nothing, nil
}

// compose returns the filter of the rings for the interfaces that are captured
// now. One with ip broadcast has a part for each netmask that they have; an
// interface of any that is not in the list yet has none.
func (s *set) compose(only, except []int) ([]bpf.RawInstruction, error) {
	c, none := s.filter, netip.Addr{}
	byMask := map[netip.Addr][]int{}
	if c.masked {
		for index, i := range s.live {
			mask := s.links.Netmask(i.Name)
			byMask[mask] = append(byMask[mask], index)
		}
	}
	masks := slices.SortedFunc(maps.Keys(byMask), netip.Addr.Compare)
	rest := none
	if !s.any && len(masks) > 0 { // all are known: the longest list need not be in the program
		rest = slices.MaxFunc(masks, func(a, b netip.Addr) int { return len(byMask[a]) - len(byMask[b]) })
	}
	var parts []ring.Part
	for _, mask := range append(slices.DeleteFunc(masks, func(a netip.Addr) bool { return a == rest }), rest) {
		if _, err := s.programs(c, mask); err != nil {
			return nil, err
		}
		parts = append(parts, ring.Part{Programs: c.made[mask], Indexes: byMask[mask]})
	}
	program, err := ring.Several(parts, only, except)
	if err == nil || !c.masked {
		return program, err
	}
	if !c.shortened {
		c.shortened = true
		s.tap.log.Warn().Err(err).Str("interfaces", s.name()).Int("netmasks", len(parts)).Str("filter", c.Text).
			Msg("ip broadcast means 255.255.255.255 and 0.0.0.0 alone: there is no room for a program for each netmask")
	}
	return ring.Several([]ring.Part{{Programs: c.made[none]}}, only, except)
}
