// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A recorder is somebody on the path, who keeps the datagrams that come to a port
// of loopback.
type recorder struct {
	t    *testing.T
	conn *net.UDPConn
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	roomy(conn)
	return &recorder{t, conn}
}

// take returns the n datagrams that were sent. Until half a second brought none is
// not until the last one: so much a busy machine takes from the reader alone.
func (r *recorder) take(n int) (all [][]byte) {
	r.t.Helper()
	testnet.Bound(r.t, r.conn)
	buf := make([]byte, 1<<16)
	for len(all) < n {
		k, err := r.conn.Read(buf)
		if err != nil {
			r.t.Fatalf("after %d datagrams of %d: %v", len(all), n, err)
		}
		all = append(all, bytes.Clone(buf[:k]))
	}
	return all
}

// roomy gives a socket room for what is sent while nobody reads: beyond
// net.core.rmem_max, if it may.
func roomy(conn *net.UDPConn) {
	const room = 16 << 20
	conn.SetReadBuffer(room)
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) })
	}
}
