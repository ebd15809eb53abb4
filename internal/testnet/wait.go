// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Patience is how long tests wait for anything: far longer than it takes, for
// the machine may be slow and shared, and far shorter than go test's -timeout,
// which ends all tests and does not say what this one waits for.
const Patience = 2 * time.Minute

var patience = Patience // which a test of these shortens

// Command is exec.Command with an end: a program that runs for longer than
// Patience is killed, and fails the test by its command line; one that runs when
// the test ends is killed. What its children hold of its pipes is waited for ten
// seconds more. With Setpgid they are killed, too.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	return bounded(ctx, cancel, t, name, args)
}

// Daemon is Command for a program that is to run until it is told to end, at the
// latest by the end of the test: who waits for it, or for what it does, says how
// long.
func Daemon(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	return bounded(ctx, cancel, t, name, args)
}

func bounded(ctx context.Context, cancel func(), t testing.TB, name string, args []string) *exec.Cmd {
	var mu sync.Mutex
	ended := false // the test: nothing may be said any more
	t.Cleanup(func() {
		mu.Lock()
		ended = true
		mu.Unlock()
		cancel()
	})
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error {
		mu.Lock()
		defer mu.Unlock()
		if !ended && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("it did not end in %v, and is killed: %s", patience, strings.Join(cmd.Args, " "))
		}
		if cmd.SysProcAttr != nil && cmd.SysProcAttr.Setpgid {
			return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return cmd.Process.Kill()
	}
	return cmd
}

// output is Command and Output for what has no test to fail.
func output(name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, fmt.Errorf("it did not end in %v", patience))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w", name, errors.Join(err, context.Cause(ctx)))
	}
	return out, err
}

// Receive returns what comes from a channel, of whom what tells; the zero value
// if it is closed. Without either for Patience it fails the test, and says what
// all goroutines do.
func Receive[T any](t testing.TB, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatalf("%v, and not yet: %s\n%s", patience, what, stacks())
	}
	return v
}

// Await waits until wait, as that of a sync.WaitGroup or an exec.Cmd, returns, as
// Receive does for a channel.
func Await(t testing.TB, what string, wait func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { wait(); close(done) }()
	Receive(t, what, done)
}

// Eventually waits for a condition.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%v, and not yet: %s", patience, what)
		}
	}
}

// Main is the TestMain of a package whose tests leave no goroutine behind. Those that
// are about to end are waited for, longer than goleak.VerifyTestMain does: for less
// than half a second.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		err := goleak.Find()
		for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "after the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// stacks returns what all goroutines do.
func stacks() []byte {
	b := make([]byte, 1<<20)
	return b[:runtime.Stack(b, true)]
}

// Bound has what waits for a connection, a pipe or a FIFO fail after Patience.
func Bound(t testing.TB, c interface{ SetDeadline(time.Time) error }) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}
