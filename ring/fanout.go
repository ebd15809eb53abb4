// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"slices"
	"strings"
)

// A Fanout says which ring of a group a frame goes to. None of them has the
// kernel join fragments (PACKET_FANOUT_FLAG_DEFRAG): that gives frames that were
// not on the wire.
type Fanout uint8

const (
	// FanoutHash goes by the symmetric hash of a frame's flow: both directions of
	// a flow meet the same ring, in order. Whichever CPU serves the network card
	// writes into any ring, under its lock.
	FanoutHash Fanout = iota
	// FanoutCPU goes by the CPU on which the kernel handles a frame: each writes
	// into one ring, which no other CPU does where there are as many rings. For
	// received frames that follows the card's receive queues (RSS), whose hash
	// mostly takes the directions of a flow for two; a sent frame is handled
	// wherever its process runs.
	FanoutCPU
	// FanoutQueue goes by the queue of the network card that a frame came by, or
	// leaves by.
	FanoutQueue
)

// fanouts are their names.
var fanouts = []string{"hash", "cpu", "qm"}

func (f Fanout) String() string { return fanouts[f] }

// ParseFanout reads the name of a Fanout: hash, cpu or qm, as in PACKET_FANOUT_QM.
func ParseFanout(name string) (Fanout, error) {
	if i := slices.Index(fanouts, name); i >= 0 {
		return Fanout(i), nil
	}
	return 0, fmt.Errorf("want %s or %s", strings.Join(fanouts[:2], ", "), fanouts[2])
}
