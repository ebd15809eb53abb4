// SPDX-License-Identifier: Apache-2.0

// Package engine runs shards: one goroutine, one thread and, if wanted, one
// CPU each. It starts them, waits for them, and stops all when one fails.
package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// A Worker is the body of a shard. It returns nil when ctx is done, and an
// error when it fails.
type Worker func(ctx context.Context, shard int) error

// Unpinned in the place of a CPU leaves the choice to the kernel.
const Unpinned = -1

// Run runs one Worker for each element of cpus, pinned to that CPU, and waits
// for all of them. The first to fail stops the rest, and its error is the one
// returned.
func Run(ctx context.Context, cpus []int, work Worker) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	for shard, cpu := range cpus {
		wg.Go(func() {
			runtime.LockOSThread() // kept: a pinned thread ends with its shard
			err := pin(cpu)
			if err == nil {
				err = work(ctx, shard)
			}
			if err != nil {
				once.Do(func() { first = fmt.Errorf("engine: shard %d: %w", shard, err) })
				stop()
			}
		})
	}
	wg.Wait()
	return first
}

// Place returns a CPU for each of n shards, see Of.
func Place(n int, cpus []int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = Of(cpus, i)
	}
	return out
}

// Of returns the CPU of a shard: those of cpus in turn, or Unpinned if there
// are none.
func Of(cpus []int, shard int) int {
	if len(cpus) == 0 {
		return Unpinned
	}
	return cpus[shard%len(cpus)]
}

// Near runs do on the calling thread, in its network namespace, while that
// thread is tied to a CPU. What do maps and fills, or has the kernel allocate,
// comes from that CPU's NUMA node as long as it has some: the kernel takes
// memory where the thread runs that first touches it, unless the process has a
// policy of its own (set_mempolicy(2), numactl), which then holds. Unpinned
// leaves the thread as it is.
func Near(cpu int, do func() error) error {
	if cpu == Unpinned {
		return do()
	}
	runtime.LockOSThread() // so that no thread is born of it with the same mask
	defer runtime.UnlockOSThread()
	back, err := pinned(cpu)
	if err != nil {
		return fmt.Errorf("engine: memory near a shard: %w", err)
	}
	err = do()
	if e := back(); e != nil {
		err = errors.Join(err, fmt.Errorf("engine: memory near a shard: %w", e))
	}
	return err
}
