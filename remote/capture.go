// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"net/netip"
	"sync"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/ring"
)

// A capture is one interface, or a set of them, with the rings of its fanout
// group, one for each of its shards.
type capture struct {
	set     *set   // nil: one interface,
	at      uint32 // whose number in the announce's list this is
	count   int
	own     ring.Own // what is left out
	link    uint16   // type of frames, LINKTYPE_
	netmask netip.Addr

	mu    sync.Mutex
	cfg   ring.Config
	rings []*ring.Ring
	epoch int // how often the rings were opened anew
}

// open opens the rings, with a program as their filter; a set has its own.
func (c *capture) open(program []bpf.RawInstruction) (err error) {
	c.cfg.Filter = program
	c.rings, err = c.openRings()
	return err
}

func (c *capture) openRings() (rings []*ring.Ring, err error) {
	if c.set == nil {
		return ring.OpenFanout(c.cfg, c.count)
	}
	if c.cfg.Filter, err = c.set.begin(); err != nil {
		return nil, err
	}
	if rings, err = ring.OpenFanout(c.cfg, c.count); err != nil {
		return nil, err
	}
	if err = c.set.opened(rings); err != nil {
		for _, r := range rings {
			r.Close()
		}
	}
	return rings, err
}

// reopen returns the ring of a member whose ring of the given epoch saw its
// interface go. The first member to ask opens the rings of all.
func (c *capture) reopen(member, epoch int) (*ring.Ring, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.epoch {
		rings, err := c.openRings()
		if err != nil {
			return nil, 0, err
		}
		c.rings = rings // each shard closes its own old one
		c.epoch++
	}
	return c.rings[member], c.epoch, nil
}

// close closes the newest rings. A Ring may be closed twice.
func (c *capture) close() {
	if c.set != nil {
		c.set.close()
	}
	for _, r := range c.rings {
		r.Close()
	}
}
