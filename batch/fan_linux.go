// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Chosen.
const (
	laneLen      = 128 // datagrams queued for one source port before they go
	laneSegments = 128 // in one UDP_SEGMENT send: UDP_MAX_SEGMENTS since Linux 6.10; before, it says EINVAL,
	oldSegments  = 64  // and this is the most

	laneFlows = 64 // of whose last run a lane knows: those that differ in as many of the next bits of their hash
	lookBack  = 8  // runs that may get a datagram more, the newest ones

	measureFlushes = 256              // the path's MTU is looked at again after so many,
	measureAfter   = 10 * time.Second // if so much time has passed
)

// A run is what one message carries: datagrams of one size, the last perhaps
// shorter.
type run struct {
	first, n int // datagrams of the lane
	size     int // of each
	bytes    int // of all
	ended    bool
}

// A lane is one source port: a socket, and what is queued for it. Runs go in the
// order in which they began, so that a datagram may go with any run that no
// later one of its flow is behind.
type lane struct {
	fd    int
	n     int // datagrams queued
	runs  []run
	room  [laneLen]run
	iov   [2 * laneLen]unix.Iovec // head and body of each datagram, as they came
	in    [laneLen]uint8          // the run of each
	last  [laneFlows]uint8        // the run of the last datagram of these flows
	mixed bool                    // runs are not one behind the other in iov
}

// A Fan sends datagrams of any size to one destination over sockets that
// differ in their source port, so that the network and the receiver can spread
// the flows. It keeps the order of a flow. It belongs to one goroutine.
//
//	head, body ──Queue──▶ the lane of the flow: runs of one size ──(128, or Flush)──▶ sendmmsg, UDP_SEGMENT
//
// Nothing is copied on the way. Flows of one lane may pass each other.
type Fan struct {
	trouble
	cfg       FanConfig
	to        netip.AddrPort
	first     uint16 // source port
	lanes     []lane
	fits      int  // bytes of the longest datagram that the path takes whole
	most      int  // bytes of the longest that UDP takes
	segments  int  // in one send
	segmented bool // the kernel and the device take UDP_SEGMENT
	marked    bool
	flags     int // of sendmmsg
	unsent    int // since the last Flush
	last      unix.Errno
	flushes   int
	measured  time.Time

	sorted  [2 * laneLen]unix.Iovec // of one lane, run by run
	msgs    [laneLen]mmsghdr
	control [laneLen]segmentControl
	split   [laneSegments]run // one run, datagram by datagram
	alone   [laneSegments]mmsghdr
}

// A segmentControl is a control message of UDP_SEGMENT: struct cmsghdr, and
// the size of a segment (linux/udp.h).
type segmentControl struct {
	head unix.Cmsghdr
	size uint16
	_    [6]byte
}

// NewFan opens the sockets of a Fan towards cfg.To.
func NewFan(cfg FanConfig) (*Fan, error) {
	switch {
	case cfg.Ports < 1 || cfg.Ports > MaxPorts:
		return nil, fmt.Errorf("batch: %d source ports: 1 to %d", cfg.Ports, MaxPorts)
	case cfg.FirstPort != 0 && int(cfg.FirstPort)+cfg.Ports > 1<<16:
		return nil, fmt.Errorf("batch: %d source ports from %d on: there are none above 65535", cfg.Ports, cfg.FirstPort)
	case cfg.Fragment && cfg.MTU != 0:
		return nil, errors.New("batch: an MTU is not for datagrams that go as IP fragments: the route's holds there (ip route change … mtu N)")
	}
	what := cfg.What
	if what == "" {
		what = "destination"
	}
	to, err := resolve(what, cfg.To)
	if err != nil {
		return nil, err
	}
	f := &Fan{trouble: trouble{what: what, name: cfg.To}, cfg: cfg, segments: laneSegments}
	if cfg.Drop {
		f.flags = unix.MSG_DONTWAIT
	}
	if err := f.open(to); err != nil {
		return nil, err
	}
	for i := range f.control {
		c := &f.control[i]
		c.head.Level, c.head.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		c.head.SetLen(unix.SizeofCmsghdr + 2)
	}
	f.follow(cfg.Resolve)
	return f, nil
}

