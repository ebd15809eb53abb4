// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// apartChild is set for the process of TestApartLeavesTheFirstThread.
const apartChild = "NTAP_TEST_APART"

func TestMain(m *testing.M) {
	if os.Getenv(apartChild) != "" {
		if err := apartMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What is done apart is never done on the process's first thread. It used to be
// at times, and then that thread, which Go parks, stayed in the namespace of a
// container that had ended, so that it and its interfaces never went.
func TestApartLeavesTheFirstThread(t *testing.T) {
	cmd := testnet.Command(t, os.Args[0])
	cmd.Env = append(os.Environ(), apartChild+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// apartMain runs on the first thread. With one processor, what it starts when
// it waits runs there as well: where Apart begins.
func apartMain() error {
	runtime.GOMAXPROCS(1)
	runtime.UnlockOSThread() // of testnet
	first := unix.Getpid()
	if unix.Gettid() != first {
		return fmt.Errorf("thread %d of process %d is not the first", unix.Gettid(), first)
	}
	began, here := make(chan int), 0
	for range 100 {
		go func() { began <- unix.Gettid() }()
		if <-began == first {
			here++
		}
	}
	if here == 0 {
		return errors.New("no goroutine began on the first thread: this test shows nothing")
	}
	seen := map[int]bool{}
	for range 100 {
		if err := Apart(func() error {
			seen[unix.Gettid()] = true
			return nil
		}); err != nil {
			return err
		}
	}
	if seen[first] {
		return fmt.Errorf("on the first thread, of %d threads", len(seen))
	}
	if len(seen) < 100 {
		return fmt.Errorf("100 times on %d threads: they did not end", len(seen))
	}
	return nil
}
