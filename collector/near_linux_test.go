// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/internal/testnet"
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
}
