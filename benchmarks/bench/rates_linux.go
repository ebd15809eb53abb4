// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// Targets of the highest rate without loss, source and both sides on the same CPUs.
var rateTargets = map[string]float64{"300": 20, "1300": 10} // of the encrypted peer's

// rates searches the highest rate without loss of ntap and of what would be
// used instead, in turn (RFC 2544, section 26.1).
func (b *bench) rates(ctx context.Context) error {
	rounds := min(b.Rounds, 3)
	for _, frame := range pick(b, []string{"300", "1300", "64", "imix"}, []string{"300"}) {
		compared := rateTargets[frame] > 0
		names := []string{sysNtap}
		if compared {
			names = []string{sysNtap, sysVXLAN, sysWireGuard}
		} else {
			rounds = 1
		}
		found := map[string][]measure.Search{}
		for round := range rounds {
			b.say("highest rate without loss at %s bytes, round %d of %d", frame, round+1, rounds)
			for _, name := range names {
				s, err := b.search(ctx, name, frame)
				if err != nil {
					return fmt.Errorf("%s, frames of %s: %w", name, frame, err)
				}
				if s != nil {
					b.say("%s: %.0f frames a second", name, s.Rate)
					found[name] = append(found[name], *s)
				}
			}
		}
		for _, name := range names {
			b.noteRate(name, frame, found[name])
		}
		if r := rateRatio(found[sysNtap], found[sysWireGuard]); compared && r.N > 0 {
			b.ratio(outcome.Ratio{What: "frames a second without loss of " + sysNtap, Peer: sysWireGuard, Frame: frame, Target: rateTargets[frame], Ratio: r})
		}
		if r := rateRatio(found[sysNtap], found[sysVXLAN]); compared && r.N > 0 {
			b.ratio(outcome.Ratio{What: "frames a second without loss of " + sysNtap, Peer: sysVXLAN, Frame: frame, Ratio: r})
		}
	}
	return nil
}

// search sets a system up by itself and searches; nil: it cannot be had.
func (b *bench) search(ctx context.Context, name, frame string) (*measure.Search, error) {
	all, err := b.open(ctx, name)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	defer shut(all)
	r := all[0].rig
	if err := r.Traffic(ctx, traffic(frame)); err != nil {
		return nil, err
	}
	if err := b.warmUp(ctx, all); err != nil {
		return nil, err
	}
	s, err := measure.Highest(ctx, b.attempts(ctx, r, frame))
	if err != nil {
		return nil, err
	}
	return &s, balance(ctx, all)
}

// rateRatio compares two systems round by round, where both found a rate.
func rateRatio(ours, peer []measure.Search) measure.Spread {
	var a, b []float64
	for i := range min(len(ours), len(peer)) {
		if ours[i].Rate > 0 && peer[i].Rate > 0 {
			a, b = append(a, ours[i].Rate), append(b, peer[i].Rate)
		}
	}
	return measure.Ratio(a, b)
}

func rateOf(all []measure.Search) (v []float64) {
	for _, s := range all {
		if s.Rate > 0 {
			v = append(v, s.Rate)
		}
	}
	return v
}

func (b *bench) noteRate(name, frame string, found []measure.Search) {
	if len(found) == 0 {
		return
	}
	bytes, _ := measure.MeanLength(frame)
	r := outcome.Rate{System: name, Frame: frame, Bytes: bytes, Rate: measure.SpreadOf(rateOf(found)...), Searches: found}
	r.Gbps = r.Rate.Median * bytes * 8 / 1e9
	for _, s := range found {
		r.Bound = r.Bound || s.Bound
	}
	b.results.Rates = append(b.results.Rates, r)
	if name == sysNtap && r.Rate.Median > 0 {
		b.highest[frame] = r.Rate.Median
	}
}

// highestOf returns ntap's highest rate without loss, searched if it is not
// known yet.
func (b *bench) highestOf(ctx context.Context, frame string) (float64, error) {
	if rate := b.highest[frame]; rate > 0 {
		return rate, nil
	}
	s, err := b.search(ctx, sysNtap, frame)
	if err != nil {
		return 0, err
	}
	if s.Rate <= 0 {
		return 0, fmt.Errorf("no rate of %s-byte frames went without loss", frame)
	}
	b.highest[frame] = s.Rate
	return s.Rate, nil
}

// curves measures what is delivered of what is offered, also beyond what can be
// carried.
func (b *bench) curves(ctx context.Context) error {
	for _, frame := range pick(b, []string{"300", "1300"}, []string{"300"}) {
		rate, err := b.highestOf(ctx, frame)
		if err != nil {
			return err
		}
		for _, name := range []string{sysNtap, sysVXLAN, sysWireGuard} {
			if err := b.curve(ctx, name, frame, rate); err != nil {
				return fmt.Errorf("%s, frames of %s: %w", name, frame, err)
			}
		}
	}
	return nil
}

