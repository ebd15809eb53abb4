// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"net"
	"testing"
	"time"

	"github.com/ntap-project/ntap/batch"
)

// deliver allocates nothing once a stream is known: datagrams come from a real
// socket and go to a sink.
func TestDeliverPathAllocates(t *testing.T) {
	in, err := batch.Listen(batch.ListenConfig{Addr: "127.0.0.1:0", Buffer: 16 << 20, Poll: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer in[0].Close()
	to, err := net.Dial("udp", in[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	d.home = in[0]
	out := &nullSink{}
	d.sinks = []sink{out}
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	const frames = 3000
	for range frames {
		s.frame(700)
	}
	s.flush()
	next := 0
	send := func(n int) {
		for range n {
			if _, err := to.Write(s.out[next]); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	receive := func() {
		for d.account.Received.Load() < uint64(next) {
			if n, err := d.deliver(); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	send(20)
	receive()
	if n := testing.AllocsPerRun(100, func() { send(10); receive() }); n != 0 {
		t.Errorf("%v allocations for ten datagrams", n)
	}
	if got := d.account.Unpacked.Load(); got < 1500 || got != out.counts.Delivered.Load() {
		t.Errorf("%d frames unpacked, %d delivered", got, out.counts.Delivered.Load())
	}
}
