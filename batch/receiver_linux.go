// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Chosen.
const (
	recvMessages = 8       // trains taken by one recvmmsg
	recvBuffer   = 1 << 16 // bytes: the longest train, and the longest datagram
	recvControl  = 64      // bytes for UDP_GRO and SO_RXQ_OVFL
	busyPoll     = 50      // µs, as the kernel's documentation of net.core.busy_read has it
)

// A Receiver is one socket. It never sends: there is no method for it. It
// belongs to one goroutine.
type Receiver struct {
	fd      int
	addr    netip.AddrPort
	buffer  int
	grouped bool
	arena   *Arena
	msgs    [recvMessages]mmsghdr
	iov     [recvMessages]unix.Iovec
	control [recvMessages][recvControl]byte
	names   [recvMessages]unix.RawSockaddrInet6
	inbox   Inbox // in place of recvmmsg; nil: none
	poll    time.Duration
	spin    bool   // never wait
	n       int    // messages of the last Recv
	msg     int    // the one Next is in
	rest    []byte // of it
	size    int    // of a datagram in it
	drops   uint32 // as the socket told last
	from    []byte // struct sockaddr of the message
	stats   ReceiverStats
}

// Listen opens cfg.Workers sockets on one address.
func Listen(cfg ListenConfig) ([]*Receiver, error) {
	cfg.Workers = max(cfg.Workers, 1)
	a, err := net.ResolveUDPAddr("udp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("batch: listen on %q: %w; want [HOST]:PORT, as in :5678", cfg.Addr, err)
	}
	sockets, buffer := cfg.Workers, cfg.Buffer
	if cfg.Second > 0 {
		sockets *= 2
	}
	shared := sockets > 1
	if err := free(a, shared); err != nil {
		return nil, err
	}
	var all []*Receiver
	fail := func(err error) ([]*Receiver, error) {
		for _, r := range all {
			r.Close()
		}
		return nil, err
	}
	for i := range sockets {
		if cfg.Buffer = buffer; i >= cfg.Workers {
			cfg.Buffer = cfg.Second
		}
		var r *Receiver
		open := func() (err error) {
			r, err = open(a, cfg, shared)
			return err
		}
		if cfg.Near != nil {
			err = cfg.Near(i%cfg.Workers, open)
		} else {
			err = open()
		}
		if r != nil {
			all = append(all, r)
		}
		if err != nil {
			return fail(err)
		}
		a.Port = int(r.addr.Port()) // all share the one that the first was given
		if i == 0 && len(cfg.Steer) > 0 {
			if err := r.Steer(cfg.Steer); err != nil {
				return fail(err)
			}
		}
	}
	return all, nil
}

// Steer has prog pick the socket of each datagram from now on, for all sockets
// that share the port.
func (r *Receiver) Steer(prog []bpf.RawInstruction) error {
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(prog)))}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &p); err != nil {
		return fmt.Errorf("batch: %v: %d instructions: %w", r.addr, len(prog), os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF", err))
	}
	return nil
}

// free says whether nobody has the port: two programs of one user that both
// set SO_REUSEPORT would share it without a word. So they would a port that the
// kernel picks: among those of sockets with SO_REUSEPORT, too, if it is for one
// (udp_lib_get_port, net/ipv4/udp.c). It picks one here for sockets that share.
func free(a *net.UDPAddr, shared bool) error {
	if a.Port == 0 && !shared {
		return nil
	}
	c, err := net.ListenUDP("udp", a)
	if err == nil {
		a.Port = c.LocalAddr().(*net.UDPAddr).Port
		return c.Close()
	}
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("batch: listen on %v: %w: no interface here has that address; give one that ip address shows, or the port alone", a, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("batch: listen on %v: %w: such a low port takes CAP_NET_BIND_SERVICE (net.ipv4.ip_unprivileged_port_start says from which on none is needed); give that, or another port", a, err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("batch: port %d is taken by another program (ss -ulpn sport = :%d shows which): %w; stop it, or listen on another port", a.Port, a.Port, err)
	}
	return fmt.Errorf("batch: listen on %v: %w", a, err)
}

func open(a *net.UDPAddr, cfg ListenConfig, shared bool) (r *Receiver, err error) {
	what := ""
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			if shared {
				what, err = "SO_REUSEPORT", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		})
	}}
	pc, err2 := lc.ListenPacket(context.Background(), "udp", a.String())
	if err2 != nil || err != nil {
		return nil, fmt.Errorf("batch: listen on %v: %s %w", a, what, errors.Join(err, err2))
	}
	defer pc.Close()
	f, err := pc.(*net.UDPConn).File() // a descriptor of our own, blocking
	if err != nil {
		return nil, fmt.Errorf("batch: listen on %v: %w", a, err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("batch: %w", os.NewSyscallError("fcntl", err))
	}
	r = &Receiver{fd: fd, addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	if err := r.set(cfg); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("batch: listen on %v: %w", a, err)
	}
	return r, nil
}

