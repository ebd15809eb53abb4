// SPDX-License-Identifier: Apache-2.0

//go:build !giouring

package ring

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A message is one that an Inbox received.
type message struct {
	name, control, payload []byte
	flags                  int32 // MSG_TRUNC, …
}

// Room for what comes with a payload, bytes.
const (
	inboxName    = unix.SizeofSockaddrInet6
	inboxControl = 64
	inboxHead    = int(unsafe.Sizeof(recvmsgOut{})) + inboxName + inboxControl
)

// An Inbox receives the messages of one socket by one request that goes on,
// into buffers lent to the kernel. It belongs to the thread that made it.
type Inbox struct {
	u     *Uring
	fd    int
	mem   []byte
	bufs  *BufRing
	hdr   *unix.Msghdr
	armed bool
	lent  []uint16 // buffers of got
	got   []message
}

// NewInbox makes an Inbox for messages of at most payload bytes, of which n, a
// power of two, may wait. It needs Linux 6.0.
func NewInbox(fd, payload, n int) (b *Inbox, err error) {
	b = &Inbox{fd: fd, lent: make([]uint16, 0, n), got: make([]message, 0, n), hdr: &unix.Msghdr{Namelen: inboxName}}
	b.hdr.SetControllen(inboxControl)
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.u, err = SetupUring(uint32(n)); err != nil {
		return nil, err
	}
	size := (inboxHead + payload + 63) &^ 63
	if b.mem, err = unix.Mmap(-1, 0, n*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("ring: io_uring: %d buffers of %d bytes: %w", n, size, os.NewSyscallError("mmap", err))
	}
	if b.bufs, err = b.u.SetupBufRing(0, b.mem, size); err != nil {
		return nil, err
	}
	return b, nil
}

// Recv waits for messages, for at most d, and returns how many came. Those of
// the Recv before are gone.
func (b *Inbox) Recv(d time.Duration) (int, error) {
	if len(b.lent) > 0 {
		for _, i := range b.lent {
			b.bufs.Add(i)
		}
		b.bufs.Advance()
		b.lent, b.got = b.lent[:0], b.got[:0]
	}
	if !b.armed {
		s := b.u.GetSQE()
		s.PrepRecvMsgMultishot(b.fd, b.hdr, 0)
		s.UserData = 0 // PrepCancel names it
		b.armed = true
	}
	if err := b.u.SubmitAndWaitTimeout(1, d); err != nil {
		return 0, err
	}
	for {
		_, res, flags, ok := b.u.Completion()
		if !ok {
			return len(b.got), nil
		}
		b.armed = b.armed && flags&CQEMore != 0
		if flags&CQEBuffer != 0 {
			i := uint16(flags >> CQEBufferShift)
			b.lent = append(b.lent, i)
			if m, ok := b.parse(b.bufs.Buffer(i), int(res)); ok {
				b.got = append(b.got, m)
			}
			continue
		}
		switch err := unix.Errno(-res); {
		case res >= 0, err == unix.ENOBUFS, err == unix.EINTR, err == unix.EAGAIN, err == unix.ECONNREFUSED:
			// It is over, or was for want of buffers: a new one next time.
		default:
			return len(b.got), fmt.Errorf("ring: io_uring: recvmsg: %w", err)
		}
	}
}

// parse reads n bytes of a buffer that the kernel filled.
func (b *Inbox) parse(buffer []byte, n int) (m message, ok bool) {
	if n < inboxHead || n > len(buffer) {
		return m, false
	}
	const name = int(unsafe.Sizeof(recvmsgOut{}))
	h := (*recvmsgOut)(unsafe.Pointer(&buffer[0]))
	m.name = buffer[name : name+min(int(h.namelen), inboxName)]
	m.control = buffer[name+inboxName : name+inboxName+min(int(h.controllen), inboxControl)]
	m.payload = buffer[inboxHead:n:n] // payloadlen is that of the whole message, also where it was cut
	m.flags = int32(h.flags)
	return m, true
}

// Message returns message i of the last Recv, as recvmsg(2) does. It is lent
// until the next Recv, and may be written to.
func (b *Inbox) Message(i int) (name, control, payload []byte, flags int32) {
	m := &b.got[i]
	return m.name, m.control, m.payload, m.flags
}

// Memory returns all the memory that messages are received in.
func (b *Inbox) Memory() []byte { return b.mem }

// Close ends the request, and gives everything back.
func (b *Inbox) Close() error {
	var err error
	if b.u != nil {
		if b.armed {
			// The kernel would cancel the request in its own time, and the port
			// be taken until then.
			b.u.GetSQE().PrepCancel(0)
			_ = b.u.SubmitAndWaitTimeout(2, 100*time.Millisecond)
		}
		err = b.u.Close()
	}
	if b.bufs != nil {
		err = errors.Join(err, b.bufs.Close())
	}
	if b.mem != nil {
		err = errors.Join(err, unix.Munmap(b.mem))
	}
	b.u, b.bufs, b.mem = nil, nil, nil
	return err
}