// open makes the sockets for an address and takes them into use. The source
// ports stay what they are; at first they are the first ones that are free.
func (f *Fan) open(to netip.AddrPort) error {
	head, least := headers4, minMTU
	if to.Addr().Is6() {
		head, least = headers6, minMTU6
	}
	if n := f.cfg.MTU; n != 0 && (n < least || n > maxMTU) {
		return fmt.Errorf("batch: MTU %d towards %v: %d to %d bytes", n, to, least, maxMTU)
	}
	from, last := int(f.first), int(f.first)
	if f.first == 0 {
		from, last = int(f.cfg.FirstPort), int(f.cfg.FirstPort)
		if from == 0 {
			from, last = firstDynamic, 1<<16-f.cfg.Ports
		}
	}
	fds, marked, err := []int(nil), false, error(nil)
	for ; from <= last; from += f.cfg.Ports {
		if fds, marked, err = f.dialAll(to, uint16(from)); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return err
	}
	fresh := f.lanes == nil
	if fresh {
		f.lanes = make([]lane, len(fds))
	}
	for i := range f.lanes {
		l := &f.lanes[i]
		if !fresh {
			unix.Close(l.fd)
		}
		l.fd, l.runs = fds[i], l.room[:0]
	}
	f.to, f.first, f.marked = to, uint16(from), marked
	f.at.Store(&to)
	f.most = min(maxMTU-head, maxUDP)
	f.segmented = unix.SetsockoptInt(fds[0], unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil
	f.measured = time.Now()
	f.setMTU(pathMTU(fds[0], to))
	if n := f.cfg.MTU; fresh && n > pathMTU(fds[0], to) {
		err := fmt.Errorf("batch: MTU %d towards %v, but the route has %d: give that or less, or raise the interface's MTU", n, to, pathMTU(fds[0], to))
		f.Close()
		return err
	}
	return nil
}

// dialAll makes a socket for each source port from first on.
func (f *Fan) dialAll(to netip.AddrPort, first uint16) (fds []int, marked bool, err error) {
	for i := range f.cfg.Ports {
		fd, m, err := dial(to, dialConfig{
			what: f.what, mark: f.cfg.Mark, sendBuffer: f.cfg.SendBuffer, source: first + uint16(i), fragment: f.cfg.Fragment,
			hear: true,
		})
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			if errors.Is(err, unix.EADDRINUSE) {
				err = fmt.Errorf("%w: source port %d is taken (ss -uanp sport = :%d shows by whom); take others", err, int(first)+i, int(first)+i)
			}
			return nil, false, err
		}
		// What comes back is not read: no memory for it.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
		fds, marked = append(fds, fd), m
	}
	return fds, marked, nil
}

// setMTU makes mtu that of the path, bytes.
func (f *Fan) setMTU(mtu int) {
	head := headers4
	if f.to.Addr().Is6() {
		head = headers6
	}
	if f.cfg.MTU != 0 {
		mtu = min(mtu, f.cfg.MTU)
	}
	f.fits = min(mtu-head, f.most)
}

// Room returns the bytes of the longest datagram that can be sent: what the
// path takes whole or, where IP fragments are wanted, what UDP takes. It can
// change with any Queue or Flush.
func (f *Fan) Room() int {
	if f.cfg.Fragment {
		return f.most
	}
	return f.fits
}

// Queue takes a datagram that is made of head and body. They are lent until
// Flush returns. flow is a hash whose high bits say which flow it belongs to: a
// flow keeps its source port, and its order.
func (f *Fan) Queue(flow uint32, head, body []byte) {
	place := uint64(flow) * uint64(len(f.lanes))
	l, some := &f.lanes[place>>32], uint32(place)/(1<<32/laneFlows)
	size := len(head) + len(body)
	i := l.open(size, int(l.last[some]), f.segments)
	if i < len(l.runs) {
		l.runs[i].n++
		l.runs[i].bytes += size
		l.mixed = l.mixed || i < len(l.runs)-1
	} else {
		l.runs = append(l.runs, run{first: l.n, n: 1, size: size, bytes: size, ended: size > f.fits || !f.segmented})
	}
	l.in[l.n], l.last[some] = uint8(i), uint8(i)
	v := (*[2]unix.Iovec)(l.iov[2*l.n:])
	v[0].Base, v[1].Base = unsafe.SliceData(head), unsafe.SliceData(body)
	v[0].SetLen(len(head))
	v[1].SetLen(len(body))
	if l.n++; l.n == laneLen {
		f.send(l)
	}
}

