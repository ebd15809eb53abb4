// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"maps"

	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// A pcapngSink is a worker's end of a pcapngFile:
//
//	record ──Write──▶ block in the worker's memory ──(128 KiB, or Flush)──▶ queue ──▶ file
//
// A frame is delivered once it is in the queue: what is not written then turns
// out to be unsent.
type pcapngSink struct {
	f *pcapngFile
	pcapngEncoder
	chunk int   // bytes in buf that are written without waiting for Flush
	err   error // ends the collector, at the next Flush

	_      perf.Pad
	counts SinkCounts // written under the file's lock, by any worker
	_      perf.Pad
}

// Write encodes a record's frame, see sink.
func (s *pcapngSink) Write(o *Origin, r *proto.Record) {
	if n := len(s.buf); n >= s.chunk || n+len(r.Data)+proto.PcapngPacketMax+maxMark > cap(s.buf) && n > 0 {
		s.write()
	}
	if s.f.cfg.Format == formatPcapng {
		s.add(o, r)
	} else {
		s.addPcap(r)
	}
}

// addPcap encodes a record's frame for a file that carries one link type.
func (s *pcapngSink) addPcap(r *proto.Record) {
	if r.LinkType != s.f.cfg.Link {
		s.counts.NotEthernet.Add(1)
		return
	}
	h := proto.PcapPacket{Time: r.Time, CapLen: uint32(len(r.Data)), OrigLen: r.OrigLen}
	s.buf = append(h.Append(s.buf), r.Data...)
	s.frames++
	s.bytes += uint64(len(r.Data))
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
	s.reset()
}

// Counts returns the sink's accounts.
func (s *pcapngSink) Counts() *SinkCounts { return &s.counts }

// Close writes what is encoded, and says what no frame told. The file stays open
// for the others.
func (s *pcapngSink) Close() error {
	err := s.Flush()
	untold := s.untold()
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.untold == nil {
		s.f.untold = untold
	} else {
		maps.Copy(s.f.untold, untold)
	}
	return err
}
