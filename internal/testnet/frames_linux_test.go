// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNumberTellsOursFromOthers(t *testing.T) {
	for _, size := range []int{22, 60, 1514, 65549} {
		f := Numbered(70000, size)
		if n, ours := Number(f); n != 70000 || !ours {
			t.Errorf("%d bytes: number %d, %v", size, n, ours)
		}
		for i := range min(size, 100) {
			f[i] ^= 1
			if n, ours := Number(f); ours && n == 70000 {
				t.Errorf("%d bytes: byte %d changed, and still ours", size, i)
			}
			f[i] ^= 1
		}
		if _, ours := Number(f[:21]); ours {
			t.Error("a frame too short is ours")
		}
	}
}

// What Send sends on one end of Veth comes out of the other, in order, and
// nothing else does.
func TestVethCarriesWhatIsSent(t *testing.T) {
	a, b := Veth(t)
	iface, err := net.InterfaceByName(b)
	if err != nil {
		t.Fatal(err)
	}
	all := uint16(unix.ETH_P_ALL)
	all = all<<8 | all>>8 // htons, on the machines that ntap is for
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index}),
	); err != nil {
		t.Fatal(err)
	}
	const sent = 100
	Send(t, a, sent, 60)
	SendFrom(t, a, sent, sent, 1514)
	SendFrames(t, a, Numbered(2*sent, 100))
	buf := make([]byte, 2000)
	for want := range 2*sent + 1 {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			t.Fatalf("after %d frames of %d: %v", want, 2*sent+1, err)
		}
		if got, ours := Number(buf[:n]); !ours || got != want {
			t.Fatalf("%d bytes, number %d (%v), want %d", n, got, ours, want)
		}
	}
}
