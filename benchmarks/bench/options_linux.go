// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// optionsPart is the part of a run that this is.
const optionsPart = "options"

// Chosen.
const (
	// bares is how many remotes without an option there are, among the others.
	bares = 7
	// leastRounds is what is kept of a run that is cut short.
	leastRounds = 6
	// generations is how often all remotes and devices are made anew: where the kernel has
	// put what it needs for a device makes up to 80 ns a frame, for as long as that is there.
	generations = 3
	// optionRing is each remote's ring, bytes: it has room for a round.
	optionRing = 32 << 20
	// optionMemory is what each takes besides, about: processes and their buffers.
	optionMemory = 16 << 20
)

// optionBatches is how many batches of 64 frames each remote gets in a round: its ring has
// room for them, and it takes longer to send them than to wake up.
var optionBatches = map[string]int{"60": 400, "300": 300, "1300": 160}

// optionRoundDone is told of each round; tests cut runs short by it.
var optionRoundDone = func(rounds int) {}

// An optionRig is a remote with an option.
type optionRig struct {
	remoteOption
	rig *measure.Rig
	*optionCount
}

// An optionCount is what came of an option so far.
type optionCount struct {
	of      map[string][]optionPair // by frame, one of each round
	dropped uint64                  // frames that the ring had no room for
}

// An optionTime is what a frame took in one round, ns.
type optionTime struct{ remote, capture float64 }

// An optionPair is that of an option, and what it is more than without one.
type optionPair struct{ with, more optionTime }

// options measures what options of the remote take, in turn, for b.optionsFor. What they
// send is dropped behind the wire. A run that is cut short keeps the rounds that it has.
func (b *bench) options(cut context.Context) error {
	kinds := append(slices.Repeat([]remoteOption{{name: bare, where: outcome.InBoth}}, bares), remoteOptions...)
	if err := roomFor(len(kinds), b.optionRing()+optionMemory); err != nil {
		return err
	}
	counts := make([]*optionCount, len(kinds))
	for i := range counts {
		counts[i] = &optionCount{of: map[string][]optionPair{}}
	}
	begun, rounds := time.Now(), 0
	last := pick(b, generations, 1)
	for g := range last {
		until := begun.Add(b.optionsFor * time.Duration(g+1) / time.Duration(last))
		n, err := b.generation(cut, kinds, counts, rounds, until)
		if err != nil {
			return err
		}
		rounds += n
	}
	short := cut.Err() != nil
	if short && rounds < leastRounds {
		return cut.Err()
	}
	b.noteOptions(kinds, counts)
	if short {
		return fmt.Errorf("cut short: it has %d rounds", rounds)
	}
	return nil
}

// generation makes all remotes, has them take turns until then, and holds their accounts
// against what was sent.
func (b *bench) generation(cut context.Context, kinds []remoteOption, counts []*optionCount, done int, until time.Time) (rounds int, err error) {
	ctx := context.WithoutCancel(cut) // what is under way takes seconds, and is finished
	var all []*optionRig
	defer func() {
		for _, r := range all {
			r.rig.Close()
		}
	}()
	for i, o := range kinds {
		if cut.Err() != nil {
			return 0, nil
		}
		r, err := newOptionRig(o)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", o.name, err)
		}
		r.cfg.CPUs, r.cfg.Retire, r.cfg.RingBytes = measure.ShardCPU(), measure.CrowdRetire, b.optionRing()
		r.optionCount = counts[i]
		all = append(all, r)
	}
	crowd, err := b.optionCrowd(ctx, all)
	if err != nil {
		return 0, err
	}
	defer crowd.Close()
	if rounds, err = b.optionRounds(ctx, cut, crowd, all, done, until); err != nil {
		return rounds, err
	}
	for _, r := range all {
		a, err := r.rig.Level(ctx)
		if err == nil {
			r.dropped += a.KernelDrops
			err = r.rig.Balance(ctx)
		}
		if err != nil {
			return rounds, fmt.Errorf("%s: the account does not add up: %w", r.name, err)
		}
	}
	return rounds, nil
}

// optionRing returns the bytes of each remote's ring.
func (b *bench) optionRing() int { return pick(b, optionRing, optionRing/8) }

// roomFor returns an error if there is no memory for so many, of each so many bytes.
func roomFor(n, each int) error {
	free, err := availableMemory()
	if err == nil && free < uint64(n*each) {
		err = fmt.Errorf("%d remotes with a ring each take %d MiB of memory, and %d are there: stop something, or measure on a larger machine", n, n*each>>20, free>>20)
	}
	return err
}

// availableMemory returns what MemAvailable of /proc/meminfo says, bytes.
func availableMemory() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo does not say how much memory is available")
}

