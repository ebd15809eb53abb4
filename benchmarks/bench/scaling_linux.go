// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// scaling measures what more shards and workers give.
func (b *bench) scaling(ctx context.Context) error {
	for _, frame := range pick(b, []string{"300", "1300"}, []string{"300"}) {
		for workers := 1; workers <= min(b.results.Machine.CPUs, 64); workers *= 2 {
			if err := b.scale(ctx, frame, workers); err != nil {
				return fmt.Errorf("%d workers, frames of %s: %w", workers, frame, err)
			}
		}
	}
	return nil
}

func (b *bench) scale(ctx context.Context, frame string, workers int) error {
	r, err := measure.NewRig(linkMTU)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Collector(ctx, measure.CollectorConfig{Workers: workers}); err != nil {
		return err
	}
	if err := r.Source(ctx, measure.Traffic{Frame: frame}, b.Source); err != nil {
		return err
	}
	if err := r.Remote(ctx, measure.RemoteConfig{Workers: workers}); err != nil {
		return err
	}
	s := outcome.Scaling{Workers: workers, Frame: frame, Own: map[string]measure.Spread{}}
	own := map[string][]float64{}
	var rates []float64
	for range min(b.Rounds, 1) {
		t, err := r.Trial(ctx, measure.Offer{Rate: 200e3, For: b.Trial * 2 / 3})
		if err != nil {
			return err
		}
		for party, u := range t.Parties {
			own[party] = append(own[party], u.NS/frames(&t))
		}
		found, err := measure.Highest(ctx, b.attempts(ctx, r, frame))
		if err != nil {
			return err
		}
		if found.Rate > 0 {
			rates = append(rates, found.Rate)
		}
	}
	for party, v := range own {
		s.Own[party] = measure.SpreadOf(v...)
	}
	if s.Alone, err = b.sidesAlone(ctx, frame, workers); err != nil {
		return err
	}
	s.Rate = measure.SpreadOf(rates...)
	b.results.Scaling = append(b.results.Scaling, s)
	if err := r.Balance(ctx); err != nil {
		return err
	}
	b.say("%d workers at %s bytes: %v frames a second", workers, frame, s.Rate)
	return nil
}

// eachWorker is what every shard or worker has to do where a side is measured by
// itself, frames a second.
const eachWorker = 100e3

// sidesAlone measures a remote and a collector by themselves, with as much for each
// shard or worker however many there are: so each is woken as often, and what is
// more is what they cost each other.
func (b *bench) sidesAlone(ctx context.Context, frame string, workers int) (map[string]measure.Spread, error) {
	ns := map[string]measure.Spread{}
	for _, side := range []string{measure.RoleRemote, measure.RoleCollector} {
		r, err := measure.NewRig(linkMTU)
		if err != nil {
			return nil, err
		}
		v, err := b.sideAlone(ctx, r, side, frame, workers)
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", side, err)
		}
		ns[side] = measure.SpreadOf(v...)
	}
	return ns, nil
}

func (b *bench) sideAlone(ctx context.Context, r *measure.Rig, side, frame string, workers int) (ns []float64, err error) {
	if side == measure.RoleRemote {
		if _, err = r.B.DropAll(measure.LinkB); err == nil {
			err = r.Source(ctx, measure.Traffic{Frame: frame}, b.Source)
		}
		if err == nil {
			err = r.Remote(ctx, measure.RemoteConfig{Workers: workers})
		}
	} else {
		if err = r.Collector(ctx, measure.CollectorConfig{Workers: workers}); err == nil {
			err = r.Flights(ctx, measure.Traffic{Frame: frame}, 4*workers, "", b.Source)
		}
	}
	for i := 0; err == nil && i <= min(b.Rounds, 3); i++ {
		t, err := r.Trial(ctx, measure.Offer{Rate: eachWorker * float64(workers), For: b.Trial * 2 / 3})
		if err != nil {
			return nil, err
		}
		if i > 0 { // sessions begin
			ns = append(ns, t.Parties[side].NS/frames(&t))
		}
	}
	if err != nil {
		return nil, err
	}
	return ns, r.Balance(ctx)
}
