// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/perf/sizing"
	"io"
	"net"
)

// stages measures each stage alone, and makes the profile of the sizing model.
func (b *bench) stages(ctx context.Context) error {
	stages, checks, err := measure.Survey(ctx, measure.SurveyConfig{
		Frames:     pick(b, []string{"64", "128", "300", "imix", "594", "1514", "9000", "gso"}, []string{"64", "1514"}),
		Checks:     pick(b, []string{"200", "1000"}, []string{"700"}),
		Rounds:     min(b.Rounds, 3),
		Pure:       b.Trial / 20,
		Trial:      b.Trial * 2 / 5,
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
	p.Machine, p.Commit, p.Date = b.results.Machine.CPU, b.results.Commit, b.begun.UTC().Format(time.DateOnly)
	b.results.Profile = p
	return b.model(p)
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

// outputs measures the collector with each kind of output, in turn. The source
// plays a tap.
func (b *bench) outputs(ctx context.Context) error {
	dir, err := os.MkdirTemp("/dev/shm", "ntap-bench-") // memory: not the disk is measured
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kinds := []struct {
		name string
		cfg  measure.CollectorConfig
		rig  *measure.Rig
		own  map[string][]float64
		lost int64
	}{
		{name: "none", cfg: measure.CollectorConfig{Nowhere: true}},
		{name: "tap"},
		{name: "vxlan", cfg: measure.CollectorConfig{VXLAN: []string{measure.AddrV.String()}}},
		{name: "pcapng", cfg: measure.CollectorConfig{Write: filepath.Join(dir, "out.pcapng")}},
		{name: "pcapng to /dev/null", cfg: measure.CollectorConfig{Write: "/dev/null"}},
		{name: "pcap over IP, one client", cfg: measure.CollectorConfig{Serve: "127.0.0.1:57012"}},
	}
	for i := range kinds {
		k := &kinds[i]
		k.own = map[string][]float64{}
		if k.rig, err = measure.NewRig(linkMTU); err != nil {
			return err
		}
		defer k.rig.Close()
		if k.name == "vxlan" {
			if err := k.rig.VTEP(); err != nil {
				return err
			}
		}
		if err := k.rig.B.Up("lo"); err != nil {
			return err
		}
		if err := k.rig.Collector(ctx, k.cfg); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		if k.cfg.Serve != "" {
			if err := client(k.rig, k.cfg.Serve); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
		if err := k.rig.Flights(ctx, measure.Traffic{Frame: "300"}, 1, "", b.Source); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	for _, frame := range pick(b, []string{"64", "300", "1514"}, []string{"300"}) {
		for range min(b.Rounds, 3) {
			for i := range kinds {
				k := &kinds[i]
				if err := k.rig.Traffic(ctx, measure.Traffic{Frame: frame}); err != nil {
					return err
				}
				t, err := k.rig.Trial(ctx, measure.Offer{Rate: easy(frame), For: b.Trial / 2})
				if err != nil {
					return fmt.Errorf("%s: %w", k.name, err)
				}
				k.own[frame] = append(k.own[frame], t.Parties[measure.RoleCollector].NS/frames(&t))
				k.lost += t.Lost(1)
				os.Truncate(filepath.Join(dir, "out.pcapng"), 0) // what it holds is memory
			}
		}
		bytes, _ := measure.MeanLength(frame)
		for i := range kinds {
			k := &kinds[i]
			b.results.Outputs = append(b.results.Outputs, outcome.Output{Output: k.name, Frame: frame, Bytes: bytes, Rate: easy(frame), Own: measure.SpreadOf(k.own[frame]...), Lost: k.lost})
			k.lost = 0
		}
	}
	return nil
}

// client reads what a collector serves until the rig is closed.
func client(r *measure.Rig, addr string) error {
	var c net.Conn
	err := r.B.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	})
	if err == nil {
		r.AtClose(func() { c.Close() })
		go io.Copy(io.Discard, c) // until it is closed
	}
	return err
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
		trial, err := r.Trial(ctx, measure.Offer{Rate: rate, For: b.Trial / 2})
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
