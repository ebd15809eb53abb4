// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"io"
	"os"
	"syscall"
	"time"
)

// A pipeEnd writes to a pipe or socket, and notices that its reader went away
// also while there is nothing to write.
type pipeEnd struct {
	*os.File
	epoll int  // waits for nothing but errors of it
	fifo  bool // is closed at the end: what its reader left would be the next one's else
}

func newPipeEnd(f *os.File, fifo bool) (*pipeEnd, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	raw, err := f.SyscallConn()
	if err == nil {
		err2 := raw.Control(func(fd uintptr) {
			err = syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, int(fd), &syscall.EpollEvent{Fd: int32(fd)})
		})
		if err == nil {
			err = err2
		}
	}
	if err != nil {
		syscall.Close(epoll)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return &pipeEnd{f, epoll, fifo}, nil
}

func (p *pipeEnd) every() time.Duration { return lookPipe }

// look says whether the reader is gone: epoll(7) reports EPOLLERR, or EPOLLHUP
// for a socket, without being asked for it.
func (p *pipeEnd) look(time.Time) error {
	var events [1]syscall.EpollEvent
	if n, _ := syscall.EpollWait(p.epoll, events[:], 0); n > 0 && events[0].Events&(syscall.EPOLLERR|syscall.EPOLLHUP) != 0 {
		return os.NewSyscallError("poll", syscall.EPIPE)
	}
	return nil
}

// finish ends looking. Standard output stays open.
func (p *pipeEnd) finish(int) {
	if syscall.Close(p.epoll); p.fifo {
		p.Close()
	}
}

// isTerminal says whether what is written there is shown on a terminal: of all files,
// only those know TCGETS (ioctl_tty(2)), and here it gets no place to answer to.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var e syscall.Errno
	err = raw.Control(func(fd uintptr) { _, _, e = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TCGETS, 0) })
	return err == nil && e == syscall.EFAULT
}
