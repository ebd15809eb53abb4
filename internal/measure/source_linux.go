// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/ring"
)

// Chosen.
const (
	// writeBatch is how many frames go with one system call at the most:
	// collector/tapsink.go has the measurement. A TAP frame costs 3000 cycles so,
	// 4900 by write(2), 5200 with IFF_NAPI; a veth with a TX ring 6700.
	writeBatch = 64
	// spread is the time in which a batch is due: at low rates batches are
	// smaller, down to one frame.
	spread = 200 * time.Microsecond
	// behindMost is how much a source that was held up makes good at once.
	behindMost = 20 * time.Millisecond
)

// vnetLen is the length of struct virtio_net_hdr, linux/virtio_net.h, which
// precedes a frame on a TAP with IFF_VNET_HDR.
const vnetLen = 10

// A Source writes frames into a TAP device: they appear as
// received by that. It belongs to the thread that opened it.
type Source struct {
	device  string
	made    bool // by this source: it goes with it
	fd      int
	vnet    bool        // each frame has a virtio_net_hdr before it: for GSO frames
	uring   *ring.Uring // nil: write(2)
	frames  *frames
	next    int // of frames.order
	probes  [writeBatch][]byte
	numbers uint64 // of probes so far
}

// An Offer is what a source is to send.
type Offer struct {
	Rate   float64       `json:"rate"` // frames a second; 0: as many as go
	For    time.Duration `json:"for"`
	Probes float64       `json:"probes,omitempty"` // frames of those a second that are probes
}

// Offered is what it sent.
type Offered struct {
	Frames  uint64        `json:"frames"` // that the kernel took
	Bytes   uint64        `json:"bytes"`
	Failed  uint64        `json:"failed,omitempty"`
	Probes  uint64        `json:"probes,omitempty"`
	Took    time.Duration `json:"took"`
	CPU     time.Duration `json:"cpu"`               // of the thread: user and system, what the kernel does with the frame included
	Slipped time.Duration `json:"slipped,omitempty"` // of the schedule, because the source was held up for long
}

// Rate returns the frames a second that were sent.
func (o Offered) Rate() float64 { return float64(o.Frames) / o.Took.Seconds() }

// OpenSource makes the TAP device and, ahead, the frames. The calling goroutine
// is locked to its thread from then on.
func OpenSource(device string, t Traffic) (*Source, error) {
	f, err := t.frames()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	s, err := newSource(device, f.gso)
	if err != nil {
		return nil, err
	}
	s.take(f)
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0) // ns: short sleeps are short
	return s, nil
}

// newSource makes the device in the calling thread's namespace. It has no frames yet.
func newSource(device string, vnet bool) (*Source, error) {
	_, there := net.InterfaceByName(device)
	s := &Source{device: device, made: there != nil, fd: -1}
	if err := s.attach(vnet); err != nil {
		s.detach()
		return nil, err
	}
	return s, nil
}

