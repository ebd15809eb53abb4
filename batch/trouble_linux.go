// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Chosen.
const (
	sendTries    = 64              // of one call: pending errors of earlier ones come first
	bufferTries  = 6               // while the kernel has no buffers, at 100 µs, 200 µs, …
	resolveAfter = 5 * time.Second // of failure
	rebindGap    = 100 * time.Millisecond
	refusedAfter = 30 * time.Second // of refusal
	refusedGap   = 5 * time.Second  // without one it is over: hosts tell at most about one a second
)

// A trouble is what a sender does about errors and about a name that stands for
// another address now, and counts.
type trouble struct {
	what     string // is at the other end
	name     string // HOST:PORT of it, to be resolved again
	shy      bool   // does not wait for room
	stats    SenderStats
	failing  time.Time // since when nothing was sent
	refusing time.Time // since when the network says that nobody gets it,
	refused  time.Time // and when it said so last
	looking  bool
	last     unix.Errno                     // of a call that failed
	rebound  time.Time                      // when a socket was last made for another local address
	found    atomic.Pointer[netip.AddrPort] // what the name stands for now
	at       atomic.Pointer[netip.AddrPort] // where the socket sends, for the watch over the name
	unwatch  context.CancelFunc
}

// calm says that there is nothing to be done.
func (t *trouble) calm() bool {
	return t.failing.IsZero() && t.refusing.IsZero() && !t.looking && t.found.Load() == nil
}

// sent counts what one call sent.
func (t *trouble) sent(n, bytes int) {
	t.stats.Datagrams.Add(uint64(n))
	t.stats.Bytes.Add(uint64(bytes))
	t.stats.Calls.Add(1)
	t.failing = time.Time{}
}

// again says whether the call is worth repeating, after waiting if need be.
func (t *trouble) again(e unix.Errno, try int) bool {
	t.last = e
	switch e {
	case unix.EINTR:
		return true
	case unix.ECONNREFUSED:
		// The answer to an earlier datagram, told now: this one was not looked
		// at (RFC 1122, 4.1.3.3; udp_sendmsg clears sk_err).
		t.told()
		return true
	case unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN:
		t.stats.NoBuffers.Add(1)
		if try >= bufferTries || t.shy {
			return false
		}
		time.Sleep(100 * time.Microsecond << try)
		return true
	}
	return false
}

// told counts that the network said of an earlier datagram that nobody got it.
func (t *trouble) told() {
	t.stats.Refused.Add(1)
	t.refused = time.Now()
	if t.refusing.IsZero() {
		t.refusing = t.refused
	}
}

// Troubled says that there is something to tell.
func (t *trouble) Troubled() bool { return !t.failing.IsZero() || !t.refusing.IsZero() }

// why returns why datagrams to this address are not taken by the kernel or, as
// far as the network tells, do not arrive; nil: there is no trouble.
func (t *trouble) why(to netip.AddrPort) error {
	if !t.Troubled() {
		return nil
	}
	return fmt.Errorf("batch: %s %v: %w", t.what, to, os.NewSyscallError("sendmmsg", t.last))
}

// consider does what a failure to send left datagrams needs. After a while
// that is to resolve the name again: then it returns the address, once, which
// may be the same one.
func (t *trouble) consider(left int) (to *netip.AddrPort) {
	now := time.Now()
	if left > 0 && t.failing.IsZero() {
		t.failing = now
	}
	if now.Sub(t.refused) > refusedGap {
		t.refusing = time.Time{}
	}
	if to := t.found.Swap(nil); to != nil {
		t.looking = false
		return to
	}
	if !t.looking && (!t.failing.IsZero() && now.Sub(t.failing) > resolveAfter || !t.refusing.IsZero() && now.Sub(t.refusing) > refusedAfter) {
		t.looking = true
		go t.look()
	}
	return nil
}

// unbound says that the local address of a connected socket seems to be gone,
// for which the kernel says that there is no route, or EINVAL
// (ip_route_output_key_hash_rcu, net/ipv4/route.c): another socket gets another.
// It does so once each rebindGap.
func (t *trouble) unbound(left int) bool {
	switch t.last {
	case unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENETUNREACH:
	default:
		left = 0
	}
	if left == 0 {
		return false
	}
	now := time.Now()
	if now.Sub(t.rebound) < rebindGap {
		return false
	}
	t.rebound = now
	return true
}

// moved says whether a new socket is wanted towards to, which consider
// returned, and ends what led to it. After failures the same address wants one
// too: the old one is bound to a local address that may be gone.
func (t *trouble) moved(from, to netip.AddrPort) bool {
	failed := !t.failing.IsZero()
	t.failing, t.refusing = time.Time{}, time.Time{}
	return to.IsValid() && to != from || failed
}

// A dialConfig says how a socket towards a destination is made.
type dialConfig struct {
	what       string // is at the other end
	mark       uint32 // SO_MARK; 0: none
	sendBuffer int    // SO_SNDBUF, bytes; 0: the system's default
	source     uint16 // port, shared with other such sockets; 0: any
	fragment   bool   // what is larger than the path's MTU goes as IP fragments
	hear       bool   // of all errors that the network tells, and of full queues: IP_RECVERR
}

// dial makes a connected socket. marked says that it got the mark.
func dial(to netip.AddrPort, cfg dialConfig) (fd int, marked bool, err error) {
	family, sa := sockaddr(to)
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, false, fmt.Errorf("batch: %w", os.NewSyscallError("socket", err))
	}
	fail := func(what string, err error) (int, bool, error) {
		unix.Close(fd)
		return -1, false, fmt.Errorf("batch: %s %v: %w", cfg.what, to, os.NewSyscallError(what, err))
	}
	marked = cfg.mark != 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(cfg.mark)) == nil
	if n := cfg.sendBuffer; n > 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n); err != nil {
			return fail("setsockopt SO_SNDBUF", err)
		}
	}
	// Not a fragment unknown to us: too large is an error that we hear of.
	discover4, discover6 := unix.IP_PMTUDISC_DO, unix.IPV6_PMTUDISC_DO
	if cfg.fragment {
		discover4, discover6 = unix.IP_PMTUDISC_WANT, unix.IPV6_PMTUDISC_WANT
	}
	if family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover4)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, discover6)
	}
	if err != nil {
		return fail("setsockopt MTU_DISCOVER", err)
	}
	if cfg.hear {
		level, option := unix.IPPROTO_IP, unix.IP_RECVERR
		if family == unix.AF_INET6 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return fail("setsockopt RECVERR", err)
		}
	}
	if cfg.source != 0 {
		if err := bindSource(fd, family, cfg.source); err != nil {
			return fail("bind", err)
		}
	}
	if err := unix.Connect(fd, sa); errors.Is(err, unix.ENETUNREACH) {
		fd, marked, err := fail("connect", err)
		return fd, marked, fmt.Errorf("%w: there is no route to it: ip route get %v", err, to.Addr())
	} else if err != nil {
		return fail("connect", err)
	}
	return fd, marked, nil
}

// bindSource gives a socket its source port, which sockets of the same user may
// have as well: none of them is there to receive.
func bindSource(fd, family int, port uint16) error {
	var any unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
	if family == unix.AF_INET6 {
		any = &unix.SockaddrInet6{Port: int(port)}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, any)
}

// pathMTU returns the IP MTU that the kernel knows for the route of a
// connected socket, bytes.
func pathMTU(fd int, to netip.AddrPort) int {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	n, err := unix.GetsockoptInt(fd, level, option)
	if err != nil || n <= 0 {
		return 1500
	}
	return n
}
