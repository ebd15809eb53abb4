// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A Shape says which of the frames behind the filter are sent, and how much of
// them. The zero value is all of them, whole.
type Shape struct {
	Headers bool          // frames are cut behind their headers (proto.Headers)
	Mask    bool          // what is behind their headers is overwritten with zeros
	Sample  uint32        // of so many flows one is kept, whole and in both directions; 0: all
	Dedup   time.Duration // a frame seen on another interface within this is not sent again; 0: all are
	Rate    RateLimit     // of what is left, no more than this
	Breaker Breaker       // nothing is sent while the host has too much to do
}

// A RateLimit is what all shards of a tap may send together.
type RateLimit struct {
	Bits   uint64 // captured bits a second, as they are sent; 0: any number
	Frames uint64 // a second; 0: any number
}

// Bounds of a Shape. Chosen.
const (
	maxSample = 1 << 20
	minDedup  = 100 * time.Microsecond
	maxDedup  = 10 * time.Second
)

// Check returns an error that names what cannot be.
func (s *Shape) Check() error {
	switch {
	case s.Headers && s.Mask:
		return errors.New("headers alone have no payload to mask: choose one of both")
	case s.Sample > maxSample:
		return fmt.Errorf("one of %d flows: at most one of %d", s.Sample, maxSample)
	case s.Dedup != 0 && (s.Dedup < minDedup || s.Dedup > maxDedup):
		return fmt.Errorf("a window of %v for frames seen twice: %v to %v", s.Dedup, minDedup, maxDedup)
	}
	return s.Breaker.check()
}

// any says that there is something to do for frames.
func (s *Shape) any() bool { return *s != Shape{} }

// A shaper is a shard's part of a Shape. It has what all shards share, and
// belongs to one goroutine.
type shaper struct {
	sample  uint64
	headers bool
	mask    bool
	seen    *seenTable // nil: frames are not held against each other
	budget  *budget    // nil: there is no limit
	breaker *breaker   // nil: there is none
	open    bool       // it was at the beginning of the block
	seed    maphash.Seed
	bits    int64 // that the shard may still send
	frames  int64
	dry     bool // nothing was left when it last asked in this block
	since   shapeCounts
	account *CaptureAccount
}

// shapeCounts are frames that are not in the account yet. A perf.Counter is stored to
// atomically, which on amd64 waits until all that was written before is out of the
// CPU's store buffer: for each frame that is 10 ns and more.
type shapeCounts struct{ broken, sampled, duplicates, overRate, sliced, masked, unsummed uint64 }

// count brings the account up to date.
func (s *shaper) count() {
	a, n := s.account, &s.since
	a.Broken.Add(n.broken)
	a.Sampled.Add(n.sampled)
	a.Duplicates.Add(n.duplicates)
	a.OverRate.Add(n.overRate)
	a.Sliced.Add(n.sliced)
	a.Masked.Add(n.masked)
	a.Unsummed.Add(n.unsummed)
	*n = shapeCounts{}
}

// shapers makes one for each shard; nil: frames stay as they are.
func (t *tap) shapers() func(*CaptureAccount) *shaper {
	c := &t.cfg.Shape
	if !c.any() {
		return func(*CaptureAccount) *shaper { return nil }
	}
	first := shaper{sample: uint64(c.Sample), headers: c.Headers, mask: c.Mask, seed: maphash.MakeSeed(), breaker: t.breaker}
	if c.Dedup > 0 {
		first.seen = newSeenTable(c.Dedup)
	}
	if c.Rate != (RateLimit{}) {
		first.budget = newBudget(c.Rate, time.Now())
	}
	return func(a *CaptureAccount) *shaper {
		s := first
		s.account = a
		return &s
	}
}

