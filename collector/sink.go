// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"sync/atomic"

	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// An Origin says where records come from: one tap's one session and shard. It
// stays the same object for as long as the collector knows that shard, so that
// a sink can keep what it looked up for an origin and compare pointers.
type Origin struct {
	Tap     uint32
	Session uint64
	Shard   uint16
	lost    uint64 // data datagrams given up by now; changes between records

	announce *atomic.Pointer[proto.Announce] // shared by the shards of a session
	tally    *tally                          // likewise; nil: nothing is known of what its interfaces captured

	merges *mergeMark // one for each output that merges its frames; nil: none does
}

// Announce returns what the tap last said of itself, or nil if nothing was
// heard yet: data can come first.
func (o *Origin) Announce() *proto.Announce { return o.announce.Load() }

// A sink is one output as one worker sees it, and belongs to that worker.
type sink interface {
	// Write takes one record. r.Data is good until Flush returns, r itself
	// only until Write returns. A frame that cannot be delivered is counted.
	Write(o *Origin, r *proto.Record)

	// Flush ends the batch: afterwards no record's memory is in use. An error
	// means that the collector has to end, as when the reader of its standard
	// output went away.
	Flush() error

	Counts() *SinkCounts
	Close() error
}

// SinkCounts account for every record given to a sink, in frames:
// written = Delivered + Refused + Full + NotEthernet + TooLong + NoVNI + LeftOut
// once Flush returned; of those Delivered, Unsent turn out later to be refused.
type SinkCounts struct {
	Given          perf.Counter // where frames are given not once, but to each of several clients: how often
	Delivered      perf.Counter
	DeliveredBytes perf.Counter
	Refused        perf.Counter // the kernel refused the frame, as a TAP does one shorter than its header
	Full           perf.Counter // no room: the disk is full, the network or the reader slower
	NotEthernet    perf.Counter // the output carries another link type only: Ethernet, mostly
	TooLong        perf.Counter // the path of a VXLAN output does not take them whole
	NoVNI          perf.Counter // their tap has no VNI
	LeftOut        perf.Counter // not selected for this output: another tap, or the filter

	Sliced      perf.Counter // frames of those given that did not fit and were cut
	Remade      perf.Counter // times that its device was deleted, and made anew
	Nobody      perf.Counter // times that the network said that nobody got what was sent
	Late        perf.Counter // where frames are merged: those given behind a later one
	Hurried     perf.Counter // the same: those given before they had waited, for want of room
	Unsent      perf.Counter // frames that waited for a reader that went away
	UnsentBytes perf.Counter
}
