// SPDX-License-Identifier: Apache-2.0

// Command bench measures ntap, beside what people use instead of it, on hosts and
// with traffic of its own, and writes a results file (benchmarks/README.md). It
// takes root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/internal/measure"
)

// A bench is one run.
type bench struct {
	outcome.Settings
	results   outcome.Results
	wireguard string // the program
	begun     time.Time
	highest   map[string]float64 // frames a second without loss of ntap, by frame

	optionsFor  time.Duration // how long options take their turns, and
	optionsMost int           // how often at the most
}

// sections are the parts of a run, in order. One that is apart has a run and a results
// file of its own: beside the others only a quick run has it.
var sections = []struct {
	name  string
	run   func(*bench, context.Context) error
	apart bool
}{
	{"quiet", (*bench).quiet, false},
	{"costs", (*bench).costs, false},
	{"rates", (*bench).rates, false},
	{"alone", (*bench).alone, false},
	{"curves", (*bench).curves, false},
	{"latency", (*bench).latency, false},
	{"stages", (*bench).stages, false},
	{"outputs", (*bench).outputs, false},
	{optionsPart, (*bench).options, true},
	{"taps", (*bench).taps, false},
	{"scaling", (*bench).scaling, false},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == measure.ChildArg {
		if err := measure.Serve(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	b := &bench{begun: time.Now(), highest: map[string]float64{}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&b.Quick, "quick", false, "a little of everything, to see that it runs: the figures say nothing")
	out := f.String("out", "", "results file; default: benchmarks/results/MACHINE-COMMIT.json, or none with -quick")
	only := f.String("only", "", "parts to run, of: "+strings.Join(names(), ",")+"; default: all but "+optionsPart)
	f.IntVar(&b.Rounds, "rounds", 0, "of everything that is compared, in turn; default: 3, or 1 with -quick")
	f.DurationVar(&b.Trial, "trial", 0, "length of a trial; default: 600ms, or 100ms with -quick")
	f.IntVar(&b.Source, "source-cpu", measure.SourceCPU(), "CPU that the traffic source is pinned to; -1: none")
	f.StringVar(&b.wireguard, "wireguard", "bin/peers/wireguard", "the program wireguard-go")
	f.DurationVar(&b.optionsFor, "options-for", 7*time.Minute, "with -only "+optionsPart+": how long they take turns")
	f.IntVar(&b.optionsMost, "options-rounds", 0, "with -only "+optionsPart+": how often each has its turn at the most; default: 1000, or 2 with -quick")
	f.BoolVar(&measure.Counting, "counters", false, "count cycles, where the CPU does, instead of CPU time: not in a virtual machine")
	soak := f.Duration("soak", 0, "run at a set load for so long instead, and see that nothing is lost, kept or collected")
	load := f.Float64("load", 0.8, "with -soak: the part of the highest rate without loss")
	frame := f.String("frame", "imix", "with -soak: bytes of a frame, imix or gso")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%q: it takes flags only", f.Args())
	}
	if err := b.check(*only, *soak, *load, *frame); err != nil {
		return err
	}
	b.results.Schema, b.results.Settings = outcome.Schema, b.Settings
	b.results.Begun = b.begun.UTC().Truncate(time.Second)
	b.results.Command = strings.Join(append([]string{"bench"}, args...), " ")
	if err := b.machine(ctx); err != nil {
		return err
	}
	path := *out
	if path == "" && !b.Quick {
		name := b.results.Machine.Name + "-" + b.results.Commit
		if *soak > 0 {
			name += "-soak"
		} else if *only == optionsPart {
			name += "-" + optionsPart
		}
		path = filepath.Join("benchmarks", "results", name+".json")
	}
	if *soak > 0 {
		return b.soakRun(ctx, *frame, *load, *soak, path)
	}
	for _, s := range sections {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) || *only == "" && s.apart && !b.Quick {
			continue
		}
		b.say("%s", s.name)
		if err := s.run(b, ctx); err != nil {
			if ctx.Err() != nil && len(b.results.Options) == 0 {
				return errors.New("interrupted: nothing is written")
			}
			b.results.Errors = append(b.results.Errors, fmt.Sprintf("%s: %v", s.name, err))
			b.say("%s: %v", s.name, err)
			if ctx.Err() != nil {
				break
			}
		}
	}
	b.results.Took = time.Since(b.begun).Round(time.Second)
	if *only == optionsPart {
		b.results.Settings.Rounds = b.optionRoundsDone()
	}
	if path != "" {
		if err := outcome.Save(path, &b.results); err != nil {
			return err
		}
		b.say("written: %s", path)
	}
	summary(os.Stdout, &b.results)
	if n := len(b.results.Errors); n > 0 {
		return fmt.Errorf("%d parts are missing:\n%s", n, strings.Join(b.results.Errors, "\n"))
	}
	return nil
}

// check holds what was asked for against what can be.
func (b *bench) check(only string, soak time.Duration, load float64, frame string) error {
	for _, n := range strings.Split(only, ",") {
		if only != "" && !slices.Contains(names(), n) {
			return fmt.Errorf("-only %s: no part is called %q; there are %s", only, n, strings.Join(names(), ", "))
		}
	}
	rounds, trial := 3, 600*time.Millisecond
	if b.Quick {
		rounds, trial = 1, 100*time.Millisecond
	}
	if b.Rounds == 0 {
		b.Rounds = rounds
	}
	if b.optionsMost == 0 {
		b.optionsMost = pick(b, 1000, 2)
	}
	if b.Trial == 0 {
		b.Trial = trial
	}
	switch {
	case b.Rounds < 1 || b.Rounds > 1000:
		return fmt.Errorf("-rounds %d: 1 to 1000", b.Rounds)
	case b.Trial < 10*time.Millisecond || b.Trial > 10*time.Minute:
		return fmt.Errorf("-trial %v: 10ms to 10m", b.Trial)
	case b.optionsFor < time.Second || b.optionsFor > time.Hour:
		return fmt.Errorf("-options-for %v: 1s to 1h", b.optionsFor)
	case b.optionsMost < 1 || b.optionsMost > 1000:
		return fmt.Errorf("-options-rounds %d: 1 to 1000", b.optionsMost)
	case soak < 0 || soak > 30*24*time.Hour:
		return fmt.Errorf("-soak %v: up to 720h", soak)
	case !(load > 0 && load <= 1):
		return fmt.Errorf("-load %v: a part of the highest rate without loss, over 0 and up to 1", load)
	}
	if _, err := measure.MeanLength(frame); err != nil {
		return fmt.Errorf("-frame: %w", err)
	}
	if cpus, err := engine.CPUs(); err != nil {
		return err
	} else if b.Source >= 0 && !slices.Contains(cpus, b.Source) {
		return fmt.Errorf("-source-cpu %d: this process may run on %v", b.Source, cpus)
	}
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and interfaces: run it as root")
	}
	return nil
}

func names() (all []string) {
	for _, s := range sections {
		all = append(all, s.name)
	}
	return all
}

// say prints what is going on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0f s  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

// pick returns what a whole run does, or what a quick one does.
func pick[T any](b *bench, whole, quick T) T {
	if b.Quick {
		return quick
	}
	return whole
}