// open returns which run takes a datagram of size bytes: one of those from
// earliest on, or a new one.
func (l *lane) open(size, earliest, segments int) int {
	n := len(l.runs)
	for i := n - 1; i >= max(earliest, n-lookBack); i-- {
		if r := &l.runs[i]; r.size == size && !r.ended && r.n < segments && r.bytes+size <= maxGSO {
			return i
		}
	}
	return n
}

// join makes one run of two where the second is one shorter datagram, with which a
// run may end, and returns the runs.
func join(runs []run, segments int) []run {
	n := 0
	for _, r := range runs {
		if n > 0 && r.n == 1 && !r.ended {
			if p := &runs[n-1]; !p.ended && r.size < p.size && p.n < segments && p.bytes+r.size <= maxGSO {
				p.n++
				p.bytes += r.size
				p.ended = true
				continue
			}
		}
		runs[n] = r
		n++
	}
	return runs[:n]
}

// sort puts the datagrams of a lane run by run.
func (f *Fan) sort(l *lane) []unix.Iovec {
	var next [laneLen]int
	first := 0
	for i := range l.runs {
		l.runs[i].first, next[i] = first, first
		first += l.runs[i].n
	}
	for i, run := range l.in[:l.n] {
		copy(f.sorted[2*next[run]:][:2], l.iov[2*i:])
		next[run]++
	}
	return f.sorted[:2*l.n]
}

// Flush sends what is queued: nothing that was lent is in use any more.
func (f *Fan) Flush() {
	for i := range f.lanes {
		if l := &f.lanes[i]; l.n > 0 {
			f.send(l)
		}
	}
	if f.flushes++; f.flushes%measureFlushes == 0 {
		f.measure()
	}
	if f.unsent == 0 && f.calm() {
		return // the usual end
	}
	left := f.unsent
	f.unsent = 0
	if to := f.consider(left); to != nil && f.moved(f.to, *to) {
		if !to.IsValid() {
			*to = f.to // its name is not known now; its address may still be good
		}
		if f.open(*to) == nil {
			f.stats.Resolved.Add(1)
		}
	}
}

// send sends what is queued in a lane, whatever it takes.
func (f *Fan) send(l *lane) {
	iov := l.iov[:2*l.n]
	if l.mixed {
		iov = f.sort(l)
	}
	runs := join(l.runs, f.segments)
	f.transmit(l, iov, runs, f.msgs[:len(runs)])
	l.n, l.runs, l.mixed = 0, l.room[:0], false
	clear(l.last[:])
}

// transmit sends runs of a lane, whose datagrams are in iov, as messages, in order.
func (f *Fan) transmit(l *lane, iov []unix.Iovec, runs []run, msgs []mmsghdr) {
	for i := range runs {
		r, h := &runs[i], &msgs[i].hdr
		h.Iov = &iov[2*r.first]
		h.SetIovlen(2 * r.n)
		h.Control = nil
		h.SetControllen(0)
		if r.n > 1 {
			c := &f.control[i]
			c.size = uint16(r.size)
			h.Control = (*byte)(unsafe.Pointer(c))
			h.SetControllen(int(unsafe.Sizeof(*c)))
		}
	}
	var first unix.Errno // that came in place of the send
	for i, try := 0, 0; i < len(runs); {
		k, e := sendmmsg(l.fd, msgs[i:], f.flags)
		if e == 0 && k > 0 {
			if try == 1 && (first == unix.EHOSTUNREACH || first == unix.ENETUNREACH || first == unix.EPROTO || first == unix.ENOPROTOOPT) {
				f.told() // icmp_err_convert, net/ipv4/icmp.c
			}
			n, bytes := 0, 0
			for _, r := range runs[i : i+k] {
				n += r.n
				bytes += r.bytes
			}
			f.sent(n, bytes)
			i += k
			try = 0
			continue
		}
		f.last = e
		switch try++; {
		case f.cfg.Drop && (e == unix.EAGAIN || e == unix.ENOBUFS || e == unix.ENOMEM):
			f.stats.NoRoom.Add(uint64(runs[i].n))
		case try <= sendTries && f.again(e, try), try == 1:
			first = e // it may be about an earlier datagram: that is told once, in place of a send
			continue
		default:
			f.refuse(l, iov, &runs[i], e)
		}
		i++ // this one does not go; the next may
		try = 0
	}
}