// set sets the options of the socket and makes its buffers.
func (r *Receiver) set(cfg ListenConfig) error {
	if err := unix.SetNonblock(r.fd, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if n := cfg.Buffer; n > 0 && unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) != nil {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, n); err != nil {
			return os.NewSyscallError("setsockopt SO_RCVBUF", err)
		}
	}
	if n, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
		r.buffer = n / 2 // the kernel doubles what it was asked for (socket(7))
	}
	tv := unix.NsecToTimeval(max(cfg.Poll, time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	r.poll, r.spin = max(cfg.Poll, time.Millisecond), cfg.Spin
	if cfg.Spin {
		// The longest that a look at the socket polls its device's queue, where
		// that can be polled; more than the sysctl net.core.busy_read takes
		// CAP_NET_ADMIN, and without it nothing is lost but speed.
		_ = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, 1)
		_ = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_BUSY_POLL, busyPoll)
	}
	r.grouped = unix.SetsockoptInt(r.fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	// Emulated kernels (qemu-user) do not have it: the count then comes by Drops alone.
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return os.NewSyscallError("setsockopt SO_RXQ_OVFL", err)
	}
	var err error
	if r.arena, err = NewArena(recvMessages * recvBuffer); err != nil {
		return err
	}
	for i := range r.msgs {
		h := &r.msgs[i].hdr
		r.iov[i].Base = &r.arena.mem[i*recvBuffer]
		r.iov[i].SetLen(recvBuffer)
		h.Iov = &r.iov[i]
		h.SetIovlen(1)
		h.Control = &r.control[i][0]
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
	}
	return nil
}

// UseInbox has datagrams come by an io_uring from now on, or with nil no
// longer. The calling goroutine is locked to the thread that made it. What an
// earlier Recv lent is gone.
func (r *Receiver) UseInbox(b Inbox) { r.inbox, r.n, r.msg, r.rest = b, 0, -1, nil }

// FD returns the socket, for an Inbox.
func (r *Receiver) FD() int { return r.fd }

// MaxPayload is the room that a message needs, bytes: the longest train, and the
// longest datagram.
const MaxPayload = recvBuffer

// Recv waits for datagrams, at most cfg.Poll, and takes what is there. It
// returns how many messages came: a train of datagrams is one. 0 and nil: none
// came. What an earlier Recv lent is overwritten.
func (r *Receiver) Recv() (int, error) {
	if r.spin {
		return r.recv(unix.MSG_DONTWAIT)
	}
	return r.recv(unix.MSG_WAITFORONE)
}

// TryRecv is Recv that does not wait. full says that there may be more.
func (r *Receiver) TryRecv() (n int, full bool, err error) {
	n, err = r.recv(unix.MSG_DONTWAIT)
	return n, n >= recvMessages, err
}

// Wait waits until one of two Receivers has something, at most for d, and says
// which have.
func Wait(a, b *Receiver, d time.Duration) (hasA, hasB bool, err error) {
	fds := [...]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLIN}, {Fd: int32(b.fd), Events: unix.POLLIN}}
	wait := int(max(d, time.Millisecond) / time.Millisecond)
	if a.spin {
		wait = 0
	}
	_, err = unix.Poll(fds[:], wait)
	if err != nil && err != unix.EINTR {
		return false, false, fmt.Errorf("batch: %v: %w", a.addr, os.NewSyscallError("poll", err))
	}
	return fds[0].Revents != 0, fds[1].Revents != 0, nil
}

