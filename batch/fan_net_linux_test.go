// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

func fan(t testing.TB, cfg FanConfig) *Fan {
	t.Helper()
	if cfg.Ports == 0 {
		cfg.Ports = 16
	}
	f, err := NewFan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// put queues datagram n of a flow: its number, the flow's, and a pattern, of
// size bytes; the first 4 are lent apart from the rest.
func put(f *Fan, flow uint32, n, size int) {
	d := make([]byte, max(size, 8))
	for i := 8; i < len(d); i++ {
		d[i] = byte(n + i)
	}
	binary.BigEndian.PutUint32(d, uint32(n))
	binary.BigEndian.PutUint32(d[4:], flow)
	f.Queue(flow, d[:4:4], d[4:])
}

// accounted wants every datagram sent or in one counter of those that were not.
func accounted(t *testing.T, f *Fan, queued int) {
	t.Helper()
	if s := f.Stats(); s.Datagrams.Load()+s.TooLong.Load()+s.NoRoom.Load()+s.Unsent.Load() != uint64(queued) {
		t.Errorf("%d queued, but %d sent, %d too long, %d without room and %d unsent",
			queued, s.Datagrams.Load(), s.TooLong.Load(), s.NoRoom.Load(), s.Unsent.Load())
	}
}

// Datagrams of all sizes come whole, each flow in order and from one source
// port, and flows from all of them; with segmentation and without it.
func TestFanKeepsFlows(t *testing.T) {
	const count = 5000
	for _, to := range []string{"127.0.0.1", "::1"} {
		for _, segmented := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", to, segmented), func(t *testing.T) {
				r := listen(t, ListenConfig{Addr: net.JoinHostPort(to, "0"), Poll: 20 * time.Millisecond})[0]
				f := fan(t, FanConfig{To: r.Addr().String()})
				f.segmented = f.segmented && segmented
				if !f.segmented && segmented {
					t.Error("no segmentation over loopback")
				}
				rnd := rand.New(rand.NewPCG(1, 2))
				flows := make([]uint32, 100)
				for i := range flows {
					flows[i] = rnd.Uint32()
				}
				next, ports, bytes := map[uint32]int{}, map[uint32]uint16{}, 0
				got := 0
				receive := func() {
					got += drain2(t, r, func(d []byte) {
						flow, n := binary.BigEndian.Uint32(d[4:]), int(binary.BigEndian.Uint32(d))
						if n != next[flow] {
							t.Fatalf("flow %08x: datagram %d, want %d", flow, n, next[flow])
						}
						next[flow]++
						for i := 8; i < len(d); i++ {
							if d[i] != byte(n+i) {
								t.Fatalf("flow %08x, datagram %d: byte %d of %d", flow, n, i, len(d))
							}
						}
						if p := ports[flow]; p != 0 && p != r.From().Port() {
							t.Fatalf("flow %08x: from port %d and %d", flow, p, r.From().Port())
						}
						ports[flow] = r.From().Port()
						bytes += len(d)
					})
				}
				numbers := map[uint32]int{}
				for i := range count {
					flow, size := flows[rnd.IntN(len(flows))], []int{60, 60, 60, 1514, 1514, 8 + rnd.IntN(1500), 9000, 60000}[rnd.IntN(8)]
					put(f, flow, numbers[flow], size)
					numbers[flow]++
					if i%500 == 499 {
						f.Flush()
						receive()
					}
				}
				if got != count {
					t.Errorf("%d datagrams of %d", got, count)
				}
				accounted(t, f, count)
				first, n := f.Ports()
				seen := map[uint16]bool{}
				for flow, p := range ports {
					if p < first || int(p) >= int(first)+n {
						t.Errorf("flow %08x: source port %d, not one of %d from %d on", flow, p, n, first)
					}
					seen[p] = true
				}
				if len(seen) != n || uint64(bytes) != f.Stats().Bytes.Load() {
					t.Errorf("%d source ports of %d; %d bytes came, %d were sent", len(seen), n, bytes, f.Stats().Bytes.Load())
				}
			})
		}
	}
}

// drain2 is drain without its own idea of what a datagram holds.
func drain2(t testing.TB, r *Receiver, f func(d []byte)) (total int) {
	t.Helper()
	for {
		if k, err := r.Recv(); err != nil {
			t.Fatal(err)
		} else if k == 0 {
			return total
		}
		for d, ok := r.Next(); ok; d, ok = r.Next() {
			total++
			f(d)
		}
	}
}

