// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func listen(t testing.TB, cfg ListenConfig) []*Receiver {
	t.Helper()
	if cfg.Poll == 0 {
		cfg.Poll = 200 * time.Millisecond
	}
	cfg.Buffer = 16 << 20
	rs, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, r := range rs {
			r.Close()
		}
	})
	return rs
}

func sender(t testing.TB, cfg SenderConfig) *Sender {
	t.Helper()
	s, err := NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fill queues datagram n of size bytes.
func fill(s *Sender, n, size int) {
	d := s.Slot()
	binary.BigEndian.PutUint32(d, uint32(n))
	for i := 4; i < size; i++ {
		d[i] = byte(n + i)
	}
	s.Queue(size)
}

// drain receives until nothing comes, and checks each datagram.
func drain(t testing.TB, r *Receiver, f func(n int, d []byte)) (total int) {
	t.Helper()
	for {
		k, err := r.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			return total
		}
		for d, ok := r.Next(); ok; d, ok = r.Next() {
			total++
			n := int(binary.BigEndian.Uint32(d))
			for i := 4; i < len(d); i++ {
				if d[i] != byte(n+i) {
					t.Fatalf("datagram %d, byte %d of %d", n, i, len(d))
				}
			}
			f(n, d)
		}
	}
}

// Datagrams of every size go in flights and come whole, in order, with
// segmentation and without it.
func TestFlights(t *testing.T) {
	for _, to := range []string{"127.0.0.1", "::1"} {
		for _, size := range []int{508, 548, 1000, 1472, 8972, 32000, 65507} {
			for _, segmented := range []bool{true, false} {
				if to == "::1" && size == 65507 {
					size = 65487
				}
				t.Run(fmt.Sprintf("%s/%d/%v", to, size, segmented), func(t *testing.T) {
					r := listen(t, ListenConfig{Addr: net.JoinHostPort(to, "0")})[0]
					s := sender(t, SenderConfig{To: r.Addr().String(), Datagram: size})
					if s.Size() != size {
						t.Fatalf("size %d, want %d", s.Size(), size)
					}
					if s.Segmented() != (maxGSO/size > 1) {
						t.Fatalf("segmented %v", s.Segmented())
					}
					if !segmented {
						s.segmented = false
						unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0)
					}
					sizes := map[int]int{}
					for n := range 300 {
						sizes[n] = size
						if n%70 == 69 || n == 299 {
							sizes[n] = 4 + n%400 // ends a flight
						}
						fill(s, n, sizes[n])
						if n%50 == 0 {
							s.Flush()
						}
					}
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
					want := 0
					if got := drain(t, r, func(n int, d []byte) {
						if n != want || len(d) != sizes[n] {
							t.Fatalf("datagram %d of %d bytes, want %d of %d", n, len(d), want, sizes[want])
						}
						want++
					}); got != 300 {
						t.Errorf("%d datagrams of 300", got)
					}
					if s.Stats().Datagrams.Load() != 300 || s.Stats().Unsent.Load() != 0 || r.Stats().Datagrams.Load() != 300 || r.Stats().Bytes.Load() != s.Stats().Bytes.Load() {
						t.Errorf("sent %d, %d bytes, %d unsent; received %d, %d bytes", s.Stats().Datagrams.Load(), s.Stats().Bytes.Load(), s.Stats().Unsent.Load(), r.Stats().Datagrams.Load(), r.Stats().Bytes.Load())
					}
					if segmented && size == 1472 && s.Stats().Calls.Load() > 20 {
						t.Errorf("%d calls for 300 datagrams", s.Stats().Calls.Load())
					}
				})
			}
		}
	}
}

// As many segments go in one send as the kernel takes: where it refuses 200, as
// an old one does 128, all arrive, and later flights have as many as any takes.
func TestSegmentsAsManyAsTheKernelTakes(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	s := sender(t, SenderConfig{To: r.Addr().String(), Datagram: 508})
	if s.slots != maxSegments {
		t.Fatalf("%d datagrams of 508 bytes in a flight", s.slots)
	}
	s.most = 130 // more than any kernel takes
	s.resize(480)
	want := 0
	send := func(n int) {
		t.Helper()
		sent := want
		for i := range n {
			fill(s, sent+i, 480)
		}
		fill(s, sent+n, 100)
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		drain(t, r, func(k int, d []byte) {
			if k != want || len(d) != 480 && k != sent+n {
				t.Fatalf("datagram %d of %d bytes, want %d", k, len(d), want)
			}
			want++
		})
		if want != sent+n+1 {
			t.Fatalf("%d datagrams of %d", want-sent, n+1)
		}
	}
	send(130)
	if !s.Segmented() || s.slots != oldSegments || s.Size() != 480 {
		t.Errorf("afterwards: segmented %v, %d in a flight, size %d", s.Segmented(), s.slots, s.Size())
	}
	calls := s.Stats().Calls.Load()
	send(640)
	if n := s.Stats().Calls.Load() - calls; n != 11 {
		t.Errorf("%d sends for 641 datagrams", n)
	}
	if u := s.Stats().Unsent.Load(); u != 0 {
		t.Errorf("%d unsent", u)
	}
}