// refuse deals with a run that the kernel did not take. Several datagrams that
// cannot go together may go alone.
func (f *Fan) refuse(l *lane, iov []unix.Iovec, r *run, e unix.Errno) {
	switch {
	case r.n == 1 && e == unix.EMSGSIZE:
		f.stats.TooLong.Add(1)
		f.tooLong(l, r.size)
	case r.n == 1 || e != unix.EIO && e != unix.EINVAL && e != unix.EMSGSIZE:
		f.stats.Unsent.Add(uint64(r.n))
		f.unsent += r.n
	default:
		switch {
		case e == unix.EMSGSIZE, e == unix.EINVAL && f.tooLong(l, r.size):
			// The path's MTU fell: before Linux 6.14 that is EINVAL.
		case e == unix.EINVAL && f.segments > oldSegments:
			f.segments = oldSegments
		default:
			f.segmented = false // the device cannot finish checksums, or the kernel cannot cut
		}
		split := f.split[:r.n]
		for i, at := range split {
			at = run{first: r.first + i, n: 1, size: r.size, bytes: r.size, ended: true}
			if i == r.n-1 {
				at.bytes = r.bytes - (r.n-1)*r.size
			}
			split[i] = at
		}
		f.transmit(l, iov, split, f.alone[:r.n])
	}
}

// tooLong takes the path's MTU anew, and says whether size bytes are too long
// for it.
func (f *Fan) tooLong(l *lane, size int) bool {
	f.setMTU(pathMTU(l.fd, f.to))
	f.measured = time.Now()
	return size > f.fits
}

// measure looks whether the path's MTU has grown: nothing tells.
func (f *Fan) measure() {
	now := time.Now()
	if now.Sub(f.measured) < measureAfter {
		return
	}
	f.measured = now
	fd, _, err := dial(f.to, dialConfig{what: f.what, mark: f.cfg.Mark, fragment: f.cfg.Fragment}) // which looks the route up
	if err != nil {
		return
	}
	f.setMTU(pathMTU(fd, f.to))
	unix.Close(fd)
}

// Stats returns the counts, which go on.
func (f *Fan) Stats() *SenderStats { return &f.stats }

// Trouble returns why datagrams are not taken by the kernel or, as far as the
// network tells, do not arrive; nil: there is none.
func (f *Fan) Trouble() error { return f.why(f.to) }

// To returns the address that datagrams go to.
func (f *Fan) To() netip.AddrPort { return f.to }

// Ports returns the first of the source ports, and their number.
func (f *Fan) Ports() (first uint16, n int) { return f.first, len(f.lanes) }

// MTU returns the IP MTU that datagrams are held against, bytes.
func (f *Fan) MTU() int {
	if f.to.Addr().Is6() {
		return f.fits + headers6
	}
	return f.fits + headers4
}

// Segmented says that runs go with UDP_SEGMENT.
func (f *Fan) Segmented() bool { return f.segmented }

// Marked says that datagrams carry the mark of the configuration.
func (f *Fan) Marked() bool { return f.marked }

// Buffer returns the bytes of each socket's buffer, as a Sender's does.
func (f *Fan) Buffer() int { return sendBuffer(f.lanes[0].fd) }

// Close closes the sockets. What is queued is not sent.
func (f *Fan) Close() error {
	f.unfollow()
	var err error
	for i := range f.lanes {
		err = errors.Join(err, unix.Close(f.lanes[i].fd))
	}
	f.lanes = nil
	return err
}
