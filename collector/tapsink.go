// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// Chosen. On a Zen 3 with Linux 6.18 a 60-byte frame costs 1040 ns in batches
// of 8, 900 of 16, 830 of 32, 790 of 64, and larger ones differ by no more than
// the measurement's noise. Nor do registered buffers (WRITE_FIXED) and
// completions for failures only (CQE_SKIP_SUCCESS), so neither is used.
const tapBatch = 64 // frames in one io_uring_enter

// tapFiles is how many queues a worker registers with its io_uring, which
// saves the kernel a lookup per frame. Taps beyond that go by descriptor.
const tapFiles = 1024

// A tapConfig says which TAP devices a tapSet makes.
type tapConfig struct {
	Name    string // of the device; with %t, which stands for the tap ID: one device per tap
	Workers int    // queues per device
	Isolate bool   // keep the frames from the host's own network stack
	Persist bool   // devices stay when the set is closed
	NetNS   string // namespace of the devices, see TAP

	// Warn is told of what goes wrong and is not fatal: on setting up, and
	// when a device begins to refuse frames. Any worker may call it.
	Warn func(error)
}

// warn tells Warn, if there is one.
func (c *tapConfig) warn(err error) {
	if c.Warn != nil {
		c.Warn(err)
	}
}

// perTap reports whether every tap has a device of its own.
func (c *tapConfig) perTap() bool { return strings.Contains(c.Name, "%t") }

// tapNameLen is the longest interface name, bytes: IFNAMSIZ - 1, linux/if.h.
const tapNameLen = 15

// tapName returns the name of the device for tap: pattern with its ID for %t.
// It refuses what the kernel would (dev_valid_name, net/core/dev.c), and what
// the kernel would take for a pattern of its own (dev_alloc_name).
func tapName(pattern string, tap uint32) (string, error) {
	name := strings.ReplaceAll(pattern, "%t", strconv.FormatUint(uint64(tap), 10))
	why := ""
	switch {
	case pattern == "":
		why = "is empty"
	case name == "." || name == "..":
		why = "is a directory's name"
	case strings.Contains(name, "%"):
		why = "has a % that is not part of %t (the tap ID)"
	case strings.ContainsAny(name, "/:"):
		why = "has a / or a : in it"
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		why = "has a blank, a control character or one outside ASCII in it"
	case len(name) > tapNameLen && name != pattern:
		why = fmt.Sprintf("gives %q, %d bytes, for tap %d; an interface name has at most %d", name, len(name), tap, tapNameLen)
	case len(name) > tapNameLen:
		why = fmt.Sprintf("has %d bytes; an interface name has at most %d", len(name), tapNameLen)
	}
	if why != "" {
		return "", fmt.Errorf("collector: TAP name %q %s", pattern, why)
	}
	return name, nil
}

// A tapQueue is where one worker writes the frames of one device.
type tapQueue struct {
	fd     int           // descriptor of the worker's queue
	target int           // what an SQE names: fd, or the index of a registered file
	flags  uint8         // ring.SQEFixedFile if target is an index
	tap    uint32        // whose device it is, if each has one
	name   string        // of the device
	mtu    int           // of the device, or what it may have: as the worker knows it
	failed syscall.Errno // of the last frame; 0: it was taken
}

// A tapSink writes frames into TAP devices, as the output of one worker.
//
//	record ──Write──▶ SQE ──(64, or Flush)──▶ io_uring_enter ──▶ TAP queue ──▶ its consumers
//
// Nothing is copied on the way: an SQE names the record's own memory, and the
// kernel reads it before Flush returns.
type tapSink struct {
	devs   *tapSet
	worker int
	io     string // ioUring or ioMmsg: what came out of it
	reason string // why not io_uring, with ioAuto

	uring  *ring.Uring // nil with ioMmsg
	n      int         // frames queued
	frames [tapBatch][]byte
	queues [tapBatch]*tapQueue
	files  uint32 // registered so far
	err    error  // ends the collector, at the next Flush

	tap  uint32    // whose records came last,
	last *tapQueue // and where they go; nil: nowhere
	seen bool      // both are valid
	taps map[uint32]*tapQueue

	raw    []byte // frames that were given a header, until they are written: the first bytes of
	memory batch.Lazy

	_      perf.Pad
	counts SinkCounts
	_      perf.Pad
}