// shape gives each shard its part of the Shape, and a breaker what it looks at:
// the cards towards all collectors, where they are now.
func (t *tap) shape(shards []*shard) error {
	if c := &t.cfg.Shape; c.Breaker != (Breaker{}) {
		var to []func() netip.AddrPort
		for _, l := range shards[0].all {
			to = append(to, func() netip.AddrPort { return *l.address.Load() })
		}
		if to == nil {
			to = append(to, shards[0].address) // of the VTEP
		}
		b, end, err := newBreaker(c.Breaker, to, t.log)
		if err != nil {
			return err
		}
		t.breaker = b
		t.closers = append(t.closers, end)
	}
	of := t.shapers()
	for _, s := range shards {
		s.shaper = of(s.account.CaptureAccount)
	}
	return nil
}

// begin is called before the frames of a block: the one look at the clock, and
// at what shards share.
func (s *shaper) begin() {
	s.dry = false
	if s.budget != nil {
		s.budget.refill(time.Now())
	}
	if s.breaker != nil {
		s.open = s.breaker.open.Load()
	}
}

// take says whether a frame is sent, and leaves of it what is. Those that are
// not are counted.
func (s *shaper) take(r *proto.Record) bool {
	if s.open {
		s.since.broken++
		return false
	}
	if s.sample > 1 && !sampled(r, s.sample) {
		s.since.sampled++
		return false
	}
	if s.seen != nil && s.seen.twice(s.fingerprint(r), r.Time, r.Interface) {
		s.since.duplicates++
		return false
	}
	switch {
	case s.headers:
		if r.SliceHeaders() {
			s.since.sliced++
		}
	case s.mask:
		switch r.Mask() {
		case proto.MaskedMark:
			s.since.unsummed++
			fallthrough
		case proto.Masked:
			s.since.masked++
		}
	}
	if s.budget != nil && !s.spend(int64(len(r.Data))*8) {
		s.since.overRate++
		return false
	}
	return true
}

// fingerprint returns a hash of what makes a frame the same as another: its
// bytes, its length on the wire, of which -s may have left less, and what the
// collector makes of it, for of equal bytes it makes other frames where they
// are to be cut otherwise, or a checksum is to be completed.
func (s *shaper) fingerprint(r *proto.Record) uint64 {
	rest := uint64(r.OrigLen)
	if r.GSOType != 0 {
		rest |= uint64(r.GSOSize)<<32 | uint64(r.GSOType)<<48
	}
	if r.NeedsCsum {
		rest |= 1 << 56
	}
	return maphash.Bytes(s.seed, r.Data) ^ rest*0x9E3779B97F4A7C15 // odd: no two of rest have the same product
}

// Kept says whether a Shape whose Sample is n keeps an Ethernet frame: all of
// its flow, or nothing of it. It is for whoever wants to know beforehand.
func Kept(frame []byte, n uint32) bool {
	return n < 2 || sampled(&proto.Record{Data: frame, LinkType: proto.LinkTypeEthernet}, uint64(n))
}

// sampled says whether the flow of a frame is one of those kept: one of n. The
// hash is mixed once more, since outputs of the collector share flows by its
// high bits. Frames of link types without flows are kept.
func sampled(r *proto.Record, n uint64) bool {
	var h uint32
	switch r.LinkType {
	case proto.LinkTypeEthernet:
		h = proto.FlowHash(r.Data)
	case proto.LinkTypeRaw, proto.LinkTypeIPv4, proto.LinkTypeIPv6:
		h = proto.FlowHashIP(r.Data)
	default:
		return true
	}
	h *= 0x9E3779B1 // 2^32 divided by the golden ratio
	h ^= h >> 15
	h *= 0x85EBCA77 // an odd multiplier of xxHash (Y. Collet)
	return uint64(h)*n>>32 == 0
}

// spend takes a frame from what the shard may send. It asks the budget that
// all shards share for a portion at a time, and once a block if that is empty.
func (s *shaper) spend(bits int64) bool {
	if s.bits < bits || s.frames < 1 {
		if s.dry {
			return false
		}
		b, f := s.budget.draw(bits-s.bits, 1-s.frames)
		s.bits += b
		s.frames += f
		if s.bits < bits || s.frames < 1 {
			s.dry = true
			return false
		}
	}
	s.bits -= bits
	s.frames--
	return true
}
