// SPDX-License-Identifier: Apache-2.0

package collector

import "github.com/ntap-project/ntap/proto"

// deliver takes one recvmmsg of datagrams to the outputs:
//
//	UDP ──recv──▶ datagrams ──open──▶ plaintext ──order──▶ unpack ──▶ records ──sink──▶ TAP, VXLAN, pcapng
//
// Datagrams are opened in place. One that fails a check is counted under its
// reason and skipped; only the socket or a sink can end the worker. Records
// alias the receive buffers, so the sinks are flushed before the next Recv.
func (w *worker) deliver() (n int, err error) {
	if n, err = w.receive(); err != nil {
		return n, err
	}
	w.begin()
	for d, ok := w.in.Next(); ok; d, ok = w.in.Next() {
		s, kind, counter, plaintext, drop := w.open(d)
		if drop == nil {
			drop = w.take(s, kind, counter, plaintext)
		}
		w.count(d, drop)
	}
	w.expire()
	return n, w.flush()
}

// take deals with one datagram that verified.
func (w *worker) take(s *stream, kind proto.Kind, counter uint64, plaintext []byte) error {
	switch {
	case kind == proto.Keying:
		return nil // all of it is done
	case kind == proto.Announcing:
		return w.announced(s, plaintext)
	case kind == proto.Reporting:
		return w.reported(s, plaintext)
	case s.fresh:
		if !w.proves(s, kind, plaintext) {
			return DropClock
		}
		s.first(counter)
	}
	if counter == s.next {
		return w.pass(s, plaintext)
	}
	return w.hold(s, counter, plaintext)
}

// place returns where the next record is unpacked: where a Receiver alone takes
// them, in its batch, so that they are never copied.
func (w *worker) place() *proto.Record {
	if w.direct != nil {
		return w.direct.place()
	}
	return &w.record
}

// unpack gives the records of the next data datagram of a stream to the
// outputs.
func (w *worker) unpack(s *stream, plaintext []byte) error {
	err := s.records.Start(plaintext, s.gap)
	var frames uint64
	if w.direct != nil {
		w.direct.turn(&s.origin)
	}
	for r := w.place(); s.records.Into(r); r = w.place() {
		switch {
		case r.Unfinished():
			w.record = *r // its place is for the frames that come of it
			w.finish(&s.origin, &w.record)
		case w.direct != nil:
			w.direct.keep() // it lies there
		default:
			w.give(&s.origin, r)
		}
		frames++
	}
	s.gap = false
	s.account.unpacked.Add(frames)
	s.account.datagrams.Add(1)
	w.account.Unpacked.Add(frames)
	s.advance(1)
	if err != nil || s.records.Err() != nil {
		return DropMalformed
	}
	return nil
}
