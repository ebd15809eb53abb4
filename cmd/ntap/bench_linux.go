// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/perf/sizing"
)

// Chosen: lines are fitted on the first sizes, and held against whole sides at
// the others.
var (
	benchFrames = []string{"64", "300", "1514"}
	benchChecks = []string{"700", "imix"}
)

const (
	benchRounds = 3
	benchRound  = 15 * time.Second // shorter ones are fewer
	benchBrief  = 10 * time.Second
	benchTrials = 37                     // in the kernel, a round, with those sizes
	benchTasks  = 48                     // in memory, a round, about
	benchSettle = 300 * time.Millisecond // what a trial takes beyond its time, about
	benchStart  = 3 * time.Second        // and all that comes before the first
)

func makeProfile(ctx context.Context, length time.Duration, say func(string)) (*sizing.Profile, error) {
	rounds := max(1, min(benchRounds, int(length/benchRound)))
	cfg := measure.SurveyConfig{Frames: benchFrames, Checks: benchChecks, Rounds: rounds, AllKernels: true, Say: say}
	if length < benchBrief { // enough to see that it works
		cfg.Frames, cfg.Checks = []string{"64", "1514"}, []string{"700"}
	}
	var stages, checks []measure.StageResult
	var err error
	note := ""
	host, rights := measure.NewHost()
	if rights == nil {
		host.Close()
		cfg.Pure = max(length/1000, time.Millisecond)
		cfg.Trial = max((length-benchStart-time.Duration(rounds)*benchTasks*cfg.Pure)/(time.Duration(rounds)*benchTrials)-benchSettle, 20*time.Millisecond)
		stages, checks, err = measure.Survey(ctx, cfg)
	} else {
		note = fmt.Sprintf(notMeasured, rights)
		say(note)
		cfg.Pure = min(length/(time.Duration(rounds)*benchTasks), 50*time.Millisecond) // more tells no more
		stages, err = measure.SurveyMemory(ctx, cfg)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("cut short, nothing is written: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	p := measure.ProfileOf(stages, checks)
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	p.Machine = fmt.Sprintf("%s, %d CPUs, Linux %s", strings.TrimSpace(cpuid.CPU.BrandName), runtime.NumCPU(), strings.TrimSpace(string(kernel)))
	p.Commit, p.Date, p.Note = commit(), time.Now().UTC().Format(time.DateOnly), note
	return p, nil
}

// newMeasureChild is what measure starts this program as.
func newMeasureChild() *cobra.Command {
	return &cobra.Command{
		Use: measure.ChildArg, Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return measure.Serve(args[0], os.Stdin, os.Stdout) },
	}
}