// Runs of one size go with few calls, also those with a shorter one at the end.
func TestFanSendsRuns(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	f := fan(t, FanConfig{To: r.Addr().String(), Ports: 1})
	for n := range 1200 {
		put(f, 7, n, []int{1000, 1000, 1000, 1000, 1000, 200}[n%6])
	}
	f.Flush()
	if n := drain2(t, r, func([]byte) {}); n != 1200 || f.Stats().Calls.Load() > 10 {
		t.Errorf("%d of 1200 datagrams, with %d calls", n, f.Stats().Calls.Load())
	}
	for _, c := range []struct {
		sizes []int
		runs  int
	}{
		{[]int{100, 100, 100}, 1}, {[]int{100, 50}, 1}, {[]int{50, 100}, 2}, {[]int{100, 50, 50}, 2}, {[]int{100, 50, 100}, 2},
		{[]int{40000, 40000}, 2}, {[]int{30000, 30000, 5507}, 1}, {[]int{30000, 30000, 5508}, 2},
	} {
		for n, size := range c.sizes {
			put(f, 7, n, size)
		}
		if got := len(join(slices.Clone(f.lanes[0].runs), f.segments)); got != c.runs {
			t.Errorf("%v: %d runs, want %d: %+v", c.sizes, got, c.runs, f.lanes[0].runs)
		}
		f.Flush()
	}
	drain2(t, r, func([]byte) {})
	accounted(t, f, 1200+21)
}

// Datagrams of mixed sizes find runs that began before, when no later one of
// their flow went with a later run: once each change of size began a run, 44 of
// 100 datagrams. One flow's keep their order, and their runs.
func TestFanMixesFlows(t *testing.T) {
	sizes := []int{60, 594, 60, 60, 594, 60, 1514, 60, 594, 60, 594, 60}
	for _, c := range []struct{ flows, runs int }{{1000, 200}, {64, 250}, {1, 900}} {
		r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
		f := fan(t, FanConfig{To: r.Addr().String(), Ports: 1})
		rnd, next, want, runs := rand.New(rand.NewPCG(3, 4)), map[uint32]int{}, map[uint32]int{}, 0
		for range 2000 / laneLen {
			for range laneLen - 1 {
				flow := uint32(rnd.IntN(c.flows)) * 0x9E3779B1
				put(f, flow, want[flow], sizes[rnd.IntN(len(sizes))])
				want[flow]++
			}
			runs += len(join(slices.Clone(f.lanes[0].runs), f.segments))
			f.Flush()
		}
		drain2(t, r, func(d []byte) {
			flow, n := binary.BigEndian.Uint32(d[4:]), int(binary.BigEndian.Uint32(d))
			if n != next[flow] {
				t.Fatalf("%d flows: datagram %d of flow %08x, want %d", c.flows, n, flow, next[flow])
			}
			next[flow]++
		})
		if !maps.Equal(next, want) {
			t.Errorf("%d flows: not all came", c.flows)
		}
		if runs > c.runs {
			t.Errorf("%d flows: %d runs, want at most %d", c.flows, runs, c.runs)
		}
	}
}

// Where a kernel or a device refuses segments, or so many of them, each
// datagram goes alone, and nothing is lost.
func TestFanSegmentsRefused(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	testnet.Run(t, "ethtool -K va tx off")
	f := fan(t, FanConfig{To: "10.90.0.2:4789", Ports: 2})
	for n := range 100 {
		put(f, uint32(n)<<24, n, 1000)
	}
	f.Flush()
	if n := f.Stats().Datagrams.Load(); n != 100 {
		t.Errorf("%d of 100 sent, segmented %v", n, f.Segmented())
	}
	// The errors themselves, for kernels that say them.
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	for _, e := range []unix.Errno{unix.EIO, unix.EINVAL} {
		f := fan(t, FanConfig{To: r.Addr().String(), Ports: 1})
		f.trouble.stats = SenderStats{}
		for n := range 100 {
			put(f, 1, n, 100)
		}
		l := &f.lanes[0]
		f.refuse(l, l.iov[:], &l.runs[0], e)
		l.n, l.runs = 0, l.room[:0]
		if got := drain2(t, r, func([]byte) {}); got != 100 {
			t.Errorf("%v: %d of 100 came", e, got)
		}
		if e == unix.EIO && f.Segmented() || e == unix.EINVAL && (f.segments != oldSegments || !f.Segmented()) {
			t.Errorf("%v: segmented %v, %d at most", e, f.Segmented(), f.segments)
		}
	}
}

