// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"maps"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Names of fanouts are read as they are written, and no others.
func TestParseFanout(t *testing.T) {
	for _, f := range []Fanout{FanoutHash, FanoutCPU, FanoutQueue} {
		if got, err := ParseFanout(f.String()); got != f || err != nil {
			t.Errorf("%v: %v, %v", f, got, err)
		}
	}
	for _, name := range []string{"", "HASH", "lb", "rollover"} {
		if _, err := ParseFanout(name); err == nil || !strings.Contains(err.Error(), "hash, cpu or qm") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// By CPU, a frame is in the ring of the CPU that handled it, and in no other.
func TestFanoutByCPU(t *testing.T) {
	iface, peer := testnet.Veth(t) // received where it is sent
	cfg := plenty(iface)
	cfg.Fanout = FanoutCPU
	rings, err := OpenFanout(cfg, 2)
	if err != nil {
		t.Fatal(err)
	}
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	want, sent := [2]int{}, 0
	const each = 100
	for cpu := range 1024 {
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		testnet.SendFrom(t, peer, sent, each, 100)
		want[cpu%2] += each
		sent += each
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	counted(t, uint64(sent), rings...)
	var got [2]int
	seen := map[int]int{}
	for m, r := range rings {
		defer r.Close()
		got[m] = rest(t, r, func(f Frame) {
			n, _ := testnet.Number(f.Data)
			seen[n]++
		})
	}
	if got != want || len(seen) != sent {
		t.Errorf("frames by ring %v, want %v; %d different ones of %d", got, want, len(seen), sent)
	}
}

// By queue, the frames of a queue are in one ring, and the queues in different
// ones.
func TestFanoutByQueue(t *testing.T) {
	testnet.Namespace(t)
	testnet.Run(t, "ip link add qa numtxqueues 2 numrxqueues 2 type veth peer name qb numtxqueues 2 numrxqueues 2")
	for _, name := range []string{"qa", "qb"} {
		testnet.Run(t, "ip link set "+name+" addrgenmode none")
		testnet.Run(t, "ip link set "+name+" up")
	}
	testnet.WaitUp(t, "qa")
	testnet.WaitUp(t, "qb")
	cfg := plenty("qa")
	cfg.Fanout = FanoutQueue
	rings, err := OpenFanout(cfg, 2)
	if err != nil {
		t.Fatal(err)
	}
	const flows, rounds = 64, 6
	var frames [][]byte
	for range rounds {
		for f := range uint16(flows) { // the sending kernel picks the queue by a hash of the flow
			frames = append(frames, udp4(1000+f, 53, [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}, 60))
		}
	}
	testnet.SendFrames(t, "qb", frames...)
	counted(t, uint64(len(frames)), rings...)
	var byRing [2]map[uint16]int
	for m, r := range rings {
		defer r.Close()
		flows := map[uint16]int{}
		rest(t, r, func(f Frame) { flows[binary.BigEndian.Uint16(f.Data[34:])]++ })
		byRing[m] = flows
	}
	for flow, n := range byRing[0] {
		if n != rounds || byRing[1][flow] != 0 {
			t.Errorf("flow %d: %d frames in the first ring, %d in the second", flow, n, byRing[1][flow])
		}
	}
	maps.Copy(byRing[0], byRing[1])
	if len(byRing[1]) == 0 || len(byRing[1]) == flows || len(byRing[0]) != flows {
		t.Errorf("%d flows of %d in the second ring, %d in all", len(byRing[1]), flows, len(byRing[0]))
	}
}