// newTapSink returns the sink of one worker. The calling goroutine has to be
// locked to the worker's thread, and Write, Flush and Close belong to it: an
// io_uring has one submitter.
func newTapSink(devs *tapSet, worker int, io string) (*tapSink, error) {
	s := &tapSink{devs: devs, worker: worker, io: io, taps: map[uint32]*tapQueue{}}
	switch io {
	case ioMmsg:
		return s, s.first()
	case ioAuto, ioUring, "":
	default:
		return nil, fmt.Errorf("collector: TAP: no way to write called %q; there are %s, %s, %s", io, ioAuto, ioUring, ioMmsg)
	}
	ok, why := ring.UringSupported()
	reason := why.String()
	if ok {
		u, err := ring.SetupUring(tapBatch)
		if err == nil {
			s.uring, s.io = u, ioUring
			if err := s.first(); err != nil {
				s.Close()
				return nil, err
			}
			return s, nil
		}
		reason = err.Error()
	}
	if io == ioUring {
		return nil, fmt.Errorf("collector: TAP: %s; or use --io %s", reason, ioMmsg)
	}
	s.io, s.reason = ioMmsg, reason
	if worker == 0 { // once is enough
		devs.warn(fmt.Errorf("collector: TAP: %s; frames are written one by one, which costs more", reason))
	}
	return s, s.first()
}

// first prepares what is known before the first record.
func (s *tapSink) first() error {
	if s.uring != nil {
		none := make([]int32, tapFiles)
		if !s.devs.perTap() {
			none = none[:1]
		}
		for i := range none {
			none[i] = -1
		}
		if err := s.uring.RegisterFiles(none); err != nil {
			s.files = tapFiles // few descriptors allowed: go without
		}
	}
	if s.devs.perTap() {
		return nil
	}
	q, err := s.open(0)
	s.last, s.seen = q, true
	return err
}

// open returns a new queue for the worker's frames of tap.
func (s *tapSink) open(tap uint32) (*tapQueue, error) {
	fd, name, err := s.devs.queue(tap, s.worker)
	if err != nil {
		return nil, err
	}
	q := &tapQueue{fd: fd, target: fd, name: name, tap: tap}
	if s.uring == nil {
		nonblock(fd)
	}
	if s.uring != nil && s.files < tapFiles && s.uring.RegisterFilesUpdate(s.files, []int32{int32(fd)}) == nil {
		q.target, q.flags = int(s.files), ring.SQEFixedFile
		s.files++
	}
	return q, nil
}

// rewrite writes a frame that q refused because its device was deleted into
// the one of that name that is made anew, if it can be.
func (s *tapSink) rewrite(q *tapQueue, frame []byte) syscall.Errno {
	err := writeFrame(q.fd, frame) // there may be one since this frame was submitted
	if err != errDeleted {
		return err
	}
	fd, made, e := s.devs.again(q.tap, s.worker, q.fd)
	if made {
		s.counts.Remade.Add(1)
	}
	if fd < 0 || e != nil {
		return err
	}
	if s.uring == nil {
		nonblock(fd)
	}
	q.mtu = 0
	if q.fd = fd; q.flags&ring.SQEFixedFile == 0 || s.uring.RegisterFilesUpdate(uint32(q.target), []int32{int32(fd)}) != nil {
		q.target, q.flags = fd, 0
	}
	return writeFrame(fd, frame)
}

// turn makes tap the one whose records come: once for a run of its datagrams.
func (s *tapSink) turn(tap uint32) {
	q, known := s.taps[tap]
	if !known {
		// The set warns, and counts as refused what has no device.
		q, _ = s.open(tap)
		s.taps[tap] = q
	}
	s.tap, s.last, s.seen = tap, q, true
}

// Write queues a record's frame, see sink.
func (s *tapSink) Write(o *Origin, r *proto.Record) {
	frame := r.Data
	if r.LinkType != proto.LinkTypeEthernet {
		if frame = s.framed(r); frame == nil {
			return
		}
	}
	if !s.seen || s.tap != o.Tap && s.devs.perTap() {
		s.turn(o.Tap)
	}
	q := s.last
	if q == nil {
		s.counts.Refused.Add(1)
		return
	}
	if len(frame) > q.mtu+proto.EtherLen { // or it has VLAN tags
		if need := proto.EtherPayload(frame); need > q.mtu {
			q.mtu = s.devs.raise(o.Tap, need)
		}
	}
	if s.uring == nil {
		s.account(q, frame, writeFrame(q.fd, frame))
		return
	}
	e := s.uring.GetSQE()
	e.PrepWrite(q.target, frame)
	e.Flags = q.flags
	e.UserData = uint64(s.n)
	s.frames[s.n], s.queues[s.n] = frame, q
	if s.n++; s.n == tapBatch {
		s.submit()
	}
}

// tapRaw is the room for frames that get a header, bytes, for each worker that
// has any. Chosen: a batch of full frames, and any single one.
const tapRaw = 256 << 10

