// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// collections returns how many there were.
func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumGC
}

var kept [][]byte

// Garbage of less than the limit is not collected; a heap in use that is larger
// than the limit raises it, so that collecting ends.
func TestSettle(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	procs := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(procs)
	percent := debug.SetGCPercent(100)
	defer debug.SetGCPercent(percent)
	debug.FreeOSMemory() // what a test before had in use counts until it is given back
	stop := Settle(procs + 3)
	if n := runtime.GOMAXPROCS(0); n != procs+4 {
		t.Errorf("GOMAXPROCS %d for %d shards", n, procs+3)
	}
	garbage := func(n int) {
		for range n {
			kept = append(kept[:0], make([]byte, 1<<20))
		}
	}
	before := collections()
	garbage(16) // four times what would start a collection by default
	if n := collections() - before; n != 0 {
		t.Errorf("%d collections for 16 MiB", n)
	}
	kept = nil
	for range 128 {
		kept = append(kept, make([]byte, 1<<20)) // in use, over the limit
	}
	// One has begun by now; it may be behind the memory that is taken meanwhile.
	testnet.Eventually(t, "a collection at the limit", func() bool { return collections() != before })
	runtime.GC() // the last word on what is in use
	for deadline := time.Now().Add(time.Minute); debug.SetMemoryLimit(-1) < 256<<20; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the limit stays at %d with %d in use", debug.SetMemoryLimit(-1), liveHeap())
		}
	}
	before = collections()
	for range 32 {
		_ = append([]byte(nil), make([]byte, 1<<20)...)
	}
	if n := collections() - before; n > 1 {
		t.Errorf("%d collections for 32 MiB under the raised limit", n)
	}
	kept = nil
	stop()
	if p := debug.SetGCPercent(100); p != 100 {
		t.Errorf("afterwards GOGC is %d, before 100", p)
	}
}

// The environment's word holds.
func TestSettleLeavesTheUsersChoice(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv("GOGC", "")
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv(name, "100")
		limit := debug.SetMemoryLimit(-1)
		stop := Settle(1)
		if now := debug.SetMemoryLimit(-1); now != limit {
			t.Errorf("%s set, and the limit became %d", name, now)
		}
		stop()
	}
}
