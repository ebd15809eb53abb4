// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A said is a test that keeps what fails it.
type said struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (s *said) Helper()          {}
func (s *said) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *said) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, fmt.Sprintf(format, args...))
}

func (s *said) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

func (s *said) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprint(args...)) }

// run runs a part of a test to its end, and returns what failed it.
func (s *said) run(f func(t testing.TB)) string {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, c := range s.cleanups {
				c()
			}
		}()
		f(s)
	}()
	<-done
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.failures, "\n")
}

// What does not end, or come, or become true fails the test by its name in the
// time that tests have, and is killed. Such a test used to hang until go test
// ended all of them.
func TestWaitsAreBounded(t *testing.T) {
	RequireTool(t, "sleep", "sh")
	patience = 3 * time.Second // which begins before a program starts: one that it is over for is not killed
	defer func() { patience = Patience }()
	never := make(chan int)
	var all sync.WaitGroup
	for want, f := range map[string]func(t testing.TB){
		"and is killed: sleep 1000": func(t testing.TB) { Command(t, "sleep", "1000").Run() },
		"and is killed: sh -c sleep 1001 | cat": func(t testing.TB) {
			c := Command(t, "sh", "-c", "sleep 1001 | cat")
			c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			c.Output() // which waits for cat, too
		},
		"not yet: a number\ngoroutine ": func(t testing.TB) { Receive(t, "a number", never) },
		"not yet: the end\ngoroutine ":  func(t testing.TB) { Await(t, "the end", func() { <-never }) },
		"not yet: the truth":            func(t testing.TB) { Eventually(t, "the truth", func() bool { return false }) },
		"i/o timeout": func(t testing.TB) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			Bound(t, r)
			if _, err := r.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		all.Go(func() {
			if got := new(said).run(f); !strings.Contains(got, want) {
				t.Errorf("want a failure with %q, got %.300q", want, got)
			}
		})
	}
	if _, err := output("sleep", "1002"); err == nil || !strings.Contains(err.Error(), "it did not end in") {
		t.Error(err)
	}
	all.Wait()
}

// What ends in time fails nothing; a daemon is killed with its test, and fails
// nothing by that.
func TestWaitsEnd(t *testing.T) {
	RequireTool(t, "sleep", "true")
	var daemon interface{ Wait() error }
	if got := new(said).run(func(t testing.TB) {
		if err := Command(t, "true").Run(); err != nil {
			t.Fatal(err)
		}
		d := Daemon(t, "sleep", "1000")
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		daemon = d
		some := make(chan int, 1)
		some <- 7
		if n := Receive(t, "a number", some); n != 7 {
			t.Errorf("%d", n)
		}
		Await(t, "the end", func() {})
		Eventually(t, "the truth", func() bool { return true })
	}); got != "" {
		t.Error(got)
	}
	Await(t, "the end of the daemon", func() { daemon.Wait() })
}
