// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ntap-project/ntap/internal/testnet"
)

// nameServer has names looked up at a server of the test's own, which answers
// with the addresses (IPv4) that the pointer has.
func nameServer(t *testing.T) *atomic.Pointer[[]netip.Addr] {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var answer atomic.Pointer[[]netip.Addr]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil {
				continue
			}
			m.Response, m.Additionals = true, nil
			all := *answer.Load()
			if len(all) == 0 {
				m.RCode = dnsmessage.RCodeServerFailure
			}
			for _, a := range all {
				if m.Questions[0].Type == dnsmessage.TypeA {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
						Body:   &dnsmessage.AResource{A: a.As4()},
					})
				}
			}
			if b, err := m.Pack(); err == nil {
				conn.WriteTo(b, from)
			}
		}
	}()
	was := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = was; conn.Close(); testnet.Receive(t, "the name server's end", done) })
	return &answer
}

// A host that has moved is followed though every send goes well: to an address
// where nobody is any more, no error came, and datagrams went there for ever.
// One of several addresses is kept as long as the name has it, in whatever
// order, and a name that nobody knows for a while is waited for.
func TestNameFollowed(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "0.0.0.0:0"})[0]
	answer := nameServer(t)
	one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	answer.Store(&[]netip.Addr{one})
	s := sender(t, SenderConfig{To: fmt.Sprintf("tap.test:%d", r.Addr().Port()), MTU: 1500})
	f, err := NewFan(FanConfig{To: s.cfg.To, Ports: 2, Resolve: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, v := range []struct {
		name  []netip.Addr
		want  netip.Addr
		moves uint64
	}{
		{[]netip.Addr{one}, one, 0},
		{[]netip.Addr{two, one}, one, 0},
		{nil, one, 0},
		{[]netip.Addr{two}, two, 1},
		{[]netip.Addr{one, two}, two, 1},
		{[]netip.Addr{one}, one, 2},
	} {
		answer.Store(&v.name)
		s.peek(t.Context(), "tap.test")
		fill(s, 1, 100) // the flight after which it is seen
		fill(s, 1, 100)
		if n := drain(t, r, func(int, []byte) {}); n != 2 {
			t.Errorf("%v: %d datagrams came", v.name, n)
		}
		if at := s.Collector().Addr(); at != v.want || s.Stats().Resolved.Load() != v.moves || !s.calm() {
			t.Errorf("%v: at %v after %d moves", v.name, at, s.Stats().Resolved.Load())
		}
	}
	if n := s.Stats().Unsent.Load(); n != 0 {
		t.Errorf("%d datagrams were given up", n)
	}
	answer.Store(&[]netip.Addr{two})
	for deadline := time.Now().Add(time.Minute); f.To().Addr() != two; time.Sleep(10 * time.Millisecond) { // by itself
		f.Flush()
		if time.Now().After(deadline) {
			t.Fatal("a name is not followed")
		}
	}
}

// An address is not looked up again, and below 0 nothing is.
func TestNameNotFollowed(t *testing.T) {
	for _, cfg := range []SenderConfig{{To: "127.0.0.1:9"}, {To: "[::1]:9"}, {To: "localhost:9", Resolve: -1}} {
		if s := sender(t, cfg); s.unwatch != nil {
			t.Errorf("%+v is looked up again", cfg)
		}
	}
	if s := sender(t, SenderConfig{To: "localhost:9"}); s.unwatch == nil {
		t.Error("localhost is not looked up again")
	}
}
