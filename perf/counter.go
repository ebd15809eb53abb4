// SPDX-License-Identifier: Apache-2.0

// Package perf holds what the other packages measure themselves with.
package perf

import "sync/atomic"

// A Counter is a 64-bit count with one writer and any number of readers.
//
// Having one writer is what makes Add cheap: a load and a store, and no addition that
// has to be one step. It is not free: on amd64 an atomic store is an XCHG, which waits
// until what was written before is out of the store buffer. What is counted for each frame is summed
// up first, and added once a batch or when the account is looked at. Counters of different writers belong on
// different cache lines; put a Pad between them.
type Counter struct {
	n atomic.Uint64
}

// Add adds n. Only the goroutine that owns the counter may call it.
func (c *Counter) Add(n uint64) { c.n.Store(c.n.Load() + n) }

// Set makes the count n: for counts that are kept elsewhere and copied here.
// Only the goroutine that owns the counter may call it.
func (c *Counter) Set(n uint64) { c.n.Store(n) }

// Load returns the count. Any goroutine may call it.
func (c *Counter) Load() uint64 { return c.n.Load() }

// A Pad keeps what stands before it and what stands after it on different
// cache lines, also where the hardware prefetches lines in pairs.
type Pad [128]byte
