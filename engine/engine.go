// SPDX-License-Identifier: Apache-2.0

// Package engine runs shards: one goroutine, one thread and, if wanted, one
// CPU each. It starts them, waits for them, and stops all when one fails.
package engine

import (
	"context"
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

// Place returns a CPU for each of n shards: those of cpus in turn, or Unpinned
// if there are none.
func Place(n int, cpus []int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = Unpinned
		if len(cpus) > 0 {
			out[i] = cpus[i%len(cpus)]
		}
	}
	return out
}
