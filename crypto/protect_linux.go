// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bits of a capability set, linux/capability.h.
const (
	capIPCLock     = 14
	capSysResource = 24
)

// Protect keeps what is in this process's memory, keys among it, from outliving
// it, and from other processes of its user: no core dumps, no debuggers
// (PR_SET_DUMPABLE; those of root see all), and, where the process has the
// right, no swapping out. It belongs before the first key.
//
// unlocked says why memory may still be swapped out; nil if it may not.
func Protect() (unlocked, err error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, fmt.Errorf("crypto: core dumps cannot be turned off: %w", os.NewSyscallError("setrlimit RLIMIT_CORE", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("crypto: core dumps cannot be turned off: %w", os.NewSyscallError("prctl PR_SET_DUMPABLE", err))
	}
	if err := CanLock(); err != nil {
		return err, nil
	}
	// All memory, since Go leaves copies of keys where it likes. Pages are
	// locked when they are first used, so that what is only reserved stays so.
	// Rings are the kernel's memory, and never swapped. The limit is lifted so
	// that the right may be given up later: who gives up CAP_IPC_LOCK where that
	// did not go has to call munlockall first, or allocations fail.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("crypto: %w", os.NewSyscallError("mlockall", err)), nil
	}
	return nil, nil
}

// CanLock says why this process may not lock all of its memory; nil if it may:
// it has no limit (RLIMIT_MEMLOCK), or the right to lift it or to go beyond
// (CAP_SYS_RESOURCE, CAP_IPC_LOCK). Under a limit, allocations over it would
// fail later, so that is not tried.
func CanLock() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return fmt.Errorf("crypto: %w", os.NewSyscallError("getrlimit RLIMIT_MEMLOCK", err))
	}
	if l.Max == unix.RLIM_INFINITY || capable(capIPCLock) || capable(capSysResource) {
		return nil
	}
	return fmt.Errorf("crypto: memory cannot be locked: RLIMIT_MEMLOCK is %d bytes, and CAP_IPC_LOCK is missing", l.Cur)
}

// capable says whether the effective set of this thread has a capability.
func capable(bit uint) bool {
	var sets [2]unix.CapUserData // _LINUX_CAPABILITY_U32S_3
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])
	return err == nil && sets[bit/32].Effective>>(bit%32)&1 == 1
}

// lockPages locks the memory that b lies in, if the process may lock that much:
// what is done for a key where not all memory can be locked.
func lockPages(b []byte) error {
	if len(b) == 0 {
		return errors.New("crypto: nothing to lock")
	}
	page := uintptr(os.Getpagesize())
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	from := at &^ (page - 1)
	n := at + uintptr(len(b)) - from
	_, _, e := unix.Syscall(unix.SYS_MLOCK, from, n, 0)
	if e != 0 {
		return fmt.Errorf("crypto: %w", os.NewSyscallError("mlock", e))
	}
	return nil
}
