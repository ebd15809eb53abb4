// SPDX-License-Identifier: Apache-2.0

// Package collector is the side of the tap where the traffic is wanted: it
// receives datagrams, opens them, puts them in order and gives their frames
// to its outputs. It never sends a byte back to where they came from.
package collector

import (
	"io"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
)

// A Config is all that a collector is told. The zero value of a field that has
// a default means the default.
type Config struct {
	Listen         string            // [HOST]:PORT
	Keys           *crypto.KeyFile   // master keys, or the keys of the one tap to accept; nil: public-key mode only
	Pairs          *crypto.PairFile  // public-key mode: the collector's key pairs, and
	Allow          *crypto.AllowList // the remotes that it takes; both or none
	Reload         <-chan struct{}   // each value has the files of keys read anew, and Reroute called; nil: never
	AllowPlaintext bool              // also accept datagrams that nobody sealed

	Outputs                 // where frames go
	Write         string    // the same as Files with this Path; "": none
	Stdout        io.Writer // nil: os.Stdout
	ReceiveSelect Selection // which frames a Receiver gets
	IO            string    // how datagrams come in and TAPs are written: auto, uring or mmsg

	// Reroute, if set, returns the outputs that are wanted now. Those that are the
	// same as before go on untouched, but for a Selection that is another one. An
	// error leaves all as it was. It is called from a goroutine of its own; inForce,
	// if not nil, once the outputs are in force.
	Reroute func() (o Outputs, inForce func(), err error)

	// Merge, if not 0, puts the frames of all taps and workers in the order of
	// their capture times, for files, PCAP over IP and a Receiver: each waits so
	// long for earlier ones. One that comes later than that is counted, and given
	// on at once. MergeBuffer bounds the bytes that wait, for each output: when it
	// is half full, frames go on earlier. 0: 64 MiB.
	Merge       time.Duration
	MergeBuffer int

	Workers       int           // sockets sharing the port; 0: 1
	CPUs          []int         // workers are pinned to these in turn; none: not pinned
	Once          bool          // end when every tap that was heard said bye
	State         string        // file that keeps the newest session of each tap; "": none
	ClockWindow   time.Duration // how far the clock of a tap of which no session is known may be off; 0: 5 minutes; negative: any
	KeepGSO       bool          // give outputs GSO frames whole, not as the wire saw them
	Reorder       int           // datagrams held while an earlier one is missing; 0: 64
	ReorderWait   time.Duration // the longest they are held; 0: 10 ms
	ReceiveBuffer int           // SO_RCVBUF, bytes; 0: 64 MiB
	LowLatency    bool          // workers never sleep

	Stats bool      // print the account each second
	Out   io.Writer // where accounts are printed; nil: nowhere
	Log   zerolog.Logger

	// Ready, if set, is called once when the collector listens, with the
	// address and the account that is kept up to date from then on.
	Ready func(netip.AddrPort, *Account)

	receiver *Receiver // is an output; nil: none
}

// Outputs are the places where frames go: all to each, but for what its
// Selection leaves out.
type Outputs struct {
	TAPs  []TAP
	Files []File // pcapng
	VXLAN []VXLAN
	Serve []Serve // PCAP over IP

	Balance []Balance // groups of them, which share the frames
}

// Check says all that is wrong with the outputs, and none is opened. What can be
// seen only then, as a port that is taken, it does not see.
func (c *Outputs) Check() error {
	_, err := c.specs(&Config{})
	return err
}

// Check says what is wrong with the selection.
func (s Selection) Check() error {
	_, err := s.choose(true)
	return err
}

// Check says what is wrong with the output.
func (t TAP) Check() error {
	_, err := t.spec()
	return err
}

// Check says what is wrong with the output.
func (c File) Check() error {
	_, err := c.spec()
	return err
}

// Check says what is wrong with the output.
func (c VXLAN) Check() error {
	_, err := c.spec(&Config{})
	return err
}

// Check says what is wrong with the output.
func (c Serve) Check() error {
	_, err := c.spec()
	return err
}

// Check says what is wrong with the group.
func (c *Balance) Check() error {
	_, err := c.spec(&Config{})
	return err
}

// A TAP is an output that is a virtual Ethernet interface, or one for each tap.
type TAP struct {
	Name    string // of the interface, or a pattern with %t for the tap ID
	Isolate bool   // the host's own stack never sees its frames, but for those of a bridge's port
	Persist bool   // the interface outlives the collector, and the next one goes on with it
	NetNS   string // network namespace it is in: a name of ip-netns(8), a PID or a file; "": the collector's
	Select  Selection
}
