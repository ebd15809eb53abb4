// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Chosen.
const (
	// leastLimit is how much memory of Go's the process has before a
	// collection begins, bytes. Rings, socket buffers and arenas are not of it.
	leastLimit = 48 << 20
	// limitEvery is the time between looks whether that is enough.
	limitEvery = time.Second
)

// Settle makes Go's runtime fit the process to n shards, until stop is called.
//
// Shards allocate nothing, and what is done by the clock (reports, announces,
// the state file) so little that a collection every two minutes, which the
// runtime makes even where there is nothing to collect, would be most of the
// work. So the collector of garbage begins only when memory reaches a limit;
// and the limit follows what is in use, so that a process with many taps is not
// kept collecting. GOGC or GOMEMLIMIT in the environment are the user's choice,
// and leave all as it is.
//
// There is one more P than shards, so that housekeeping never waits until a
// shard is preempted: the kernel finds a CPU for it.
func Settle(n int) (stop func()) {
	if n >= runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(n + 1)
	}
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(leastLimit)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(limitEvery)
		defer tick.Stop()
		now := int64(leastLimit)
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			if want := limitFor(liveHeap()); want != now {
				now = want
				debug.SetMemoryLimit(now)
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// liveHeap returns the bytes that the last collection found in use.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// limitFor returns the limit for a live heap: as much again may be garbage,
// and half of the least limit is for stacks and the runtime itself.
func limitFor(live uint64) int64 {
	return int64(max(leastLimit, 2*live+leastLimit/2))
}
