// SPDX-License-Identifier: Apache-2.0

// Package batch moves many datagrams in one system call: flights of equal
// datagrams out with UDP_SEGMENT, trains of them in with UDP_GRO, and
// sendmmsg and recvmmsg around both. It knows sockets and memory, and nothing
// of what a datagram holds.
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
}

// SenderStats count since the Sender was made. One goroutine writes them.
type SenderStats struct {
	Datagrams perf.Counter // that the kernel took
	Bytes     perf.Counter // UDP payload of those
	Calls     perf.Counter // system calls that took something
	Refused   perf.Counter // ECONNREFUSED: nobody listened for an earlier one. This one was sent again
	NoBuffers perf.Counter // ENOBUFS: tried again
	TooBig    perf.Counter // the path's MTU fell; datagrams are smaller since
	Unsent    perf.Counter // datagrams given up
	Resolved  perf.Counter // the host's name was looked up again, and its address used
}

// A ListenConfig says where datagrams come in.
type ListenConfig struct {
	Addr    string        // [HOST]:PORT; no host: any address, IPv4 and IPv6
	Workers int           // sockets that share the port; 0: 1
	Buffer  int           // SO_RCVBUF of each, bytes; 0: the system's default
	Poll    time.Duration // the longest that a Recv waits
	// Steer picks the socket of a datagram (SO_ATTACH_REUSEPORT_CBPF): it
	// sees the UDP payload at offset 0 and returns an index. Nil: by flow hash.
	Steer []bpf.RawInstruction
}

// ReceiverStats count since Listen. One goroutine writes them.
type ReceiverStats struct {
	Datagrams   perf.Counter
	Bytes       perf.Counter // UDP payload
	Calls       perf.Counter // recvmmsg that brought something
	KernelDrops perf.Counter // datagrams, or trains of them, that found the socket's buffer full (SO_RXQ_OVFL)
	Truncated   perf.Counter // trains longer than a buffer: cannot happen on Linux
}
