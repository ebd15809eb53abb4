// SPDX-License-Identifier: Apache-2.0

// Package remote is the side of the tap where the traffic is: it captures
// frames, packs them into datagrams, seals those and sends them one way.
package remote

import (
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/ring"
)

// Pace says how fast a capture file is sent.
type Pace uint8

const (
	PaceReal Pace = iota // as its timestamps say
	PaceMax              // as fast as it goes
)

// A Config is all that a remote is told. The zero value of a field that has a
// default means the default.
type Config struct {
	Interfaces []string // captured live, patterns among them, and "any"; or
	File       string   // a pcap or pcapng file to send instead, "-" for standard input
	Pace       Pace     // of File
	NetNS      string   // the network namespace that Interfaces are in: a path, a name of ip-netns(8), a PID; "": the remote's own; or
	Container  string   // that of this container, by ID or name

	VXLAN     *VXLAN             // where frames go without a collector, in clear; then none of Collector to Identity, and no Suite
	Collector string             // HOST:PORT
	Others    []string           // further collectors, which get the same,
	Share     bool               // or share the flows with the first
	Keys      *crypto.KeyFile    // master keys or this tap's own; or, in public-key mode,
	Public    *crypto.PublicFile // the collector's public key and
	Identity  *crypto.Identity   // that of this remote
	Reload    <-chan struct{}    // each value has the files of keys read anew; nil: never
	Tap       uint32             // tap ID
	Name      string             // of the tap; default: the host's name
	Suite     crypto.Suite       // what the datagrams are sealed with

	Hardware    bool          // timestamps of the network card, of interfaces that are named
	SnapLen     int           // captured bytes of each frame; 0: all
	Shape       Shape         // which frames are sent, and how much of them
	Pad         bool          // datagrams are filled to full size
	MTU         int           // IP MTU of the path, bytes; 0: what the route says
	Workers     int           // shards for each interface; 0: 1
	CPUs        []int         // shards are pinned to these in turn; none: not pinned
	Fanout      ring.Fanout   // which of the shards of an interface gets a frame
	Promiscuous bool          // the interface takes frames for other stations too
	Mark        uint32        // SO_MARK of the sending socket; 0: none
	RingBytes   int           // ring of each shard, bytes, rounded down to blocks, 2 at the least; 0: 64 MiB
	BlockSize   int           // of the ring, bytes; 0: 256 KiB
	Retire      time.Duration // the longest a frame waits in a block; 0: 1 ms
	SendBuffer  int           // SO_SNDBUF, bytes; 0: 4 MiB
	Resolve     time.Duration // how often the collectors' names are looked up again; 0: 30 s; below 0: only after failures
	SendRate    uint64        // bit/s on the wire at the most, all shards together; 0: no limit
	IO          string        // how datagrams are sent: auto, uring, mmsg or zerocopy
	LowLatency  bool          // frames are sent one by one, at once, by shards that never sleep

	Filter  Filter        // which frames are captured
	Filters <-chan Filter // others that take its place while the remote runs; nil: none

	Stats bool      // print the account each second
	Out   io.Writer // where accounts are printed; nil: nowhere
	Log   zerolog.Logger

	// Started, if set, is called once when capture runs, with the account
	// that is kept up to date from then on.
	Started func(*Account)
}
