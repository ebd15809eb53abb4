// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/ring"
)

// A capture is one interface, or a set of them, with the rings of its fanout
// group, one for each of its shards.
type capture struct {
	tap     *tap
	set     *set   // nil: one interface,
	at      uint32 // whose number in the announce's list this is
	count   int
	link    uint16 // type of frames, LINKTYPE_
	netmask netip.Addr

	mu    sync.Mutex
	cfg   ring.Config
	rings []*ring.Ring
	taken []bool // which of them their shards have
	epoch int    // how often the rings were opened anew

	index       atomic.Int32           // of the interface that is captured; 0: none, or a set
	renamed     atomic.Pointer[string] // the name that it has, if it is another than it was called by; nil: it is not
	kernelClock atomic.Bool            // frames have the kernel's time, since the card that came has none
}

// open opens the rings, with a program as their filter; a set has its own.
func (c *capture) open(program []bpf.RawInstruction) (err error) {
	c.cfg.Filter = program
	err = c.openRings()
	for i := range c.taken {
		c.taken[i] = true
	}
	return err
}

// openRings opens the rings in the namespace that is captured in.
func (c *capture) openRings() error {
	var rings []*ring.Ring
	err := c.tap.inside(func() (err error) {
		if c.set != nil {
			if c.cfg.Filter, err = c.set.begin(); err != nil {
				return err
			}
		}
		rings, err = ring.OpenFanout(c.cfg, c.count)
		return err
	})
	if err == nil && c.set != nil {
		err = c.set.opened(rings)
	} else if err == nil {
		iface := rings[0].Interface()
		if iface.LinkType != c.link {
			err = fmt.Errorf("remote: %s is another kind of interface now, of link type %d and not %d: start the remote anew", iface.Name, iface.LinkType, c.link)
		}
		c.at = c.tap.list(describe(iface))
		c.index.Store(int32(iface.Index))
		c.renamed.Store(nil)
		c.stamps(rings[0])
	}
	if err != nil {
		for _, r := range rings {
			r.Close()
		}
		return err
	}
	c.rings, c.taken = rings, make([]bool, c.count)
	return nil
}

// reopen returns the ring of a member whose ring of the given epoch saw its
// interface or its namespace go. The first member to ask opens the rings of
// all.
func (c *capture) reopen(member, epoch int) (*ring.Ring, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.epoch {
		before, taken := c.rings, c.taken
		c.cfg.AnyClock = true // better the kernel's times than no capture
		if err := c.openRings(); err != nil {
			return nil, 0, err
		}
		for i, r := range before { // each shard closes its own old one, if it had it
			if !taken[i] {
				r.Close()
			}
		}
		c.epoch++
		if c.set == nil {
			c.tap.relist() // patterns leave this one out from now on
		}
	}
	c.taken[member] = true
	return c.rings[member], c.epoch, nil
}

// stamps notes whether a new ring has the card's time, as was asked for.
func (c *capture) stamps(r *ring.Ring) {
	err := r.Clock()
	if c.kernelClock.Store(err != nil); err != nil {
		c.tap.log.Warn().Err(err).Str("interface", c.cfg.Interface).Msg("the network card that came in place of another stamps no frames: they have the kernel's time")
	}
}

// follow takes up the name that the interface has now, which one of the rings
// asked for.
func (c *capture) follow(r *ring.Ring) {
	iface := r.Interface()
	name, err := r.Name()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || int32(iface.Index) != c.index.Load() {
		return // it is gone
	}
	now := c.cfg.Interface
	if p := c.renamed.Load(); p != nil {
		now = *p
	}
	if name == now {
		return
	}
	c.tap.log.Info().Str("interface", name).Str("before", now).Msg("an interface has another name")
	iface.Name = name
	c.at = c.tap.list(describe(iface))
	if c.renamed.Store(&name); name == c.cfg.Interface {
		c.renamed.Store(nil)
	}
}

// lost notes that the interface of an epoch's rings is gone.
func (c *capture) lost(epoch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.epoch {
		c.index.Store(0)
	}
}

// has says that the capture of an interface by its name has this one: by index,
// since names change, and by name while there is none.
func (c *capture) has(i *ring.Interface) bool {
	if index := c.index.Load(); index != 0 {
		return int(index) == i.Index
	}
	return c.cfg.Interface == i.Name
}

// leave gives up what holds a namespace that went, or is no longer wanted:
// while a socket is in it, it stays. Each shard closes its own ring.
func (c *capture) leave(epoch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set != nil && epoch == c.epoch { // else another shard is in the next one already
		c.set.leave()
	}
}

// place returns the interface's number in the announce's list.
func (c *capture) place() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
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
