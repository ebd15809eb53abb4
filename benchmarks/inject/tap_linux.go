// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/ring"
)

// tap opens a queue of a TAP device, made if need be, and brings it up.
func tap(name string, flags uint16, nonblock bool) (int, error) {
	mode := unix.O_RDWR | unix.O_CLOEXEC
	if nonblock {
		mode |= unix.O_NONBLOCK
	}
	fd, err := unix.Open("/dev/net/tun", mode, 0)
	if err != nil {
		return -1, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TUNSETIFF: %w", err)
	}
	return fd, errors.Join(command("ip link set "+name+" addrgenmode none"), command("ip link set "+name+" up arp off"))
}

const uringBatch = 64 // as collector/tapsink.go

// taps returns the ways by TAP devices.
func taps() []*way {
	var out []*way
	fds := map[string]int{}
	plain := func(name, device string, flags uint16, nonblock bool, after func(fd int) error) {
		out = append(out, &way{name: name, device: device,
			open: func() (err error) {
				if fds[name], err = tap(device, flags, nonblock); err == nil && after != nil {
					err = after(fds[name])
				}
				return err
			},
			write: func(frames [][]byte) error {
				fd := fds[name]
				for _, f := range frames {
					if _, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&f[0])), uintptr(len(f))); e != 0 {
						return e
					}
				}
				return nil
			},
			close: func() { unix.Close(fds[name]) },
		})
	}
	uring := func(name, device string, flags uint16, nonblock bool, after func(fd int) error) {
		var u *ring.Uring
		out = append(out, &way{name: name, device: device,
			open: func() error {
				fd, err := tap(device, flags, nonblock)
				if err != nil {
					return err
				}
				fds[name] = fd
				if after != nil {
					if err := after(fd); err != nil {
						return err
					}
				}
				if u, err = ring.SetupUring(uringBatch); err != nil {
					return err
				}
				return u.RegisterFiles([]int32{int32(fd)})
			},
			write: func(frames [][]byte) error { return submit(u, frames) },
			close: func() { u.Close(); unix.Close(fds[name]) },
		})
	}
	fixed := func(name, device string) {
		var u *ring.Uring
		out = append(out, &way{name: name, device: device,
			open: func() error {
				fd, err := tap(device, 0, false)
				if err != nil {
					return err
				}
				fds[name] = fd
				if u, err = ring.SetupUring(uringBatch); err != nil {
					return err
				}
				return errors.Join(u.RegisterFiles([]int32{int32(fd)}), u.RegisterBuffers([][]byte{frameMemory}))
			},
			write: func(frames [][]byte) error {
				return submitEach(u, len(frames), func(s *ring.SQE, i int) { s.PrepWriteFixed(0, frames[i], 0) })
			},
			close: func() { u.Close(); unix.Close(fds[name]) },
		})
	}
	noGRO := func(device string) func(int) error {
		return func(int) error { return command("ethtool -K " + device + " gro off") }
	}
	uring("TAP, io_uring", "tap0", 0, false, nil)
	fixed("TAP, io_uring, WRITE_FIXED", "tap12")
	uring("TAP non-blocking, io_uring", "tap9", 0, true, nil)
	plain("TAP, write(2), blocking", "tap1", 0, false, nil)
	plain("TAP, write(2), non-blocking", "tap2", 0, true, nil)
	uring("TAP with queues, io_uring", "tap3", unix.IFF_MULTI_QUEUE, false, nil)
	plain("TAP with NAPI, write(2)", "tap4", unix.IFF_NAPI, true, nil)
	uring("TAP with NAPI, io_uring", "tap5", unix.IFF_NAPI, false, nil)
	uring("TAP with NAPI, GRO off, io_uring", "tap6", unix.IFF_NAPI, false, noGRO("tap6"))
	plain("TAP with NAPI_FRAGS, write(2)", "tap7", unix.IFF_NAPI|unix.IFF_NAPI_FRAGS, true, noGRO("tap7"))

	out = append(out, pieces("TAP, io_uring, two pieces copied together", "tap10", true), pieces("TAP, io_uring, two pieces by WRITEV", "tap11", false))

	// With a virtio_net_hdr before each frame: 10 bytes that say nothing.
	var hdr [10]byte
	var iov [2]unix.Iovec
	iov[0].Base = &hdr[0]
	iov[0].SetLen(len(hdr))
	out = append(out, &way{name: "TAP with vnet_hdr, writev(2)", device: "tap8",
		open: func() (err error) { fds["vnet"], err = tap("tap8", unix.IFF_VNET_HDR, true); return },
		write: func(frames [][]byte) error {
			for _, f := range frames {
				iov[1].Base = &f[0]
				iov[1].SetLen(len(f))
				if _, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fds["vnet"]), uintptr(unsafe.Pointer(&iov[0])), 2); e != 0 {
					return e
				}
			}
			return nil
		},
		close: func() { unix.Close(fds["vnet"]) },
	})
	return out
}

// pieces returns the ways to write frames that lie in two pieces, as records do
// that a datagram's end has cut: put together first, or as two vectors.
func pieces(name, device string, together bool) *way {
	var fd int
	var u *ring.Uring
	mem := make([]byte, batch*2048)
	var parts [batch][2]unix.Iovec
	joined := make([][]byte, batch)
	return &way{name: name, device: device,
		open: func() (err error) {
			if fd, err = tap(device, 0, false); err != nil {
				return err
			}
			if u, err = ring.SetupUring(uringBatch); err != nil {
				return err
			}
			return u.RegisterFiles([]int32{int32(fd)})
		},
		write: func(frames [][]byte) error {
			if together {
				at := 0
				for i, f := range frames {
					joined[i] = mem[at : at+len(f)]
					half := len(f) / 2
					copy(joined[i], f[:half])
					copy(joined[i][half:], f[half:])
					at += len(f)
				}
				return submit(u, joined[:len(frames)])
			}
			return submitEach(u, len(frames), func(s *ring.SQE, i int) {
				f := frames[i]
				half := len(f) / 2
				v := &parts[i]
				v[0].Base, v[1].Base = &f[0], &f[half]
				v[0].SetLen(half)
				v[1].SetLen(len(f) - half)
				s.PrepWritev(0, v[:])
			})
		},
		close: func() { u.Close(); unix.Close(fd) },
	}
}
