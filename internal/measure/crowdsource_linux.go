// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A CrowdConfig says what devices a source of a crowd opens: one of the same name in
// each of some network namespaces.
type CrowdConfig struct {
	NetNS   []string `json:"netns"` // files
	Device  string   `json:"device"`
	Traffic Traffic  `json:"traffic"`
	CPU     int      `json:"cpu"` // it is pinned to; -1: none
}

// A crowdOffer is what such a source is to send to each device.
type crowdOffer struct {
	Batches int    `json:"batches"` // of writeBatch frames
	Seed    uint64 `json:"seed"`    // of the order of devices
}

// A crowdSource writes the same frames into several devices. It belongs to the thread
// that opened it.
type crowdSource struct{ to []*Source }

func crowdRole() role {
	s := &crowdSource{}
	return role{
		"open":    taking(func(_ context.Context, cfg CrowdConfig) (any, error) { return nil, s.open(cfg) }),
		"traffic": taking(func(_ context.Context, t Traffic) (any, error) { return nil, s.traffic(t) }),
		"run":     taking(func(ctx context.Context, o crowdOffer) (any, error) { return s.run(ctx, o) }),
	}
}

func (s *crowdSource) open(cfg CrowdConfig) error {
	runtime.LockOSThread()
	for _, path := range cfg.NetNS {
		if err := enter(path); err != nil {
			return err
		}
		one, err := newSource(cfg.Device, false)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.to = append(s.to, one)
	}
	if err := s.traffic(cfg.Traffic); err != nil {
		return err
	}
	return pin(cfg.CPU)
}

// enter has the calling thread enter a network namespace.
func enter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("%s: %w", path, os.NewSyscallError("setns", err))
	}
	return nil
}

// traffic has all send the same frames, which are there once: what lies in a cache for
// one does for another.
func (s *crowdSource) traffic(t Traffic) error {
	f, err := t.frames()
	if err != nil {
		return err
	}
	if f.gso {
		return errors.New("source: GSO frames are not for several devices")
	}
	for _, one := range s.to {
		one.frames, one.next = f, 0
	}
	return nil
}

// run sends batches to all devices in turn, in another order each time, and says for each
// what it took. So all of them see the same of what else goes on.
func (s *crowdSource) run(ctx context.Context, o crowdOffer) ([]Offered, error) {
	all := make([]Offered, len(s.to))
	order := rand.New(rand.NewPCG(o.Seed, 1))
	for range o.Batches {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		turns := order.Perm(len(s.to))
		before := threadCPU()
		for _, i := range turns {
			if err := s.to[i].write(writeBatch, 0, &all[i]); err != nil {
				return nil, err
			}
			now := threadCPU()
			all[i].CPU += now - before
			before = now
		}
	}
	return all, nil
}