func (r *Receiver) recv(flags int) (int, error) {
	r.n, r.msg, r.rest = 0, -1, nil
	if r.inbox != nil {
		wait := r.poll
		if flags == unix.MSG_DONTWAIT {
			wait = 0
		}
		n, err := r.inbox.Recv(wait)
		if err != nil {
			return 0, fmt.Errorf("batch: %v: %w", r.addr, err)
		}
		if r.n = n; n > 0 {
			r.stats.Calls.Add(1)
		}
		return n, nil
	}
	for i := range r.msgs {
		r.msgs[i].hdr.SetControllen(recvControl)
		r.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	n, e := recvmmsg(r.fd, r.msgs[:], flags)
	switch e {
	case 0:
		r.n = n
		r.stats.Calls.Add(1)
		return n, nil
	case unix.EAGAIN, unix.EINTR, unix.ECONNREFUSED:
		return 0, nil
	}
	return 0, fmt.Errorf("batch: %v: %w", r.addr, os.NewSyscallError("recvmmsg", e))
}

// Next returns the next datagram of the last Recv; ok is false after the last.
// It is good until the next Recv, and may be written to.
func (r *Receiver) Next() (d []byte, ok bool) {
	for len(r.rest) == 0 {
		if r.msg+1 >= r.n {
			return nil, false
		}
		r.msg++
		if r.begin(); len(r.rest) == 0 {
			r.stats.Datagrams.Add(1)
			return r.rest, true // an empty datagram
		}
	}
	n := min(r.size, len(r.rest))
	d, r.rest = r.rest[:n:n], r.rest[n:]
	r.stats.Datagrams.Add(1)
	r.stats.Bytes.Add(uint64(n))
	return d, true
}

// begin starts with message r.msg: its train, and what the kernel says of it.
func (r *Receiver) begin() {
	var control []byte
	var flags int32
	if r.inbox != nil {
		r.from, control, r.rest, flags = r.inbox.Message(r.msg)
	} else {
		m := &r.msgs[r.msg]
		at := r.msg * recvBuffer
		r.rest, control, flags = r.arena.mem[at:at+int(m.n)], r.control[r.msg][:m.hdr.Controllen], m.hdr.Flags
		r.from = unsafe.Slice((*byte)(unsafe.Pointer(&r.names[r.msg])), m.hdr.Namelen)
	}
	r.size = max(len(r.rest), 1)
	if flags&unix.MSG_TRUNC != 0 {
		r.stats.Truncated.Add(1)
	}
	for c := control; len(c) >= unix.SizeofCmsghdr; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(c)))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr+4 || length > len(c) {
			return
		}
		v := binary.NativeEndian.Uint32(c[unix.SizeofCmsghdr:])
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && v > 0:
			r.size = int(v)
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL:
			r.dropped(v)
		}
		c = c[min(len(c), (length+7)&^7):] // CMSG_ALIGN
	}
}

// dropped takes the socket's count of drops. It is a 32-bit count that goes
// round; one that is older than what is known says nothing.
func (r *Receiver) dropped(v uint32) {
	if d := int32(v - r.drops); d > 0 {
		r.stats.KernelDrops.Add(uint64(d))
		r.drops = v
	}
}

// Drops asks the kernel how often the socket's buffer was full, and returns the
// count: a datagram tells (SO_RXQ_OVFL) only what was dropped before it, and
// behind the last one none comes. Both are the same count, sk_drops
// (sk_get_meminfo, net/core/sock.c), which a train of datagrams adds one to
// (__udp_enqueue_schedule_skb, net/ipv4/udp.c).
func (r *Receiver) Drops() uint64 {
	var v [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(v))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(r.fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0)
	if e == 0 && size > unix.SK_MEMINFO_DROPS*4 { // Linux 4.12
		r.dropped(v[unix.SK_MEMINFO_DROPS])
	}
	return r.stats.KernelDrops.Load()
}

// From returns where the datagram that Next returned last came from.
func (r *Receiver) From() netip.AddrPort {
	if r.msg < 0 || r.msg >= r.n || len(r.from) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	n := (*unix.RawSockaddrInet6)(unsafe.Pointer(unsafe.SliceData(r.from)))
	port := n.Port<<8 | n.Port>>8 // network order, on the little-endian machines that Go's Linux ports for us are
	if n.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(n))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port)
	}
	if len(r.from) < unix.SizeofSockaddrInet6 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom16(n.Addr).Unmap(), port)
}

// Memory returns all the memory that datagrams are received in.
func (r *Receiver) Memory() []byte { return r.arena.Bytes() }

// Stats returns the counts, which go on.
func (r *Receiver) Stats() *ReceiverStats { return &r.stats }

// Addr returns the address that the socket listens on.
func (r *Receiver) Addr() netip.AddrPort { return r.addr }

// Buffer returns the bytes of SO_RCVBUF that the kernel granted.
func (r *Receiver) Buffer() int { return r.buffer }

// Grouped says that trains come whole, by UDP_GRO.
func (r *Receiver) Grouped() bool { return r.grouped }

// Close closes the socket.
func (r *Receiver) Close() error {
	if r.fd < 0 {
		return nil
	}
	err := errors.Join(unix.Close(r.fd), r.arena.Close())
	r.fd = -1
	return err
}
