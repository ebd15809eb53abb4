// SPDX-License-Identifier: Apache-2.0

// Init is the first process of the machine that ../run.sh emulates. It runs
// one program, says how that ended, and switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// tcsbrk with the argument 1 is tcdrain(3): TCSBRK of asm-generic/ioctls.h.
const tcsbrk = 0x5409

// noScan keeps Go's garbage collector from its AVX-512 code, which goes wrong
// under bochs 2.7 ("found pointer to free object", whatever the program does).
const noScan = "GODEBUG=cpu.avx512dq=off"

func main() {
	status, err := run()
	if err != nil {
		fmt.Println("emulated:", err)
	}
	fmt.Printf("\nemulated: exit status %d\n", status) // run.sh looks for this line
	// What is still in the port's buffer would be lost.
	syscall.Syscall(syscall.SYS_IOCTL, os.Stdout.Fd(), tcsbrk, 1)
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("emulated:", err)
	}
}

// run starts /program with the arguments and environment in the files beside
// it, each ended by a zero byte.
func run() (status int, err error) {
	for _, fs := range []string{"proc", "devtmpfs", "tmpfs"} {
		dir := map[string]string{"proc": "/proc", "devtmpfs": "/dev", "tmpfs": "/tmp"}[fs]
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 1, err
		}
		if err := syscall.Mount(fs, dir, fs, 0, ""); err != nil {
			return 1, fmt.Errorf("%s: %w", dir, err)
		}
	}
	args, err := list("/args")
	if err != nil {
		return 1, err
	}
	env, err := list("/env")
	if err != nil {
		return 1, err
	}
	c := exec.Command("/program", args...)
	c.Dir, c.Env, c.Stdout, c.Stderr = "/here", append([]string{"HOME=/tmp", noScan}, env...), os.Stdout, os.Stderr
	err = c.Run()
	if c.ProcessState == nil {
		return 1, err
	}
	if status = c.ProcessState.ExitCode(); status < 0 { // a signal
		return 1, err
	}
	return status, nil
}

func list(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
}
