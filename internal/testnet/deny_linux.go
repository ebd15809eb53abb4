// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Deny has the kernel refuse the system calls of numbers first to last with an
// error, as the seccomp filters of containers do: on the calling thread, which
// ends with the goroutine, and in what that becomes by exec.
func Deny(first, last uint32, with unix.Errno) error {
	runtime.LockOSThread()     // never unlocked: the filter ends with the thread
	prog := []unix.SockFilter{ // of struct seccomp_data, linux/seccomp.h: the number comes first
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 2, K: first},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jt: 1, K: last},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(with)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
	}
	f := &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	return os.NewSyscallError("prctl PR_SET_SECCOMP", unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(f)), 0, 0))
}
