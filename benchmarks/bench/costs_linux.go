// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"math"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// A comparison is what takes turns, at which frame sizes and rates.
type comparison struct {
	frame   string
	rate    float64 // frames a second, which all of them carry
	systems []string
}

// slow is a rate that a userspace tunnel carries too.
const slow = 30e3

// comparisons of CPU a frame. All systems of one take turns at one rate, that the
// slowest of them carries: shared is for what the kernel's mirroring does.
func (b *bench) comparisons(shared map[string]float64) []comparison {
	fast := []string{sysSource, sysNtap, sysRemote, sysTcpdump}
	own := []string{sysSource, sysNtap, sysRemote, sysClear}
	clear := []string{sysSource, sysNtap, sysVXLAN}
	encrypted := []string{sysSource, sysNtap, sysVXLAN, sysWireGuard}
	if b.Quick {
		return []comparison{
			{"300", 50e3, append(fast, sysVXLAN)},
			{"300", 10e3, []string{sysSource, sysNtap, sysClear, sysWireGuard}},
		}
	}
	return []comparison{
		{"300", shared["300"], clear},
		{"1300", shared["1300"], clear},
		{"300", 300e3, append(fast, sysClear)},
		{"1300", 200e3, append(fast, sysClear)},
		{"300", slow, encrypted},
		{"1300", slow, encrypted},
		{"60", 300e3, fast},
		{"594", 300e3, fast},
		{"imix", 250e3, own},
		{"1514", 200e3, own},
		{"9000", 30e3, own},
		{"gso", 3e3, own},
	}
}

// What is compared with the kernel's mirroring runs at sharedPart of what that
// carries in a trial, since it does not carry as much in each; or at fallback,
// where it is not to be had.
const (
	sharedPart = 0.85
	fallback   = 100e3
)

// sharedRates finds out at which rates the kernel's mirroring can be compared on
// this machine, from the highest that it carries, in steps of a tenth. It works where the
// source writes, so that what the source offers with it is what it carries.
func (b *bench) sharedRates(ctx context.Context, all []system) (map[string]float64, error) {
	rates := map[string]float64{}
	for _, frame := range []string{"300", "1300"} {
		rates[frame] = fallback
		s := byName(all, sysVXLAN)
		if s == nil {
			continue
		}
		if err := s.rig.Traffic(ctx, traffic(frame)); err != nil {
			return nil, err
		}
		for rate := 0.0; ; {
			t, err := s.rig.Trial(ctx, measure.Offer{Rate: rate, For: b.Trial})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if rate > 0 && t.Offered.Rate() >= sameRate*rate || rate == 1000 {
				rates[frame] = math.Floor(sharedPart*rate/1000) * 1000
				break
			}
			rate = max(1000, math.Floor(0.9*t.Offered.Rate()/1000)*1000)
		}
	}
	return rates, nil
}

// Targets of CPU a frame, all of it, without the source's. One holds at the highest
// rate at which both are compared; beside VXLAN in clear, ntap is seen at a low
// rate too.
var costTargets = []struct {
	ours, peer, frame string
	target            float64
}{
	{sysNtap, sysVXLAN, "300", 0.65},
	{sysNtap, sysVXLAN, "1300", 1.0},
	{sysRemote, sysTcpdump, "60", 1.3},
	{sysRemote, sysTcpdump, "300", 1.3},
	{sysRemote, sysTcpdump, "1300", 1.3},
}

// costs measures the CPU a frame of ntap and its peers.
func (b *bench) costs(ctx context.Context) error {
	all, err := b.open(ctx, systemsAll...)
	if err != nil {
		return err
	}
	defer shut(all)
	if err := b.warmUp(ctx, all); err != nil {
		return err
	}
	shared, err := b.sharedRates(ctx, all)
	if err != nil {
		return err
	}
	for _, c := range b.comparisons(shared) {
		b.say("CPU a frame at %s bytes", c.frame)
		if err := b.compare(ctx, all, c); err != nil {
			return fmt.Errorf("frames of %s: %w", c.frame, err)
		}
	}
	return balance(ctx, all)
}

