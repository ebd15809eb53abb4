// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// noneLeft waits until no goroutine is left but those of the tests. (goleak alone
// waits for 0.4 s: less than a goroutine that has nothing more to do may stand still.)
func noneLeft(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(testnet.Patience); ; {
		err := goleak.Find()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}

// roomy has a socket hold what comes while its reader stands still, whatever
// net.core.rmem_max says, where that is allowed.
func roomy(t testing.TB, c *net.UDPConn) {
	t.Helper()
	const size = 64 << 20
	var forced error
	control(t, c, func(fd int) { forced = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) })
	if forced != nil {
		_ = c.SetReadBuffer(size) // as much of it as there may be
	}
}

// arrived waits until all that was written to a TCP connection is in the buffer of
// the other end.
func arrived(t testing.TB, c net.Conn) {
	t.Helper()
	testnet.Eventually(t, "what was written is acknowledged", func() bool {
		var left int
		var err error
		control(t, c.(*net.TCPConn), func(fd int) { left, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ) })
		if err != nil {
			t.Fatal(err)
		}
		return left == 0
	})
}

// control has do the descriptor of a connection.
func control(t testing.TB, c syscall.Conn, do func(fd int)) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lastDatagram sends one byte to a socket, behind all that lies there: whoever reads
// it has read the rest.
func lastDatagram(t testing.TB, to *net.UDPConn) {
	t.Helper()
	c, err := net.Dial("udp", to.LocalAddr().String())
	if err == nil {
		_, err = c.Write([]byte{0})
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
