// SPDX-License-Identifier: Apache-2.0

// Package ring has the kernel's rings: TPACKET_V3, from which frames are
// captured, and io_uring, through which they are written. It also has the
// filter that leaves out a tap's own datagrams.
package ring

import (
	"errors"
	"net"
	"time"

	"golang.org/x/net/bpf"
)

// A Config says what to capture, and into how much memory.
type Config struct {
	Interface   string
	Blocks      int           // of the ring
	BlockSize   int           // bytes: a multiple of the page size; longer frames are cut
	Retire      time.Duration // the longest that a frame waits in a block that is not full
	SnapLen     int           // bytes of each frame; 0: all
	Promiscuous bool
	Filter      []bpf.RawInstruction // classic BPF; nil: everything
}

// Stats are the kernel's counts since Open.
type Stats struct {
	Packets uint64 // frames that passed the filter, also those that were dropped
	Drops   uint64 // frames of those that found the ring full
	Freezes uint64 // times that the ring was full
}

var (
	// ErrDown says that the interface went down. The ring waits for it: Take
	// goes on when it is up.
	ErrDown = errors.New("ring: the interface is down")
	// ErrGone says that the interface was deleted. The ring gives what it has
	// and then nothing more.
	ErrGone = errors.New("ring: the interface was deleted")
)

// A Frame is one captured frame, on loan with its block.
type Frame struct {
	Data     []byte // from the link-layer header; the VLAN tag is in its place
	Time     int64  // ns since 1970 UTC
	WireLen  uint32 // bytes on the wire, with the VLAN tag
	Outgoing bool   // sent by this host
}

// An Interface is what can be captured on.
type Interface struct {
	Name     string
	Index    int
	MAC      net.HardwareAddr // nil: it has none
	MTU      int              // bytes
	LinkType uint16           // LINKTYPE_ of pcap files, https://www.tcpdump.org/linktypes.html
	Speed    uint64           // bit/s; 0: not known
	Loopback bool
	Up       bool
}
