// SPDX-License-Identifier: Apache-2.0

//go:build !giouring

package ring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Backend names the implementation of io_uring that was built.
const Backend = "ntap"

// An SQE is one request: struct io_uring_sqe.
type SQE struct {
	Opcode      uint8
	Flags       uint8 // SQE*
	Ioprio      uint16
	Fd          int32  // descriptor, or index of a registered file with SQEFixedFile
	Off         uint64 // file offset, bytes; 0 for a TAP, which has none
	Addr        uint64 // of the bytes, or of the iovecs
	Len         uint32 // bytes, or iovecs
	OpFlags     uint32
	UserData    uint64 // comes back in the CQE
	BufIndex    uint16 // of a registered buffer
	Personality uint16
	SpliceFdIn  int32
	Addr3       uint64
	_           uint64
}

// A CQE is one completed request: struct io_uring_cqe.
type CQE struct {
	UserData uint64
	Res      int32 // what the system call would have returned, or -errno
	Flags    uint32
}

// Sizes the kernel fixed with Linux 5.1.
var (
	_ [64]byte = [unsafe.Sizeof(SQE{})]byte{}
	_ [16]byte = [unsafe.Sizeof(CQE{})]byte{}
	_ [32]byte = [unsafe.Offsetof(SQE{}.UserData)]byte{}
	_ [40]byte = [unsafe.Offsetof(SQE{}.BufIndex)]byte{}
)

// A Uring is an io_uring: requests are written into memory shared with the
// kernel and handed over many at a time, in one system call. The names are
// liburing's.
//
// It belongs to the thread that called SetupUring, which has to be locked
// (runtime.LockOSThread): the kernel refuses submissions and registrations
// from any other with EEXIST.
//
// Memory that a request names is the caller's: it has to stay reachable and
// unchanged until the request's CQE was seen. The garbage collector does not
// see the addresses in an SQE.
type Uring struct {
	fd       int
	setup    uint32 // IORING_SETUP_* granted
	rings    []byte // mapping of both rings
	sqeMem   []byte // mapping of the SQEs
	sqHead   *uint32
	sqTail   *uint32
	sqes     []SQE
	tail     uint32 // SQEs handed out by GetSQE, ever
	sent     uint32 // of them, taken by the kernel
	cqHead   *uint32
	cqTail   *uint32
	cqes     []CQE
	hasFiles bool
	timeout  unix.Timespec // of SubmitAndWaitTimeout
	waitArg  geteventsArg
}

// SetupUring makes an io_uring with room for entries requests, rounded up to
// a power of two, and twice as many completions. The calling goroutine has to
// be locked to its thread.
//
// Errors are those of io_uring_setup(2) and mmap(2), and can be told apart with
// errors.Is: ENOSYS (not in this kernel), EPERM (seccomp, or the sysctl
// kernel.io_uring_disabled), ENOMEM (RLIMIT_MEMLOCK, before Linux 5.12).
func SetupUring(entries uint32) (*Uring, error) {
	var (
		p   uringParams
		fd  uintptr
		err unix.Errno
	)
	// Newest first; a kernel that does not know a flag says EINVAL.
	for _, flags := range []uint32{
		setupSubmitAll | setupSingleIssuer | setupDeferTaskrun | setupNoSQArray,
		setupSubmitAll | setupSingleIssuer | setupDeferTaskrun,
		setupSubmitAll,
		0,
	} {
		p = uringParams{flags: flags}
		fd, _, err = unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
		if err != unix.EINVAL {
			break
		}
	}
	if err != 0 {
		return nil, fmt.Errorf("ring: io_uring of %d entries: %w", entries, os.NewSyscallError("io_uring_setup", err))
	}
	u := &Uring{fd: int(fd), setup: p.flags}
	unix.CloseOnExec(u.fd)
	if err := u.mmap(&p); err != nil {
		u.Close()
		return nil, fmt.Errorf("ring: io_uring of %d entries: %w", entries, err)
	}
	return u, nil
}

