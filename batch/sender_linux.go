// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes that IP and UDP fix, bytes.
const (
	headers4 = 20 + 8 // RFC 791, RFC 768
	headers6 = 40 + 8 // RFC 8200
	minMTU   = 576    // RFC 791
	minMTU6  = 1280   // RFC 8200
	maxMTU   = 65535
	maxUDP   = 65507 // payload of the largest UDP datagram on IPv4
	maxGSO   = 65507 // bytes that one UDP_SEGMENT send can carry, net/ipv4/udp.c
)

// Chosen.
const likelyMTU = 9000 // where the route says more, as lo does, only --mtu has more

// maxSegments is the most in a flight: UDP_MAX_SEGMENTS of include/linux/udp.h
// since Linux 6.10. Before, it says EINVAL, and oldSegments are the most.
const maxSegments = 128

// flightBytes is the room of a flight, bytes.
const flightBytes = 1 << 16

// A Sender packs datagrams of equal size into flights and sends each flight
// with one system call; with a Ring, RingFlights of them. It belongs to one
// goroutine.
//
//	Slot, Queue ──▶ a flight: equal datagrams, the last perhaps shorter ──(full, ended, or Flush)──▶ sendmsg, UDP_SEGMENT
type Sender struct {
	trouble
	cfg       SenderConfig
	fd        int
	to        netip.AddrPort
	arena     *Arena  // a flight, or several: RingFlights, ZeroCopyFlights
	mem       []byte  // of the flight being filled, inside arena
	size      int     // of a full datagram
	slots     int     // in a flight
	most      int     // segments in one send
	n         int     // datagrams queued in the flight
	last      int     // bytes of the last one
	flags     uintptr // of each send
	segmented bool
	asked     bool // the kernel, for this size
	marked    bool
	ring      Ring // nil: none
	flights   [RingFlights]flight
	under     int // flights queued in ring
	zero      zeroCopy
	pace      pacer
	msgs      []mmsghdr
	iov       []unix.Iovec
	fatal     error
	astray    error // why it sent nowhere at first
}

// A flight is what one UDP_SEGMENT send carries.
type flight struct {
	hdr   unix.Msghdr
	iov   unix.Iovec
	mem   []byte
	n     int // datagrams
	size  int // of each
	bytes int // of all
}

// set makes f the n datagrams of size bytes in mem; the last has last.
func (f *flight) set(mem []byte, n, size, last int) {
	f.mem, f.n, f.size, f.bytes = mem, n, size, (n-1)*size+last
	f.iov.Base = unsafe.SliceData(mem)
	f.iov.SetLen(f.bytes)
	f.hdr.Iov = &f.iov
	f.hdr.SetIovlen(1)
}

// NewSender opens a socket towards cfg.To.
func NewSender(cfg SenderConfig) (*Sender, error) {
	to, err := resolve("collector", cfg.To)
	var unknown *net.DNSError // a name that nobody knows now may be known later
	if err != nil && !((cfg.Shy || cfg.Later) && errors.As(err, &unknown)) {
		return nil, err
	}
	astray := err
	s := &Sender{trouble: trouble{what: "collector", name: cfg.To, shy: cfg.Shy}, cfg: cfg, fd: -1, most: maxSegments}
	if cfg.Shy {
		s.flags = unix.MSG_DONTWAIT
	}
	if s.arena, err = NewArena(flightBytes); err != nil {
		return nil, err
	}
	s.mem = s.arena.Bytes()
	err = s.connect(to)
	if err != nil && cfg.Shy && to.IsValid() {
		astray = err
		err = s.connect(netip.AddrPort{}) // nowhere, for now
	}
	if err != nil {
		s.arena.Close()
		return nil, err
	}
	s.astray = astray
	s.follow(cfg.Resolve)
	return s, nil
}

func sockaddr(a netip.AddrPort) (int, unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if i, err := net.InterfaceByName(a.Addr().Zone()); err == nil {
		sa.ZoneId = uint32(i.Index)
	}
	return unix.AF_INET6, sa
}

// connect makes a socket for an address and takes it into use.
func (s *Sender) connect(to netip.AddrPort) error {
	dial := dial
	if !to.IsValid() {
		dial = nowhere
	}
	fd, marked, err := dial(to, dialConfig{what: s.what, mark: s.cfg.Mark, sendBuffer: s.cfg.SendBuffer})
	if err != nil {
		return err
	}
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd, s.to, s.marked, s.most = fd, to, marked, maxSegments
	s.at.Store(&to)
	size, err := s.wanted()
	if err != nil {
		return err
	}
	s.pace.set(fd, to, s.cfg.Pace)
	s.resize(size)
	return nil
}

