// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"net"
	"time"

	"golang.org/x/net/bpf"
)

// What the zero values of a Config stand for.
const (
	DefaultBlockSize = 256 << 10        // bytes: room for GSO frames of 64 KiB and more, whole
	DefaultBlocks    = 256              // 64 MiB
	DefaultRetire    = time.Millisecond // docs/TUNING.md, "Latency"
)

// Chosen, by benchmarks/README.md, "How long a block waits". Where frames are so
// dense, a block is not waited for by itself, but after a set time all that
// there are: a wake-up has a price, and light loads alone can pay it.
const (
	denseFrames = 64                   // in a block that its timer closed
	denseEvery  = 2 * time.Millisecond // from one wake-up to the next
	denseBlocks = 32                   // the smallest ring that may fill so long
)

// A Config says what to capture, and into how much memory.
type Config struct {
	Interface   string        // of this name; with All, a name for messages
	All         bool          // all interfaces of the namespace, also those that come later; which of them, Filter says (Several)
	Blocks      int           // of the ring, 2 or more; 0: DefaultBlocks
	BlockSize   int           // bytes: a multiple of the page size; longer frames are cut; 0: DefaultBlockSize
	Retire      time.Duration // the longest that a frame waits in a block that is not full, in whole ms; 0: DefaultRetire
	SnapLen     int           // bytes of each frame; 0: all
	Fanout      Fanout        // of a group: which of its rings a frame goes to
	Promiscuous bool
	Immediate   bool                 // frames are given one by one, at once, instead of in blocks: Retire is for Quiesce alone
	Spin        bool                 // Take does not wait in the kernel: a CPU of its own
	Hardware    bool                 // timestamps of the network card, not of the kernel; not with All
	AnyClock    bool                 // with Hardware: a card that has none is no error; Clock says so
	Filter      []bpf.RawInstruction // classic BPF; nil: everything

	// Near, if set, calls open for a member of a group: on a thread from which
	// the memory is near to where it will be used.
	Near func(member int, open func() error) error
}

// Stats are the kernel's counts since Open.
type Stats struct {
	Packets uint64 // frames that passed the filter, also those that were dropped
	Drops   uint64 // frames of those that found the ring full
	Freezes uint64 // times that the ring was full

	// Of rings with Hardware: frames received that Next gave with the kernel's
	// time, since the card did not stamp them. Ntap's own count.
	Unstamped uint64
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
	Running  bool   // it has a carrier; of Links only
	Alias    string // what the administrator wrote on it; of Links only
}

// The values of LinkType that this package knows more of than their number.
const (
	linkEthernet = 1
	linkRaw      = 101 // IPv4 or IPv6, no link-layer header
	linkWiFi     = 105 // IEEE 802.11
	linkRadiotap = 127 // the same behind a radiotap header
)

var (
	// ErrDown says that the interface went down, or was down at Open. The ring
	// waits for it: Take goes on when it is up.
	ErrDown = errors.New("ring: the interface is down")
	// ErrGone says that the interface was deleted, or moved to another network
	// namespace, and that all that it gave was taken.
	ErrGone = errors.New("ring: the interface was deleted")
)
