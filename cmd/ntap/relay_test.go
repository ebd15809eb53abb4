// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A relay passes datagrams on, one way, and treats some of them badly.
type relay struct {
	conn, out                         *net.UDPConn
	loss, duplicate, reorder, corrupt float64
	done                              chan struct{}

	came, lost, lostData, duplicated, reordered, corrupted atomic.Uint64
}

func newRelay(t *testing.T, to netip.AddrPort, loss, duplicate, reorder, corrupt float64) *relay {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	roomy(conn)
	out, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{conn: conn, out: out, loss: loss, duplicate: duplicate, reorder: reorder, corrupt: corrupt, done: make(chan struct{})}
	go r.run()
	t.Cleanup(func() { conn.Close(); testnet.Receive(t, "the relay's end", r.done); out.Close() })
	return r
}

func (r *relay) addr() netip.AddrPort { return r.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// run relays until the socket closes. A datagram that is to be overtaken waits
// until a few others have passed.
func (r *relay) run() {
	defer close(r.done)
	type waiting struct {
		after int
		d     []byte
	}
	var late []waiting
	rnd := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1<<16)
	for n := 0; ; n++ {
		r.conn.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		k, err := r.conn.Read(buf)
		timeout := false
		if e, ok := err.(net.Error); ok && e.Timeout() {
			timeout = true
		} else if err != nil {
			return
		}
		keep := late[:0]
		for _, w := range late {
			if w.after <= n || timeout {
				r.out.Write(w.d)
			} else {
				keep = append(keep, w)
			}
		}
		late = keep
		if timeout {
			continue
		}
		r.came.Add(1)
		d := buf[:k]
		switch x := rnd.Float64(); {
		case x < r.loss:
			r.lose(d)
			continue
		case x < r.loss+r.corrupt:
			r.lose(d)
			r.lost.Add(^uint64(0)) // it arrives, but not as what it was
			r.corrupted.Add(1)
			d[rnd.IntN([]int{k, proto.HeaderLen}[rnd.IntN(2)])] ^= 1 << rnd.IntN(8) // every other time in the header
		case x < r.loss+r.corrupt+r.duplicate:
			r.duplicated.Add(1)
			r.out.Write(d)
			late = append(late, waiting{n + rnd.IntN(20), bytes.Clone(d)})
			continue
		case x < r.loss+r.corrupt+r.duplicate+r.reorder:
			r.reordered.Add(1)
			late = append(late, waiting{n + 1 + rnd.IntN(10), bytes.Clone(d)})
			continue
		}
		r.out.Write(d)
	}
}

func (r *relay) lose(d []byte) {
	r.lost.Add(1)
	if d[0]&0xF == 0 {
		r.lostData.Add(1)
	}
}

// left returns the datagrams that leave the relay, also those that it still
// holds back.
func (r *relay) left() uint64 { return r.came.Load() - r.lost.Load() + r.duplicated.Load() }

// drain waits until the datagrams that a remote sent have gone through the
// relay and the collector has what left it. A collector that ended by itself
// (Once) had been closed before the last doubles came, on a busy machine.
func (r *relay) drain(t *testing.T, sent uint64, a *collector.Account) {
	t.Helper()
	testnet.Eventually(t, "the relay's last datagram at the collector", func() bool {
		return r.came.Load() == sent && a.Received() == r.left()
	})
}

// check holds the collector's account against what the relay did.
func (r *relay) check(t *testing.T, a *collector.Account, s collector.TapTotal) {
	t.Helper()
	if got, want := a.Received(), r.left(); got != want {
		t.Errorf("%d datagrams received, %d left the relay", got, want)
	}
	bad := uint64(0)
	for d := range collector.NumDrops {
		if d != collector.DropReplay && d != collector.DropLate {
			bad += a.Drops(d)
		}
	}
	// What is left are doubles; those damaged into a counter that was seen; and,
	// on a busy machine, those that the relay held back for longer than the
	// collector waits: they are lost, and late when they come.
	again := a.Drops(collector.DropReplay) + a.Drops(collector.DropLate)
	late := bad + again - r.corrupted.Load() - r.duplicated.Load()
	if bad > r.corrupted.Load() || bad+again < r.corrupted.Load()+r.duplicated.Load() || s.LostDatagrams != r.lostData.Load()+late {
		t.Errorf("%d data datagrams lost, the relay spoilt %d; %d forged or strange, it damaged %d; %d replayed or late, it doubled %d",
			s.LostDatagrams, r.lostData.Load(), bad, r.corrupted.Load(), again, r.duplicated.Load())
	}
	if r.lostData.Load() == 0 && s.LostDatagrams == 0 && s.Lost > 0 {
		t.Errorf("%d frames lost, but no datagram", s.Lost)
	}
	t.Logf("came %d, lost %d, doubled %d, overtaken %d, damaged %d", r.came.Load(), r.lost.Load(), r.duplicated.Load(), r.reordered.Load(), r.corrupted.Load())
}
