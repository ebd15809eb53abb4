// SPDX-License-Identifier: Apache-2.0

//go:build giouring

package ring

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// The second backend: github.com/pawelgaczynski/giouring, with the build tag
// giouring and, since Go 1.23, -ldflags=-checklinkname=0. It is unmaintained
// since 2023, and not all of it is right: PrepareSendto and PrepareSendZC send
// the header of a slice in place of its bytes, RegisterFiles registers wrong
// descriptors. So only these calls are used, which were read and are held by
// the same tests as our own: QueueInit, QueueExit, GetSQE, PrepareNop,
// PrepareWrite, PrepareWriteFixed, PrepareSendMsg, PrepareRecvMsg, Submit,
// SubmitAndWait, SubmitAndGetEvents, SubmitAndWaitTimeout, PeekBatchCQE, CQAdvance,
// RegisterBuffers. Registered files are not to be had, nor multishot receives.

// Backend names the implementation of io_uring that was built.
const Backend = "giouring"

// SQE and CQE are a request and its completion, as in the first backend.
type (
	SQE giouring.SubmissionQueueEntry
	CQE giouring.CompletionQueueEvent
)

// A Uring is an io_uring, as in the first backend, on giouring.
type Uring struct {
	ring   *giouring.Ring
	setup  uint32
	queued []*SQE // by GetSQE, not yet submitted
	void   []*SQE // behind those, taken back: they do nothing, and are handed out again first
	lost   uint32 // of those, submitted and not yet completed
	sent   uint32 // requests submitted and not yet passed by CQAdvance
	cqes   []*giouring.CompletionQueueEvent
}

// taken marks a request that was taken back.
const taken = 1<<64 - 2

// SetupUring makes an io_uring, as in the first backend.
func SetupUring(entries uint32) (*Uring, error) {
	u := &Uring{ring: giouring.NewRing()}
	var err error
	for _, u.setup = range []uint32{setupSubmitAll | setupSingleIssuer | setupDeferTaskrun, setupSubmitAll, 0} {
		if err = u.ring.QueueInit(entries, u.setup); !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ring: io_uring of %d entries: %w", entries, os.NewSyscallError("io_uring_setup", err))
	}
	n := 1
	for n < int(entries) {
		n *= 2
	}
	u.queued, u.void, u.cqes = make([]*SQE, 0, n), make([]*SQE, 0, n), make([]*giouring.CompletionQueueEvent, 2*n)
	return u, nil
}

// GetSQE returns the next free SQE, or nil if the queue is full.
func (u *Uring) GetSQE() *SQE {
	var s *SQE
	if len(u.void) > 0 {
		s = u.void[0]
		u.void = u.void[:copy(u.void, u.void[1:])]
	} else if s = (*SQE)(u.ring.GetSQE()); s == nil {
		return nil
	}
	u.queued = append(u.queued, s)
	return s
}

func (s *SQE) entry() *giouring.SubmissionQueueEntry { return (*giouring.SubmissionQueueEntry)(s) }

// PrepWrite makes s a write(2) of b to descriptor fd.
func (s *SQE) PrepWrite(fd int, b []byte) {
	*s = SQE{}
	s.entry().PrepareWrite(fd, uintptr(addr(b)), uint32(len(b)), 0)
}

// PrepWriteFixed makes s a write of b, which lies inside a registered buffer.
func (s *SQE) PrepWriteFixed(fd int, b []byte, buffer uint16) {
	*s = SQE{}
	s.entry().PrepareWriteFixed(fd, uintptr(addr(b)), uint32(len(b)), 0, int(buffer))
}

// PrepWritev makes s a writev(2) of v, without giouring.
func (s *SQE) PrepWritev(fd int, v []unix.Iovec) {
	at := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(unix.Iovec{})))
	*s = SQE{OpCode: OpWritev, Fd: int32(fd), Addr: addr(at), Len: uint32(len(v))}
}

// PrepSendMsg makes s a sendmsg(2) of m.
func (s *SQE) PrepSendMsg(fd int, m *unix.Msghdr, flags uint32) {
	*s = SQE{}
	addr(unsafe.Slice((*byte)(unsafe.Pointer(m)), unsafe.Sizeof(*m)))
	s.entry().PrepareSendMsg(fd, (*syscall.Msghdr)(unsafe.Pointer(m)), flags)
}

// PrepSendZC makes s a send(2) without a copy, as in the first backend, without
// giouring.
func (s *SQE) PrepSendZC(fd int, b []byte, buffer uint16) {
	*s = SQE{OpCode: OpSendZC, IoPrio: sendFixedBuf | sendReportUsage, Fd: int32(fd), Addr: addr(b), Len: uint32(len(b)), OpcodeFlags: unix.MSG_DONTWAIT, BufIG: buffer}
}

