// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ntap-project/ntap/perf/sizing"
)

// mix is the one name of frames of several sizes. The model is held against it,
// and never fitted on it.
const mix = "imix"

// sizes are all that are measured, once each.
func (s *survey) sizes() []string {
	all := slices.Clone(s.cfg.Frames)
	for _, frame := range s.cfg.Checks {
		if !slices.Contains(all, frame) {
			all = append(all, frame)
		}
	}
	return all
}

const (
	// trickle is a rate, frames a second, at which what parties take is what it takes
	// to wake them: as often as at the rates of a survey, since blocks and flights
	// close by the clock at both. At a lower one the CPU sleeps deeper, and what
	// it takes to wake it is more.
	trickle = 20e3
	// brisk is how much more than its easyRate a ring and a remote carry anywhere.
	brisk = 3
	// lively is how much more a collector carries: at easyRate flights are short, and
	// frames as VXLAN cost a third more than where it is busy.
	lively = 2
)

// wakes are what parties took in a trial of hardly any frames, and what of that
// was to wake them.
type wakes struct {
	ns     map[string]float64
	frames float64
	fixed  map[string]float64 // what it would be of none; known after the next trial
}

// trickles finds out what it takes to wake whoever takes part. Where a core
// is busy it wakes no more, so this belongs to no frame; and on a virtual machine
// it is more than frames take at easy rates.
func (s *survey) trickles(ctx context.Context) error {
	for _, r := range []*Rig{s.alone, s.ringed, s.sink, s.plain, s.nowhere, s.tap, s.vxlan, s.remote} {
		frame := s.cfg.Frames[0] // each begins with that
		if r == s.sink || r == s.plain {
			frame = s.wireFrame()
		}
		if err := r.Traffic(ctx, Traffic{Frame: frame}); err != nil {
			return err
		}
		t, _, err := s.trial(ctx, r, Offer{Rate: trickle, For: s.cfg.Trial})
		if err != nil {
			return err
		}
		w := wakes{map[string]float64{}, float64(t.Offered.Frames), map[string]float64{}}
		for name, use := range t.Parties {
			w.ns[name] = use.NS
		}
		s.wakes[r] = w
	}
	return nil
}

// trial is a trial on a rig, with whoever reads what comes there. units is what
// that one read: frames of the ring, or datagrams.
func (s *survey) trial(ctx context.Context, r *Rig, o Offer) (t Trial, units uint64, err error) {
	var reader *Child
	do := ""
	switch r {
	case s.ringed:
		reader, do = s.ring, "capture"
	case s.plain:
		reader, do = s.receive, "receive"
	}
	if reader == nil {
		t, err = r.Trial(ctx, o)
		return t, 0, err
	}
	var c CallCost
	got := make(chan error, 1)
	go func() {
		got <- ask(ctx, reader, do, o.For+200*time.Millisecond, o.For, &c)
	}()
	t, err = r.Trial(ctx, o)
	return t, c.Units, errors.Join(err, <-got)
}

// each returns what a party took a frame, ns, all in all.
func (t *Trial) each(party string) float64 {
	return t.Parties[party].NS / float64(max(t.Offered.Frames, 1))
}

// wireFrame is the frame that datagrams are made of where they alone matter: one
// that fills them.
func (s *survey) wireFrame() string {
	for _, f := range s.cfg.Frames {
		if n, _ := MeanLength(f); n > 1400 {
			return f
		}
	}
	return s.cfg.Frames[len(s.cfg.Frames)-1]
}

// each returns what a party took a frame, ns, without what it takes to wake it. The
// first trial after a trickle has to be of the same frames.
func (s *survey) each(r *Rig, t *Trial, party string) float64 {
	w := s.wakes[r]
	ns, frames := t.Parties[party].NS, float64(max(t.Offered.Frames, 1))
	if _, known := w.fixed[party]; !known {
		w.fixed[party] = 0
		if more := frames - w.frames; more > w.frames {
			w.fixed[party] = min(max(0, w.ns[party]-w.frames*(ns-w.ns[party])/more), w.ns[party])
		}
	}
	return (ns - w.fixed[party]) / frames
}

// easyRate is a rate of frames that every side carries on any host for which
// sizing is worth the while.
func easyRate(frame string) float64 {
	mean, err := MeanLength(frame)
	if err != nil {
		return 0
	}
	return min(200e3, 1.2e9/8/mean) // 1.2 Gbit/s
}

// ProfileOf makes a profile of what a survey found: medians of the rounds. The
// model is fitted on frames as the wire has them, of one size.
func ProfileOf(stages, checks []StageResult) *sizing.Profile {
	p := &sizing.Profile{Schema: sizing.Schema}
	point := func(r StageResult) sizing.Point {
		return sizing.Point{Stage: r.Stage, Suite: r.Suite, Frame: r.Frame, Bytes: r.Bytes, NS: max(0, SpreadOf(r.NS...).Median)}
	}
	for _, r := range stages {
		if r.Stage == StageUnpack || r.Stage == StageCapture || !oneSize(r.Frame) && r.Stage != sizing.VXLANMixed {
			continue // order and capture have it; a mix, or GSO
		}
		p.Points = append(p.Points, point(r))
	}
	for _, r := range checks {
		p.Checks = append(p.Checks, point(r))
	}
	return p
}

// oneSize says that frames named so are all of one size, and as the wire has
// them: neither a mix, nor GSO.
func oneSize(frame string) bool { return strings.Trim(frame, "0123456789") == "" }
