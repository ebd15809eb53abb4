// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// One operation is one frame, flushed in batches as recvmmsg brings them. Files
// are in NTAP_BENCH_DIR, or in the folder for temporary files. Beside the time of
// the clock, in which the worker waits for the disk, stands the CPU time, user and
// system, of the worker's thread and of the others, of which the file's writer is
// the only one with work. In the paced ones frames come by the clock, 10 Gbit/s of
// them through the page cache and 2 past it, so that no more waits to be written
// than does in use.
func BenchmarkPcapngWrite(b *testing.B) {
	for _, size := range []int{60, 300, 1514} {
		for _, where := range []string{"null", "shm", "cached", "direct", "paced", "paced-direct"} {
			b.Run(fmt.Sprintf("frame=%d/%s", size, where), func(b *testing.B) { benchmarkPcapngWrite(b, size, where) })
		}
	}
}

func benchmarkPcapngWrite(b *testing.B, size int, where string) {
	base := os.Getenv("NTAP_BENCH_DIR")
	if where == "shm" {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "ntap")
	if err != nil {
		testnet.Missing(b, err.Error())
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "file")
	if where == "null" {
		path = os.DevNull
	}
	f, err := newPcapngFile(pcapngConfig{Path: path, Direct: where == "direct" || where == "paced-direct", Late: new(lateCounts)})
	if err != nil {
		testnet.Missing(b, err.Error())
	}
	batch, pace := 2000, time.Duration(0)
	switch where {
	case "paced":
		batch, pace = 10e9/8/size/1000, time.Millisecond
	case "paced-direct":
		batch, pace = 10e9/8/size/1000, 5*time.Millisecond
	}
	s, o := f.sink(nil), origin(1, nil)
	r := &proto.Record{Data: make([]byte, size), OrigLen: uint32(size), LinkType: 1, Direction: proto.Inbound, Time: time.Hour.Nanoseconds()}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 2 * queueSize / (size + 34) { // all buffers are in use once
		s.Write(o, r)
	}
	s.Flush()
	allWritten(b, f)
	s.counts = SinkCounts{}
	worker, all := cpuTime(b, unix.RUSAGE_THREAD), cpuTime(b, unix.RUSAGE_SELF)
	n, start := 0, time.Now()
	for b.Loop() {
		s.Write(o, r)
		if n++; n%batch != 0 {
			continue
		}
		s.Flush()
		switch wait := time.Duration(n/batch)*pace - time.Since(start); {
		case wait > 0:
			at := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&at, nil)
		case pace == 0 && n%(10*batch) == 0: // a disk that is slower drops none here
			allWritten(b, f)
		}
	}
	s.Close()
	f.Close()
	worker, all = cpuTime(b, unix.RUSAGE_THREAD)-worker, cpuTime(b, unix.RUSAGE_SELF)-all
	b.ReportMetric(float64(worker.Nanoseconds())/float64(n), "worker-ns/op")
	b.ReportMetric(float64((all-worker).Nanoseconds())/float64(n), "writer-ns/op")
	b.ReportMetric(float64(s.Counts().Full.Load())/float64(n), "dropped/op")
}

// cpuTime returns the user and system time of who (getrusage(2)).
func cpuTime(b *testing.B, who int) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
