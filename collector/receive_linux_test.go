// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A counter is a desk with the two sockets of a worker.
type counter struct {
	*desk
	t  *testing.T
	to *net.UDPConn
}

func newCounter(t *testing.T, d *desk) *counter {
	t.Helper()
	f, in := groups(t, "127.0.0.1:0", 1)
	d.flows, d.home, d.strangers = f, in[0], in[1]
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(in[0].Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &counter{d, t, c}
}

// send sends what a sim has sealed.
func (c *counter) send(s *sim) {
	c.t.Helper()
	s.flush()
	for _, d := range s.out {
		if _, err := c.to.Write(d); err != nil {
			c.t.Fatal(err)
		}
	}
	s.out = nil
}

// take delivers until so many datagrams have come.
func (c *counter) take(datagrams uint64) {
	c.t.Helper()
	testnet.Eventually(c.t, "the datagrams have come", func() bool {
		for before := c.account.Received.Load(); ; before = c.account.Received.Load() {
			if _, err := c.deliver(); err != nil {
				c.t.Fatal(err)
			}
			if now := c.account.Received.Load(); now >= datagrams || now == before {
				return now >= datagrams
			}
		}
	})
}

// known has the flow known, as another worker does that stands still between the
// program that is in force and the note of it.
func (c *counter) known(from netip.AddrPort) {
	c.t.Helper()
	f := c.flows
	f.wanted.Store(false)
	f.begun.Add(1)
	if err := f.first.Steer(f.program([]uint32{f.hash(from)})); err != nil {
		c.t.Fatal(err)
	}
}

// What a flow sends comes in order when it becomes known, also if the worker that
// sees to it stands still before it can say so, or the flow's own worker between two
// looks. What lay at the socket for strangers used to come behind what followed it,
// and was dropped as late where that was more than may be held.
func TestFlowBecomesKnownInOrder(t *testing.T) {
	for _, strange := range []bool{false, true} { // what the last batch was of
		keys := testKeys(t)
		c := newCounter(t, newDesk(t, keys, ""))
		s := newSim(t, keys, 7, startedAgo(0), 0, 200)
		frames := func() {
			for range 2 * defaultReorder {
				s.frame(100)
			}
			c.send(s)
		}
		s.say(t, false)
		c.send(s)
		c.take(1)
		c.flows.wanted.Store(false) // by another worker, and later
		frames()
		c.known(c.to.LocalAddr().(*net.UDPAddr).AddrPort())
		frames()
		sent := 1 + s.data.Counter()
		c.strange = strange
		c.take(sent)
		c.flows.made.Add(1)
		frames()
		sent = 1 + s.data.Counter()
		c.take(sent)
		if c.moving != 0 || c.kept != 0 {
			t.Errorf("the flow is known, and is waited for: %d, %d", c.moving, c.kept)
		}
		for i, f := range c.out.frames {
			if n := binary.BigEndian.Uint32(f.Data); n != uint32(i) {
				t.Fatalf("frame %d where %d is due", n, i)
			}
		}
		if n := len(c.out.frames); n != int(s.frames) || c.all.Drops(DropLate) != 0 {
			t.Errorf("%d frames of %d, %d datagrams late", n, s.frames, c.all.Drops(DropLate))
		}
	}
}
