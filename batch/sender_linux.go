// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
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
const (
	likelyMTU    = 9000             // where the route says more, as lo does, only --mtu has more
	sendTries    = 64               // of one flight: pending errors of earlier ones come first
	bufferTries  = 6                // while the kernel has no buffers, at 100 µs, 200 µs, …
	resolveAfter = 5 * time.Second  // of failure
	refusedAfter = 30 * time.Second // of refusal
)

// maxSegments bounds a flight: UDP_MAX_SEGMENTS is 64 before Linux 6.10 and
// 128 since (include/linux/udp.h).
const maxSegments = 64

// A Sender packs datagrams of equal size into flights and sends each flight
// with one system call. It belongs to one goroutine.
type Sender struct {
	cfg       SenderConfig
	fd        int
	to        netip.AddrPort
	arena     *Arena
	size      int // of a full datagram
	slots     int // in a flight
	n         int // datagrams queued
	last      int // bytes of the last one
	segmented bool
	marked    bool
	msgs      []mmsghdr
	iov       []unix.Iovec
	stats     SenderStats
	fatal     error
	failing   time.Time // since when nothing was sent
	refusing  time.Time // since when every flight was refused
	looking   bool
	found     atomic.Pointer[netip.AddrPort]
}

// NewSender opens a socket towards cfg.To.
func NewSender(cfg SenderConfig) (*Sender, error) {
	to, err := resolve(cfg.To)
	if err != nil {
		return nil, err
	}
	s := &Sender{cfg: cfg, fd: -1}
	if s.arena, err = NewArena(1 << 16); err != nil {
		return nil, err
	}
	if err := s.connect(to); err != nil {
		s.arena.Close()
		return nil, err
	}
	return s, nil
}

func resolve(to string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("batch: collector %q: %w; want HOST:PORT, as in 192.0.2.1:5678, [2001:db8::1]:5678 or tap.example.org:5678", to, err)
	}
	ap := a.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if !ap.Addr().IsValid() || ap.Addr().IsUnspecified() || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("batch: collector %q: host and port are both needed, as in 192.0.2.1:5678", to)
	}
	return ap, nil
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
	family, sa := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return fmt.Errorf("batch: %w", os.NewSyscallError("socket", err))
	}
	fail := func(what string, err error) error {
		unix.Close(fd)
		return fmt.Errorf("batch: collector %v: %w", to, os.NewSyscallError(what, err))
	}
	marked := s.cfg.Mark != 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(s.cfg.Mark)) == nil
	if n := s.cfg.SendBuffer; n > 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n); err != nil {
			return fail("setsockopt SO_SNDBUF", err)
		}
	}
	// Never a fragment: too large is an error that we hear of.
	if family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	}
	if err != nil {
		return fail("setsockopt MTU_DISCOVER", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		return fail("connect", err)
	}
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd, s.to, s.marked = fd, to, marked
	size, err := s.wanted()
	if err != nil {
		return err
	}
	s.resize(size)
	return nil
}

// pathMTU returns the IP MTU that the kernel knows for the route, bytes.
func (s *Sender) pathMTU() int {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if s.to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	n, err := unix.GetsockoptInt(s.fd, level, option)
	if err != nil || n <= 0 {
		return 1500
	}
	return n
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
	if path := s.pathMTU(); mtu == 0 {
		mtu = max(min(path, likelyMTU), least)
	} else if mtu > path {
		return 0, fmt.Errorf("batch: MTU %d towards %v, but the route has %d: give that or less, or raise the interface's MTU", mtu, s.to, path)
	}
	return min(mtu-head, maxUDP), nil
}

// resize makes size that of the datagrams to come. Nothing is queued.
func (s *Sender) resize(size int) {
	s.size, s.n = size, 0
	s.slots = max(1, min(maxSegments, maxGSO/size))
	s.segmented = s.slots > 1 && unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, size) == nil
	s.msgs, s.iov = make([]mmsghdr, s.slots), make([]unix.Iovec, s.slots)
	mem := s.arena.Bytes()
	for i := range s.msgs {
		s.iov[i].Base = &mem[i*size]
		s.msgs[i].hdr.Iov = &s.iov[i]
		s.msgs[i].hdr.SetIovlen(1)
	}
}

// Slot returns the memory of the next datagram, Size bytes. It is the
// caller's until Queue.
func (s *Sender) Slot() []byte {
	at := s.n * s.size
	return s.arena.mem[at : at+s.size : at+s.size]
}

// Size returns the bytes of a full datagram. It can change with any Queue or
// Flush.
func (s *Sender) Size() int { return s.size }

// Queue takes the first n bytes of the slot as a datagram. One shorter than
// Size ends its flight; a flight that is full or ended is sent at once.
func (s *Sender) Queue(n int) {
	s.n++
	s.last = n
	if n < s.size || s.n == s.slots {
		s.send()
	}
}