// A device that cannot finish checksums refuses segments with EIO: the flight
// at hand goes datagram by datagram, and so do all after it. Nothing is lost.
func TestSegmentsRefused(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	testnet.Run(t, "ethtool -K va tx off")
	s := sender(t, SenderConfig{To: "10.90.0.2:5678"})
	for n := range 100 {
		fill(s, n, s.Size())
	}
	fill(s, 100, 50)
	s.Flush()
	if n := s.Stats().Datagrams.Load(); n != 101 || s.Stats().Unsent.Load() != 0 {
		t.Errorf("%d of 101 sent, %d unsent, segmented %v", n, s.Stats().Unsent.Load(), s.Segmented())
	}
}

// Nobody listens: the kernel says so with a later datagram, which goes all the
// same.
func TestRefused(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	to := r.Addr().String()
	r.Close()
	s := sender(t, SenderConfig{To: to, MTU: 1500})
	for n := range 50 {
		fill(s, n, 100)
	}
	if err := s.Flush(); err != nil {
		t.Fatalf("fatal: %v", err)
	}
	if st := s.Stats(); st.Refused.Load() == 0 || st.Datagrams.Load() != 50 || st.Unsent.Load() != 0 {
		t.Errorf("%d refused, %d sent, %d unsent", st.Refused.Load(), st.Datagrams.Load(), st.Unsent.Load())
	}
	r2 := listen(t, ListenConfig{Addr: to})[0]
	fill(s, 7, 100)
	if got := drain(t, r2, func(int, []byte) {}); got != 1 {
		t.Errorf("when somebody listens again: %d", got)
	}
}

// When the path's MTU falls, what does not fit is counted, and datagrams are
// smaller from then on.
func TestMTUFalls(t *testing.T) {
	for _, segmented := range []bool{true, false} {
		testnet.Veth(t)
		testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
		testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
		s := sender(t, SenderConfig{To: "10.90.0.2:5678"})
		s.segmented = s.segmented && segmented
		if !segmented {
			unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0)
		}
		if s.Size() != 1472 {
			t.Fatalf("size %d", s.Size())
		}
		for n := range 44 {
			fill(s, n, s.Size())
		}
		testnet.Run(t, "ip link set va mtu 1300")
		for n := range 10 {
			fill(s, n, s.Size())
		}
		s.Flush()
		if s.Size() != 1272 || s.Stats().TooBig.Load() == 0 || s.Stats().Unsent.Load() == 0 {
			t.Errorf("segmented %v: size %d, %d times too big, %d unsent", segmented, s.Size(), s.Stats().TooBig.Load(), s.Stats().Unsent.Load())
		}
		sent, unsent := s.Stats().Datagrams.Load(), s.Stats().Unsent.Load()
		for n := range 100 {
			fill(s, n, s.Size())
		}
		s.Flush()
		if st := s.Stats(); st.Datagrams.Load() != sent+100 || st.Unsent.Load() != unsent {
			t.Errorf("segmented %v: then %d of 100 sent", segmented, st.Datagrams.Load()-sent)
		}
	}
}

// A firewall, a lost route, an interface that is down: counted, never fatal,
// and sending goes on when it is over.
func TestTroubleIsCounted(t *testing.T) {
	testnet.RequireTool(t, "nft")
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	s := sender(t, SenderConfig{To: "10.90.0.2:5678"})
	send := func() (sent, unsent uint64) {
		a, b := s.Stats().Datagrams.Load(), s.Stats().Unsent.Load()
		for n := range 10 {
			fill(s, n, s.Size())
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		return s.Stats().Datagrams.Load() - a, s.Stats().Unsent.Load() - b
	}
	for _, c := range [][2]string{
		{"nft add table ip f", "nft delete table ip f"},
		{"ip addr del 10.90.0.1/24 dev va", "ip addr add 10.90.0.1/24 dev va"},
	} {
		testnet.Run(t, c[0])
		if strings.HasPrefix(c[0], "nft") {
			testnet.Run(t, "nft add chain ip f o { type filter hook output priority 0 ; policy drop ; }")
		}
		if sent, unsent := send(); sent+unsent != 10 || unsent == 0 {
			t.Errorf("%s: %d sent, %d unsent", c[0], sent, unsent)
		}
		testnet.Run(t, c[1])
		testnet.Run(t, "ip neigh replace 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
		if sent, _ := send(); sent != 10 {
			t.Errorf("after %s: %d of 10 sent", c[1], sent)
		}
	}
}

// After failing for long the name is resolved again, aside, and a new socket
// used: the old one is bound to a local address that may be gone.
func TestResolvedAgain(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	s := sender(t, SenderConfig{To: fmt.Sprintf("localhost:%d", r.Addr().Port()), MTU: 1500})
	s.failing = time.Now().Add(-resolveAfter - time.Second)
	s.consider(1)
	for deadline := time.Now().Add(time.Minute); s.found.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not resolved")
		}
	}
	old := s.fd
	s.consider(0)
	if s.Stats().Resolved.Load() != 1 || s.fd == old && s.looking {
		t.Errorf("resolved %d", s.Stats().Resolved.Load())
	}
	fill(s, 1, 100)
	if n := drain(t, r, func(int, []byte) {}); n != 1 && s.Collector().Addr().Is4() {
		t.Errorf("%d datagrams came", n)
	}
}

