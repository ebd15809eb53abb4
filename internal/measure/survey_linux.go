// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/perf/sizing"
)

// A SurveyConfig says how much of every stage to measure.
type SurveyConfig struct {
	Frames []string      // sizes
	Checks []string      // sizes at which whole sides are measured, which the model is held against
	Rounds int           // of everything, in turn
	Pure   time.Duration // a stage in memory, a size and a round
	Trial  time.Duration // a stage in the kernel, a size and a round
	// AllKernels has AES-256-GCM measured with every kind of code that this CPU
	// can run, not only the fastest.
	AllKernels bool
	Say        func(string) // is told what begins
}

// A StageResult is one stage at one frame size.
type StageResult struct {
	Stage     string // of package sizing, or a role for a whole side
	Suite     string
	Frame     string
	Bytes     float64
	Datagrams float64
	NS        []float64 // a frame, by round
}

// Survey measures every stage alone, and whole sides as checks.
//
// What a stage that cannot be had alone takes is a difference: of the kernel's
// part of the capture, the source's time with a ring on its device and
// without; of the capture, a remote's less what pack, seal and send take; of
// order, TAP and VXLAN, a collector's with that output and without, and less
// what receive and open take.
func Survey(ctx context.Context, cfg SurveyConfig) (stages, checks []StageResult, err error) {
	s := newSurvey(cfg)
	defer s.close()
	if err := s.open(ctx); err != nil {
		return nil, nil, err
	}
	err = s.rounds(ctx, s.pure, s.trickles, s.wire, s.captures, s.collectors, s.remotes)
	return s.stages, s.checks, err
}

// SurveyMemory is Survey of what works in memory alone, and needs no rights.
func SurveyMemory(ctx context.Context, cfg SurveyConfig) ([]StageResult, error) {
	s := newSurvey(cfg)
	defer s.close()
	s.cfg.Checks = nil
	if err := s.openSuites(ctx, StartHere); err != nil {
		return nil, err
	}
	err := s.rounds(ctx, s.pure)
	return s.stages, err
}

func newSurvey(cfg SurveyConfig) *survey {
	s := &survey{cfg: cfg, per: map[string]StageCost{}, wakes: map[*Rig]wakes{}}
	if s.cfg.Say == nil {
		s.cfg.Say = func(string) {}
	}
	return s
}