// Flush sends what is queued. It returns the first error since the last Flush
// after which no sending is possible; everything else is counted.
func (s *Sender) Flush() error {
	if s.n > 0 {
		s.send()
	}
	err := s.fatal
	s.fatal = nil
	return err
}

// send sends the flight, whatever it takes, and ends it.
func (s *Sender) send() {
	n, bytes := s.n, (s.n-1)*s.size+s.last
	s.n = 0
	var left int
	if s.segmented {
		left = s.sendFlight(n, bytes)
	} else {
		left = s.sendEach(n)
	}
	if left == 0 && s.failing.IsZero() && s.refusing.IsZero() && !s.looking {
		return // the usual end
	}
	s.stats.Unsent.Add(uint64(left))
	s.consider(left)
}

// sendFlight sends all with one call, and returns how many datagrams did not
// go.
func (s *Sender) sendFlight(n, bytes int) int {
	s.iov[0].SetLen(bytes)
	for try := range sendTries {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.msgs[0].hdr)), 0)
		switch {
		case e == 0:
			if try == 0 {
				s.refusing = time.Time{}
			}
			s.sent(n, bytes)
			return 0
		case e == unix.EIO, e == unix.EINVAL && !s.shrunk():
			// The device cannot finish checksums, or the kernel is too old for
			// segments: one datagram a message from now on.
			s.segmented = false
			unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0)
			return s.sendEach(n)
		case !s.again(e, try):
			return n
		}
	}
	return n
}

// sendEach sends each datagram as a message of its own, and returns how many
// did not go.
func (s *Sender) sendEach(n int) (left int) {
	for i := range n {
		s.iov[i].SetLen(s.size)
	}
	s.iov[n-1].SetLen(s.last)
	for i, try := 0, 0; i < n; {
		k, e := sendmmsg(s.fd, s.msgs[i:n])
		if e == 0 && k > 0 {
			bytes := k * s.size
			if i += k; i == n {
				bytes += s.last - s.size
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

func (s *Sender) sent(n, bytes int) {
	s.stats.Datagrams.Add(uint64(n))
	s.stats.Bytes.Add(uint64(bytes))
	s.stats.Calls.Add(1)
	s.failing = time.Time{}
}

// again says whether the call is worth repeating, after waiting if need be.
func (s *Sender) again(e unix.Errno, try int) bool {
	switch e {
	case unix.EINTR:
		return true
	case unix.ECONNREFUSED:
		// The answer to an earlier datagram, told now: this one was not looked
		// at (RFC 1122, 4.1.3.3; udp_sendmsg clears sk_err).
		s.stats.Refused.Add(1)
		if s.refusing.IsZero() {
			s.refusing = time.Now()
		}
		return true
	case unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN:
		s.stats.NoBuffers.Add(1)
		if try >= bufferTries {
			return false
		}
		time.Sleep(100 * time.Microsecond << try)
		return true
	}
	return false
}

// shrunk says that the path's MTU is smaller than the datagrams.
func (s *Sender) shrunk() bool {
	head := headers4
	if s.to.Addr().Is6() {
		head = headers6
	}
	return s.pathMTU()-head < s.size
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
	size := max(s.pathMTU(), least) - head
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
		if s.failing.IsZero() {
			s.failing = time.Now()
		}
	}
	if to := s.found.Swap(nil); to != nil {
		s.looking = false
		// After failures also the same address wants a new socket: the old one
		// is bound to a local address that may be gone.
		if *to != s.to || !s.failing.IsZero() {
			if err := s.connect(*to); err == nil {
				s.stats.Resolved.Add(1)
			}
		}
		s.failing, s.refusing = time.Time{}, time.Time{}
		return
	}
	if s.looking {
		return
	}
	now := time.Now()
	if !s.failing.IsZero() && now.Sub(s.failing) > resolveAfter || !s.refusing.IsZero() && now.Sub(s.refusing) > refusedAfter {
		s.looking = true
		go s.look()
	}
}

// look resolves the host's name again, aside: it can take seconds.
func (s *Sender) look() {
	to, err := resolve(s.cfg.To)
	if err != nil {
		to = s.to
	}
	s.found.Store(&to)
}

// Stats returns the counts, which go on.
func (s *Sender) Stats() *SenderStats { return &s.stats }

// Collector returns the address that datagrams go to.
func (s *Sender) Collector() netip.AddrPort { return s.to }

// Segmented says that flights go with UDP_SEGMENT.
func (s *Sender) Segmented() bool { return s.segmented }

// Marked says that datagrams carry the mark of the configuration.
func (s *Sender) Marked() bool { return s.marked }

// Close closes the socket. What is queued is not sent.
func (s *Sender) Close() error {
	return errors.Join(unix.Close(s.fd), s.arena.Close())
}
