// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// What the results call ntap from capture to TAP, and the processes of a run.
const (
	system    = "ntap"
	source    = "source"
	remote    = "remote"
	collector = "collector"
)

// A goal is a number to reach.
type goal struct {
	what   string
	target float64
	most   bool // it is to be at most that
	unit   string
	got    measure.Spread
	more   string // to say
}

// reached says whether it is; "not measured" where nothing is known.
func (g *goal) reached() string {
	switch {
	case g.got.N == 0:
		return "not measured"
	case g.most && g.got.Median <= g.target || !g.most && g.got.Median >= g.target:
		return "reached"
	case g.most:
		return fmt.Sprintf("**missed**, %.2f times the target", g.got.Median/g.target)
	}
	return fmt.Sprintf("**missed**, %.2f of the target", g.got.Median/g.target)
}

// ownTargets are of CPU a frame of one side, ns. With VAES, the lower one.
var ownTargets = []struct {
	party, frame, measured string // measured: the nearest size that is
	plain, vaes            float64
}{
	{remote, "60", "60", 35, 35}, {remote, "300", "300", 110, 110}, {remote, "1300", "1300", 450, 300},
	{collector, "60", "60", 270, 270}, {collector, "300", "300", 350, 350}, {collector, "1300", "1300", 750, 550},
}

// Targets of latency, ns: p99 by default at light load, p50 with --low-latency.
const (
	latencyTarget    = 2e6
	lowLatencyTarget = 100e3
)

// processTarget is memory beyond the configured rings, bytes.
const processTarget = 64 << 20

// goals returns all targets with what was measured.
func goals(r *outcome.Results) (all []goal) {
	for i := range r.Ratios {
		if x := &r.Ratios[i]; x.Target > 0 {
			all = append(all, goal{what: fmt.Sprintf("%s, as times that of %s, %s bytes", x.What, x.Peer, x.Frame), target: x.Target, most: x.Most, got: x.Ratio})
		}
	}
	vaes := slices.Contains(r.Machine.Flags, "VAES")
	for _, t := range ownTargets {
		g := goal{what: fmt.Sprintf("%s, own CPU a frame of %s bytes", t.party, t.frame), target: t.plain, most: true, unit: " ns"}
		if vaes {
			g.target = t.vaes
		}
		for _, c := range fastest(r.Costs) {
			if c.System == system && c.Frame == t.measured {
				g.got = c.Own[t.party]
				g.more = fmt.Sprintf("at %s frames a second", count(c.Rate))
				if t.measured != t.frame {
					g.more = t.measured + " bytes, " + g.more
				}
			}
		}
		all = append(all, g)
	}
	for _, party := range []string{remote, collector} {
		g := goal{what: party + ", memory with its ring or socket buffer of 64 MiB", target: (processTarget + 64<<20) >> 20, most: true, unit: " MiB"}
		var rss []float64
		for _, c := range r.Costs {
			if c.System == system && c.RSS[party] > 0 {
				rss = append(rss, float64(c.RSS[party]>>20))
			}
		}
		g.got = measure.SpreadOf(rss...)
		all = append(all, g)
	}
	light := goal{what: "latency at light load, p99", target: latencyTarget / 1e3, most: true, unit: " µs"}
	low := goal{what: "latency with --low-latency, p50", target: lowLatencyTarget / 1e3, most: true, unit: " µs"}
	var p99, p50 []float64
	for _, l := range r.Latency {
		switch {
		case strings.Contains(l.Mode, "low-latency"):
			p50 = append(p50, float64(l.P50)/1e3)
		case l.Load <= 0.1:
			p99 = append(p99, float64(l.P99)/1e3)
		}
	}
	light.got, low.got = measure.SpreadOf(p99...), measure.SpreadOf(p50...)
	return append(all, light, low)
}

// targets writes what was to be reached, and whether it is.
func targets(p *page, r *outcome.Results) {
	var rows [][]string
	for _, g := range goals(r) {
		got := g.got.String()
		if g.got.N > 0 {
			got += g.unit
		}
		rows = append(rows, []string{g.what, bound(g.target, g.most) + g.unit, strings.TrimSpace(got + " " + g.more), g.reached()})
	}
	p.say("\n## Targets\n\nOwn CPU, memory and ratios were set for two cores of a Xeon with AVX-512 and VAES; on another machine ratios count, and ns are to compare with.")
	p.table([]string{"what", "to reach", "measured", ""}, rows)
}
