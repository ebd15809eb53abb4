// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Numbered frames: destination and source (locally administered), an
// experimental EtherType (IEEE 802, 0x88B5), a magic word, the number (4 bytes,
// big-endian), and bytes that follow from the number.
const (
	numberedType  = 0x88B5
	numberedMagic = "ntap"
	numberedMin   = 14 + len(numberedMagic) + 4
)

var numberedHead = []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, numberedType >> 8, numberedType & 0xFF, 'n', 't', 'a', 'p'}

// Numbered returns numbered frame n, of size bytes: 22 or more.
func Numbered(n, size int) []byte {
	f := make([]byte, size)
	number(f, n)
	return f
}

// number makes f numbered frame n.
func number(f []byte, n int) {
	if len(f) < numberedMin {
		panic(fmt.Sprintf("testnet: a numbered frame of %d bytes; it takes %d", len(f), numberedMin))
	}
	copy(f, numberedHead)
	binary.BigEndian.PutUint32(f[numberedMin-4:], uint32(n))
	for i := numberedMin; i < len(f); i++ {
		f[i] = byte(i*7 + n)
	}
}

// Number returns the number of a frame that Send sent. ours is false if it is
// of other making, or if a byte of it has changed.
func Number(f []byte) (n int, ours bool) {
	if len(f) < numberedMin || !bytes.Equal(f[:len(numberedHead)], numberedHead) {
		return 0, false
	}
	n = int(binary.BigEndian.Uint32(f[numberedMin-4:]))
	for i := numberedMin; i < len(f); i++ {
		if f[i] != byte(i*7+n) {
			return 0, false
		}
	}
	return n, true
}

// Send sends count numbered frames of size bytes out of an interface of the
// calling thread's namespace, with numbers from 0.
func Send(t testing.TB, ifname string, count, size int) {
	t.Helper()
	SendFrom(t, ifname, 0, count, size)
}

// SendFrom is Send with numbers from first.
func SendFrom(t testing.TB, ifname string, first, count, size int) {
	t.Helper()
	f := make([]byte, size)
	i := 0
	send(t, ifname, func() []byte {
		if i == count {
			return nil
		}
		number(f, first+i)
		i++
		return f
	})
}

// SendFrames sends raw frames out of an interface of the calling thread's
// namespace.
func SendFrames(t testing.TB, ifname string, frames ...[]byte) {
	t.Helper()
	send(t, ifname, func() []byte {
		if len(frames) == 0 {
			return nil
		}
		f := frames[0]
		frames = frames[1:]
		return f
	})
}

// send sends what next returns until that is nil.
func send(t testing.TB, ifname string, next func() []byte) {
	t.Helper()
	if err := sendAll(ifname, next); err != nil {
		t.Errorf("send on %s: %v", ifname, err) // not Fatal: Do may have called
	}
}

// A Wire sends raw frames out of an interface of the network namespace that the
// thread which opened it was in.
type Wire struct {
	fd int
	to unix.SockaddrLinklayer
}

// OpenWire opens one.
func OpenWire(ifname string) (*Wire, error) {
	iface, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &Wire{fd, unix.SockaddrLinklayer{Ifindex: iface.Index}}, nil
}

// Send sends one frame; the errors are those of sendto(2).
func (w *Wire) Send(frame []byte) error { return unix.Sendto(w.fd, frame, 0, &w.to) }

// Close closes it.
func (w *Wire) Close() { unix.Close(w.fd) }

func sendAll(ifname string, next func() []byte) error {
	w, err := OpenWire(ifname)
	if err != nil {
		return err
	}
	defer w.Close()
	unpin, err := pin()
	if err != nil {
		return err
	}
	defer unpin()
	for n := 0; ; n++ {
		f := next()
		if f == nil {
			return nil
		}
		err := w.Send(f)
		for tries := 0; errors.Is(err, unix.ENOBUFS) && tries < 1000; tries++ {
			time.Sleep(time.Millisecond)
			err = w.Send(f)
		}
		if err != nil {
			return fmt.Errorf("frame %d of %d bytes: %w", n, len(f), err)
		}
	}
}

// pin keeps the calling thread on one CPU, always the same, until unpin: a veth
// queues frames on the CPU that sends them (netif_rx, net/core/dev.c), so those
// of a thread that moves, or of two calls on different CPUs, overtake each
// other.
func pin() (unpin func(), err error) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("sched_setaffinity", err)
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}, nil
}
