// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// veth makes a pair: what is sent on name+"s" appears on name.
func veth(name string) (int, error) {
	err := errors.Join(command("ip link add "+name+"s type veth peer name "+name),
		command("ip link set "+name+" addrgenmode none"), command("ip link set "+name+"s addrgenmode none"),
		command("ip link set "+name+" up arp off"), command("ip link set "+name+"s up arp off"))
	if err != nil {
		return 0, err
	}
	time.Sleep(200 * time.Millisecond) // the queue is activated some time after the link is up
	i, err := net.InterfaceByName(name + "s")
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

// packetSocket opens a packet socket that only sends, past the qdisc.
func packetSocket(index int, set func(fd int) error) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20)
	return fd, errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1), set(fd),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}))
}

// veths returns the ways by a pair of virtual Ethernet interfaces.
func veths() []*way { return []*way{vethSend(), vethRing(), vethXDP()} }

func vethSend() *way {
	type mmsghdr struct {
		hdr unix.Msghdr
		n   uint32
		_   [4]byte
	}
	const most = 64
	var fd int
	msgs, iov := make([]mmsghdr, most), make([]unix.Iovec, most)
	return &way{name: "veth, packet socket, sendmmsg", device: "vp0",
		open: func() error {
			index, err := veth("vp0")
			if err != nil {
				return err
			}
			fd, err = packetSocket(index, func(int) error { return nil })
			return err
		},
		write: func(frames [][]byte) error {
			for at := 0; at < len(frames); at += most {
				some := frames[at:min(at+most, len(frames))]
				for i, f := range some {
					iov[i].Base = &f[0]
					iov[i].SetLen(len(f))
					msgs[i].hdr.Iov = &iov[i]
					msgs[i].hdr.SetIovlen(1)
				}
				for k := 0; k < len(some); {
					n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[k])), uintptr(len(some)-k), 0, 0, 0)
					if e != 0 && e != unix.ENOBUFS && e != unix.EAGAIN {
						return e
					}
					if e == 0 {
						k += int(n)
					}
				}
			}
			return nil
		},
		close: func() { unix.Close(fd) },
	}
}

// vethRing is PACKET_TX_RING of TPACKET_V2.
func vethRing() *way {
	const slots, slotSize = 1024, 2048
	const data = 32 // TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), where the kernel looks for a frame
	var fd, next int
	var mem []byte
	status := func(i int) *uint32 { return (*uint32)(unsafe.Pointer(&mem[i*slotSize])) }
	return &way{name: "veth, packet TX ring", device: "vr0",
		open: func() error {
			index, err := veth("vr0")
			if err != nil {
				return err
			}
			fd, err = packetSocket(index, func(fd int) error {
				req := unix.TpacketReq{Block_size: 1 << 16, Block_nr: slots * slotSize >> 16, Frame_size: slotSize, Frame_nr: slots}
				return errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2),
					unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &req))
			})
			if err != nil {
				return err
			}
			mem, err = unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
			return err
		},
		write: func(frames [][]byte) error {
			kick := func() error {
				if _, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0); e != 0 && e != unix.EAGAIN && e != unix.ENOBUFS {
					return e
				}
				return nil
			}
			for i, f := range frames {
				for atomic.LoadUint32(status(next)) != unix.TP_STATUS_AVAILABLE {
					if err := kick(); err != nil {
						return err
					}
				}
				slot := mem[next*slotSize : (next+1)*slotSize]
				*(*uint32)(unsafe.Pointer(&slot[4])) = uint32(len(f)) // tp_len
				copy(slot[data:], f)
				atomic.StoreUint32(status(next), unix.TP_STATUS_SEND_REQUEST)
				next = (next + 1) % slots
				if i%64 == 63 || i == len(frames)-1 {
					if err := kick(); err != nil {
						return err
					}
				}
			}
			return nil
		},
		close: func() { unix.Munmap(mem); unix.Close(fd) },
	}
}

// vethXDP is AF_XDP in copy mode: veth has no other for what is sent.
func vethXDP() *way {
	const slots, slotSize = 2048, 2048
	var fd int
	var umem, txMem, compMem []byte
	var off unix.XDPMmapOffsets
	var sent, done uint32
	word := func(m []byte, at uint64) *uint32 { return (*uint32)(unsafe.Pointer(&m[at])) }
	return &way{name: "veth, AF_XDP", device: "vx0",
		open: func() error {
			index, err := veth("vx0")
			if err != nil {
				return err
			}
			if fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			if umem, err = unix.Mmap(-1, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
				return err
			}
			reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&umem[0]))), Len: slots * slotSize, Size: slotSize}
			set := func(opt int, p unsafe.Pointer, n uintptr) error {
				if _, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt), uintptr(p), n, 0); e != 0 {
					return os.NewSyscallError(fmt.Sprintf("setsockopt %d", opt), e)
				}
				return nil
			}
			n := uint32(slots)
			if err := errors.Join(set(unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)),
				set(unix.XDP_UMEM_FILL_RING, unsafe.Pointer(&n), 4), set(unix.XDP_UMEM_COMPLETION_RING, unsafe.Pointer(&n), 4),
				set(unix.XDP_TX_RING, unsafe.Pointer(&n), 4)); err != nil {
				return err
			}
			size := uint32(unsafe.Sizeof(off))
			if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS, uintptr(unsafe.Pointer(&off)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
				return e
			}
			const prot, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
			if txMem, err = unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(off.Tx.Desc)+slots*16, prot, how); err != nil {
				return err
			}
			if compMem, err = unix.Mmap(fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, int(off.Cr.Desc)+slots*8, prot, how); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(index)})
		},
		write: func(frames [][]byte) error {
			reap := func() {
				tail := atomic.LoadUint32(word(compMem, off.Cr.Producer))
				done = tail
				atomic.StoreUint32(word(compMem, off.Cr.Consumer), tail)
			}
			kick := func() error {
				for {
					_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
					if e != 0 && e != unix.EAGAIN && e != unix.EBUSY && e != unix.ENOBUFS {
						return e
					}
					if atomic.LoadUint32(word(txMem, off.Tx.Consumer)) == sent { // 32 descriptors a call
						return nil
					}
				}
			}
			for i, f := range frames {
				for sent-done >= slots {
					reap()
				}
				at := uint64(sent%slots) * slotSize
				copy(umem[at:], f)
				d := (*unix.XDPDesc)(unsafe.Pointer(&txMem[off.Tx.Desc+uint64(sent%slots)*16]))
				d.Addr, d.Len, d.Options = at, uint32(len(f)), 0
				sent++
				if i%64 == 63 || i == len(frames)-1 {
					atomic.StoreUint32(word(txMem, off.Tx.Producer), sent)
					if err := kick(); err != nil {
						return err
					}
					reap()
				}
			}
			return nil
		},
		close: func() { unix.Munmap(txMem); unix.Munmap(compMem); unix.Close(fd); unix.Munmap(umem) },
	}
}
