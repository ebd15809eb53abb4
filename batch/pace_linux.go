// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Chosen.
const (
	paceFlight = 250 * time.Microsecond // of the rate is the most in one flight: it goes at the speed of the link
	paceBurst  = time.Millisecond       // of the rate may be made up for, after a sleep that was too long
	ethernet   = 14                     // bytes of header before IP, which the qdisc counts too
)

// A pacer keeps a sender to a rate. Where the route's device has an fq qdisc
// that does it, by SO_MAX_PACING_RATE, which for UDP nothing else looks at
// (socket(7); sk_pacing_rate in net/sched/sch_fq.c). Elsewhere the sender waits
// between flights.
type pacer struct {
	rate uint64    // bytes a second with headers; 0: none
	own  bool      // the sender waits
	dev  string    // the device that was looked at
	head int       // bytes of headers before a datagram
	next time.Time // when the next flight may go, with own

	waited time.Duration // since the start
}

// set makes the rate that of a new socket towards an address.
func (p *pacer) set(fd int, to netip.AddrPort, rate uint64) {
	*p = pacer{rate: rate, next: p.next, waited: p.waited, head: headers4 + ethernet}
	if to.Addr().Is6() {
		p.head = headers6 + ethernet
	}
	if rate == 0 {
		return
	}
	var fair bool
	p.dev, fair = egress(to)
	p.own = !fair || setPacingRate(fd, rate) != nil
}

// setPacingRate sets SO_MAX_PACING_RATE in 64 bits, which Linux takes since
// 4.20: 32 end at 34 Gbit/s.
func setPacingRate(fd int, rate uint64) error {
	return unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate)
}

// flight returns the bytes that a flight may have, of most.
func (p *pacer) flight(most int) int {
	if p.rate == 0 {
		return most
	}
	return int(min(uint64(most), p.rate/uint64(time.Second/paceFlight)))
}

// wait waits until n bytes may go.
func (p *pacer) wait(n int) {
	now := time.Now()
	if early := now.Add(-paceBurst); p.next.Before(early) {
		p.next = early
	}
	// Go's own timers round up to a millisecond where nothing else runs.
	if d := p.next.Sub(now); d > 0 {
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil) // a signal's interruption is made up for by the next
		p.waited += time.Since(now)
	}
	p.next = p.next.Add(time.Duration(uint64(n) * uint64(time.Second) / p.rate))
}

// egress returns the name of the device that datagrams to an address go out
// by, and whether it paces them.
func egress(to netip.AddrPort) (name string, fair bool) {
	routes, err := netlink.RouteGet(net.IP(to.Addr().AsSlice()))
	if err != nil || len(routes) == 0 {
		return "", false
	}
	links, err := netlink.LinkList()
	if err != nil {
		return "", false
	}
	for _, l := range links {
		if l.Attrs().Index == routes[0].LinkIndex {
			return l.Attrs().Name, paces(l, links, netlink.QdiscList, 4)
		}
	}
	return "", false
}

// paces says whether a device has a qdisc that paces. One without a qdisc, as a
// VLAN or a bond, leaves it to those of links that are below it.
func paces(l netlink.Link, links []netlink.Link, qdiscs func(netlink.Link) ([]netlink.Qdisc, error), depth int) bool {
	all, err := qdiscs(l)
	if err != nil || depth == 0 {
		return false
	}
	fair, none := pacing(all)
	if !none {
		return fair
	}
	below := 0
	for _, b := range links {
		if b.Attrs().Index == l.Attrs().ParentIndex || b.Attrs().MasterIndex == l.Attrs().Index {
			if below++; !paces(b, links, qdiscs, depth-1) {
				return false
			}
		}
	}
	return below > 0
}

// pacing says whether the qdiscs of a device pace, or that it has none. Of one
// queue each, below mq, all have to.
func pacing(all []netlink.Qdisc) (fair, none bool) {
	kind, handle := "noqueue", uint32(0)
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			kind, handle = q.Type(), q.Attrs().Handle
		}
	}
	if kind == "mq" || kind == "mqprio" {
		for _, q := range all {
			if a := q.Attrs(); a.Parent != netlink.HANDLE_ROOT && a.Parent>>16 == handle>>16 {
				if fair = q.Type() == "fq"; !fair {
					return false, false
				}
			}
		}
		return fair, false
	}
	return kind == "fq", kind == "noqueue"
}

// Pace changes the rate of a Sender that has one, in bytes a second with headers.
// Nothing may be queued.
func (s *Sender) Pace(rate uint64) {
	rate = max(rate, 1)
	if s.pace.rate == 0 || s.pace.rate == rate {
		return
	}
	s.cfg.Pace, s.pace.rate = rate, rate // also of the sockets to come
	if !s.pace.own {
		s.pace.own = setPacingRate(s.fd, rate) != nil
	}
	s.fill()
}

// Spent returns how much of the rate was used, in bytes since the Sender was
// made, and how long was waited for it, where the sender does that itself.
func (s *Sender) Spent() (bytes uint64, waited time.Duration) {
	return s.stats.Bytes.Load() + s.stats.Datagrams.Load()*uint64(s.pace.head), s.pace.waited
}

// A Router says by which device datagrams go out, in the network namespace of the
// thread that opened it, wherever it is used.
type Router struct{ handle *netlink.Handle }

// OpenRouter opens one. It needs no rights.
func OpenRouter() (*Router, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("batch: routes: socket AF_NETLINK: %w", err)
	}
	return &Router{h}, nil
}

// Egress returns the index of the device that datagrams to an address go out by.
func (r *Router) Egress(to netip.AddrPort) (index int, err error) {
	routes, err := r.handle.RouteGet(net.IP(to.Addr().AsSlice()))
	if err == nil && len(routes) == 0 {
		err = unix.ENETUNREACH
	}
	if err != nil {
		return 0, fmt.Errorf("batch: no route to %v: %w", to.Addr(), err)
	}
	return routes[0].LinkIndex, nil
}

// Close closes it.
func (r *Router) Close() { r.handle.Close() }

// Paced says how a rate is kept: by the kernel, or by waiting between flights,
// because the device that is named has no fq qdisc. rate is 0 if none is set.
func (s *Sender) Paced() (rate uint64, byKernel bool, device string) {
	return s.pace.rate, s.pace.rate > 0 && !s.pace.own, s.pace.dev
}