// The path's MTU is found, or given; a wrong one is refused with the reason.
func TestSizes(t *testing.T) {
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip addr add fd90::1/64 dev va nodad")
	testnet.Run(t, "ip link set va mtu 1400")
	for _, c := range []struct {
		cfg  SenderConfig
		want int
		err  string
	}{
		{SenderConfig{To: "10.90.0.2:1"}, 1372, ""},
		{SenderConfig{To: "[fd90::2]:1"}, 1352, ""},
		{SenderConfig{To: "10.90.0.2:1", MTU: 576}, 548, ""},
		{SenderConfig{To: "127.0.0.1:1"}, likelyMTU - 28, ""},
		{SenderConfig{To: "127.0.0.1:1", MTU: 65535}, 65507, ""},
		{SenderConfig{To: "10.90.0.2:1", MTU: 1500}, 0, "the route has 1400"},
		{SenderConfig{To: "10.90.0.2:1", MTU: 500}, 0, "576 to 65535"},
		{SenderConfig{To: "[fd90::2]:1", MTU: 1000}, 0, "1280 to 65535"},
		{SenderConfig{To: "10.90.0.2:1", Datagram: 70000}, 0, "508 to 65507"},
		{SenderConfig{To: "10.90.0.2"}, 0, "want HOST:PORT"},
		{SenderConfig{To: "nosuch.invalid:5678"}, 0, "getent hosts nosuch.invalid"}, // was told to write HOST:PORT
		{SenderConfig{To: ":5678"}, 0, "host and port are both needed"},
		{SenderConfig{To: "10.90.0.2:99999"}, 0, "invalid port"},
		{SenderConfig{To: "192.0.2.1:5678"}, 0, "network is unreachable: there is no route to it: ip route get 192.0.2.1"},
	} {
		s, err := NewSender(c.cfg)
		if err != nil {
			if c.err == "" || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v; want %q", c.cfg, err, c.err)
			}
			continue
		}
		if c.err != "" || s.Size() != c.want {
			t.Errorf("%+v: size %d, want %d %s", c.cfg, s.Size(), c.want, c.err)
		}
		s.Close()
	}
}

func TestAllocations(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	s := sender(t, SenderConfig{To: r.Addr().String(), Datagram: 1472})
	if n := testing.AllocsPerRun(100, func() {
		for n := range 44 {
			fill(s, n, 1472)
		}
		s.Flush()
		if n, err := r.Recv(); n == 0 || err != nil {
			t.Fatal(n, err)
		}
		for _, ok := r.Next(); ok; _, ok = r.Next() {
		}
	}); n != 0 {
		t.Errorf("%v allocations a flight", n)
	}
}

func BenchmarkSend(b *testing.B) {
	r := listen(b, ListenConfig{Addr: "127.0.0.1:0"})[0]
	s := sender(b, SenderConfig{To: r.Addr().String(), Datagram: 1472})
	b.SetBytes(1472)
	b.ReportAllocs()
	for b.Loop() {
		s.Queue(1472) // most find the buffer full: sending is what is measured
	}
}

// A second socket of each worker lies behind the first ones, with its own
// buffer; the program picks among all, and can be changed; Wait says which of
// two has something.
func TestSecondSockets(t *testing.T) {
	at := func(n uint32) []bpf.RawInstruction {
		raw, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: n}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	rs := listen(t, ListenConfig{Addr: "127.0.0.1:0", Workers: 2, Second: 1 << 16, Steer: at(3)})
	if len(rs) != 4 || rs[1].Buffer() <= 1<<16 || rs[2].Buffer() != 1<<16 {
		t.Fatalf("%d sockets, buffers of %d and %d", len(rs), rs[1].Buffer(), rs[2].Buffer())
	}
	s := sender(t, SenderConfig{To: rs[0].Addr().String(), Datagram: 1000})
	for k := 3; k >= 0; k-- {
		if err := rs[0].Steer(at(uint32(k))); err != nil {
			t.Fatal(err)
		}
		if a, b, err := Wait(rs[0], rs[k], time.Millisecond); a || b || err != nil {
			t.Errorf("nothing was sent, but there is something: %v %v %v", a, b, err)
		}
		fill(s, 1, 1000)
		s.Flush()
		a, b, err := Wait(rs[(k+1)%4], rs[k], time.Minute)
		if a || !b || err != nil {
			t.Errorf("sent to socket %d: %v %v %v", k, a, b, err)
		}
		if n, full, err := rs[k].TryRecv(); n != 1 || full || err != nil {
			t.Errorf("%d messages at socket %d, %v %v", n, k, full, err)
		}
		if n, _, err := rs[k].TryRecv(); n != 0 || err != nil {
			t.Errorf("%d messages more, %v", n, err)
		}
	}
	if err := rs[0].Steer(make([]bpf.RawInstruction, 1)); err == nil {
		t.Error("a program without an end was taken")
	}
}
