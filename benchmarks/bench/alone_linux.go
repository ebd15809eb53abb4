// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// Collectors by themselves: taps are played on another CPU, so that one worker has
// a CPU of its own, and its highest rate is that of a core. A remote by itself
// cannot be loaded so: no source is as fast.
var collectorsAlone = []struct{ name, output string }{
	{sysCollectorTAP, ""},
	{sysCollectorVXLAN, measure.AddrV.String()},
}

// alone searches the highest rate without loss of a collector by itself, and what
// it delivers beyond that.
func (b *bench) alone(ctx context.Context) error {
	for _, c := range collectorsAlone {
		r, err := measure.NewRig(linkMTU)
		if err != nil {
			return err
		}
		err = b.collectorAlone(ctx, r, c.name, c.output)
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (b *bench) collectorAlone(ctx context.Context, r *measure.Rig, name, vtep string) error {
	cfg := measure.CollectorConfig{}
	if vtep != "" {
		if err := r.VTEP(); err != nil {
			return err
		}
		cfg.VXLAN = []string{vtep}
	}
	if err := r.Collector(ctx, cfg); err != nil {
		return err
	}
	if err := r.Flights(ctx, measure.Traffic{Frame: "300"}, 1, "", b.Source); err != nil {
		return err
	}
	for _, frame := range pick(b, []string{"300", "1300", "imix"}, []string{"300"}) {
		if err := r.Traffic(ctx, traffic(frame)); err != nil {
			return err
		}
		if _, err := r.Trial(ctx, measure.Offer{Rate: slow, For: b.Trial / 4}); err != nil {
			return err
		}
		s, err := measure.Highest(ctx, b.attempts(ctx, r, frame))
		if err != nil {
			return err
		}
		b.say("%s, frames of %s: %.0f a second", name, frame, s.Rate)
		b.noteRate(name, frame, []measure.Search{s})
		if frame != "imix" && s.Rate > 0 && vtep == "" {
			if err := b.beyond(ctx, r, name, frame, s.Rate); err != nil {
				return err
			}
		}
	}
	return r.Balance(ctx)
}

// beyond measures a curve to where buffers are full: what the source sends beyond
// the rate takes about a second to fill the socket's 64 MiB.
func (b *bench) beyond(ctx context.Context, r *measure.Rig, name, frame string, rate float64) error {
	c := outcome.Curve{System: name, Frame: frame}
	for _, part := range pick(b, []float64{0.25, 0.5, 0.75, 0.95, 1.1, 1.3, 1.6}, []float64{0.5}) {
		d := b.Trial / 2
		if part > 1 {
			d = 3 * b.Trial
		}
		a, _, err := r.Attempt(ctx, rate*part, d, measure.Pieces(frame))
		if err != nil {
			return err
		}
		c.Points = append(c.Points, a)
	}
	b.results.Curves = append(b.results.Curves, c)
	return nil
}

// attempts are the trials of a search on a rig.
func (b *bench) attempts(ctx context.Context, r *measure.Rig, frame string) func(rate float64, times int) (measure.Attempt, error) {
	return func(rate float64, times int) (measure.Attempt, error) {
		a, _, err := r.Attempt(ctx, rate, time.Duration(times)*b.Trial, measure.Pieces(frame))
		return a, err
	}
}
