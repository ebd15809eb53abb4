// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// groups opens a port with two sockets for each worker.
func groups(t *testing.T, addr string, workers int) (*flows, []*batch.Receiver) {
	t.Helper()
	f := newFlows(workers, new(perf.Counter))
	in, err := batch.Listen(batch.ListenConfig{
		Addr: addr, Workers: workers, Buffer: 1 << 20, Second: 1 << 20, Poll: time.Second, Steer: f.program(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range in {
		t.Cleanup(func() { r.Close() })
	}
	f.first = in[0]
	return f, in
}

// whereItCame waits for a datagram, and returns the number of the socket that has it.
func whereItCame(t *testing.T, in []*batch.Receiver) (at int) {
	t.Helper()
	testnet.Eventually(t, "the datagram has come", func() bool {
		for k, r := range in {
			if n, _, err := r.TryRecv(); err != nil || n > 1 {
				t.Fatalf("socket %d: %d datagrams, %v", k, n, err)
			} else if n == 1 {
				at = k
				return true
			}
		}
		return false
	})
	return at
}

// A datagram goes to the first socket of its worker if its flow is known, and
// to the second if not, over IPv4 and IPv6, whatever the number of flows.
func TestKnownFlowsHaveTheirOwnSocket(t *testing.T) {
	for _, v := range []struct{ listen, dial string }{
		{"127.0.0.1:0", "127.0.0.1"}, {"[::1]:0", "::1"}, {":0", "127.0.0.1"}, {":0", "::1"},
	} {
		for _, workers := range []int{1, 3} {
			for _, crowd := range []int{0, 1, leafFlows - 1, leafFlows, 100, maxFlows - 20} {
				f, in := groups(t, v.listen, workers)
				for i := range crowd {
					f.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), uint16(i)))
				}
				to := netip.AddrPortFrom(netip.MustParseAddr(v.dial), in[0].Addr().Port())
				d := make([]byte, 100)
				var open []net.Conn
				for i := range 20 {
					conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
					if err != nil {
						t.Fatal(err)
					}
					if i%2 == 0 {
						f.add(conn.LocalAddr().(*net.UDPAddr).AddrPort())
					}
					f.next = time.Time{}
					if err := f.remake(time.Now()); err != nil {
						t.Fatal(err)
					}
					h := proto.Header{Tap: uint32(i)}
					h.Put(d)
					conn.Write(d)
					open = append(open, conn) // the next one could have its port, and would be known
					want := steered(h.Tap, 0, workers)
					if i%2 == 1 {
						want += workers
					}
					if k := whereItCame(t, in); k != want {
						t.Fatalf("%v, %d workers, %d others, flow %d: the datagram came to socket %d, want it at %d", v, workers, crowd, i, k, want)
					}
				}
				for _, r := range in {
					r.Close()
				}
				for _, c := range open {
					c.Close()
				}
			}
		}
	}
}

// What is too short for a header goes to a second socket; one flow more than a
// program holds, and all go to the first ones, which is said once.
func TestTooManyFlows(t *testing.T) {
	f, in := groups(t, "127.0.0.1:0", 2)
	conn, err := net.Dial("udp", in[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	whereTo := func(n int) int {
		t.Helper()
		conn.Write(make([]byte, n))
		return whereItCame(t, in)
	}
	for _, n := range []int{0, 1, 7, proto.Overhead - 1} {
		if k := whereTo(n); k != 2 {
			t.Errorf("%d bytes come to socket %d", n, k)
		}
	}
	if k := whereTo(proto.Overhead); k != 2 {
		t.Errorf("a stranger comes to socket %d", k)
	}
	for i := range maxFlows + 10 { // two may have one hash
		f.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 7))
	}
	if err := f.remake(time.Now()); err == nil {
		t.Error("more flows than a program holds, and nothing is said")
	}
	if k := whereTo(100); k != 0 || f.inForce.Load() != 0 {
		t.Errorf("then a stranger comes to socket %d", k)
	}
	f.add(netip.MustParseAddrPort("192.0.2.1:1"))
	if err := f.remake(time.Now().Add(time.Hour)); err != nil {
		t.Errorf("said again: %v", err)
	}
}

// A collector that is told to end while its last batch of known flows was full takes
// what strangers have sent, too. It used to end when there was nothing more from known
// flows, and a tap that was heard for the first time was lost without a count.
func TestEndTakesWhatStrangersSent(t *testing.T) {
	_, in := groups(t, "127.0.0.1:0", 1)
	conn, err := net.Dial("udp", in[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, proto.Overhead)); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, nil, "")
	d.home, d.strangers, d.full = in[0], in[1], true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.run(ctx); err != nil || d.account.Received.Load() != 1 {
		t.Errorf("%d datagrams of 1, %v", d.account.Received.Load(), err)
	}
}

// A program is not made anew without a change, nor at once again; a flow of two
// streams stays known until both are gone.
func TestFlowsAreMadeWhenWanted(t *testing.T) {
	f, _ := groups(t, "127.0.0.1:0", 1)
	a := netip.MustParseAddrPort("192.0.2.1:1")
	now := time.Now()
	made := func() uint64 {
		if err := f.remake(now); err != nil {
			t.Fatal(err)
		}
		return f.made.Load()
	}
	if n := f.add(a); n != 1 || made() != 1 || f.inForce.Load() != 1 {
		t.Error("a flow was added, and no program made")
	}
	now = now.Add(time.Hour)
	f.add(a)
	f.remove(a)
	if made() != 1 {
		t.Error("a program was made without need")
	}
	f.remove(a)
	if made() != 2 || f.inForce.Load() != 0 || len(f.known) != 0 {
		t.Error("a flow without a stream is known")
	}
	f.add(a)
	if made() != 2 {
		t.Error("a program was made at once again")
	}
	now = now.Add(remakeEvery + 10*time.Second)
	if made() != 3 {
		t.Error("and later not")
	}
}
