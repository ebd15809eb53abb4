// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// A vxlanSink is a worker's end of a VXLAN output.
//
//	record ──Write──▶ header of its tap, frame ──Queue──▶ runs by flow ──(128, or Flush)──▶ sendmmsg ──▶ VTEP
//
// Nothing is copied on the way: a run names the records' own memory. A frame is
// delivered once the kernel took it.
type vxlanSink struct {
	set *vxlanSet
	how *VXLAN // as it was when the worker took up the outputs
	fan *batch.Fan

	tap   uint32                       // whose records came last,
	heads *proto.VXLANHeads            // and what stands before them; nil: the tap has no VNI
	known bool                         // both are valid
	taps  map[uint32]*proto.VXLANHeads // of all taps

	refused uint64 // frames too short to be Ethernet
	tooLong uint64 // frames, but for those that Fan found out
	noVNI   uint64 // frames
	aliens  uint64 // frames that are not Ethernet
	sliced  uint64 // frames

	troubled bool      // the last warning is not yet over
	said     time.Time // when that was

	_      perf.Pad
	counts SinkCounts
	_      perf.Pad
}

// Chosen: trouble that comes and goes is told this often.
const sayAgain = 10 * time.Second

// sink returns the sink of one worker, to which Write, Flush and Close belong.
func (s *vxlanSet) sink(worker int) *vxlanSink {
	return &vxlanSink{set: s, how: s.how.Load(), fan: s.fans[worker], taps: map[uint32]*proto.VXLANHeads{}}
}

// Write queues a record's frame, see sink.
func (s *vxlanSink) Write(o *Origin, r *proto.Record) {
	if !s.known || s.tap != o.Tap {
		s.turn(o.Tap)
	}
	if s.heads == nil {
		s.noVNI++
		return
	}
	head, flow := s.heads.Of(r)
	frame := r.Data
	switch over := len(head) + len(frame) - s.fan.Room(); {
	case head == nil:
		s.aliens++
		if !s.set.aliens.Load() && !s.set.aliens.Swap(true) {
			s.set.warn(notEthernet(s.set.name(), r.LinkType))
		}
		return
	case len(head)+len(frame) < proto.VXLANHeaderLen+proto.EtherLen:
		s.refused++
		return
	case over > 0:
		s.set.tooLong(s.fan, len(frame), over)
		if s.how.Oversize != proto.OversizeSlice {
			s.tooLong++
			return
		}
		frame = frame[:len(frame)-over]
		s.sliced++
	}
	s.fan.Queue(flow, head, frame)
}

// turn makes tap the one whose records come: once for a run of its datagrams.
func (s *vxlanSink) turn(tap uint32) {
	heads, known := s.taps[tap]
	if !known {
		if vni, err := s.how.VNI.Of(tap); err != nil {
			s.set.warn(fmt.Errorf("collector: %s: %w; its frames are dropped", s.set.name(), err))
		} else {
			heads = proto.NewVXLANHeads(vni)
		}
		s.taps[tap] = heads
	}
	s.tap, s.heads, s.known = tap, heads, true
}

// Flush sends what is queued, see sink. Nothing that happens to the path ends
// the collector.
func (s *vxlanSink) Flush() error {
	s.fan.Flush()
	n := s.fan.Stats()
	s.counts.Delivered.Set(n.Datagrams.Load())
	s.counts.DeliveredBytes.Set(n.Bytes.Load() - n.Datagrams.Load()*proto.VXLANHeaderLen)
	s.counts.Refused.Set(s.refused + n.Unsent.Load())
	s.counts.TooLong.Set(s.tooLong + n.TooLong.Load())
	s.counts.Full.Set(n.NoRoom.Load())
	s.counts.NoVNI.Set(s.noVNI)
	s.counts.NotEthernet.Set(s.aliens)
	s.counts.Sliced.Set(s.sliced)
	s.counts.Nobody.Set(n.Refused.Load())
	if s.fan.Troubled() {
		s.tell()
	} else {
		s.troubled = false
	}
	return nil
}

// tell warns when trouble begins.
func (s *vxlanSink) tell() {
	if s.troubled {
		return
	}
	if now := time.Now(); now.Sub(s.said) >= sayAgain {
		s.troubled, s.said = true, now
		s.set.warn(fmt.Errorf("collector: %s: %w; frames go on being sent, and those that are not taken are counted", s.set.name(), s.fan.Trouble()))
	}
}

// altered takes up what the set is now.
func (s *vxlanSink) altered() {
	if how := s.set.how.Load(); how != s.how {
		s.how, s.known = how, false
		clear(s.taps)
	}
}

// Counts returns the sink's accounts.
func (s *vxlanSink) Counts() *SinkCounts { return &s.counts }

// Close sends what is queued. The set closes the sockets.
func (s *vxlanSink) Close() error { return s.Flush() }
