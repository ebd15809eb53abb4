// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// One operation is a frame that leaves over a veth and is dropped where it comes
// in: cpu-ns is what it takes of this thread, with all that the kernel does in it,
// messages how many the kernel has of it. 256 frames, at random of so many flows, are
// queued between two flushes.
func BenchmarkFan(b *testing.B) {
	for _, frame := range []string{"300", "594", "mixed", "imix"} {
		for _, flows := range []int{1, 64, 256, 4096} {
			b.Run(fmt.Sprintf("frame=%s/flows=%d", frame, flows), func(b *testing.B) { benchmarkFan(b, frame, flows) })
		}
	}
}

func benchmarkFan(b *testing.B, frame string, flows int) {
	testnet.RequireTool(b, "nft")
	testnet.Veth(b)
	for _, line := range []string{
		"ip addr add 10.90.0.1/24 dev va", "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:02 dev va", "ip link set va mtu 1600", "ip link set vb mtu 1600",
		"nft add table netdev d", "nft add chain netdev d i { type filter hook ingress device vb priority 0 ; policy drop ; }",
	} {
		testnet.Run(b, line)
	}
	f := fan(b, FanConfig{To: "10.90.0.2:4789"})
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := map[string][]int{"mixed": {300, 594, 1514}, "imix": {60, 594, 60, 60, 594, 60, 1514, 60, 594, 60, 594, 60}}[frame]
	if sizes == nil {
		var size int
		fmt.Sscan(frame, &size)
		sizes = []int{size}
	}
	type datagram struct {
		flow uint32
		size int
	}
	all := make([]datagram, 1<<14)
	for i := range all {
		all[i] = datagram{uint32(rnd.IntN(flows)) * 0x9E3779B1, sizes[rnd.IntN(len(sizes))]}
	}
	head, body := make([]byte, 8), make([]byte, 1514)
	cpu := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	sent := func() (n int) {
		for line := range strings.Lines(testnet.Run(b, "cat /proc/net/dev")) {
			if words := strings.Fields(line); words[0] == "va:" {
				n, _ = strconv.Atoi(words[10])
			}
		}
		return n
	}
	before, start, n := sent(), cpu(), 0
	for b.Loop() {
		d := all[n%len(all)]
		f.Queue(d.flow, head, body[:d.size])
		if n++; n%256 == 0 {
			f.Flush()
		}
	}
	f.Flush()
	b.ReportMetric(float64(cpu()-start)/float64(n), "cpu-ns/op")
	b.ReportMetric(float64(sent()-before)/float64(n), "messages/op")
	if got := f.Stats().Datagrams.Load(); got != uint64(n) {
		b.Fatalf("%d of %d sent", got, n)
	}
}