// When the path's MTU falls, what does not fit any more is counted, the rest
// goes, and Room says how long datagrams may be. When it grows, Room does too.
func TestFanFollowsMTU(t *testing.T) {
	for _, segmented := range []bool{true, false} {
		testnet.Veth(t)
		testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
		testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
		f := fan(t, FanConfig{To: "10.90.0.2:4789"})
		f.segmented = f.segmented && segmented
		if f.Room() != 1472 || f.MTU() != 1500 {
			t.Fatalf("room %d, MTU %d", f.Room(), f.MTU())
		}
		send := func(count int) {
			for n := range count {
				put(f, uint32(n%7)<<29, n, []int{1472, 1472, 1000, 1472}[n%4])
			}
			f.Flush()
		}
		send(200)
		if s := f.Stats(); s.Datagrams.Load() != 200 {
			t.Fatalf("%d of 200 sent", s.Datagrams.Load())
		}
		testnet.Run(t, "ip link set va mtu 1300")
		send(200)
		accounted(t, f, 400)
		if s := f.Stats(); s.TooLong.Load() != 150 || f.Room() != 1272 || segmented != f.Segmented() {
			t.Errorf("segmented %v: %d of 150 too long, room %d", f.Segmented(), s.TooLong.Load(), f.Room())
		}
		testnet.Run(t, "ip link set va mtu 1500")
		f.measured = f.measured.Add(-measureAfter)
		for range measureFlushes {
			f.Flush()
		}
		send(200)
		accounted(t, f, 600)
		if s := f.Stats(); s.TooLong.Load() != 150 || f.Room() != 1472 {
			t.Errorf("segmented %v: again %d too long, room %d", segmented, s.TooLong.Load()-150, f.Room())
		}
	}
}

// Where fragments are wanted, datagrams are as long as UDP has them, and the
// short ones still go in runs.
func TestFanFragments(t *testing.T) {
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip addr add fd90::1/64 dev va nodad")
	for i, c := range []struct {
		to   string
		room int
	}{{"10.90.0.2", 65507}, {"fd90::2", 65487}} {
		testnet.Run(t, "ip neigh add "+c.to+" lladdr 02:00:00:00:00:01 dev va nud permanent")
		f := fan(t, FanConfig{To: net.JoinHostPort(c.to, "4789"), Fragment: true, Ports: 1})
		if f.Room() != c.room {
			t.Errorf("room %d, want %d", f.Room(), c.room)
		}
		before := sent(t, "va")
		for n := range 10 {
			put(f, 1, n, 1000)
		}
		put(f, 1, 10, 3000)
		put(f, 1, 11, f.Room())
		put(f, 1, 12, 1000)
		f.Flush()
		accounted(t, f, 13)
		// A run, which a veth takes whole, 3 fragments, 45 or 46, and one; IPv6
		// says a few words of its own.
		if n := sent(t, "va") - before - (1 + 3 + 45 + i + 1); f.Stats().Datagrams.Load() != 13 || n < 0 || n > 8 {
			t.Errorf("%s: %d of 13 sent, %d packets more than they need", c.to, f.Stats().Datagrams.Load(), n)
		}
	}
}

// sent returns how many packets left an interface.
func sent(t *testing.T, iface string) (n int) {
	t.Helper()
	fmt.Sscan(testnet.Run(t, "cat /proc/thread-self/net/dev")[strings.Index(testnet.Run(t, "cat /proc/thread-self/net/dev"), iface+":")+len(iface)+1:],
		new(int), new(int), new(int), new(int), new(int), new(int), new(int), new(int), new(int), &n)
	return n
}

// Source ports that others have are passed over, unless they were asked for;
// Fans of one user share theirs.
func TestFanPorts(t *testing.T) {
	testnet.Namespace(t)
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{Port: firstDynamic + 3})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for range 2 {
		f := fan(t, FanConfig{To: "127.0.0.1:4789", Ports: 8})
		if first, n := f.Ports(); first != firstDynamic+8 || n != 8 {
			t.Errorf("%d ports from %d on", n, first)
		}
	}
	for _, c := range []struct {
		cfg  FanConfig
		want string
	}{
		{FanConfig{To: "127.0.0.1:4789", Ports: 8, FirstPort: firstDynamic}, "source port 49155 is taken"},
		{FanConfig{To: "127.0.0.1:4789", Ports: 0}, "1 to 256"},
		{FanConfig{To: "127.0.0.1:4789", Ports: 257}, "1 to 256"},
		{FanConfig{To: "127.0.0.1:4789", Ports: 8, FirstPort: 65530}, "none above 65535"},
		{FanConfig{To: "127.0.0.1", Ports: 1, What: "VTEP"}, "VTEP"},
		{FanConfig{To: "127.0.0.1:1", Ports: 1, MTU: 100}, "576 to 65535"},
		{FanConfig{To: "[::1]:1", Ports: 1, MTU: 1000}, "1280 to 65535"},
		{FanConfig{To: "127.0.0.1:1", Ports: 1, MTU: 1500, Fragment: true}, "IP fragments"},
		{FanConfig{To: "192.0.2.1:1", Ports: 1}, "network is unreachable"},
	} {
		if f, err := NewFan(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, %v; want %q", c.cfg, f, err, c.want)
		}
	}
}

func TestFanAllocations(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	f := fan(t, FanConfig{To: r.Addr().String()})
	head, body := make([]byte, 8), make([]byte, 1500)
	if n := testing.AllocsPerRun(100, func() {
		for n := range uint32(300) {
			f.Queue(n<<24, head, body[:100+n%2*700])
		}
		f.Flush()
	}); n != 0 {
		t.Errorf("%v allocations for 300 datagrams", n)
	}
}
