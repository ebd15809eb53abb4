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
	n       int    // messages of the last recvmmsg
	msg     int    // the one Next is in
	rest    []byte // of it
	size    int    // of a datagram in it
	drops   uint32 // as the socket told last
	stats   ReceiverStats
}

// Listen opens cfg.Workers sockets on one address.
func Listen(cfg ListenConfig) ([]*Receiver, error) {
	cfg.Workers = max(cfg.Workers, 1)
	a, err := net.ResolveUDPAddr("udp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("batch: listen on %q: %w; want [HOST]:PORT, as in :5678", cfg.Addr, err)
	}
	if err := free(a); err != nil {
		return nil, err
	}
	sockets, buffer := cfg.Workers, cfg.Buffer
	if cfg.Second > 0 {
		sockets *= 2
	}
	shared := sockets > 1
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
		r, err := open(a, cfg, shared)
		if err != nil {
			return fail(err)
		}
		all = append(all, r)
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
// set SO_REUSEPORT would share it without a word.
func free(a *net.UDPAddr) error {
	if a.Port == 0 {
		return nil
	}
	c, err := net.ListenUDP("udp", a)
	if err == nil {
		return c.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
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
	r.grouped = unix.SetsockoptInt(r.fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
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

// Recv waits for datagrams, at most cfg.Poll, and takes what is there. It
// returns how many messages came: a train of datagrams is one. 0 and nil: none
// came. What an earlier Recv lent is overwritten.
func (r *Receiver) Recv() (int, error) { return r.recv(unix.MSG_WAITFORONE) }

// TryRecv is Recv that does not wait. full says that there may be more.
func (r *Receiver) TryRecv() (n int, full bool, err error) {
	n, err = r.recv(unix.MSG_DONTWAIT)
	return n, n == recvMessages, err
}

// Wait waits until one of two Receivers has something, at most for d, and says
// which have.
func Wait(a, b *Receiver, d time.Duration) (hasA, hasB bool, err error) {
	fds := [...]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLIN}, {Fd: int32(b.fd), Events: unix.POLLIN}}
	_, err = unix.Poll(fds[:], int(max(d, time.Millisecond)/time.Millisecond))
	if err != nil && err != unix.EINTR {
		return false, false, fmt.Errorf("batch: %v: %w", a.addr, os.NewSyscallError("poll", err))
	}
	return fds[0].Revents != 0, fds[1].Revents != 0, nil
}

func (r *Receiver) recv(flags int) (int, error) {
	r.n, r.msg, r.rest = 0, -1, nil
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
	m := &r.msgs[r.msg]
	at := r.msg * recvBuffer
	r.rest = r.arena.mem[at : at+int(m.n)]
	r.size = max(int(m.n), 1)
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		r.stats.Truncated.Add(1)
	}
	for c := r.control[r.msg][:m.hdr.Controllen]; len(c) >= unix.SizeofCmsghdr; {
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
			r.stats.KernelDrops.Add(uint64(v - r.drops)) // a 32-bit count that goes round
			r.drops = v
		}
		c = c[min(len(c), (length+7)&^7):] // CMSG_ALIGN
	}
}

// From returns where the datagram that Next returned last came from.
func (r *Receiver) From() netip.AddrPort {
	if r.msg < 0 || r.msg >= r.n {
		return netip.AddrPort{}
	}
	n := &r.names[r.msg]
	port := n.Port<<8 | n.Port>>8 // network order, on the little-endian machines that Go's Linux ports for us are
	if n.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(n))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port)
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
