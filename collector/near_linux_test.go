// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// The memory in which a worker receives and joins frames is mapped by a thread
// that is tied to the worker's CPU, so that it comes from its NUMA node. It used
// to be mapped by the thread that started the collector, wherever that ran.
func TestMemoryIsNearItsWorker(t *testing.T) {
	cpus, err := engine.CPUs()
	if err != nil {
		t.Fatal(err)
	}
	watch := testnet.WatchNear(t, &near)
	workers := 2 * len(cpus)
	c, err := open(context.Background(), Config{
		Listen: "127.0.0.1:0", Keys: testKeys(t), Workers: workers, CPUs: cpus, ReceiveBuffer: 1 << 16,
		Write: filepath.Join(t.TempDir(), "out.pcapng"), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	defer c.outs.close()
	on := func(what string, worker int, mem []byte) {
		if cpu, err := watch.CPU(mem); err != nil || cpu != engine.Of(cpus, worker) {
			t.Errorf("worker %d %s in memory that was mapped on CPU %d, not %d: %v", worker, what, cpu, engine.Of(cpus, worker), err)
		}
	}
	if len(c.in) != 2*workers {
		t.Fatalf("%d sockets of %d workers", len(c.in), workers)
	}
	for i := range workers {
		on("receives", i, c.in[i].Memory())
		on("receives what strangers send", i, c.in[workers+i].Memory())
		on("joins frames", i, c.memory[i].Bytes())
	}
	// What is cut lies outside Go's heap, too: io_uring reads it there.
	for i, w := range c.workers {
		cut := 0
		w.cut.Finish(synthetic{payload: 5000, gso: 1000}.record(), func(r *proto.Record) {
			cut++
			if !within(r.Data, w.memory.Bytes(0)) {
				t.Errorf("worker %d cuts frames into other memory than its arena", i)
			}
		}, nil)
		if cut != 5 {
			t.Errorf("worker %d cut %d frames of 5", i, cut)
		}
	}
}

// within says whether a lies in b.
func within(a, b []byte) bool {
	from, at := uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(unsafe.SliceData(a)))
	return len(a) > 0 && len(b) > 0 && at >= from && at+uintptr(len(a)) <= from+uintptr(len(b))
}

// Frames that are given a header for the TAP lie outside Go's heap until the
// kernel has read them.
func TestFramedIsOffHeap(t *testing.T) {
	for _, io := range []string{ioUring, ioMmsg} {
		s := &tapSink{io: io}
		packet := []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
		frame := s.framed(&proto.Record{LinkType: proto.LinkTypeRaw, Data: packet, OrigLen: 20})
		if len(frame) != 34 || !bytes.Equal(frame[14:], packet) || !within(frame, s.memory.Bytes(0)) {
			t.Errorf("%s: %x, within the arena %v", io, frame, within(frame, s.memory.Bytes(0)))
		}
		if err := s.Close(); err != nil || s.raw != nil {
			t.Errorf("%s: %v, memory still in use %v", io, err, s.raw != nil)
		}
	}
}
