// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A shell is a line of bash, as a user gives it, in a process group of its own.
// It prints into files: what a pipe is read by waits for the last process that
// holds it, and no child of the line is to hold up a test. The whole group is
// killed when the test ends, or when the line does not in time.
type shell struct {
	t        *testing.T
	line     string
	cmd      *exec.Cmd
	out, log string // files: stdout and stderr
	done     chan struct{}
	err      error // once done
}

// startShell starts a line in a folder, in the namespaces of the calling thread
// or in those that a program leads into, which stands before bash.
func startShell(t *testing.T, dir string, env []string, line string, before ...string) *shell {
	t.Helper()
	args := append(before, "bash", "-c", "cd "+dir+" && set -o pipefail && "+line)
	s := &shell{t: t, line: line, cmd: testnet.Daemon(t, args[0], args[1:]...), done: make(chan struct{})}
	s.cmd.Env = env
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	create := func(pattern string) *os.File {
		f, err := os.CreateTemp(dir, pattern)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	out, log := create("out"), create("log")
	defer out.Close()
	defer log.Close()
	s.out, s.log = out.Name(), log.Name()
	s.cmd.Stdout, s.cmd.Stderr = out, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.err = s.cmd.Wait(); close(s.done) }()
	t.Cleanup(func() {
		if t.Failed() && !(s.ended() && s.err == nil) {
			t.Log(s.story())
		}
		s.signal(syscall.SIGKILL)
	})
	return s
}

// signal signals all of the line's processes.
func (s *shell) signal(sig syscall.Signal) { syscall.Kill(-s.cmd.Process.Pid, sig) }

func (s *shell) printed() string { return contents(s.out) }
func (s *shell) said() string    { return contents(s.log) }

func contents(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

// collects says that a collector of the line has started.
func (s *shell) collects() bool { return strings.Contains(s.said(), "collector started") }

func (s *shell) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// story tells what the line printed and which of its processes still run.
func (s *shell) story() string {
	text := s.line + "\nprinted: " + s.printed() + "\nsaid: " + s.said()
	if s.ended() {
		return text + "\nended: " + fmt.Sprint(s.err)
	}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	all, _ := exec.CommandContext(ctx, "ps", "-eww", "-o", "pgid,pid,stat,wchan:20,args").Output()
	for line := range strings.Lines(string(all)) {
		if group, _, _ := strings.Cut(strings.TrimSpace(line), " "); group == strconv.Itoa(s.cmd.Process.Pid) {
			text += "\nruns: " + strings.TrimSpace(line)
		}
	}
	return text
}

// until waits for a condition.
func (s *shell) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(testnet.Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%v, and not yet: %s; of\n%s", testnet.Patience, what, s.line)
		}
	}
}

// ran waits for the end, and returns the line's error.
func (s *shell) ran() error {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(testnet.Patience):
		s.t.Fatalf("%v, and it does not end: %s", testnet.Patience, s.line)
	}
	return s.err
}

// end waits for the end, and wants status 0.
func (s *shell) end() {
	s.t.Helper()
	if err := s.ran(); err != nil {
		s.t.Fatalf("%s: %v", s.line, err)
	}
}
