// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Apart runs do on a thread of its own, which ends with it: what do changes of
// its thread, as the namespaces, changes nothing else and is held by nothing
// else. That is never the process's first thread: Go parks that one instead of
// ending it (runtime.mexit), so it would stay where do took it, and keep a
// namespace until the process ends.
func Apart(do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			result <- Apart(do) // on another one: this one is taken
			return
		}
		result <- do()
	}()
	return <-result
}

// Inside runs do in the network namespace that a file stands for, as
// /proc/PID/ns/net does: sockets that it opens stay there, wherever they are
// used. It is another thread, which ends with the call. An empty path is the
// namespace of the caller.
func Inside(path string, do func() error) error {
	if path == "" {
		return do()
	}
	return Apart(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("ring: network namespace %s: %w", path, os.NewSyscallError("open", err))
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("ring: network namespace %s: to capture from outside it needs the capability CAP_SYS_ADMIN: run as root, or run ntap inside that namespace: %w", path, os.NewSyscallError("setns", err))
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("ring: %s is not a network namespace: want a file as /run/netns/NAME or /proc/PID/ns/net: %w", path, os.NewSyscallError("setns", err))
		case err != nil:
			return fmt.Errorf("ring: network namespace %s: %w", path, os.NewSyscallError("setns", err))
		}
		return do()
	})
}