// framed returns the frame of a record that has no Ethernet header with one
// before it: a copy, good until submit. nil: no Ethernet carries it, or there is
// no memory for it, which is counted.
func (s *tapSink) framed(r *proto.Record) []byte {
	head := r.EtherHeader()
	n := len(head) + len(r.Data)
	if head == nil || n > tapRaw {
		s.counts.NotEthernet.Add(1)
		s.devs.alien(r.LinkType)
		return nil
	}
	if s.raw == nil {
		mem := s.memory.Bytes(tapRaw)
		if mem == nil {
			s.counts.Refused.Add(1)
			return nil
		}
		s.raw = mem[:0:tapRaw]
	}
	if s.uring == nil || s.n == 0 {
		s.raw = s.raw[:0] // all that is in there was written
	} else if len(s.raw)+n > tapRaw {
		s.submit()
		s.raw = s.raw[:0]
	}
	at := len(s.raw)
	s.raw = append(append(s.raw, head...), r.Data...)
	return s.raw[at:]
}

// notEthernet says, for a log, that an output cannot carry frames of a kind.
func notEthernet(name string, link proto.LinkType) error {
	return fmt.Errorf("collector: %s: frames of link type %d fit no Ethernet, and are left out here, counted; files and PCAP over IP (pcapng) have them", name, link)
}

// Flush writes what is queued, see sink.
func (s *tapSink) Flush() error {
	if s.n > 0 {
		s.submit()
	}
	return s.err
}

// submit hands the queued frames to the kernel, and accounts for each of them
// by its completion. A TAP takes a frame at once or not at all, so they are
// complete, in order, when the system call returns.
func (s *tapSink) submit() {
	left := s.n
	if s.err != nil {
		left -= s.discard()
	}
	for tries := 0; left > 0; {
		_, err := s.uring.SubmitAndWait(uint32(left))
		left -= s.reap()
		if err == nil {
			continue
		}
		busy := errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EBUSY)
		if busy && tries < 100 {
			tries++ // the kernel has no memory for requests; some is free again soon
			continue
		}
		if !busy {
			s.err = fmt.Errorf("collector: TAP: %d frames: %w", s.n, err)
		}
		if gone := s.discard(); gone > 0 {
			left -= gone
			continue
		}
		s.counts.Refused.Add(uint64(left)) // never heard of again
		left = 0
	}
	s.n = 0
}

// discard takes back what was queued and not submitted, and returns how much.
func (s *tapSink) discard() int {
	n := s.uring.Discard()
	s.counts.Refused.Add(uint64(n))
	return n
}

// reap accounts for the frames that completed, and returns how many.
func (s *tapSink) reap() int {
	n := s.uring.CQReady()
	frames, bytes := 0, 0
	for i := range n {
		c := s.uring.CQEAt(i)
		f, q := s.frames[c.UserData], s.queues[c.UserData]
		if c.Res == int32(len(f)) && q.failed == 0 {
			frames++
			bytes += len(f)
			continue
		}
		if c.Res >= 0 {
			s.account(q, f, 0)
			continue
		}
		err := syscall.Errno(-c.Res)
		if err == syscall.EAGAIN {
			err = writeFrame(q.fd, f) // which waits a little
		}
		s.account(q, f, err)
	}
	s.uring.CQAdvance(n)
	s.counts.Delivered.Add(uint64(frames))
	s.counts.DeliveredBytes.Add(uint64(bytes))
	return int(n)
}

// account counts one frame that q took, or refused with err. It warns when a
// device begins to refuse everything.
func (s *tapSink) account(q *tapQueue, frame []byte, err syscall.Errno) {
	if err == errDeleted {
		if err = s.rewrite(q, frame); err == errDeleted {
			s.counts.Refused.Add(1)
			return // again has said so
		}
	}
	if err == 0 {
		q.failed = 0
		s.counts.Delivered.Add(1)
		s.counts.DeliveredBytes.Add(uint64(len(frame)))
		return
	}
	s.counts.Refused.Add(1)
	if err == q.failed || err == syscall.EINVAL && len(frame) < 14 {
		return // said before; or shorter than an Ethernet header
	}
	q.failed = err
	s.devs.refused(q.name, err)
}

// Counts returns the sink's accounts.
func (s *tapSink) Counts() *SinkCounts { return &s.counts }

// Close lets go of the devices; the tapSet closes them.
func (s *tapSink) Close() error {
	var err error
	if s.uring != nil {
		err = s.uring.Close()
		s.uring, s.last, s.seen = nil, nil, true
	}
	s.raw = nil
	return errors.Join(err, s.memory.Close())
}
