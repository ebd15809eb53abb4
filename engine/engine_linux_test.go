// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// The first failure stops the rest, and is the error that comes back.
func TestFirstFailureStopsAll(t *testing.T) {
	cause := errors.New("the ring broke")
	var stopped atomic.Int32
	err := Run(context.Background(), Place(4, nil), func(ctx context.Context, shard int) error {
		if shard == 2 {
			return cause
		}
		<-ctx.Done()
		stopped.Add(1)
		return nil
	})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "shard 2") || stopped.Load() != 3 {
		t.Errorf("%v, %d stopped", err, stopped.Load())
	}
}

func TestRunEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := atomic.Int32{}
	if err := Run(ctx, Place(3, nil), func(ctx context.Context, _ int) error {
		if n.Add(1) == 3 {
			cancel()
		}
		<-ctx.Done()
		return nil
	}); err != nil || n.Load() != 3 {
		t.Errorf("%v, %d ran", err, n.Load())
	}
	if err := Run(ctx, Place(1, nil), func(ctx context.Context, _ int) error { return nil }); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// A pinned shard runs on its CPU and on no other; unpinned ones on any.
func TestPinned(t *testing.T) {
	cpus, err := CPUs()
	if err != nil || len(cpus) == 0 {
		t.Fatal(cpus, err)
	}
	err = Run(context.Background(), Place(2*len(cpus), cpus), func(_ context.Context, shard int) error {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			return err
		}
		if want := cpus[shard%len(cpus)]; set.Count() != 1 || !set.IsSet(want) {
			t.Errorf("shard %d: %d CPUs, not just %d", shard, set.Count(), want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	after, err := CPUs()
	if err != nil || !slices.Equal(after, cpus) {
		t.Errorf("afterwards this process may use %v, before %v", after, cpus)
	}
}

// A CPU that is not there is an error that names it and those that are.
func TestPinFails(t *testing.T) {
	err := Run(context.Background(), []int{1000}, func(context.Context, int) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "cpu 1000") || !strings.Contains(err.Error(), "this process may use") {
		t.Errorf("%v", err)
	}
}

func TestParseCPUs(t *testing.T) {
	cpus, err := CPUs()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseCPUs(FormatCPUs(cpus)); err != nil || !slices.Equal(got, cpus) {
		t.Errorf("%s: %v, %v", FormatCPUs(cpus), got, err)
	}
	if got := FormatCPUs([]int{0, 1, 2, 5, 7, 8}); got != "0-2,5,7-8" {
		t.Error(got)
	}
	for s, want := range map[string]string{"": "not a CPU", "x": "not a CPU", "1-": "not a CPU", "3-1": "not a CPU", "-1": "not a CPU", "0,": "not a CPU", "0-99999999": "not a CPU", "9999": "CPU 9999 is not there"} {
		if _, err := ParseCPUs(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Near runs on the calling thread, which is tied to the CPU only meanwhile, and
// is what it was before also behind an error; without a CPU it changes nothing.
func TestNear(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cpus, err := CPUs()
	if err != nil {
		t.Fatal(err)
	}
	thread, cause := unix.Gettid(), errors.New("no memory")
	for _, cpu := range append([]int{Unpinned}, cpus...) {
		want := []int{cpu}
		if cpu == Unpinned {
			want = cpus
		}
		for _, result := range []error{nil, cause} {
			ran := false
			err := Near(cpu, func() error {
				ran = true
				if on, err := CPUs(); err != nil || !slices.Equal(on, want) || unix.Gettid() != thread {
					t.Errorf("CPU %d: thread %d of %d may run on %v: %v", cpu, unix.Gettid(), thread, on, err)
				}
				return result
			})
			if !ran || !errors.Is(err, result) {
				t.Errorf("CPU %d: ran %v, %v, want %v", cpu, ran, err, result)
			}
			if on, err := CPUs(); err != nil || !slices.Equal(on, cpus) {
				t.Errorf("behind CPU %d the thread may run on %v, before on %v: %v", cpu, on, cpus, err)
			}
		}
	}
	if err := Near(1023, func() error { t.Error("ran on a CPU that is not there"); return nil }); err == nil || !strings.Contains(err.Error(), "cpu 1023") {
		t.Errorf("%v", err)
	}
}
