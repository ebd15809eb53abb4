// SPDX-License-Identifier: Apache-2.0

// Package batch moves many datagrams in one system call: flights of equal
// datagrams out with UDP_SEGMENT, trains of them in with UDP_GRO, and
// sendmmsg and recvmmsg around both. It knows sockets and memory, and nothing
// of what a datagram holds. What goes to files in one call is here too.
package batch

import (
	"time"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/perf"
)

// A SenderConfig says where datagrams go.
type SenderConfig struct {
	To         string // HOST:PORT
	Datagram   int    // bytes of UDP payload; 0: as much as the path's MTU allows
	MTU        int    // IP MTU of the path, bytes; 0: what the route says
	Mark       uint32 // SO_MARK; 0: none
	SendBuffer int    // SO_SNDBUF, bytes; 0: the system's default
	Pace       uint64 // bytes a second that are sent at the most, headers from Ethernet on counted; 0: no limit

	// Resolve is how often the name in To is looked up again while all goes well;
	// 0: DefaultResolve; below 0: only after failures.
	Resolve time.Duration

	// Shy is for one of several senders of a thread. It never waits: what finds
	// no room in the socket's buffer is counted as unsent. It is made though its
	// name is not known or there is no route, and then looks again.
	Shy bool

	// Later is for one that is made though its name is not known now, as when a host
	// starts before its name server, and looks again: until then it sends nowhere.
	Later bool
}

// DefaultResolve is how often the name of a destination is looked up again.
const DefaultResolve = 30 * time.Second

// MaxPorts is the most source ports that a Fan can have. Its first is looked
// for from firstDynamic on: RFC 7348, section 5, wants them dynamic, and
// RFC 6335, section 6, says that those begin there.
const (
	MaxPorts     = 256
	firstDynamic = 49152
)

// A FanConfig says where the datagrams of a Fan go, and from where.
type FanConfig struct {
	To         string        // HOST:PORT
	What       string        // is there, in errors
	Ports      int           // source ports: 1 to MaxPorts
	FirstPort  uint16        // of them; 0: the first dynamic ones that are free
	MTU        int           // IP MTU of the path, bytes; 0: what the route says
	Fragment   bool          // datagrams that the path does not take whole go as IP fragments
	Drop       bool          // datagrams for which there is no room are dropped, instead of waiting
	Mark       uint32        // SO_MARK; 0: none
	SendBuffer int           // SO_SNDBUF of each socket, bytes; 0: the system's default
	Resolve    time.Duration // as a SenderConfig's
}

// SenderStats count since the Sender or the Fan was made. One goroutine writes them.
type SenderStats struct {
	Datagrams perf.Counter // that the kernel took
	Bytes     perf.Counter // UDP payload of those
	Calls     perf.Counter // system calls that took something
	Refused   perf.Counter // the network said of an earlier one that nobody got it: ECONNREFUSED, nobody listened. This one was sent again
	NoBuffers perf.Counter // ENOBUFS: tried again
	TooBig    perf.Counter // the path's MTU fell; a Sender's datagrams are smaller since
	TooLong   perf.Counter // datagrams longer than the path takes; a Sender makes none
	NoRoom    perf.Counter // datagrams dropped because there was no room: a Fan that does not wait
	Unsent    perf.Counter // datagrams given up
	Resolved  perf.Counter // the host's name was looked up again, and its address used
	Lent      perf.Counter // flights that the kernel read where they lay: a Sender with a ZeroCopyRing
	Copied    perf.Counter // of those, it says that it copied them all the same
	NoneFree  perf.Counter // flights that were copied, since all others were lent
	Rebound   perf.Counter // times another local address was needed, since the one before was gone
}

// A ListenConfig says where datagrams come in.
type ListenConfig struct {
	Addr    string        // [HOST]:PORT; no host: any address, IPv4 and IPv6
	Workers int           // sockets that share the port; 0: 1
	Buffer  int           // SO_RCVBUF of each, bytes; 0: the system's default
	Poll    time.Duration // the longest that a Recv waits
	Spin    bool          // a Recv does not wait, and has the device's queue polled
	// Second is SO_RCVBUF of a second socket for each worker, bytes; 0: there
	// are none. Listen returns them behind the first ones.
	Second int
	// Near, if set, calls open for what a worker has: on a thread from which
	// the memory is near to where it will be used.
	Near func(worker int, open func() error) error
	// Steer picks the socket of a datagram (SO_ATTACH_REUSEPORT_CBPF): it
	// sees the UDP payload at offset 0 and returns an index. Nil: by flow hash.
	Steer []bpf.RawInstruction
}

// ReceiverStats count since Listen. One goroutine writes them.
type ReceiverStats struct {
	Datagrams   perf.Counter
	Bytes       perf.Counter // UDP payload
	Calls       perf.Counter // recvmmsg that brought something
	KernelDrops perf.Counter // datagrams, or trains of them, that found the socket's buffer full
	Truncated   perf.Counter // trains longer than a buffer: cannot happen on Linux
}
