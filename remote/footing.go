// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// flightRoom is the memory of a lane's flight, bytes (batch.Sender).
const flightRoom = 64 << 10

// room returns the memory of a lane's flights, bytes.
func room(io string) int {
	switch io {
	case ioUring:
		return batch.RingFlights * flightRoom
	case ioZeroCopy:
		return batch.ZeroCopyMemory + flightRoom
	}
	return flightRoom
}

// reaching returns a sender that has a socket for its collector: what is said of
// sockets is not true of others. Nil: none has one yet.
func (t *tap) reaching() *batch.Sender {
	for _, l := range t.all[0].all {
		if l.out.Astray() == nil {
			return l.out
		}
	}
	return nil
}

// footing says what the remote takes of the host from here on, which traffic
// does not change, and what it has to do without.
func (t *tap) footing() {
	rings, lanes, blind := 0, 0, ""
	for _, c := range t.captures {
		rings += c.count * c.cfg.Blocks * c.cfg.BlockSize
		for _, r := range c.rings {
			if !r.Offloads() {
				blind = c.cfg.Interface
			}
		}
	}
	for _, s := range t.all {
		lanes += len(s.all)
	}
	seen := 0
	if shaper := t.all[0].shaper; shaper != nil && shaper.seen != nil {
		seen = len(shaper.seen.buckets) * seenBytes
	}
	buffer, marked := t.cfg.SendBuffer, true
	if out := t.reaching(); out != nil {
		buffer, marked = out.Buffer(), out.Marked()
	}
	what, frames, sockets := "flights", lanes*room(t.cfg.IO), lanes
	if v := t.all[0].tunnel; v != nil {
		_, ports := v.fan.Ports()
		buffer, marked, sockets = v.fan.Buffer(), v.fan.Marked(), len(t.all)*ports
		what, frames = "cuts", len(t.all)*proto.CutMemory
		if t.cfg.File != "" {
			frames += tunnelArena
		}
	}
	// Of a socket's buffer the kernel takes twice what was asked, for what it has
	// beside the data: SO_SNDBUF, socket(7).
	t.log.Info().Int("rings", rings).Int(what, frames).Int("dedup", seen).Int("socket_buffers", sockets*2*buffer).
		Msg("memory for frames, in bytes: it does not grow with traffic")
	if buffer < t.cfg.SendBuffer {
		t.log.Warn().Int("bytes", buffer).Int("asked", t.cfg.SendBuffer).Str("mend", fmt.Sprintf("sysctl -w net.core.wmem_max=%d, or give CAP_NET_ADMIN", t.cfg.SendBuffer)).
			Msg("the kernel limits the socket's buffer: bursts wait in the ring sooner")
	}
	if t.cfg.File == "" && t.cfg.Mark != 0 && !marked {
		t.log.Warn().Str("mend", "give CAP_NET_RAW or CAP_NET_ADMIN, or --mark 0").
			Msg("what is sent has no mark: the tap knows its own datagrams by their content alone")
	}
	if each := t.ringBlocks() * t.cfg.BlockSize; t.cfg.File == "" && each != t.cfg.RingBytes {
		t.log.Warn().Int("bytes", each).Int("asked", t.cfg.RingBytes).Int("block", t.cfg.BlockSize).
			Msg("the ring of each shard has another size than was asked for: it has whole blocks, and 2 at the least")
	}
	if blind != "" {
		t.log.Warn().Str("interface", blind).Msg("the kernel does not say which checksums are unfinished and which frames were several on the wire (PACKET_VNET_HDR): they come out as they were captured")
	}
}
