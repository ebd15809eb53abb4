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
// here and now, and if not why.
func UringSupported() (bool, Refusal) {
	if why := tooOld(kernelRelease(), 6, 4, "io_uring writes to a TAP without waiting"); why != nil {
		// tun_chr_open sets FMODE_NOWAIT since 6.4; before, every write is
		// handed to a kernel worker thread.
		return false, *why
	}
	return tryUring(func(u *Uring) error {
		if !u.Probe(OpWrite) {
			return errors.New("Linux " + kernelRelease() + ": io_uring has no IORING_OP_WRITE")
		}
		return nil
	})
}

// tooOld refuses what kernels from major.minor on can.
func tooOld(release string, major, minor int, what string) *Refusal {
	if atLeast(release, major, minor) {
		return nil
	}
	return &Refusal{
		Cause: fmt.Sprintf("Linux %s: %s only from Linux %d.%d on", release, what, major, minor),
		Mend:  fmt.Sprintf("a kernel of %d.%d or newer", major, minor),
	}
}

// UringSends reports the same of sending datagrams.
func UringSends() (bool, Refusal) {
	return tryUring(func(u *Uring) error {
		if !u.Probe(OpSendMsg) {
			return errors.New("Linux " + kernelRelease() + ": io_uring has no IORING_OP_SENDMSG")
		}
		return nil
	})
}

// UringSendsZeroCopy reports the same of sending them without a copy, from
// memory of n bytes.
func UringSendsZeroCopy(n int) (bool, Refusal) {
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
			return &oldKernel{"io_uring sends without a copy, and says whether it did,", "6.2", unix.Errno(-res)}
		}
		return nil
	})
}

// UringReceives reports the same of receiving them.
func UringReceives() (bool, Refusal) {
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
			err = &oldKernel{"io_uring receives many messages by one request", "6.0", err}
		}
		return err
	})
}

// tryUring calls try with an io_uring, on its own thread.
func tryUring(try func(*Uring) error) (bool, Refusal) {
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
	return true, Refusal{}
}

func kernelRelease() string {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return "unknown" // a probe follows
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// UringRefusal says what err of SetupUring or NewInbox means and what mends it.
func UringRefusal(err error) Refusal {
	disabled, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled") // Linux 6.6
	return uringRefusal(err, strings.TrimSpace(string(disabled)))
}

// uringRefusal is UringRefusal, with the value of kernel.io_uring_disabled.
func uringRefusal(err error, disabled string) Refusal {
	const seccomp = "a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
	var old *oldKernel
	switch {
	case errors.As(err, &old):
		return Refusal{old.Error(), fmt.Sprintf("a kernel of %s or newer", old.from)}
	case errors.Is(err, unix.ENOSYS):
		return Refusal{"io_uring is not in this kernel (CONFIG_IO_URING), or a seccomp filter hides it", "a kernel with it; in a container: " + seccomp}
	case errors.Is(err, unix.EPERM):
		if disabled != "" && disabled != "0" {
			return Refusal{"io_uring is denied by the sysctl kernel.io_uring_disabled = " + disabled, "allow it with: sysctl -w kernel.io_uring_disabled=0"}
		}
		return Refusal{"io_uring is denied by a seccomp filter, as Docker and containerd 2.0 have by default", seccomp}
	case errors.Is(err, unix.ENOMEM):
		return Refusal{"io_uring: no memory within RLIMIT_MEMLOCK", "raise it: ulimit -l, or LimitMEMLOCK= in the unit"}
	}
	return Refusal{Cause: err.Error()}
}

// An oldKernel is the error of what kernels from a release on can.
type oldKernel struct {
	what, from string
	err        error
}

func (o *oldKernel) Error() string {
	return fmt.Sprintf("kernel %s: %s from Linux %s on: %v", kernelRelease(), o.what, o.from, o.err)
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
