// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"
	"hash/fnv"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// maxCollectors bounds the collectors of one remote. Chosen: each costs a
// sealing of what it gets, and has a place in the filter.
const maxCollectors = 16

// shareBits is the number of bits of a flow's hash that choose its collector.
const shareBits = 12

// newShares says which of the collectors, by name, gets the flows of each value
// of a hash's high bits: the one that ranks highest for it (rendezvous hashing,
// D. Thaler and C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous",
// 1996). So the order of the names means nothing, one that is added takes its
// share and changes nothing else, and one that is taken away leaves its share
// to the others.
func newShares(names []string) []uint8 {
	seeds := make([]uint64, len(names))
	for i, name := range names {
		h := fnv.New64a()
		h.Write([]byte(name))
		seeds[i] = h.Sum64()
	}
	out := make([]uint8, 1<<shareBits)
	for b := range out {
		best := uint64(0)
		for i, seed := range seeds {
			// The finalizer of MurmurHash3 (A. Appleby, public domain).
			x := seed ^ uint64(b+1)*0x9E3779B97F4A7C15
			x = (x ^ x>>33) * 0xFF51AFD7ED558CCD
			x = (x ^ x>>33) * 0xC4CEB9FE1A85EC53
			if x ^= x >> 33; x >= best {
				best, out[b] = x, uint8(i)
			}
		}
	}
	return out
}

// spread packs a record for each collector that gets it: all of them, or the one
// that has its flow, both directions of it.
func (s *shard) spread(r *proto.Record) {
	if shares := s.tap.shares; shares != nil {
		var hash uint32
		if r.LinkType == proto.LinkTypeRaw {
			hash = proto.FlowHashIP(r.Data)
		} else {
			hash = proto.FlowHash(r.Data)
		}
		s.all[shares[hash>>(32-shareBits)]].add(r)
		return
	}
	for _, l := range s.all {
		l.add(r)
	}
}

// add packs a record.
func (l *lane) add(r *proto.Record) {
	for rest := l.pack.Add(r); rest != nil; rest = l.pack.Continue(rest) {
		l.emit()
	}
}

// tolerate returns err if there is one collector. Of several, one that cannot be
// sent to stops nothing else.
func (s *shard) tolerate(l *lane, err error) error {
	if err == nil || s.more == nil {
		return err
	}
	if !l.failed {
		l.failed = true
		l.tap.log.Error().Err(err).Str("collector", l.to.name).Msg("this collector cannot be sent to: the others go on")
	}
	return nil
}

// owns says how the remote knows its own datagrams, to each collector at each
// address that a shard has for it.
func (t *tap) owns() (out []ring.Own) {
	known := map[string]bool{}
	if len(t.all) > 0 && t.all[0].tunnel != nil {
		v := t.all[0].tunnel
		return []ring.Own{{Mark: t.cfg.Mark, Collector: v.fan.To(), Tap: t.id, VXLAN: v.own()}}
	}
	for _, s := range t.all {
		for _, l := range s.all {
			at := *l.address.Load()
			if key := fmt.Sprint(l.to.session, at); !known[key] {
				known[key] = true
				out = append(out, ring.Own{Mark: t.cfg.Mark, Collector: at, Tap: t.id, Session: l.to.session})
			}
		}
	}
	return out
}
