// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Nobody listens: the kernel says so with a later datagram, which goes all the
// same.
func TestFanRefused(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	to := r.Addr().String()
	r.Close()
	f := fan(t, FanConfig{To: to})
	for n := range 500 {
		put(f, uint32(n)<<28, n, 100+n)
		if n%16 == 15 {
			f.Flush()
		}
	}
	f.Flush()
	if s := f.Stats(); s.Refused.Load() == 0 || s.Datagrams.Load() != 500 || f.Trouble() == nil || !strings.Contains(f.Trouble().Error(), "connection refused") {
		t.Errorf("%d refused, %d of 500 sent, %v", s.Refused.Load(), s.Datagrams.Load(), f.Trouble())
	}
	r2 := listen(t, ListenConfig{Addr: to})[0]
	for n := range 16 { // each lane is told what is left to tell
		put(f, uint32(n)<<28, n, 100)
	}
	f.Flush()
	f.refused = f.refused.Add(-refusedGap)
	put(f, 7, 1, 100)
	f.Flush()
	if got := drain2(t, r2, func([]byte) {}); got != 17 || f.Trouble() != nil {
		t.Errorf("when somebody listens again: %d, %v", got, f.Trouble())
	}
}

// A destination that is not there is told, once the kernel has given up to look
// for it; until then and after it datagrams are taken.
func TestFanHostUnreachable(t *testing.T) {
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip ntable change name arp_cache dev va retrans 20") // ms between three questions
	f := fan(t, FanConfig{To: "10.90.0.2:4789", Ports: 1})
	queued := 0
	for deadline := time.Now().Add(time.Minute); f.Trouble() == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		put(f, 1, queued, 100)
		f.Flush()
		queued++
	}
	accounted(t, f, queued)
	if err := f.Trouble(); err == nil || !strings.Contains(err.Error(), "no route to host") || f.Stats().Refused.Load()+f.Stats().Unsent.Load() == 0 {
		t.Errorf("%v; %d times told", err, f.Stats().Refused.Load())
	}
}

// Where the network takes less than is sent, a Fan that does not wait drops
// the rest, and counts it: what it says it sent goes out.
func TestFanDropsWithoutRoom(t *testing.T) {
	testnet.RequireTool(t, "tc")
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	testnet.Run(t, "tc qdisc add dev va root tbf rate 100mbit burst 20k limit 100k")
	f := fan(t, FanConfig{To: "10.90.0.2:4789", Drop: true, Ports: 4})
	f.segmented = false // a packet a datagram
	before := sent(t, "va")
	for n := range 2000 {
		put(f, uint32(n)<<30, n, 1000)
		if n%100 == 99 {
			f.Flush()
		}
	}
	accounted(t, f, 2000)
	want := int(f.Stats().Datagrams.Load())
	if want < 100 || f.Stats().NoRoom.Load() < 100 || f.Trouble() != nil {
		t.Errorf("%d sent, %d without room, %v", want, f.Stats().NoRoom.Load(), f.Trouble())
	}
	out := 0
	for deadline := time.Now().Add(time.Minute); out != want && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		out = sent(t, "va") - before
	}
	if out != want {
		t.Errorf("%d sent, %d went out", want, out)
	}
}

// A firewall or a lost route is counted and told, and sending goes on when it
// is over.
func TestFanTrouble(t *testing.T) {
	testnet.RequireTool(t, "nft")
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	neighbour := func() { testnet.Run(t, "ip neigh replace 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent") }
	neighbour()
	f := fan(t, FanConfig{To: "10.90.0.2:4789", What: "VTEP"})
	queued := 0
	send := func() (unsent uint64) {
		before := f.Stats().Unsent.Load()
		for n := range 100 {
			put(f, uint32(n)<<27, n, 500+n%3)
			queued++
		}
		f.Flush()
		accounted(t, f, queued)
		return f.Stats().Unsent.Load() - before
	}
	for _, c := range []struct{ bad, good, want string }{
		{"nft add table ip f; add chain ip f o { type filter hook output priority 0 ; policy drop ; }", "nft delete table ip f", "operation not permitted"},
		{"ip addr del 10.90.0.1/24 dev va", "ip addr add 10.90.0.1/24 dev va", "network is unreachable"},
	} {
		if n := send(); n != 0 || f.Trouble() != nil {
			t.Fatalf("%d of 100 unsent at first, %v", n, f.Trouble())
		}
		testnet.Run(t, c.bad)
		if n := send(); n != 100 || f.Trouble() == nil || !strings.Contains(f.Trouble().Error(), c.want) || !strings.Contains(f.Trouble().Error(), "VTEP 10.90.0.2") {
			t.Errorf("%s: %d unsent, %v", c.bad, n, f.Trouble())
		}
		testnet.Run(t, c.good)
		neighbour()
	}
	if n := send(); n != 0 || f.Trouble() != nil {
		t.Errorf("%d unsent at the end, %v", n, f.Trouble())
	}
}

// After failing for long the name is resolved again, and new sockets used,
// with the same source ports.
func TestFanResolvedAgain(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	f := fan(t, FanConfig{To: fmt.Sprintf("localhost:%d", r.Addr().Port()), Ports: 3})
	first, _ := f.Ports()
	f.failing = time.Now().Add(-resolveAfter - time.Second)
	f.Flush()
	for deadline := time.Now().Add(time.Minute); f.found.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not resolved")
		}
	}
	f.Flush()
	if again, n := f.Ports(); f.Stats().Resolved.Load() != 1 || again != first || n != 3 || f.looking {
		t.Errorf("resolved %d times; ports %d, %d from %d on", f.Stats().Resolved.Load(), n, again, first)
	}
	put(f, 1, 1, 100)
	f.Flush()
	if n := drain2(t, r, func([]byte) {}); n != 1 && f.To().Addr().Is4() {
		t.Errorf("%d datagrams came", n)
	}
}