func newOptionRig(o remoteOption) (*optionRig, error) {
	r, err := measure.NewRig(linkMTU)
	if err != nil {
		return nil, err
	}
	if _, err = r.B.DropAll(measure.LinkB); err == nil && o.apart {
		err = r.Apart()
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return &optionRig{remoteOption: o, rig: r}, nil
}

// optionCrowd starts the source and the remotes.
func (b *bench) optionCrowd(ctx context.Context, all []*optionRig) (*measure.Crowd, error) {
	var rigs []*measure.Rig
	for _, r := range all {
		rigs = append(rigs, r.rig)
	}
	crowd, err := measure.NewCrowd(ctx, rigs, measure.Traffic{Frame: "300", Kept: keptOf}, b.Source)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if err := r.rig.Remote(ctx, r.cfg); err != nil {
			crowd.Close()
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return crowd, nil
}

// optionFrames are the sizes that are measured.
func (b *bench) optionFrames() []string {
	return pick(b, []string{"60", "300", "1300"}, []string{"300"})
}

// optionRounds has all take turns until then, or until there are enough. What a round has that
// is not whole is left out.
func (b *bench) optionRounds(ctx, cut context.Context, crowd *measure.Crowd, all []*optionRig, done int, until time.Time) (rounds int, err error) {
	for longest := time.Duration(0); done+rounds < b.optionsMost && !time.Now().Add(longest).After(until); rounds++ {
		start := time.Now()
		round := map[string][]optionPair{}
		for _, frame := range b.optionFrames() {
			if cut.Err() != nil {
				return rounds, nil
			}
			if round[frame], err = b.optionRound(ctx, crowd, all, frame, uint64(done+rounds)); err != nil {
				return rounds, fmt.Errorf("frames of %s bytes: %w", frame, err)
			}
		}
		for frame, pairs := range round {
			for i, p := range pairs {
				all[i].of[frame] = append(all[i].of[frame], p)
			}
		}
		optionRoundDone(done + rounds + 1)
		longest = max(longest, time.Since(start))
		if (done+rounds)%10 == 0 {
			b.say("options: round %d took %.1f s", done+rounds+1, time.Since(start).Seconds())
		}
	}
	return rounds, nil
}

// optionRound has each take its turn once.
func (b *bench) optionRound(ctx context.Context, crowd *measure.Crowd, all []*optionRig, frame string, seed uint64) ([]optionPair, error) {
	if err := crowd.Traffic(ctx, measure.Traffic{Frame: frame, Kept: keptOf}); err != nil {
		return nil, err
	}
	turns, order, err := crowd.Round(ctx, pick(b, optionBatches[frame], 20), seed)
	if err != nil {
		return nil, err
	}
	pairs := make([]optionPair, len(all))
	var without []float64
	for i, t := range turns {
		n := float64(t.Offered.Frames)
		pairs[i].with = optionTime{float64(t.Remote) / n, float64(t.Offered.CPU) / n}
		if i < bares {
			without = append(without, pairs[i].with.capture)
		}
	}
	capture := measure.SpreadOf(without...).Median
	for at, i := range order {
		pairs[i].more = optionTime{pairs[i].with.remote - nearest(pairs, order, at), pairs[i].with.capture - capture}
	}
	return pairs, nil
}

// nearest returns what a frame took of the remotes without an option that had their
// turns last before and first after a place of the order, or of the one that there is.
func nearest(pairs []optionPair, order []int, at int) float64 {
	sum, n := 0.0, 0.0
	for _, step := range []int{-1, 1} {
		for k := at + step; k >= 0 && k < len(order); k += step {
			if order[k] < bares {
				sum, n = sum+pairs[order[k]].with.remote, n+1
				break
			}
		}
	}
	return sum / n
}

// noteOptions sums up.
func (b *bench) noteOptions(kinds []remoteOption, counts []*optionCount) {
	for _, frame := range b.optionFrames() {
		for i, r := range kinds {
			o := outcome.Option{Option: r.name, Frame: frame, Where: r.where, Dropped: counts[i].dropped}
			var own, remote, capture, both []float64
			for _, p := range counts[i].of[frame] {
				own = append(own, p.with.remote)
				remote, capture, both = append(remote, p.more.remote), append(capture, p.more.capture), append(both, p.more.remote+p.more.capture)
			}
			o.Own, o.Remote, o.Capture, o.Cost = measure.DifferenceOf(own...), measure.DifferenceOf(remote...), measure.DifferenceOf(capture...), measure.DifferenceOf(remote...)
			switch r.where {
			case outcome.InKernel:
				o.Cost = o.Capture
			case outcome.InBoth:
				o.Cost = measure.DifferenceOf(both...)
			}
			b.results.Options = append(b.results.Options, o)
		}
	}
}

// optionRoundsDone is how many there are.
func (b *bench) optionRoundsDone() int {
	if len(b.results.Options) == 0 {
		return 0
	}
	return b.results.Options[0].Cost.N
}
