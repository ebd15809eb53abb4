// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// UringSupported reports whether frames can be written to a TAP by io_uring
// here and now, and if not why, as one line for an operator.
func UringSupported() (bool, string) {
	release := kernelRelease()
	if !atLeast(release, 6, 4) {
		// tun_chr_open sets FMODE_NOWAIT since 6.4; before, every write is
		// handed to a kernel worker thread.
		return false, "Linux " + release + ": io_uring writes to a TAP without waiting only from Linux 6.4 on"
	}
	return tryUring(func(u *Uring) error {
		if !u.Probe(OpWrite) {
			return errors.New("Linux " + release + ": io_uring has no IORING_OP_WRITE")
		}
		return nil
	})
}

// UringSends reports the same of sending datagrams.
func UringSends() (bool, string) {
	return tryUring(func(u *Uring) error {
		if !u.Probe(OpSendMsg) {
			return errors.New("Linux " + kernelRelease() + ": io_uring has no IORING_OP_SENDMSG")
		}
		return nil
	})
}

// UringSendsZeroCopy reports the same of sending them without a copy, from
// memory of n bytes.
func UringSendsZeroCopy(n int) (bool, string) {
	return tryUring(func(u *Uring) error {
		mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return os.NewSyscallError("mmap", err)
		}
		defer unix.Munmap(mem)
		if err := u.RegisterBuffers([][]byte{mem}); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		u.SendZC(fd, mem[:1], 0)
		if _, err := u.SubmitAndGetEvents(); err != nil {
			return err
		}
		// The socket has no destination: that is what a kernel says that knows
		// all that was asked.
		if _, res, _, ok := u.Completion(); !ok || unix.Errno(-res) != unix.EDESTADDRREQ {
			return fmt.Errorf("kernel %s: io_uring sends without a copy, and says whether it did, from Linux 6.2 on: %w", kernelRelease(), unix.Errno(-res))
		}
		return nil
	})
}

// UringReceives reports the same of receiving them.
func UringReceives() (bool, string) {
	return tryUring(func(*Uring) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		b, err := NewInbox(fd, 1500, 1)
		if err != nil {
			return err
		}
		defer b.Close()
		_, err = b.Recv(time.Microsecond)
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("kernel %s: multishot recvmsg comes with Linux 6.0: %w", kernelRelease(), err)
		}
		return err
	})
}

// tryUring calls try with an io_uring, on its own thread.
func tryUring(try func(*Uring) error) (bool, string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	u, err := SetupUring(1)
	if err == nil {
		defer u.Close()
		err = try(u)
	}
	if err != nil {
		return false, UringRefusal(err)
	}
	return true, "io_uring, Linux " + kernelRelease()
}

func kernelRelease() string {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return "unknown" // a probe follows
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// UringRefusal says what err of SetupUring or NewInbox means and what mends it.
func UringRefusal(err error) string {
	disabled, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled") // Linux 6.6
	return uringRefusal(err, strings.TrimSpace(string(disabled)))
}

// uringRefusal is UringRefusal, with the value of kernel.io_uring_disabled.
func uringRefusal(err error, disabled string) string {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return "io_uring is not in this kernel (CONFIG_IO_URING), or a seccomp filter hides it"
	case errors.Is(err, unix.EPERM):
		if disabled != "" && disabled != "0" {
			return "io_uring is denied by the sysctl kernel.io_uring_disabled = " + disabled + "; allow it with: sysctl -w kernel.io_uring_disabled=0"
		}
		return "io_uring is denied by a seccomp filter, as Docker and containerd 2.0 have by default; allow io_uring_setup, io_uring_enter and io_uring_register"
	case errors.Is(err, unix.ENOMEM):
		return "io_uring: no memory within RLIMIT_MEMLOCK; raise it: ulimit -l, or LimitMEMLOCK= in the unit"
	}
	return err.Error()
}

// atLeast reports whether a kernel release such as "6.18.44-fc" is
// major.minor or newer. A release it cannot read counts as newer: a probe
// follows.
func atLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 {
		return true
	}
	return a > major || a == major && b >= minor
}

// addr returns where b lies, which is not on a stack: those move.
func addr(b []byte) uint64 {
	if toHeap != nil {
		toHeap.b = b
	}
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}

// toHeap is always nil. That it might not be makes the compiler put what addr
// is given on the heap, as internal/abi.Escape does.
var toHeap *struct{ b []byte }
