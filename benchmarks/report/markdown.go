// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
)

// A page is Markdown being written.
type page struct{ bytes.Buffer }

func (p *page) say(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// table writes a table; of no rows, nothing.
func (p *page) table(head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	p.say("\n| %s |", strings.Join(head, " | "))
	p.say("|%s", strings.Repeat("---|", len(head)))
	for _, row := range rows {
		p.say("| %s |", strings.Join(row, " | "))
	}
	p.say("")
}

// markdown writes the report of a results file.
func markdown(r *outcome.Results, file string, shown []plotted) []byte {
	p := &page{}
	m := r.Machine
	p.say("<!-- SPDX-License-Identifier: Apache-2.0 -->")
	p.say("# Measured: %s, %s\n", or(m.CPU, "a machine without a name"), r.Begun.Format(time.DateOnly))
	guest := "no virtual machine"
	if m.Guest {
		guest = "a virtual machine"
	}
	trials := fmt.Sprintf(", trials of %v", r.Settings.Trial)
	if onlyOptions(r) {
		trials = ""
	}
	p.say("Made by `make report` of [%s](%s). %d CPUs (%s), %s, %.1f GiB, Linux %s, %s; ntap %s; `%s`, %v, %d rounds%s.",
		file, file, m.CPUs, strings.Join(m.Flags, " "), guest, float64(m.Memory)/(1<<30), m.Kernel, r.Go, r.Commit, r.Command, r.Took, r.Settings.Rounds, trials)
	if r.Settings.Quick {
		p.say("\n**A quick run, which shows that everything runs: its figures say nothing.**")
	}
	if q := r.Quiet; q != nil {
		p.say("\nCPUs that were busy before anything ran: %v.", q.Busy)
		if !q.HasCounter {
			p.say("There are no counters of the processor: CPU is the time that the kernel's clock has, and what a hypervisor took is in it.")
		}
	}
	if !onlyOptions(r) {
		p.say("\nGiven are medians, and in brackets the least and the most of the rounds. Ratios are of runs that took turns.")
	}
	if len(r.Errors) > 0 {
		p.say("\n## What is missing\n")
		for _, e := range r.Errors {
			p.say("- %s", e)
		}
	}
	if r.Soak != nil {
		p.soak(r.Soak)
		return p.Bytes()
	}
	if onlyOptions(r) {
		p.options(r)
		return p.Bytes()
	}
	targets(p, r)
	p.peers(r)
	p.ratios(r)
	if len(shown) > 0 {
		p.say("\n## Plots\n")
		for _, one := range shown {
			p.say("![%s](%s)\n", one.what, one.file)
		}
	}
	p.costs(r)
	p.rates(r)
	p.latency(r)
	p.stages(r)
	p.more(r)
	p.options(r)
	return p.Bytes()
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (p *page) peers(r *outcome.Results) {
	var rows [][]string
	for _, peer := range r.Peers {
		how := peer.How
		if !peer.Available {
			how = "not available: " + how
		}
		rows = append(rows, []string{peer.Name, clean(how)})
	}
	if len(rows) > 0 {
		p.say("\n## Beside what")
	}
	p.table([]string{"peer", "how"}, rows)
}

// clean makes one cell of a text.
func clean(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func (p *page) ratios(r *outcome.Results) {
	var rows [][]string
	for _, x := range r.Ratios {
		target := ""
		if x.Target > 0 {
			target = bound(x.Target, x.Most)
		}
		rows = append(rows, []string{x.What, x.Peer, x.Frame, x.Ratio.String(), target})
	}
	if len(rows) > 0 {
		p.say("\n## Ratios")
	}
	p.table([]string{"what", "as times that of", "frame", "ratio", "to reach"}, rows)
}

func bound(target float64, most bool) string {
	if most {
		return fmt.Sprintf("at most %v", target)
	}
	return fmt.Sprintf("at least %v", target)
}

func (p *page) costs(r *outcome.Results) {
	var rows [][]string
	for _, c := range r.Costs {
		var own []string
		for _, party := range slices.Sorted(maps.Keys(c.Own)) {
			if party != source {
				own = append(own, fmt.Sprintf("%s %v", party, c.Own[party]))
			}
		}
		ours := "0"
		if c.Ours.N > 0 {
			ours = c.Ours.String()
		}
		rows = append(rows, []string{c.System, c.Frame, count(c.Rate), ours, strings.Join(own, "; "), c.Source.String(), fmt.Sprint(c.Lost)})
	}
	if len(rows) > 0 {
		p.say("\n## CPU a frame\n\nIn ns, at the rate that is given: a system is offered less only where its mirroring holds the source up. All: of every process that takes part and of ksoftirqd, less what the source takes alone.")
	}
	p.table([]string{"system", "frame", "frames a second", "all", "own, by process", "the source alone", "lost"}, rows)
	rows = nil
	for _, w := range r.Wire {
		rows = append(rows, []string{w.Frame, count(w.Rate), fmt.Sprintf("%.3f", w.Ratio), fmt.Sprintf("%.2f", w.Datagrams), fmt.Sprintf("%.0f", w.Bytes)})
	}
	if len(rows) > 0 {
		p.say("\n## Bytes on the wire\n\nOuter Ethernet, IP and UDP headers counted, for each captured byte.")
	}
	p.table([]string{"frame", "frames a second", "bytes for a byte", "datagrams a frame", "bytes of a datagram"}, rows)
}

func (p *page) rates(r *outcome.Results) {
	var rows [][]string
	for _, x := range r.Rates {
		by := ""
		if x.Bound {
			by = "the source could no more"
		}
		if n := len(x.Searches); n > 0 {
			trials := 0
			for _, s := range x.Searches {
				trials += len(s.Attempts)
			}
			by = strings.TrimPrefix(by+fmt.Sprintf("; %d trials in %d searches", trials, n), "; ")
		}
		rows = append(rows, []string{x.System, x.Frame, x.Rate.String(), fmt.Sprintf("%.2f", x.Gbps), by})
	}
	if len(rows) > 0 {
		p.say("\n## Highest rate without loss\n\nFrames a second, found by halving (RFC 2544, section 26.1): none lost, no more than 25 ms of the rate on its way when the source ends, and both three times as long at the rate that is given. Source and both sides share all CPUs; of a collector alone, one worker has a CPU of its own.")
	}
	p.table([]string{"system", "frame", "frames a second", "Gbit/s captured", ""}, rows)
}

func (p *page) latency(r *outcome.Results) {
	var rows [][]string
	us := func(ns int64) string { return fmt.Sprintf("%.0f", float64(ns)/1e3) }
	for _, l := range r.Latency {
		load := fmt.Sprintf("%.0f %%", 100*l.Load)
		if l.Load == 0 {
			load = "light"
		}
		rows = append(rows, []string{l.Mode, l.Frame, load, count(l.Rate), us(l.Least), us(l.P50), us(l.P99), us(l.P999), us(l.Most), fmt.Sprintf("%d of %d", l.Lost, l.Probes+l.Lost),
			fmt.Sprintf("%.2f, %.2f", l.Busy[remote], l.Busy[collector]), fmt.Sprintf("%.2f", l.Wire)})
	}
	if len(rows) > 0 {
		p.say("\n## Latency\n\nFrom the kernel's timestamp at the capture to that on the TAP, µs. Busy is how many CPUs' time remote and collector took; the last column is bytes on the wire for a captured one.")
	}
	p.table([]string{"mode", "frame", "of the highest rate", "frames a second", "least", "p50", "p99", "p99.9", "most", "probes lost", "busy", "wire"}, rows)
}

func (p *page) stages(r *outcome.Results) {
	var rows [][]string
	for _, s := range r.Stages {
		rows = append(rows, []string{s.Stage, s.Suite, s.Frame, s.NS.String(), fmt.Sprintf("%.3f", s.NS.Median/max(s.Bytes, 1))})
	}
	if len(rows) > 0 {
		p.say("\n## Stages, each alone\n\nCPU, ns. What cannot be had alone is a difference, and may come out below 0 where that is small.")
	}
	p.table([]string{"stage", "suite", "frame", "a frame", "a byte"}, rows)
}

func (p *page) more(r *outcome.Results) {
	var rows [][]string
	for _, o := range r.Outputs {
		rows = append(rows, []string{o.Output, o.Frame, count(o.Rate), o.Own.String(), fmt.Sprint(o.Lost)})
	}
	if len(rows) > 0 {
		p.say("\n## Outputs of a collector")
	}
	p.table([]string{"output", "frame", "frames a second", "ns a frame", "lost"}, rows)
	rows = nil
	for _, h := range r.Model {
		holds := "yes"
		if !h.Holds {
			holds = "**no**"
		}
		rows = append(rows, []string{h.Side, h.Suite, h.Frame, fmt.Sprintf("%.0f", h.NS), fmt.Sprintf("%.0f", h.Model), fmt.Sprintf("%+.0f %%", 100*(h.Model/h.NS-1)), holds})
	}
	if len(rows) > 0 {
		p.say("\n## The sizing model\n\nHeld against whole sides, which it was not fitted on: CPU a frame, ns.")
	}
	p.table([]string{"side", "suite", "frame", "measured", "the model", "off", "within 25 %"}, rows)
	rows = nil
	for _, t := range r.Taps {
		rows = append(rows, []string{fmt.Sprint(t.Taps), t.Frame, count(t.Rate), t.Own.String(), fmt.Sprint(t.RSS >> 20), fmt.Sprint(t.Lost)})
	}
	if len(rows) > 0 {
		p.say("\n## Many taps on one collector")
	}
	p.table([]string{"taps", "frame", "frames a second, of all", "ns a frame", "MiB", "lost"}, rows)
	rows = nil
	for _, s := range r.Scaling {
		rows = append(rows, append([]string{fmt.Sprint(s.Workers), s.Frame, s.Rate.String()}, append(ownOf(s), s.Alone[remote].String(), s.Alone[collector].String())...))
	}
	if len(rows) > 0 {
		p.say("\n## Shards and workers\n\nThe source shares the CPUs with them. Ns a frame are at one rate for all; of a side alone at 100,000 frames a second for each shard or worker.")
	}
	p.table([]string{"shards, workers", "frame", "highest frames a second", "remote, ns", "collector, ns", "remote alone, ns", "collector alone, ns"}, rows)
}

// soak writes how a long run went.
func (p *page) soak(s *outcome.Soak) {
	p.say("\n## Soak\n")
	p.say("%v at %.0f frames a second of %s bytes, of %.0f that were asked: %.0f %% of the highest rate without loss, which was %.0f. %d frames, %d lost.",
		s.Took.Round(time.Second), s.Rate, s.Frame, s.Asked, 100*s.Asked/max(s.Highest, 1), s.Highest, s.Frames, s.Lost)
	for _, side := range []string{remote, collector} {
		p.say("\n%s: %d objects allocated, %d garbage collections, resident memory in MiB after each tenth: %v.", side, s.Mallocs[side], s.GCs[side], s.RSS[side])
	}
}

func ownOf(s outcome.Scaling) []string {
	return []string{s.Own[remote].String(), s.Own[collector].String()}
}

// count writes a rate of frames.
func count(rate float64) string {
	if rate >= 1e6 {
		return fmt.Sprintf("%.2f M", rate/1e6)
	}
	return fmt.Sprintf("%.0f k", rate/1e3)
}