// mmap maps the rings and the SQEs that p describes.
func (u *Uring) mmap(p *uringParams) error {
	if p.features&featSingleMmap == 0 || p.features&featNoDrop == 0 {
		return fmt.Errorf("the kernel's io_uring is older than Linux 5.5: %w", unix.ENOSYS)
	}
	size := p.cqOff.cqes + p.cqEntries*uint32(unsafe.Sizeof(CQE{}))
	if p.flags&setupNoSQArray == 0 {
		size = max(size, p.sqOff.array+p.sqEntries*4)
	}
	const prot, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	var err error
	if u.rings, err = unix.Mmap(u.fd, offSQRing, int(size), prot, how); err != nil {
		return os.NewSyscallError("mmap IORING_OFF_SQ_RING", err)
	}
	if u.sqeMem, err = unix.Mmap(u.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(SQE{})), prot, how); err != nil {
		return os.NewSyscallError("mmap IORING_OFF_SQES", err)
	}
	u.sqHead = u.word(p.sqOff.head)
	u.sqTail = u.word(p.sqOff.tail)
	u.cqHead = u.word(p.cqOff.head)
	u.cqTail = u.word(p.cqOff.tail)
	u.sqes = unsafe.Slice((*SQE)(unsafe.Pointer(unsafe.SliceData(u.sqeMem))), p.sqEntries)
	u.cqes = unsafe.Slice((*CQE)(unsafe.Pointer(&u.rings[p.cqOff.cqes])), p.cqEntries)
	if p.flags&setupNoSQArray == 0 {
		array := unsafe.Slice(u.word(p.sqOff.array), p.sqEntries)
		for i := range array {
			array[i] = uint32(i) // place i in the ring is always SQE i
		}
	}
	return nil
}

// word returns the 32-bit word at off bytes into the rings.
func (u *Uring) word(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.rings[off])) }

// GetSQE returns the next free SQE, or nil if the queue is full: Submit first.
// It holds what it held when it was last used; the Prep methods set all of it.
func (u *Uring) GetSQE() *SQE {
	if u.tail-u.sent >= uint32(len(u.sqes)) {
		return nil
	}
	s := &u.sqes[u.tail&uint32(len(u.sqes)-1)]
	u.tail++
	return s
}

// PrepWrite makes s a write(2) of b to descriptor fd.
func (s *SQE) PrepWrite(fd int, b []byte) {
	*s = SQE{Opcode: OpWrite, Fd: int32(fd), Addr: addr(b), Len: uint32(len(b))}
}

// PrepWriteFixed makes s a write of b, which lies inside the registered buffer
// with the given index.
func (s *SQE) PrepWriteFixed(fd int, b []byte, buffer uint16) {
	*s = SQE{Opcode: OpWriteFixed, Fd: int32(fd), Addr: addr(b), Len: uint32(len(b)), BufIndex: buffer}
}

// PrepWritev makes s a writev(2) of v, which has to stay until submitted.
func (s *SQE) PrepWritev(fd int, v []unix.Iovec) {
	at := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(unix.Iovec{})))
	*s = SQE{Opcode: OpWritev, Fd: int32(fd), Addr: addr(at), Len: uint32(len(v))}
}

// PrepNop makes s a request that does nothing.
func (s *SQE) PrepNop() { *s = SQE{Opcode: OpNop, Fd: -1} }

// Pending returns how many SQEs the kernel was not given yet.
func (u *Uring) Pending() int { return int(u.tail - u.sent) }

// Submit hands the pending SQEs to the kernel and returns how many it took.
// Requests that need not wait are complete when it returns.
//
// It does not tell the scheduler: a batch is shorter than what that costs.
func (u *Uring) Submit() (int, error) {
	if u.tail == u.sent {
		return 0, nil
	}
	return u.enter(0)
}

// SubmitAndGetEvents is Submit that also has the kernel do the work behind
// completions that are due: those with CQENotif come no other way. It does not
// wait, and enters the kernel also if nothing is pending.
func (u *Uring) SubmitAndGetEvents() (int, error) { return u.enter(enterGetEvents) }

func (u *Uring) enter(flags uintptr) (int, error) {
	n := u.tail - u.sent
	atomic.StoreUint32(u.sqTail, u.tail)
	for {
		took, _, err := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(n), 0, flags, 0, 0)
		if err == unix.EINTR {
			continue
		}
		if err != 0 {
			return 0, os.NewSyscallError("io_uring_enter", err)
		}
		u.sent += uint32(took)
		return int(took), nil
	}
}

// SubmitAndWait submits the pending SQEs and returns when wait completions are
// ready, or as many as can come: it never waits for more than is in flight.
// The number is that of SQEs submitted; if Pending is not 0 then, the kernel
// stopped early, and the call may be repeated.
//
// EAGAIN and EBUSY mean that the kernel has no memory for more requests now.
func (u *Uring) SubmitAndWait(wait uint32) (int, error) {
	n, err := u.Submit()
	if err != nil {
		return n, err
	}
	wait = min(wait, u.sent-*u.cqHead) // every SQE makes one CQE; not PrepSendZC, which is not for here
	for u.CQReady() < wait {
		_, _, err := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), 0, uintptr(wait), enterGetEvents, 0, 0)
		if err != 0 && err != unix.EINTR {
			return n, os.NewSyscallError("io_uring_enter", err)
		}
	}
	return n, nil
}

