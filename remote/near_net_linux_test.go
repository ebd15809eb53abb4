// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"testing"

	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/internal/testnet"
)

// A shard's ring and the memory that it seals in are mapped by a thread that is
// tied to the shard's CPU, so that they come from its NUMA node. All used to be
// mapped by the thread that started the remote, wherever that ran.
func TestMemoryIsNearItsShard(t *testing.T) {
	iface, _ := testnet.Veth(t)
	cpus, err := engine.CPUs()
	if err != nil {
		t.Fatal(err)
	}
	const ringBytes = 1 << 20
	workers := 2 * len(cpus)
	tp := testTap(t, Config{Interfaces: []string{iface}, Workers: workers, CPUs: cpus, RingBytes: ringBytes})
	watch, before := testnet.WatchNear(t, &near), testnet.MappedSockets(t)
	shards := openTap(t, tp)
	for i, s := range shards {
		if cpu, err := watch.CPU(s.out.Slot()); err != nil || cpu != engine.Of(cpus, i) {
			t.Errorf("shard %d seals in memory that was mapped on CPU %d, not %d: %v", i, cpu, engine.Of(cpus, i), err)
		}
	}
	// The same when rings are opened anew, which the first shard that asks does for all.
	again, _, err := shards[0].capture.reopen(0, 0)
	if err != nil || again == nil {
		t.Fatal(err)
	}
	for _, s := range shards[1:] {
		s.ring.Close()
	}
	rings, err := watch.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	for _, cpu := range cpus {
		if want := 2 * ringBytes * workers / len(cpus); rings[cpu] != want {
			t.Errorf("rings of %d bytes were mapped on CPU %d, not %d: %v", rings[cpu], cpu, want, rings)
		}
	}
	if now := testnet.MappedSockets(t) - before; now < ringBytes*workers {
		t.Errorf("%d bytes of rings are mapped in all, not %d", now, ringBytes*workers)
	}
	if now, err := engine.CPUs(); err != nil || len(now) != len(cpus) {
		t.Errorf("the thread that opened them may run on %v, before on %v: %v", now, cpus, err)
	}
}