// rounds does all steps as often as is wanted.
func (s *survey) rounds(ctx context.Context, steps ...func(context.Context) error) error {
	for round := range s.cfg.Rounds {
		s.cfg.Say(fmt.Sprintf("stages, round %d of %d", round+1, s.cfg.Rounds))
		for _, step := range steps {
			if err := step(ctx); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// A survey is one under way.
type survey struct {
	cfg            SurveyConfig
	stages, checks []StageResult

	rigs    []*Rig
	suites  []suiteChild
	per     map[string]StageCost // by frame: how it is packed
	wakes   map[*Rig]wakes       // of this round
	alone   *Rig                 // the source and nothing else
	ringed  *Rig                 // and a ring on its device
	ring    *Child
	sink    *Rig // played taps into nothing
	sender  *Child
	plain   *Rig // played taps into a receiver
	receive *Child
	nowhere *Rig // and into collectors
	tap     *Rig
	vxlan   *Rig
	remote  *Rig

	sendNS, receiveNS, kernelNS float64 // a datagram, of this round
}

// A suiteChild measures one way to seal.
type suiteChild struct {
	name  string // as sizing has it
	suite string
	child *Child
}

func (s *survey) close() {
	for _, one := range s.suites {
		one.child.Kill()
	}
	for _, r := range s.rigs {
		r.Close()
	}
}

func (s *survey) rig(r **Rig) error {
	made, err := NewRig(1500)
	if err != nil {
		return err
	}
	*r = made
	s.rigs = append(s.rigs, made)
	return nil
}

// open makes the rigs, all of which are there from the start, so that rounds
// can take turns.
func (s *survey) open(ctx context.Context) error {
	first := Traffic{Frame: s.cfg.Frames[0]}
	for _, r := range []**Rig{&s.alone, &s.ringed, &s.sink, &s.plain, &s.nowhere, &s.tap, &s.vxlan, &s.remote} {
		if err := s.rig(r); err != nil {
			return err
		}
	}
	if err := s.openSuites(ctx, s.alone.A.Start); err != nil {
		return err
	}
	for _, r := range []*Rig{s.alone, s.ringed, s.remote} {
		if err := r.Source(ctx, first, SourceCPU()); err != nil {
			return err
		}
	}
	var err error
	if s.ring, err = s.ringed.start(ctx, s.ringed.A, RoleStages, "attach", CaptureDevice); err != nil {
		return err
	}
	for _, r := range []*Rig{s.sink, s.remote} {
		if _, err := r.B.DropAll(LinkB); err != nil {
			return err
		}
	}
	if s.sender, err = s.sink.A.Start(RoleStages); err != nil {
		return err
	}
	s.sink.children = append(s.sink.children, s.sender)
	if s.receive, err = s.plain.start(ctx, s.plain.B, RoleStages, "listen", nil); err != nil {
		return err
	}
	if err := s.nowhere.Collector(ctx, CollectorConfig{Nowhere: true}); err != nil {
		return err
	}
	if err := s.tap.Collector(ctx, CollectorConfig{}); err != nil {
		return err
	}
	if err := s.vxlan.VTEP(); err != nil {
		return err
	}
	if err := s.vxlan.Collector(ctx, CollectorConfig{VXLAN: []string{AddrV.String()}}); err != nil {
		return err
	}
	for _, r := range []*Rig{s.sink, s.plain, s.nowhere, s.tap, s.vxlan} {
		if err := r.Flights(ctx, first, 1, "", SourceCPU()); err != nil {
			return err
		}
	}
	return s.remote.Remote(ctx, RemoteConfig{})
}

// openSuites starts a process for each way to seal that this CPU has.
func (s *survey) openSuites(ctx context.Context, start func(role string, env ...string) (*Child, error)) error {
	kernels := []string{""}
	if s.cfg.AllKernels {
		kernels = append(kernels, "avx512", "avx2", "aesni", "armv8") // crypto's; others refuse below
	}
	seen := map[string]bool{}
	add := func(suite, kernel string) error {
		var env []string
		if kernel != "" {
			env = append(env, "NTAP_CPU="+kernel)
		}
		c, err := start(RoleStages, env...)
		if err != nil {
			return err
		}
		var cost StageCost
		sub, cancel := within(ctx, 0)
		defer cancel()
		run := StageRun{Stage: StageSeal, Frame: "64", Suite: suite, For: time.Millisecond}
		if err := c.Ask(sub, "pure", run, &cost); err != nil {
			c.Kill()
			if kernel != "" {
				return nil // this CPU cannot do that
			}
			return err
		}
		name := suite
		if cost.Kernel != "" {
			name += "/" + cost.Kernel
		}
		if !seen[name] {
			seen[name] = true
			s.suites = append(s.suites, suiteChild{name, suite, c})
			return nil
		}
		c.Kill()
		return nil
	}
	for _, k := range kernels {
		if err := add(crypto.AES256GCM.String(), k); err != nil {
			return err
		}
	}
	return errors.Join(add(crypto.ChaCha20Poly1305.String(), ""), add(crypto.Plaintext.String(), ""))
}

// note adds what a round found.
func (s *survey) note(list *[]StageResult, stage, suite, frame string, ns float64) {
	for i := range *list {
		if r := &(*list)[i]; r.Stage == stage && r.Suite == suite && r.Frame == frame {
			r.NS = append(r.NS, ns)
			return
		}
	}
	bytes, _ := MeanLength(frame)
	*list = append(*list, StageResult{Stage: stage, Suite: suite, Frame: frame, Bytes: bytes, Datagrams: s.per[frame].Datagrams, NS: []float64{ns}})
}

// ask is Ask of something that takes d.
func ask(ctx context.Context, c *Child, do string, with any, d time.Duration, value any) error {
	ctx, cancel := within(ctx, d)
	defer cancel()
	return c.Ask(ctx, do, with, value)
}

// pure measures what works in memory alone.
func (s *survey) pure(ctx context.Context) error {
	for _, frame := range s.sizes() {
		for i, one := range s.suites {
			for _, stage := range PureStages {
				free := stage == StagePack || stage == StageUnpack
				if free && i > 0 { // the suite makes no difference
					continue
				}
				if stage != StagePack && !slices.Contains(s.cfg.Frames, frame) { // only what is to be known of it
					continue
				}
				var c StageCost
				run := StageRun{Stage: stage, Frame: frame, Suite: one.suite, For: s.cfg.Pure}
				if err := ask(ctx, one.child, "pure", run, s.cfg.Pure, &c); err != nil {
					return err
				}
				name := one.name
				if free {
					name = ""
				}
				s.per[frame] = c
				if slices.Contains(s.cfg.Frames, frame) {
					s.note(&s.stages, stage, name, frame, c.Nanoseconds)
				}
			}
		}
	}
	return nil
}

// wire measures what sends and receives, a datagram: both know of nothing else.
func (s *survey) wire(ctx context.Context) error {
	var c CallCost
	if err := ask(ctx, s.sender, "send", s.cfg.Trial, s.cfg.Trial, &c); err != nil {
		return err
	}
	s.sendNS = c.Nanoseconds
	// Into a sink, and into a socket that is read: the difference is the kernel's.
	frame := s.wireFrame()
	mean, _ := MeanLength(frame)
	for _, r := range []*Rig{s.sink, s.plain} {
		if err := r.Traffic(ctx, Traffic{Frame: frame}); err != nil {
			return err
		}
	}
	o := Offer{Rate: 150e3 * 1448 / mean, For: s.cfg.Trial}
	into, _, err := s.trial(ctx, s.sink, o)
	if err != nil {
		return err
	}
	read, units, err := s.trial(ctx, s.plain, o)
	if err != nil {
		return err
	}
	per := s.per[frame].Sealed / datagramSize
	s.receiveNS = s.each(s.plain, &read, RoleStages) * float64(read.Offered.Frames) / float64(max(units, 1))
	s.kernelNS = (read.each(RoleFlights) - into.each(RoleFlights)) / per // both are woken as often
	for _, f := range s.cfg.Frames {
		n := s.per[f].Sealed / datagramSize
		s.note(&s.stages, sizing.Send, "", f, s.sendNS*n)
		s.note(&s.stages, sizing.Receive, "", f, s.receiveNS*n)
		s.note(&s.stages, sizing.KernelReceive, "", f, s.kernelNS*n)
	}
	return nil
}

// captures measures the ring, with the source alone in between.
func (s *survey) captures(ctx context.Context) error {
	for _, frame := range s.cfg.Frames {
		o := Offer{Rate: brisk * easyRate(frame), For: s.cfg.Trial}
		for _, r := range []*Rig{s.alone, s.ringed} {
			if err := r.Traffic(ctx, Traffic{Frame: frame}); err != nil {
				return err
			}
		}
		without, _, err := s.trial(ctx, s.alone, o)
		if err != nil {
			return err
		}
		with, units, err := s.trial(ctx, s.ringed, o)
		if err != nil {
			return err
		}
		if units == 0 {
			return fmt.Errorf("frames of %s: nothing was captured of %d", frame, with.Offered.Frames)
		}
		s.note(&s.stages, StageCapture, "", frame, s.each(s.ringed, &with, RoleStages))
		s.note(&s.stages, sizing.KernelCapture, "", frame, with.each(RoleSource)-without.each(RoleSource)) // both are woken as often
	}
	return nil
}

// collectors measures whole ones, with different outputs.
func (s *survey) collectors(ctx context.Context) error {
	for _, frame := range s.sizes() {
		var ns [3]float64
		for i, r := range []*Rig{s.nowhere, s.tap, s.vxlan} {
			if err := r.Traffic(ctx, Traffic{Frame: frame}); err != nil {
				return err
			}
			t, _, err := s.trial(ctx, r, Offer{Rate: lively * easyRate(frame), For: s.cfg.Trial})
			if err != nil {
				return err
			}
			ns[i] = s.each(r, &t, RoleCollector)
		}
		if frame == mix || slices.Contains(s.cfg.Checks, frame) {
			s.note(&s.checks, string(sizing.Collector), s.fastest(), frame, ns[1])
		}
		switch {
		case frame == mix: // no line says that: it is measured
			s.note(&s.stages, sizing.VXLANMixed, "", frame, ns[2]-ns[0])
		case slices.Contains(s.cfg.Checks, frame):
			s.note(&s.checks, string(sizing.CollectorVXLAN), s.fastest(), frame, ns[2])
		}
		if !slices.Contains(s.cfg.Frames, frame) {
			continue
		}
		per := s.per[frame].Sealed / datagramSize
		s.note(&s.stages, sizing.Order, "", frame, ns[0]-s.receiveNS*per-s.last(StageOpen, s.fastest(), frame))
		s.note(&s.stages, sizing.TAP, "", frame, ns[1]-ns[0])
		s.note(&s.stages, sizing.VXLAN, "", frame, ns[2]-ns[0])
	}
	return nil
}

// remotes measures a whole one, into a sink.
func (s *survey) remotes(ctx context.Context) error {
	for _, frame := range s.sizes() {
		if err := s.remote.Traffic(ctx, Traffic{Frame: frame}); err != nil {
			return err
		}
		t, _, err := s.trial(ctx, s.remote, Offer{Rate: brisk * easyRate(frame), For: s.cfg.Trial})
		if err != nil {
			return err
		}
		ns := t.each(RoleRemote) // at such a rate waking is a small part, and less than it is known to
		if frame == mix || slices.Contains(s.cfg.Checks, frame) {
			s.note(&s.checks, string(sizing.Remote), s.fastest(), frame, ns)
		}
		if slices.Contains(s.cfg.Frames, frame) {
			rest := s.last(StagePack, "", frame) + s.last(StageSeal, s.fastest(), frame) + s.last(sizing.Send, "", frame)
			s.note(&s.stages, sizing.Capture, "", frame, ns-rest)
		}
	}
	return nil
}

// fastest is what played taps and remotes seal with: the choice of crypto.Pick.
func (s *survey) fastest() string {
	suite, _ := crypto.Pick()
	for _, one := range s.suites {
		if one.suite == suite.String() {
			return one.name
		}
	}
	return suite.String()
}

// last returns what this round found of a stage.
func (s *survey) last(stage, suite, frame string) float64 {
	for _, r := range s.stages {
		if r.Stage == stage && r.Suite == suite && r.Frame == frame {
			return r.NS[len(r.NS)-1]
		}
	}
	return math.NaN()
}
