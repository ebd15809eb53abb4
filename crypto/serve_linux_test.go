// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkServe is the Go side of benchmarks/crypto, which starts this test
// binary once for each implementation and asks in turn. NTAP_SERVE says what to
// measure: the name of a kernel or of a suite; or "list" for the names of what
// there is. A request is one line, "seal BYTES TIMES" or "open BYTES TIMES"; the
// answer "measured NANOSECONDS CYCLES" is for all the times together, after a
// short run that is not counted. CYCLES, in user mode, are 0 where the kernel
// does not count them.
func BenchmarkServe(b *testing.B) {
	name := os.Getenv("NTAP_SERVE")
	if name == "" {
		b.Skip("a part of make bench-crypto")
	}
	if name == "list" {
		for i := range kernels {
			if kernels[i].usable() {
				fmt.Println("measured kernel", kernels[i].name, kernels[i].what)
			}
		}
		for _, s := range suites {
			if s != AES256GCM {
				fmt.Println("measured suite", s)
			}
		}
		k, err := chosen()
		if err != nil {
			b.Fatal(err)
		}
		fmt.Println("measured chosen", k.name)
		return
	}
	aead, err := served(name)
	if err != nil {
		b.Fatal(err)
	}
	runtime.LockOSThread() // the counter is the thread's
	m, cycles := newMeter(aead), newCounter()
	fmt.Println("measured is", name)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var op string
		var size, times int
		if _, err := fmt.Sscan(lines.Text(), &op, &size, &times); err != nil || size > maxServed {
			b.Fatalf("%q: %v", lines.Text(), err)
		}
		do := m.prepare(op, size)
		do(times/4 + 1)
		c, t := cycles.read(), time.Now()
		do(times)
		fmt.Println("measured", time.Since(t).Nanoseconds(), cycles.read()-c)
	}
}

// A counter counts cycles in user mode of the thread that made it.
type counter int

func newCounter() counter {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Size: unix.PERF_ATTR_SIZE_VER0, Config: unix.PERF_COUNT_HW_CPU_CYCLES,
		Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}, 0, -1, -1, 0)
	if err != nil {
		fd = -1
	}
	return counter(fd)
}

// read returns the cycles so far, or 0.
func (c counter) read() uint64 {
	var b [8]byte
	if n, err := unix.Read(int(c), b[:]); n != len(b) || err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(b[:])
}
