// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// forward takes one block of frames from the kernel's ring to the socket:
//
//	ring ──Block──▶ frames ──pack──▶ plaintext ──seal──▶ datagrams ──send──▶ UDP
//
// Each frame is copied once, from the ring into the datagram being packed, and
// sealed where it lies. The last datagram closes with its block, so the ring's
// Retire bounds the delay that is added. A full flight is sent at once; the
// block goes back before the rest is.
func (s *shard) forward(b *ring.Block) error {
	s.pack.Reset(s.out.Slot())
	if s.places != nil {
		s.renew()
	}
	for f, ok := b.Next(); ok; f, ok = b.Next() {
		if len(f.Data) > proto.MaxFrame {
			s.account.TooLong.Add(1)
			continue
		}
		for rest := s.pack.Add(s.record(f)); rest != nil; rest = s.pack.Continue(rest) {
			s.emit() // this datagram is full: the record goes on in the next one
		}
	}
	b.Release()
	s.emit()
	return s.out.Flush()
}

// emit seals the datagram being packed, if it holds anything, and queues it.
func (s *shard) emit() {
	if s.tap.cfg.Pad {
		s.pack.Fill()
	}
	if d := s.pack.Take(); d != nil {
		s.seal.data.seal(d)
		s.out.Queue(len(d))
		s.pack.Reset(s.out.Slot())
	}
}

// record says in the words of the wire what the ring says of a frame. The
// result is the shard's own, good until the next call.
func (s *shard) record(f *ring.Frame) *proto.Record {
	r := &s.rec
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
	return r
}
