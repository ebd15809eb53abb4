// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"sync"

	"github.com/ntap-project/ntap/ring"
)

// A capture is one interface with the rings of its fanout group, one for each
// of its shards.
type capture struct {
	cfg   ring.Config
	count int

	mu    sync.Mutex
	rings []*ring.Ring
	epoch int // how often the rings were opened anew
}

func openCapture(cfg ring.Config, count int) (*capture, error) {
	rings, err := ring.OpenFanout(cfg, count)
	if err != nil {
		return nil, err
	}
	return &capture{cfg: cfg, count: count, rings: rings}, nil
}

// reopen returns the ring of a member whose ring of the given epoch saw its
// interface go. The first member to ask opens the rings of all.
func (c *capture) reopen(member, epoch int) (*ring.Ring, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.epoch {
		rings, err := ring.OpenFanout(c.cfg, c.count)
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
	for _, r := range c.rings {
		r.Close()
	}
}