// warmUp has everything run once, before it counts.
func (b *bench) warmUp(ctx context.Context, all []system) error {
	for _, s := range all {
		if _, err := s.rig.Trial(ctx, measure.Offer{Rate: slow / 3, For: b.Trial / 4}); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// compare has systems take turns.
func (b *bench) compare(ctx context.Context, all []system, c comparison) error {
	trials := map[string][]measure.Trial{}
	for range b.Rounds {
		for _, name := range c.systems {
			s := byName(all, name)
			if s == nil {
				continue
			}
			if err := s.rig.Traffic(ctx, traffic(c.frame)); err != nil {
				return err
			}
			t, err := s.rig.Trial(ctx, measure.Offer{Rate: c.rate, For: b.Trial})
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			trials[name] = append(trials[name], t)
		}
	}
	source := trials[sysSource]
	for _, name := range c.systems {
		if len(trials[name]) > 0 {
			b.results.Costs = append(b.results.Costs, costOf(name, c, trials[name], source))
		}
	}
	for _, t := range costTargets {
		ours, peer := trials[t.ours], trials[t.peer]
		if t.frame != c.frame || len(ours) == 0 || len(peer) == 0 {
			continue
		}
		r := outcome.Ratio{What: fmt.Sprintf("all CPU a frame of %s at %.0f frames a second", t.ours, c.rate), Peer: t.peer, Frame: c.frame, Target: t.target, Most: true,
			Ratio: measure.Ratio(beyond(ours, source), beyond(peer, source))}
		if c.rate <= slow {
			r.Target = 0 // to compare with
		}
		// At unequal rates the slower one has smaller batches, and looks dearer.
		if o, p := rateIn(ours), rateIn(peer); min(o, p) < sameRate*max(o, p) {
			b.say("%s and %s did not run at one rate: %.0f and %.0f frames a second; no ratio", t.ours, t.peer, o, p)
			continue
		}
		b.ratio(r)
	}
	if peer := trials[sysWireGuard]; len(peer) > 0 && len(trials[sysNtap]) > 0 {
		b.ratio(outcome.Ratio{What: fmt.Sprintf("all CPU a frame of %s at %.0f frames a second", sysNtap, c.rate), Peer: sysWireGuard, Frame: c.frame, Most: true,
			Ratio: measure.Ratio(beyond(trials[sysNtap], source), beyond(peer, source))})
	}
	b.wire(c, trials[sysNtap])
	return nil
}

// sameRate is how near two rates have to be for a ratio.
const sameRate = 0.97

// rateIn returns the rate that a system was offered, frames a second.
func rateIn(trials []measure.Trial) float64 {
	var v []float64
	for i := range trials {
		v = append(v, trials[i].Offered.Rate())
	}
	return measure.SpreadOf(v...).Median
}

func (b *bench) ratio(r outcome.Ratio) {
	b.results.Ratios = append(b.results.Ratios, r)
	b.say("%s, of that of %s: %v", r.What, r.Peer, r.Ratio)
}

// beyond returns the ns of CPU a frame, of all that takes part, beyond what the
// source takes alone.
func beyond(trials, source []measure.Trial) []float64 {
	v := make([]float64, min(len(trials), len(source)))
	for i := range v {
		v[i] = trials[i].Ours/frames(&trials[i]) - source[i].Ours/frames(&source[i])
	}
	return v
}

func frames(t *measure.Trial) float64 { return float64(max(t.Offered.Frames, 1)) }

// costOf sums trials of a system up.
func costOf(name string, c comparison, trials, source []measure.Trial) outcome.Cost {
	bytes, _ := measure.MeanLength(c.frame)
	cost := outcome.Cost{System: name, Frame: c.frame, Bytes: bytes, Own: map[string]measure.Spread{}, Cycles: map[string]measure.Work{}, RSS: map[string]uint64{}}
	var all, alone []float64
	own := map[string][]float64{}
	for i := range trials {
		t := &trials[i]
		n := frames(t)
		for party, u := range t.Parties {
			own[party] = append(own[party], u.NS/n)
		}
		if i < len(source) {
			all = append(all, t.Machine.NS/n-source[i].Machine.NS/frames(&source[i]))
			alone = append(alone, source[i].Ours/frames(&source[i]))
		}
		if t.Counted {
			cost.Lost += t.Lost(measure.Pieces(c.frame))
		}
	}
	cost.Rate = rateIn(trials)
	for party, v := range own {
		cost.Own[party] = measure.SpreadOf(v...)
	}
	last := trials[len(trials)-1]
	for party, u := range last.Parties {
		cost.Cycles[party], cost.RSS[party] = u.Work.Per(frames(&last)), u.RSS
	}
	maps.DeleteFunc(cost.Cycles, func(_ string, w measure.Work) bool { return w.Cycles() == 0 })
	cost.All, cost.Source = measure.SpreadOf(all...), measure.SpreadOf(alone...)
	if name != sysSource {
		cost.Ours = measure.SpreadOf(beyond(trials, source)...)
	}
	return cost
}

// Outer headers of a datagram on the wire, bytes: Ethernet, IPv4, UDP.
const outerLen = 14 + 20 + 8

// wire notes what crossed the wire for what was captured. Both are of the
// remote's account: it is some 0.1 s behind, for which the source's count would
// be too high.
func (b *bench) wire(c comparison, trials []measure.Trial) {
	var captured, sent, datagrams, n float64
	for i := range trials {
		t := &trials[i]
		captured += float64(t.Remote.SealedBytes)
		n += float64(t.Remote.Sealed)
		sent += float64(t.Remote.SentBytes)
		datagrams += float64(t.Remote.Sent)
	}
	if captured > 0 && datagrams > 0 {
		b.results.Wire = append(b.results.Wire, outcome.Wire{Frame: c.frame, Rate: c.rate,
			Ratio: (sent + datagrams*outerLen) / captured, Datagrams: datagrams / n, Bytes: sent / datagrams})
	}
}