// nowhere makes a socket that takes nothing: each send is an error.
func nowhere(netip.AddrPort, dialConfig) (fd int, marked bool, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	return fd, false, os.NewSyscallError("socket", err)
}

// wanted returns the size of datagrams by configuration and route.
func (s *Sender) wanted() (int, error) {
	head, least := headers4, minMTU
	if s.to.Addr().Is6() {
		head, least = headers6, minMTU6
	}
	if d := s.cfg.Datagram; d != 0 {
		if d < minMTU-headers4-40 || d > maxUDP {
			return 0, fmt.Errorf("batch: datagrams of %d bytes: %d to %d", d, minMTU-headers4-40, maxUDP)
		}
		return d, nil
	}
	mtu := s.cfg.MTU
	if mtu != 0 && (mtu < least || mtu > maxMTU) {
		return 0, fmt.Errorf("batch: MTU %d towards %v: %d to %d bytes", mtu, s.to, least, maxMTU)
	}
	if path := pathMTU(s.fd, s.to); mtu == 0 {
		mtu = max(min(path, likelyMTU), least)
	} else if mtu > path && s.to.IsValid() {
		return 0, fmt.Errorf("batch: MTU %d towards %v, but the route has %d: give that or less, or raise the interface's MTU", mtu, s.to, path)
	}
	return min(mtu-head, maxUDP), nil
}

// resize makes size that of the datagrams to come. Nothing is queued.
func (s *Sender) resize(size int) {
	s.size, s.n, s.segmented, s.asked = size, 0, false, false
	s.fill()
}

// fill decides how many datagrams are in a flight, by size and rate.
func (s *Sender) fill() {
	s.slots = max(1, min(s.most, s.pace.flight(maxGSO)/s.size))
	if s.slots > 1 && !s.asked { // once for each size: a device that cannot stays as it is
		s.asked = true
		s.segmented = unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, s.size) == nil
	}
	if len(s.msgs) >= s.slots {
		return
	}
	s.msgs, s.iov = make([]mmsghdr, s.slots), make([]unix.Iovec, s.slots)
	for i := range s.msgs {
		s.msgs[i].hdr.Iov = &s.iov[i]
		s.msgs[i].hdr.SetIovlen(1)
	}
}

// Slot returns the memory of the next datagram, Size bytes. It is the
// caller's until Queue.
func (s *Sender) Slot() []byte {
	at := s.n * s.size
	return s.mem[at : at+s.size : at+s.size]
}

// Size returns the bytes of a full datagram. It can change with any Queue or
// Flush.
func (s *Sender) Size() int { return s.size }

// Queue takes the first n bytes of the slot as a datagram. One shorter than
// Size ends its flight; a flight that is full or ended is sent at once or, with
// a Ring, when there are RingFlights of them.
func (s *Sender) Queue(n int) {
	s.n++
	s.last = n
	if n < s.size || s.n == s.slots {
		s.end()
	}
}

// Flush sends what is queued. It returns the first error since the last Flush
// after which no sending is possible; everything else is counted.
func (s *Sender) Flush() error {
	if s.n > 0 {
		s.end()
	}
	if s.under > 0 {
		s.submit()
	}
	err := s.fatal
	s.fatal = nil
	return err
}

// end ends the flight being filled.
func (s *Sender) end() {
	f := &s.flights[s.under]
	f.set(s.mem, s.n, s.size, s.last)
	s.n = 0
	if s.pace.own {
		s.pace.wait(f.bytes + f.n*s.pace.head)
	}
	switch {
	case s.zero.ring != nil && s.segmented:
		s.account(s.lend(f))
		return
	case s.ring != nil && s.segmented:
		s.queue(f)
		return
	}
	s.account(s.send(f))
}

// account deals with what a send left over.
func (s *Sender) account(left int) {
	if left == 0 && s.calm() {
		return // the usual end
	}
	s.stats.Unsent.Add(uint64(left))
	s.consider(left)
}

// send sends a flight, whatever it takes, and returns how many datagrams did
// not go.
func (s *Sender) send(f *flight) int {
	if s.segmented {
		return s.sendFlight(f)
	}
	return s.sendEach(f)
}

