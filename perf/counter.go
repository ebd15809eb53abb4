// SPDX-License-Identifier: Apache-2.0

// Package perf holds what the other packages measure themselves with.
package perf

import "sync/atomic"

// A Counter is a 64-bit count with one writer and any number of readers.
//
// Having one writer is what makes Add cheap: a plain load and store, without
// the bus lock of an atomic addition. Counters of different writers belong on
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