// attach opens the device, and makes it if it is not there. Headers for GSO are
// there only where they are needed: with them the kernel builds each frame the
// long way (tun_can_build_skb, drivers/net/tun.c), which takes half as long
// again. The device stays while it is opened anew with other flags.
func (s *Source) attach(vnet bool) (err error) {
	s.detach()
	if s.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return fmt.Errorf("source: %w", &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err})
	}
	req, err := unix.NewIfreq(s.device)
	if err != nil {
		return fmt.Errorf("source: %q is no name of a device: %w", s.device, err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if vnet {
		flags |= unix.IFF_VNET_HDR
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(s.fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("source: %s: %w; it takes CAP_NET_ADMIN, and a name that nobody has", s.device, os.NewSyscallError("TUNSETIFF", err))
	}
	if err := unix.IoctlSetInt(s.fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("source: %s: %w", s.device, os.NewSyscallError("TUNSETPERSIST", err))
	}
	s.vnet = vnet
	if s.uring, err = ring.SetupUring(writeBatch); err == nil {
		err = s.uring.RegisterFiles([]int32{int32(s.fd)})
	}
	if err != nil && s.uring != nil {
		s.uring.Close()
		s.uring = nil
	}
	return nil
}

// detach closes the device, which stays.
func (s *Source) detach() {
	if s.uring != nil {
		s.uring.Close()
		s.uring = nil
	}
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
}

// SetTraffic has the source send other frames from now on, on the same device.
func (s *Source) SetTraffic(t Traffic) error {
	f, err := t.frames()
	if err == nil && f.gso != s.vnet {
		err = s.attach(f.gso)
	}
	if err == nil {
		s.take(f)
	}
	return err
}

// take puts the header before the frames that each has on its way to a TAP with
// headers, and makes the probes that go with them.
func (s *Source) take(f *frames) {
	var head, plain []byte
	if s.vnet {
		head, plain = gsoHeader(), make([]byte, vnetLen)
	}
	size := minFrame
	for i, b := range f.all {
		size = max(size, len(b))
		f.all[i] = append(head[:len(head):len(head)], b...)
	}
	for i := range s.probes {
		s.probes[i] = append(plain[:len(plain):len(plain)], probe(min(size, 1514))...)
	}
	s.frames, s.next = f, 0
}

// gsoHeader is the virtio_net_hdr of a TCP frame that the card is to cut.
func gsoHeader() []byte {
	const needsCsum, tcp4 = 1, 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
	h := []byte{needsCsum, tcp4}
	for _, v := range []uint16{etherLen + ipv4Len + tcpLen, gsoSegment, etherLen + ipv4Len, 16} {
		h = binary.NativeEndian.AppendUint16(h, v)
	}
	return h
}

// Close removes the device, unless it was there before.
func (s *Source) Close() (err error) {
	if s.made {
		err = unix.IoctlSetInt(s.fd, unix.TUNSETPERSIST, 0)
	}
	s.detach()
	s.fd = -1
	return err
}

// headLen is how many bytes each frame has before it.
func (s *Source) headLen() int {
	if s.vnet {
		return vnetLen
	}
	return 0
}

// Run sends what o says, or until ctx is done. It sleeps while it is ahead of
// its schedule, so that idle time is idle.
func (s *Source) Run(ctx context.Context, o Offer) (Offered, error) {
	if o.Rate < 0 || o.For <= 0 || o.Probes < 0 || o.Probes > o.Rate {
		return Offered{}, fmt.Errorf("source: %v frames a second for %v with %v probes", o.Rate, o.For, o.Probes)
	}
	batch := writeBatch
	if o.Rate > 0 {
		batch = min(batch, max(1, int(o.Rate*spread.Seconds())))
	}
	var r Offered
	var asked, probes float64 // frames so far, and of those probes
	before := threadCPU()
	plan := schedule{Offer: o, start: time.Now()}
	for n := 0; plan.wait(time.Now(), asked) && (n%64 != 0 || ctx.Err() == nil); n++ {
		wanted := 0
		if o.Probes > 0 {
			for (asked+float64(wanted))*o.Probes/o.Rate > probes && wanted < batch {
				wanted++
				probes++
			}
		}
		if err := s.write(batch, wanted, &r); err != nil {
			return r, err
		}
		asked += float64(batch)
	}
	r.Took, r.CPU, r.Slipped = time.Since(plan.start), threadCPU()-before, plan.slipped
	return r, nil
}

// A schedule is an Offer under way.
type schedule struct {
	Offer
	start   time.Time
	slipped time.Duration // by which it moved, since the source was held up
}

// wait sleeps until what comes behind sent frames is due. It returns false if
// the time of the Offer is over by then.
func (s *schedule) wait(now time.Time, sent float64) bool {
	if now.Sub(s.start) >= s.For {
		return false
	}
	if s.Rate <= 0 {
		return true
	}
	at := s.start.Add(s.slipped + time.Duration(sent/s.Rate*1e9))
	if ahead := at.Sub(now); ahead > 20*time.Microsecond {
		if at.Sub(s.start) >= s.For {
			sleep(s.For - now.Sub(s.start))
			return false
		}
		sleep(ahead)
	} else if -ahead > behindMost {
		s.slipped += -ahead
	}
	return true
}

// write sends n frames, the first of them probes, and counts them.
func (s *Source) write(n, probes int, r *Offered) error {
	head := s.headLen()
	take := func(i int) []byte {
		if i < probes {
			s.numbers++
			b := s.probes[i]
			binary.BigEndian.PutUint64(b[head+probeNumber:], s.numbers)
			return b
		}
		b := s.frames.all[s.frames.order[s.next]]
		if s.next++; s.next == len(s.frames.order) {
			s.next = 0
		}
		return b
	}
	count := func(b []byte, res int) {
		if res != len(b) {
			r.Failed++
			return
		}
		r.Frames++
		r.Bytes += uint64(len(b) - head)
	}
	r.Probes += uint64(probes)
	if s.uring == nil {
		for i := range n {
			b := take(i)
			res, _ := unix.Write(s.fd, b)
			count(b, res)
		}
		return nil
	}
	var sent [writeBatch][]byte
	for i := range n {
		sent[i] = take(i)
		e := s.uring.GetSQE()
		e.PrepWrite(0, sent[i])
		e.Flags, e.UserData = ring.SQEFixedFile, uint64(i)
	}
	for left := n; left > 0; {
		if _, err := s.uring.SubmitAndWait(uint32(left)); err != nil && err != unix.EINTR {
			return fmt.Errorf("source: %w", err)
		}
		ready := s.uring.CQReady()
		for i := range ready {
			c := s.uring.CQEAt(i)
			count(sent[c.UserData], int(c.Res))
		}
		s.uring.CQAdvance(ready)
		left -= int(ready)
	}
	return nil
}

func sleep(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(int64(d))
		unix.Nanosleep(&ts, nil)
	}
}

// threadCPU returns the CPU time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