// PrepNop makes s a request that does nothing.
func (s *SQE) PrepNop() {
	*s = SQE{}
	s.entry().PrepareNop()
}

// Pending returns how many SQEs the kernel was not given yet.
func (u *Uring) Pending() int { return len(u.queued) }

// Submit hands the pending SQEs to the kernel and returns how many it took.
func (u *Uring) Submit() (int, error) {
	if len(u.queued) == 0 {
		return 0, nil
	}
	for {
		n, err := u.ring.Submit()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return u.submitted(uint32(n)), err
	}
}

// SubmitAndGetEvents submits, as in the first backend.
func (u *Uring) SubmitAndGetEvents() (int, error) {
	for {
		n, err := u.ring.SubmitAndGetEvents()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return u.submitted(uint32(n)), err
	}
}

// submitted notes that the kernel took n requests, those taken back last, and
// returns how many others.
func (u *Uring) submitted(n uint32) int {
	took := min(int(n), len(u.queued))
	v := min(int(n)-took, len(u.void))
	u.queued = u.queued[:copy(u.queued, u.queued[took:])]
	u.void = u.void[:copy(u.void, u.void[v:])]
	u.lost += uint32(v)
	u.sent += n
	return took
}

// SubmitAndWait submits, and waits for completions.
func (u *Uring) SubmitAndWait(wait uint32) (int, error) {
	n, err := u.Submit()
	if err != nil {
		return n, err
	}
	for wait = min(wait, u.sent-u.lost); u.CQReady() < wait; {
		if _, err := u.ring.SubmitAndWait(wait); err != nil && !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
	return n, nil
}

// Discard takes back the SQEs that the kernel was not given. giouring cannot
// take them back: they become requests that do nothing, with the next Submit.
func (u *Uring) Discard() int {
	n := len(u.queued)
	all := append(u.queued, u.void...)
	for _, s := range all {
		s.PrepNop()
		s.UserData = taken
	}
	u.void, u.queued = all, u.void[:0]
	return n
}

// CQReady returns how many completions can be read.
func (u *Uring) CQReady() uint32 {
	for {
		n := u.ring.PeekBatchCQE(u.cqes)
		if n == 0 || u.cqes[0].UserData != taken {
			return n
		}
		u.ring.CQAdvance(1) // they are submitted behind all others, and done at once
		u.sent--
		u.lost--
	}
}

// PeekCQE returns the oldest completion, or nil.
func (u *Uring) PeekCQE() *CQE {
	if u.CQReady() == 0 {
		return nil
	}
	return u.CQEAt(0)
}

// CQEAt returns the completion i places behind the oldest, after CQReady.
func (u *Uring) CQEAt(i uint32) *CQE { return (*CQE)(u.cqes[i]) }

// CQAdvance gives the n oldest completions back to the kernel.
func (u *Uring) CQAdvance(n uint32) {
	u.ring.CQAdvance(n)
	u.sent -= n
	copy(u.cqes, u.cqes[n:])
}

// errFiles says why there are no registered files.
var errFiles = fmt.Errorf("ring: io_uring: giouring registers wrong descriptors: %w", errors.ErrUnsupported)

// RegisterFiles fails: requests name descriptors.
func (u *Uring) RegisterFiles([]int32) error { return errFiles }

// RegisterFilesUpdate fails.
func (u *Uring) RegisterFilesUpdate(uint32, []int32) error { return errFiles }

// UnregisterFiles does nothing.
func (u *Uring) UnregisterFiles() error { return nil }

// RegisterBuffers pins memory, as in the first backend.
func (u *Uring) RegisterBuffers(buffers [][]byte) error {
	v := make([]syscall.Iovec, len(buffers))
	for i, b := range buffers {
		v[i].Base = unsafe.SliceData(b)
		v[i].SetLen(len(b))
	}
	if _, err := u.ring.RegisterBuffers(v); err != nil {
		return fmt.Errorf("ring: io_uring: %d buffers: %w", len(v), err)
	}
	return nil
}

// Probe reports whether the kernel knows opcode: it asks on an io_uring of its
// own, since giouring keeps its descriptor.
func (u *Uring) Probe(opcode uint8) bool {
	p := uringParams{}
	fd, _, err := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if err != 0 {
		return false
	}
	defer unix.Close(int(fd))
	probe := new(uringProbe)
	_, _, err = unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, registerProbe, uintptr(unsafe.Pointer(probe)), probeOps, 0, 0)
	return err == 0 && opcode <= probe.lastOp && probe.ops[opcode].flags&1 != 0
}

// Close gives the io_uring back. Nothing may be in flight.
func (u *Uring) Close() error {
	if u.ring != nil {
		u.ring.QueueExit()
		u.ring = nil
	}
	return nil
}