// sendFlight sends all with one call.
func (s *Sender) sendFlight(f *flight) int {
	for try := range sendTries {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&f.hdr)), s.flags)
		switch {
		case e == 0:
			s.sent(f.n, f.bytes)
			return 0
		case e == unix.EINVAL && f.n > oldSegments && !s.shrunk():
			s.most = oldSegments // an older kernel: as many as it takes, from now on
			left := s.sendParts(f)
			s.resize(s.size)
			return left
		case e == unix.EIO, e == unix.EINVAL && !s.shrunk():
			// The device cannot finish checksums, or the kernel is too old for
			// segments: one datagram a message from now on.
			s.segmented = false
			unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0)
			return s.sendEach(f)
		case !s.again(e, try):
			return f.n
		}
	}
	return f.n
}

// sendParts sends a flight as several of at most oldSegments.
func (s *Sender) sendParts(f *flight) (left int) {
	for at := 0; at < f.n; at += oldSegments {
		n, last := oldSegments, f.size
		if f.n-at <= oldSegments {
			n, last = f.n-at, f.bytes-(f.n-1)*f.size
		}
		var part flight
		part.set(f.mem[at*f.size:], n, f.size, last)
		left += s.send(&part)
	}
	return left
}

// sendEach sends each datagram as a message of its own, and returns how many
// did not go.
func (s *Sender) sendEach(f *flight) (left int) {
	n, last := f.n, f.bytes-(f.n-1)*f.size
	for i := range n {
		s.iov[i].Base = &f.mem[i*f.size]
		s.iov[i].SetLen(f.size)
	}
	s.iov[n-1].SetLen(last)
	for i, try := 0, 0; i < n; {
		k, e := sendmmsg(s.fd, s.msgs[i:n], int(s.flags))
		if e == 0 && k > 0 {
			bytes := k * f.size
			if i += k; i == n {
				bytes += last - f.size
			}
			s.sent(k, bytes)
			try = 0
			continue
		}
		if try++; try > sendTries || !s.again(e, try) {
			left++ // this one does not go; the next may
			i++
			try = 0
			if e == unix.EMSGSIZE && s.resized() {
				return left + n - i
			}
		}
	}
	return left
}

// shrunk says that the path's MTU is smaller than the datagrams.
func (s *Sender) shrunk() bool {
	head := headers4
	if s.to.Addr().Is6() {
		head = headers6
	}
	return pathMTU(s.fd, s.to)-head < s.size
}

// resized makes datagrams smaller if the path's MTU fell.
func (s *Sender) resized() bool {
	if !s.shrunk() {
		return false
	}
	head, least := headers4, minMTU
	if s.to.Addr().Is6() {
		head, least = headers6, minMTU6
	}
	size := max(pathMTU(s.fd, s.to), least) - head
	if size >= s.size {
		return false
	}
	s.stats.TooBig.Add(1)
	s.resize(size)
	return true
}

// consider does what a failure needs: smaller datagrams, another address.
func (s *Sender) consider(left int) {
	if left > 0 {
		s.resized()
	}
	if s.to.IsValid() && s.unbound(left) {
		if s.connect(s.to) == nil {
			s.stats.Rebound.Add(1)
		}
	}
	if to := s.trouble.consider(left); to != nil && s.moved(s.to, *to) {
		if !to.IsValid() {
			*to = s.to // its name is not known now; its address may still be good
		}
		if to.IsValid() && s.connect(*to) == nil {
			s.stats.Resolved.Add(1)
		}
	}
}

// Stats returns the counts, which go on.
func (s *Sender) Stats() *SenderStats { return &s.stats }

// Collector returns the address that datagrams go to.
func (s *Sender) Collector() netip.AddrPort { return s.to }

// Astray returns why a Shy one, or one for Later, could not send anywhere when it
// was made; nil: it could.
func (s *Sender) Astray() error { return s.astray }

// Trouble returns why datagrams are not taken by the kernel or, as far as the
// network tells, do not arrive; nil: there is none.
func (s *Sender) Trouble() error {
	if !s.to.IsValid() {
		return s.astray
	}
	return s.why(s.to)
}

// Segmented says that flights go with UDP_SEGMENT.
func (s *Sender) Segmented() bool { return s.segmented }

// Marked says that datagrams carry the mark of the configuration.
func (s *Sender) Marked() bool { return s.marked }

// Buffer returns the bytes of the socket's buffer, as they were asked for: the
// kernel takes twice as many, for what it needs itself (socket(7)).
func (s *Sender) Buffer() int { return sendBuffer(s.fd) }

func sendBuffer(fd int) int {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return 0
	}
	return n / 2
}

// Close closes the socket. What is queued is not sent.
func (s *Sender) Close() error {
	s.unfollow()
	return errors.Join(unix.Close(s.fd), s.arena.Close())
}
