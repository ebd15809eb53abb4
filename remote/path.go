// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"time"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// forward takes one block of frames from the kernel's ring to the socket:
//
//	ring ──Block──▶ frames ─[shape]─pack──▶ plaintext ──seal──▶ datagrams ──send──▶ UDP
//
// Each frame is copied once, from the ring into the datagram being packed, and
// sealed where it lies. The last datagram closes with its block, so the ring's
// Retire bounds the delay that is added. A full flight is sent at once; the
// block goes back before the rest is. With several collectors a record is copied
// for each that gets it (spread).
func (s *shard) forward(b *ring.Block) error {
	if s.tunnel != nil {
		s.wrap(b)
		return nil
	}
	s.begin()
	if s.places != nil {
		s.renew()
	}
	for f, ok := b.Next(); ok; f, ok = b.Next() {
		if len(f.Data) > proto.MaxFrame {
			s.account.TooLong.Add(1)
			if s.places != nil {
				s.place(f)
			}
			continue
		}
		r := s.record(f)
		if s.shaper != nil && !s.shaper.take(r) {
			continue
		}
		if s.more != nil {
			s.spread(r)
			continue
		}
		for rest := s.pack.Add(r); rest != nil; rest = s.pack.Continue(rest) {
			s.emit() // this datagram is full: the record goes on in the next one
		}
	}
	b.Release()
	return s.finish()
}

// wrap is forward where there is no collector:
//
//	ring ──Block──▶ frames ─[shape]─put──▶ header, frame ──Queue──▶ runs by flow ──send──▶ UDP, VXLAN in clear
//
// Nothing is copied, but for GSO frames, which are cut: the block goes back
// once all is sent.
func (s *shard) wrap(b *ring.Block) {
	s.begin()
	if s.places != nil {
		s.renew()
	}
	for f, ok := b.Next(); ok; f, ok = b.Next() {
		if r := s.record(f); s.shaper == nil || s.shaper.take(r) {
			s.tunnel.put(r)
		}
	}
	s.tunnel.flush()
	b.Release()
}

// begin has every lane pack into its next datagram.
func (s *shard) begin() {
	if s.shaper != nil {
		s.shaper.begin()
	}
	for _, l := range s.all {
		l.pack.Reset(l.out.Slot())
	}
}

// finish seals what is being packed, and sends it.
func (s *shard) finish() error {
	for _, l := range s.all {
		l.emit()
		if err := s.tolerate(l, l.out.Flush()); err != nil {
			return err
		}
	}
	return nil
}

// emit seals the datagram being packed, if it holds anything, and queues it.
func (l *lane) emit() {
	if l.tap.cfg.Pad {
		l.pack.Fill()
	}
	if d := l.pack.Take(); d != nil {
		l.seal.data.seal(d)
		l.out.Queue(len(d))
		l.pack.Reset(l.out.Slot())
	}
}

// record says in the words of the wire what the ring says of a frame. The
// result is the shard's own, good until the next call.
func (s *shard) record(f *ring.Frame) *proto.Record {
	r := &s.rec
	if f.Time < r.Time {
		f.Time = s.evened(f.Time)
	}
	r.Data, r.Time, r.OrigLen = f.Data, f.Time, f.WireLen
	r.Direction = proto.Inbound
	if f.Outgoing {
		r.Direction = proto.Outbound
	}
	r.NeedsCsum, r.GSOType = f.NeedsCsum, f.GSOType
	r.GSOSize, r.CsumStart, r.CsumOffset = f.GSOSize, f.CsumStart, f.CsumOffset
	if s.places != nil {
		s.place(f)
	}
	if uint32(len(f.Data)) < f.WireLen {
		s.shortened(f)
	}
	return r
}

// blockHead is more than the headers before a frame take of a block, bytes.
const blockHead = 256

// shortened counts a frame of which not all is there, unless that was asked
// for: by -s, or by a program of the user's that returns a length. The kernel
// cuts a frame to its block without a word (tpacket_rcv, net/packet/af_packet.c).
func (s *shard) shortened(f *ring.Frame) {
	c, n := &s.tap.cfg, len(f.Data)
	if c.SnapLen > 0 && n >= c.SnapLen || s.filter.Program != nil && n < min(c.BlockSize, proto.MaxFrame)-blockHead {
		return
	}
	if s.account.Clamped.Load() == 0 {
		s.tap.log.Warn().Str("interface", s.account.Interface).Uint16("shard", s.number).Uint32("bytes", f.WireLen).Int("block", c.BlockSize).
			Msg("frames are longer than a block of the ring, and cut to that: give more with --block, up to 256 KiB of a frame are carried")
	}
	s.account.Clamped.Add(1)
}

// NTP's threshold from which on a clock is set and not slewed (STEPT, RFC 5905,
// section 7.3). Frames that CPUs put into a ring in another order than
// they stamped them are some µs apart.
const clockStep = 128 * time.Millisecond

// evened returns the time of a frame that is stamped t, before the one ahead of
// it: that one's, so that a shard's times never go back; but t itself where the
// clock was set back, or else time would stand still until it has caught up.
func (s *shard) evened(t int64) int64 {
	last := s.rec.Time
	if last-t >= int64(clockStep) {
		s.account.SetBack.Add(1)
		return t
	}
	s.account.Evened.Add(1)
	return last
}