// Room for what comes with a payload, bytes.
const (
	inboxName    = unix.SizeofSockaddrInet6
	inboxControl = 64
)

// An Inbox receives the messages of one socket, as in the first backend, but by
// a request for each message.
type Inbox struct {
	u       *Uring
	fd      int
	payload int
	mem     []byte
	in      []receipt
	got     []int // requests that are complete
	bytes   []int
}

// A receipt is one request and its buffers.
type receipt struct {
	hdr     syscall.Msghdr
	iov     syscall.Iovec
	name    [inboxName]byte
	control [inboxControl]byte
	armed   bool
}

// NewInbox makes an Inbox for messages of at most payload bytes, of which n may
// wait.
func NewInbox(fd, payload, n int) (*Inbox, error) {
	u, err := SetupUring(uint32(n) + 1)
	if err != nil {
		return nil, err
	}
	b := &Inbox{u: u, fd: fd, payload: payload, in: make([]receipt, n)}
	if b.mem, err = unix.Mmap(-1, 0, n*payload, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
		u.Close()
		return nil, fmt.Errorf("ring: io_uring: %d buffers of %d bytes: %w", n, payload, os.NewSyscallError("mmap", err))
	}
	return b, nil
}

// Recv waits for messages, for at most d, and returns how many came. Those of
// the Recv before are gone.
func (b *Inbox) Recv(d time.Duration) (int, error) {
	b.got, b.bytes = b.got[:0], b.bytes[:0]
	for i := range b.in {
		r := &b.in[i]
		if r.armed {
			continue
		}
		r.iov.Base = &b.mem[i*b.payload]
		r.iov.SetLen(b.payload)
		r.hdr = syscall.Msghdr{Name: &r.name[0], Namelen: inboxName, Iov: &r.iov, Iovlen: 1, Control: &r.control[0]}
		r.hdr.SetControllen(inboxControl)
		s := b.u.GetSQE()
		*s = SQE{}
		s.entry().PrepareRecvMsg(b.fd, &r.hdr, 0)
		s.UserData = uint64(i)
		r.armed = true
	}
	before := uint32(len(b.u.queued))
	ts := syscall.NsecToTimespec(int64(d))
	_, err := b.u.ring.SubmitAndWaitTimeout(1, &ts, nil)
	b.u.submitted(before)
	if err != nil && !errors.Is(err, unix.ETIME) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
		return 0, fmt.Errorf("ring: io_uring: recvmsg: %w", err)
	}
	for {
		id, res, _, ok := b.u.Completion()
		if !ok {
			return len(b.got), nil
		}
		if id >= uint64(len(b.in)) {
			continue
		}
		b.in[id].armed = false
		if res >= 0 {
			b.got, b.bytes = append(b.got, int(id)), append(b.bytes, int(res))
			continue
		}
		if e := unix.Errno(-res); e != unix.EINTR && e != unix.EAGAIN && e != unix.ECONNREFUSED {
			return len(b.got), fmt.Errorf("ring: io_uring: recvmsg: %w", e)
		}
	}
}

// Message returns message i of the last Recv, as recvmsg(2) does. It is lent
// until the next Recv, and may be written to.
func (b *Inbox) Message(i int) (name, control, payload []byte, flags int32) {
	r, at := &b.in[b.got[i]], b.got[i]*b.payload
	return r.name[:min(int(r.hdr.Namelen), inboxName)], r.control[:min(int(r.hdr.Controllen), inboxControl)],
		b.mem[at : at+b.bytes[i] : at+b.bytes[i]], r.hdr.Flags
}

// Memory returns all the memory that messages are received in.
func (b *Inbox) Memory() []byte { return b.mem }

// Close ends the requests, and gives everything back.
func (b *Inbox) Close() error {
	if b.u == nil {
		return nil
	}
	armed := uint32(0)
	for i := range b.in {
		if b.in[i].armed {
			armed++
		}
	}
	if s := b.u.GetSQE(); s != nil && armed > 0 {
		*s = SQE{OpCode: OpAsyncCancel, Fd: -1, OpcodeFlags: 1<<0 | 1<<2, UserData: taken - 1} // IORING_ASYNC_CANCEL_ALL | ANY, Linux 6.0
		for deadline := time.Now().Add(100 * time.Millisecond); armed > 0 && time.Now().Before(deadline); {
			ts := syscall.NsecToTimespec(int64(10 * time.Millisecond))
			_, _ = b.u.ring.SubmitAndWaitTimeout(1, &ts, nil)
			for c := b.u.PeekCQE(); c != nil; c = b.u.PeekCQE() {
				if c.UserData < uint64(len(b.in)) {
					armed--
				}
				b.u.ring.CQAdvance(1)
			}
		}
	}
	err := errors.Join(b.u.Close(), unix.Munmap(b.mem))
	b.u = nil
	return err
}