// Discard takes back the SQEs that the kernel was not given, and returns how
// many: their memory is in nobody's use any more.
func (u *Uring) Discard() int {
	n := u.tail - u.sent
	u.tail = u.sent
	atomic.StoreUint32(u.sqTail, u.tail)
	return int(n)
}

// CQReady returns how many completions can be read.
func (u *Uring) CQReady() uint32 { return atomic.LoadUint32(u.cqTail) - *u.cqHead }

// PeekCQE returns the oldest completion not yet passed, or nil if there is
// none. It aliases the ring: good until CQAdvance.
func (u *Uring) PeekCQE() *CQE {
	if u.CQReady() == 0 {
		return nil
	}
	return u.CQEAt(0)
}

// CQEAt returns the completion i places behind the oldest; i is less than
// CQReady. It aliases the ring: good until CQAdvance.
func (u *Uring) CQEAt(i uint32) *CQE {
	return &u.cqes[(*u.cqHead+i)&uint32(len(u.cqes)-1)]
}

// CQAdvance gives the n oldest completions back to the kernel.
func (u *Uring) CQAdvance(n uint32) { atomic.StoreUint32(u.cqHead, *u.cqHead+n) }

// register is io_uring_register(2).
func (u *Uring) register(op uintptr, arg unsafe.Pointer, n int) error {
	_, _, err := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), op, uintptr(arg), uintptr(n), 0, 0)
	if err != 0 {
		return os.NewSyscallError("io_uring_register", err)
	}
	return nil
}

// RegisterFiles registers descriptors, so that requests name them by index
// (SQEFixedFile) and the kernel need not look them up; -1 leaves a place free
// for RegisterFilesUpdate. EMFILE: more than RLIMIT_NOFILE.
func (u *Uring) RegisterFiles(fds []int32) error {
	if err := u.register(registerFiles, unsafe.Pointer(unsafe.SliceData(fds)), len(fds)); err != nil {
		return fmt.Errorf("ring: io_uring: %d files: %w", len(fds), err)
	}
	u.hasFiles = true
	return nil
}

// RegisterFilesUpdate puts fds at the places from offset on.
func (u *Uring) RegisterFilesUpdate(offset uint32, fds []int32) error {
	up := &filesUpdate{offset: offset, fds: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(fds))))}
	err := u.register(registerFilesUpdate, unsafe.Pointer(up), len(fds))
	runtime.KeepAlive(fds)
	if err != nil {
		return fmt.Errorf("ring: io_uring: files %d to %d: %w", offset, int(offset)+len(fds)-1, err)
	}
	return nil
}

// UnregisterFiles lets go of the registered files. Close does so as well, but
// in its own time: the kernel takes a ring down in the background.
func (u *Uring) UnregisterFiles() error {
	if !u.hasFiles {
		return nil
	}
	u.hasFiles = false
	return u.register(unregisterFiles, nil, 0)
}

// RegisterBuffers pins memory, so that PrepWriteFixed can name it by index.
// At most 1 GiB each. Without CAP_IPC_LOCK it counts against RLIMIT_MEMLOCK:
// ENOMEM (EPERM on some kernels) means that it does not fit, and that
// PrepWrite is to be used.
func (u *Uring) RegisterBuffers(buffers [][]byte) error {
	v := make([]unix.Iovec, len(buffers))
	total := 0
	for i, b := range buffers {
		v[i].Base = unsafe.SliceData(b)
		v[i].SetLen(len(b))
		total += len(b)
	}
	if err := u.register(registerBuffers, unsafe.Pointer(unsafe.SliceData(v)), len(v)); err != nil {
		return fmt.Errorf("ring: io_uring: %d buffers of %d bytes in all: %w", len(v), total, err)
	}
	return nil
}

// Probe reports whether the kernel knows opcode.
func (u *Uring) Probe(opcode uint8) bool {
	p := new(uringProbe)
	if u.register(registerProbe, unsafe.Pointer(p), probeOps) != nil {
		return false // before Linux 5.6
	}
	return opcode <= p.lastOp && p.ops[opcode].flags&1 != 0
}

// Close gives the io_uring back. Nothing may be in flight.
func (u *Uring) Close() error {
	if u.fd < 0 {
		return nil
	}
	_ = u.UnregisterFiles() // from another thread it cannot; the kernel does it later
	var err error
	if u.sqeMem != nil {
		err = errors.Join(err, unix.Munmap(u.sqeMem))
	}
	if u.rings != nil {
		err = errors.Join(err, unix.Munmap(u.rings))
	}
	err = errors.Join(err, unix.Close(u.fd))
	*u = Uring{fd: -1}
	return err
}
