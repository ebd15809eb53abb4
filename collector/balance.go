// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring/filter"
)

// A Balance is several outputs of one kind, as for several sensors, that share
// the frames it takes: all frames of a flow, in both directions, go to the same
// one. Which that is follows from the flow and the names of the outputs: one
// more takes its share from each of the others, and moves nothing between
// them. What an output cannot take, it loses, and counts: no other gets it.
type Balance struct {
	Name   string
	Over   Outputs // two or more of one kind, whose own Selections are not used
	Select Selection
}

// MaxBalanced is how many outputs may share frames. Chosen: with more, the
// shares get uneven.
const MaxBalanced = 64

// places say for each value of the high bits of a flow's hash which output gets
// its frames. There are so many that 8 outputs have the same share within 12 %,
// and so few that they stay in the nearest cache.
type places [1 << placeBits]uint8

const placeBits = 12

// spread deals the places out among outputs, by the highest random weight: each
// place goes to the output for which a hash of both is highest (D. Thaler and
// C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996).
func spread(names []string) *places {
	p := new(places)
	seeds := make([]uint64, len(names))
	for i, name := range names {
		h := fnv.New64a()
		h.Write([]byte(name))
		seeds[i] = h.Sum64()
	}
	for at := range p {
		var best uint64
		for i, seed := range seeds {
			if w := weight(seed, uint64(at)); w > best {
				best, p[at] = w, uint8(i)
			}
		}
	}
	return p
}

// weight mixes as the finalizer of SplitMix64 does (S. Vigna, public domain).
func weight(seed, place uint64) uint64 {
	x := seed + (place+1)*0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// flowOf returns the hash of the flow that a record belongs to. Frames of link
// types in which no IP header is found are one flow.
func flowOf(r *proto.Record) uint32 {
	switch r.LinkType {
	case proto.LinkTypeEthernet:
		return proto.FlowHash(r.Data)
	case proto.LinkTypeRaw, linkIPv4, linkIPv6:
		return proto.FlowHashIP(r.Data)
	case linkSLL:
		return cookedFlow(r.Data, 14, 16)
	case linkSLL2:
		return cookedFlow(r.Data, 0, 20)
	}
	return 0
}

// tcpdump.org/linktypes.
const (
	linkIPv4 proto.LinkType = filter.IPv4
	linkIPv6 proto.LinkType = filter.IPv6
	linkSLL  proto.LinkType = filter.LinuxSLL
	linkSLL2 proto.LinkType = filter.LinuxSLL2
)

func cookedFlow(b []byte, protocol, header int) uint32 {
	if len(b) <= header {
		return 0
	}
	switch binary.BigEndian.Uint16(b[protocol:]) {
	case 0x0800, 0x86DD:
		return proto.FlowHashIP(b[header:])
	}
	return 0
}

// A balanceSink is a worker's end of a group:
//
//	record ──Write──▶ hash of its flow ──▶ place ──▶ the end of one output
type balanceSink struct {
	spread *places
	sinks  []sink
	given  [MaxBalanced]uint64 // frames, since settle
	frames uint64              // since Flush
	bytes  uint64              // of those
	gone   []bool              // it failed, which was said
	failed func(member int, err error)
	counts SinkCounts
}

// to makes the worker's ends of the outputs of r those that frames go to.
func (b *balanceSink) to(r *route, w *worker) {
	b.spread, b.sinks, b.gone = r.spread, make([]sink, len(r.outs)), make([]bool, len(r.outs))
	for i, l := range r.outs {
		b.sinks[i] = w.bare[l]
	}
	b.failed = func(i int, err error) {
		w.log.Error().Err(err).Str("output", r.outs[i].spec.name).Str("balance", r.name).Msg("the output fails: its frames are refused, and the others go on")
	}
}

// Write gives the record to the output of its flow, see sink.
func (b *balanceSink) Write(o *Origin, r *proto.Record) {
	i := b.spread[flowOf(r)>>(32-placeBits)]
	b.given[i]++
	b.frames++
	b.bytes += uint64(len(r.Data))
	b.sinks[i].Write(o, r)
}

// Flush flushes the outputs, see sink. It fails when all have.
func (b *balanceSink) Flush() error {
	b.counts.Delivered.Add(b.frames)
	b.counts.DeliveredBytes.Add(b.bytes)
	b.frames, b.bytes = 0, 0
	var all []error
	for i, s := range b.sinks {
		if err := s.Flush(); err != nil {
			if all = append(all, err); !b.gone[i] {
				b.gone[i] = true
				b.failed(i, err)
			}
		}
	}
	if len(all) < len(b.sinks) {
		return nil
	}
	return errors.Join(all...)
}

// Counts returns what the outputs were given.
func (b *balanceSink) Counts() *SinkCounts { return &b.counts }

// Close flushes the outputs, which are closed by themselves.
func (b *balanceSink) Close() error { return b.Flush() }

// spec returns the group with its members, or all that is wrong with them.
func (c *Balance) spec(cfg *Config) (*spec, error) {
	takes, err := c.Select.choose(true)
	errs := []error{err}
	if c.Name == "" {
		errs = append(errs, errors.New("it has no name"))
	}
	kinds := 0
	for _, n := range []int{len(c.Over.TAPs), len(c.Over.Files), len(c.Over.VXLAN), len(c.Over.Serve)} {
		if n > 0 {
			kinds++
		}
	}
	if kinds > 1 || len(c.Over.Balance) > 0 {
		errs = append(errs, errors.New("its outputs are of several kinds: the frames that one of them gets, the others do not"))
	}
	var over []*spec
	whole := Selection{SnapLen: takes.SnapLen}
	add := func(s *spec, err error) {
		over = append(over, s)
		errs = append(errs, err)
	}
	for _, t := range c.Over.TAPs {
		t.Select = whole
		add(t.spec())
	}
	for _, f := range c.Over.Files {
		f.Select = whole
		add(f.spec())
	}
	for _, v := range c.Over.VXLAN {
		v.Select = whole
		add(v.spec(cfg))
	}
	for _, s := range c.Over.Serve {
		s.Select = whole
		add(s.spec())
	}
	if len(over) < 2 || len(over) > MaxBalanced {
		errs = append(errs, fmt.Errorf("%d outputs share the frames: 2 to %d", len(over), MaxBalanced))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("balance %q: %w", c.Name, err)
	}
	return &spec{name: "balance " + c.Name, takes: &takes, over: over, twice: "each group needs a name of its own"}, nil
}
