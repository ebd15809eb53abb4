// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/perf/sizing"
)

// stages measures each stage alone, and makes the profile of the sizing model.
func (b *bench) stages(ctx context.Context) error {
	stages, checks, err := measure.Survey(ctx, measure.SurveyConfig{
		Frames:     pick(b, []string{"64", "128", "300", "imix", "594", "1514", "9000", "gso"}, []string{"64", "1514"}),
		Checks:     pick(b, []string{"200", "1000"}, []string{"700"}),
		Rounds:     b.Rounds,
		Pure:       b.Trial / 15,
		Trial:      b.Trial / 2,
		AllKernels: true,
		Say:        func(s string) { b.say("%s", s) },
	})
	if err != nil {
		return err
	}
	for _, s := range stages {
		b.results.Stages = append(b.results.Stages, outcome.Stage{Stage: s.Stage, Suite: s.Suite, Frame: s.Frame, Bytes: s.Bytes, Datagrams: s.Datagrams, NS: measure.SpreadOf(s.NS...)})
	}
	p := measure.ProfileOf(stages, checks)
	if len(p.Checks) > 0 {
		p.Checks = append(p.Checks, b.limits(p.Checks[0].Suite)...) // all of them seal in one way
	}
	p.Machine, p.Commit, p.Date = b.results.Machine.CPU, b.results.Commit, b.begun.UTC().Format(time.DateOnly)
	b.results.Profile = p
	return b.model(p)
}

// limits are what a frame takes of a collector's worker at its limit, where it has a
// CPU of its own and is busy all the time: the model has to say that, too.
func (b *bench) limits(suite string) (all []sizing.Point) {
	const frame = "1300" // at which nothing is fitted
	for system, role := range map[string]sizing.Role{sysCollectorTAP: sizing.Collector, sysCollectorVXLAN: sizing.CollectorVXLAN} {
		for _, r := range b.results.Rates {
			if r.System == system && r.Frame == frame && r.Rate.Median > 0 && !r.Bound {
				all = append(all, sizing.Point{Stage: string(role), Suite: suite, Frame: frame, Bytes: r.Bytes, NS: 1e9 / r.Rate.Median})
			}
		}
	}
	slices.SortFunc(all, func(x, y sizing.Point) int { return strings.Compare(x.Stage, y.Stage) })
	return all
}

// model makes the sizing model of a profile, and holds it against what it was
// not made of.
func (b *bench) model(p *sizing.Profile) error {
	m, err := sizing.Fit(p)
	if err != nil {
		return err
	}
	for _, h := range m.Held(p.Checks) {
		holds := math.Abs(h.Off()) <= sizing.Within
		b.results.Model = append(b.results.Model, outcome.Held{Side: h.Stage, Suite: h.Suite, Frame: h.Frame, NS: h.NS, Model: h.Model, Holds: holds})
		off := ""
		if !holds {
			off = fmt.Sprintf(": more than %.0f %%", 100*sizing.Within)
		}
		b.say("the sizing model of a %s at %s bytes is %+.0f %% off%s", h.Stage, h.Frame, 100*h.Off(), off)
	}
	return nil
}

// Rate of the collector's trials, of frames that are played: most hosts carry it.
func easy(frame string) float64 {
	bytes, err := measure.MeanLength(frame)
	if err != nil {
		return 0
	}
	return min(200e3, 1.6e9/8/bytes)
}

// taps measures one collector with many taps.
func (b *bench) taps(ctx context.Context) error {
	const frame = "300"
	for _, n := range pick(b, []int{1, 16, 64, 256, 1000}, []int{1, 16}) {
		if err := b.tapsOf(ctx, n, frame); err != nil {
			return fmt.Errorf("%d taps: %w", n, err)
		}
	}
	return nil
}

func (b *bench) tapsOf(ctx context.Context, n int, frame string) error {
	r, err := measure.NewRig(linkMTU)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Collector(ctx, measure.CollectorConfig{}); err != nil {
		return err
	}
	if err := r.Flights(ctx, measure.Traffic{Frame: frame}, n, "", b.Source); err != nil {
		return err
	}
	rate := easy(frame)
	t := outcome.Taps{Taps: n, Frame: frame, Rate: rate}
	var own []float64
	for i := range min(b.Rounds, 3) + 1 {
		trial, err := r.Trial(ctx, measure.Offer{Rate: rate, For: b.Trial * 2 / 3})
		if err != nil {
			return err
		}
		if i == 0 {
			continue // sessions begin
		}
		own = append(own, trial.Parties[measure.RoleCollector].NS/frames(&trial))
		t.RSS = trial.Parties[measure.RoleCollector].RSS
		t.Lost += trial.Lost(1)
	}
	t.Own = measure.SpreadOf(own...)
	b.results.Taps = append(b.results.Taps, t)
	if err := r.Balance(ctx); err != nil {
		return err
	}
	b.say("%d taps: %v ns a frame, %d MiB", n, t.Own, t.RSS>>20)
	return nil
}