func (b *bench) curve(ctx context.Context, name, frame string, rate float64) error {
	all, err := b.open(ctx, name)
	if err != nil || len(all) == 0 {
		return err
	}
	defer shut(all)
	r := all[0].rig
	if err := r.Traffic(ctx, traffic(frame)); err != nil {
		return err
	}
	c := outcome.Curve{System: name, Frame: frame}
	// 0 is as many as the source can, which comes last.
	for _, part := range pick(b, []float64{0.05, 0.1, 0.25, 0.5, 0.75, 0.95, 1.2, 0}, []float64{0.5, 0}) {
		a, _, err := r.Attempt(ctx, rate*part, b.Trial*2/3, measure.Pieces(frame))
		if err != nil {
			return err
		}
		c.Points = append(c.Points, a)
	}
	slices.SortFunc(c.Points, func(x, y measure.Attempt) int { return int(x.Offered - y.Offered) })
	b.results.Curves = append(b.results.Curves, c)
	return balance(ctx, all)
}

// Loads at which latency is measured, of the highest rate without loss.
var loads = []float64{0.1, 0.5, 0.9}

// probeRate is how many of the frames are probes, a second: ten of a thousand in a
// trial of 2.4 s are beyond p99.9.
const probeRate = 4000

// latency measures the time from the kernel's capture to the TAP.
func (b *bench) latency(ctx context.Context) error {
	for _, frame := range pick(b, []string{"300", "1300"}, []string{"300"}) {
		rate, err := b.highestOf(ctx, frame)
		if err != nil {
			return err
		}
		for _, low := range []bool{false, true} {
			r, err := measure.NewRig(linkMTU)
			if err != nil {
				return err
			}
			err = b.latencyOf(ctx, r, frame, rate, low)
			r.Close()
			if err != nil {
				return err
			}
			if b.results.Machine.CPUs < 3 {
				break // shards and workers that never sleep take a CPU each, and the source one
			}
		}
		if b.results.Machine.CPUs < 3 {
			if err := b.latencyLow(ctx, frame); err != nil {
				return err
			}
		}
	}
	return nil
}

// lightRate is a light load, frames a second.
const lightRate = 5000

// latencyLow measures --low-latency where CPUs are few: at light load alone, and
// beside it the default at the same one.
func (b *bench) latencyLow(ctx context.Context, frame string) error {
	for _, low := range []bool{false, true} {
		r, err := measure.NewRig(linkMTU)
		if err != nil {
			return err
		}
		if err = b.latencyRig(ctx, r, frame, low); err == nil {
			err = b.latencyAt(ctx, r, frame, low, 0, lightRate)
		}
		if err == nil {
			err = r.Balance(ctx)
		}
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) latencyRig(ctx context.Context, r *measure.Rig, frame string, low bool) error {
	if err := r.Collector(ctx, measure.CollectorConfig{Low: low}); err != nil {
		return err
	}
	if err := r.Source(ctx, measure.Traffic{Frame: frame}, b.Source); err != nil {
		return err
	}
	return r.Remote(ctx, measure.RemoteConfig{Low: low})
}

func (b *bench) latencyOf(ctx context.Context, r *measure.Rig, frame string, rate float64, low bool) error {
	if err := b.latencyRig(ctx, r, frame, low); err != nil {
		return err
	}
	for _, load := range loads {
		if err := b.latencyAt(ctx, r, frame, low, load, rate*load); err != nil {
			return err
		}
	}
	return r.Balance(ctx)
}

func (b *bench) latencyAt(ctx context.Context, r *measure.Rig, frame string, low bool, load, rate float64) error {
	ns, lost, t, err := r.Latencies(ctx, measure.Offer{Rate: rate, For: 4 * b.Trial, Probes: min(probeRate, rate)}, measure.TAPDevice)
	if err != nil {
		return err
	}
	h := hdrhistogram.New(1000, int64(10*time.Second), 3) // ns
	for _, v := range ns {
		if err := h.RecordValue(max(v, 1000)); err != nil {
			return fmt.Errorf("latency of %d ns: %w", v, err)
		}
	}
	if len(ns) == 0 {
		return fmt.Errorf("none of the probes came at %.0f frames a second", rate)
	}
	l := outcome.Latency{Mode: "default", Frame: frame, Load: load, Rate: rate, Probes: int64(len(ns)), Lost: lost,
		P50: h.ValueAtQuantile(50), P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9), Least: h.Min(), Most: h.Max()}
	if low {
		l.Mode = "--low-latency"
	}
	l.Busy = map[string]float64{}
	for _, side := range []string{measure.RoleRemote, measure.RoleCollector} {
		l.Busy[side] = t.Parties[side].NS / float64(t.Offered.Took)
	}
	if n := float64(t.Remote.SealedBytes); n > 0 {
		l.Wire = (float64(t.Remote.SentBytes) + outerLen*float64(t.Remote.Sent)) / n
	}
	for _, q := range []float64{0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100} {
		l.Points = append(l.Points, [2]float64{q, float64(h.ValueAtQuantile(q))})
	}
	b.results.Latency = append(b.results.Latency, l)
	b.say("latency at %.0f frames a second of %s bytes, %s: p50 %v p99 %v p99.9 %v, %d of %d probes lost", rate, frame, l.Mode,
		time.Duration(l.P50), time.Duration(l.P99), time.Duration(l.P999), lost, lost+l.Probes)
	return nil
}
