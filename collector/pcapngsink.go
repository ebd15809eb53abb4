// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// pcapngPlaces is how many interfaces a worker finds without a map.
const pcapngPlaces = 64

// A pcapngSink is a worker's end of a pcapngFile:
//
//	record ──Write──▶ block in the worker's memory ──(128 KiB, or Flush)──▶ write(2) ──▶ file, pipe
//
// A frame is delivered once it is written.
type pcapngSink struct {
	f      *pcapngFile
	buf    []byte // blocks
	frames uint64 // in buf
	bytes  uint64 // of those frames
	err    error  // ends the collector, at the next Flush

	places [pcapngPlaces]pcapngPlace
	ids    map[pcapngKey]uint32
	given  []uint64 // frames by interface, to be added to the file's statistics

	_      perf.Pad
	counts SinkCounts // written under the file's lock, by any worker
	_      perf.Pad
}

// A pcapngPlace keeps the interface block that the frames of an origin's
// interface need, for as long as its tap says nothing new.
type pcapngPlace struct {
	o        *Origin // nil: empty
	announce *proto.Announce
	number   uint32
	link     proto.LinkType
	early    bool
	id       uint32
}

// Write encodes a record's frame, see sink.
func (s *pcapngSink) Write(o *Origin, r *proto.Record) {
	announce, early := o.Announce(), r.Time < 0
	p := &s.places[(r.Interface+uint32(o.Shard)+o.Tap*7)%pcapngPlaces]
	if p.o != o || p.announce != announce || p.number != r.Interface || p.link != r.LinkType || p.early != early {
		*p = pcapngPlace{o, announce, r.Interface, r.LinkType, early, 0}
		p.id = s.find(p)
	}
	if len(s.buf) >= pcapngWrite {
		s.write()
	}
	b := proto.PcapngPacket{
		Interface: p.id, Ticks: ticks(r.Time, early), OrigLen: r.OrigLen, Direction: r.Direction, Data: r.Data,
	}
	s.buf = b.Append(s.buf)
	s.frames++
	s.bytes += uint64(len(r.Data))
	s.given[p.id]++
}

// find returns the number of the interface block that p's frames need.
func (s *pcapngSink) find(p *pcapngPlace) uint32 {
	key := pcapngKey{tap: p.o.Tap, session: p.o.Session, number: p.number, link: p.link, early: p.early}
	if a := p.announce; a != nil && uint64(p.number) < uint64(len(a.Interfaces)) {
		key.known, key.as = true, a.Interfaces[p.number]
	}
	id, ok := s.ids[key]
	if !ok {
		id = s.f.describe(key, p.announce)
		s.ids[key] = id
		for uint64(id) >= uint64(len(s.given)) {
			s.given = append(s.given, 0)
		}
	}
	return id
}

// Flush writes what is encoded, see sink.
func (s *pcapngSink) Flush() error {
	if len(s.buf) > 0 {
		s.write()
	}
	return s.err
}

// write gives what is encoded to the file.
func (s *pcapngSink) write() {
	if err := s.f.write(s); err != nil {
		s.err = err
	}
	s.buf, s.frames, s.bytes = s.buf[:0], 0, 0
}

// Counts returns the sink's accounts.
func (s *pcapngSink) Counts() *SinkCounts { return &s.counts }

// Close writes what is encoded. The file stays open for the others.
func (s *pcapngSink) Close() error {
	err := s.Flush()
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for id, n := range s.given {
		s.f.stats[id].given += n
	}
	s.given, s.ids, s.places = nil, nil, [pcapngPlaces]pcapngPlace{}
	return err
}
