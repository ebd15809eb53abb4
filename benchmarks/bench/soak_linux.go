// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// What a soak tolerates, of either side.
const (
	soakGrowth  = 4 << 20 // bytes of resident memory, from the first tenth on
	soakMallocs = 50      // objects a second: what is done once a second, reports and the like
	soakOffered = 0.97    // the part of the load that the source has to have offered
)

// soakRun runs a soak, and writes what came of it, whole or not, to path.
func (b *bench) soakRun(ctx context.Context, frame string, load float64, d time.Duration, path string) error {
	s, err := b.soak(ctx, frame, load, d)
	if ctx.Err() != nil {
		return errors.New("interrupted: nothing is written")
	}
	if s != nil && path != "" {
		b.results.Soak, b.results.Took = s, time.Since(b.begun).Round(time.Second)
		if err != nil {
			b.results.Errors = append(b.results.Errors, fmt.Sprintf("soak: %v", err))
		}
		if err := errors.Join(err, outcome.Save(path, &b.results)); err != nil {
			return err
		}
		b.say("written: %s", path)
	}
	return err
}

// soak runs ntap at a part of the highest rate without loss, and returns an
// error if a frame is lost, memory grows, something is allocated by frames, or the source did not
// offer what was asked.
func (b *bench) soak(ctx context.Context, frame string, load float64, d time.Duration) (*outcome.Soak, error) {
	b.say("the highest rate without loss of %s-byte frames", frame)
	rate, err := b.highestOf(ctx, frame)
	if err != nil {
		return nil, err
	}
	all, err := b.open(ctx, sysNtap)
	if err != nil {
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
	b.say("soak: %v at %.0f frames a second, %.0f %% of %.0f", d, load*rate, 100*load, rate)
	remote, collector, err := r.Memory(ctx)
	if err != nil {
		return nil, err
	}
	s := &outcome.Soak{Frame: frame, Highest: rate, Asked: load * rate, Mallocs: map[string]uint64{}, GCs: map[string]uint32{}, RSS: map[string][]int{}}
	var total measure.Trial
	var first, last map[string]measure.Use
	parts := 10
	for part := range parts {
		t, err := r.Trial(ctx, measure.Offer{Rate: load * rate, For: d / time.Duration(parts)})
		if err != nil {
			return nil, err
		}
		total.Offered.Frames += t.Offered.Frames
		total.Offered.Failed += t.Offered.Failed
		total.Offered.Took += t.Offered.Took
		total.Arrived += t.Arrived
		last = t.Parties
		if first == nil {
			first = last
		}
		for _, side := range []string{measure.RoleRemote, measure.RoleCollector} {
			s.RSS[side] = append(s.RSS[side], int(last[side].RSS>>20))
		}
		b.say("%d of %d: %d of %d frames; remote %d MiB, collector %d MiB", part+1, parts, t.Arrived, t.Offered.Frames*measure.Pieces(frame),
			t.Parties[measure.RoleRemote].RSS>>20, t.Parties[measure.RoleCollector].RSS>>20)
	}
	remote2, collector2, err := r.Memory(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.Balance(ctx); err != nil {
		return nil, err
	}
	s.Frames, s.Took, s.Rate, s.Lost = total.Offered.Frames, total.Offered.Took, total.Offered.Rate(), total.Lost(measure.Pieces(frame))
	var wrong []error
	if s.Lost != 0 {
		wrong = append(wrong, fmt.Errorf("%d frames of %d did not come out", s.Lost, total.Offered.Frames))
	}
	if s.Rate < soakOffered*s.Asked {
		wrong = append(wrong, fmt.Errorf("the source offered %.0f frames a second of %.0f: that is no soak at %.0f %%", s.Rate, s.Asked, 100*load))
	}
	for _, side := range []struct {
		name          string
		before, after measure.Memory
	}{{measure.RoleRemote, remote, remote2}, {measure.RoleCollector, collector, collector2}} {
		if grown := int64(last[side.name].RSS) - int64(first[side.name].RSS); grown > soakGrowth {
			wrong = append(wrong, fmt.Errorf("%s: memory grew by %d KiB", side.name, grown>>10))
		}
		n := side.after.Mallocs - side.before.Mallocs
		s.Mallocs[side.name], s.GCs[side.name] = n, side.after.GCs-side.before.GCs
		b.say("%s: %d objects allocated, %d garbage collections", side.name, n, s.GCs[side.name])
		if float64(n) > soakMallocs*d.Seconds()+2000 {
			wrong = append(wrong, fmt.Errorf("%s: %d objects allocated in %v", side.name, n, d))
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return s, err
	}
	b.say("soak: %d frames, %.0f a second, 0 lost, memory flat", s.Frames, s.Rate)
	return s, nil
}

// summary prints what matters most.
func summary(w io.Writer, r *outcome.Results) {
	fmt.Fprintf(w, "%s, %d CPUs, Linux %s, commit %s, %v\n", r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel, r.Commit, r.Took)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, x := range r.Ratios {
		verdict := ""
		if x.Target > 0 {
			verdict = fmt.Sprintf("target %v: %s", x.Target, map[bool]string{true: "reached", false: "missed"}[x.Met()])
		}
		fmt.Fprintf(t, "%s, of that of %s\t%s bytes\t%v\t%s\n", x.What, x.Peer, x.Frame, x.Ratio, verdict)
	}
	for _, x := range r.Rates {
		fmt.Fprintf(t, "without loss: %s\t%s bytes\t%v a second\t%.2f Gbit/s\n", x.System, x.Frame, x.Rate, x.Gbps)
	}
	t.Flush()
}
