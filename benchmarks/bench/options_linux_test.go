// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/testnet"
)

// A quick run has every option, with an account that adds up, and the results say what
// each takes.
func TestOptionsRun(t *testing.T) {
	testnet.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "results.json")
	if err := run(t.Context(), []string{"-quick", "-only", "options", "-out", path}); err != nil {
		t.Fatal(err)
	}
	r, err := outcome.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Options) != bares+len(remoteOptions) || r.Settings.Rounds != 2 || !r.HasCosts() {
		t.Fatalf("%d options, %d rounds", len(r.Options), r.Settings.Rounds)
	}
	for i, o := range r.Options {
		if want := append(make([]remoteOption, bares), remoteOptions...)[i].name; i >= bares && o.Option != want || i < bares && o.Option != bare {
			t.Errorf("%d is %q, not %q", i, o.Option, want)
		}
		if o.Frame != "300" || o.Own.Median <= 0 || o.Own.N != 2 || o.Cost.N != 2 || o.Dropped > 0 {
			t.Errorf("%+v", o)
		}
	}
}

// A run of options that is cut short keeps the rounds that it has, and says so; one that
// has not enough of them writes nothing, as others do.
func TestOptionsCutShort(t *testing.T) {
	testnet.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "results.json")
	for _, c := range []struct {
		rounds int
		want   string
	}{{0, "interrupted: nothing is written"}, {leastRounds, "options: cut short: it has "}} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		optionRoundDone = func(rounds int) {
			if rounds >= c.rounds {
				cancel()
			}
		}
		err := run(ctx, []string{"-quick", "-options-rounds", "1000", "-only", "options", "-out", path})
		optionRoundDone = func(int) {}
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("after %d rounds: %v, not %q", c.rounds, err, c.want)
		}
		r, err := outcome.Load(path)
		if c.rounds == 0 {
			if !os.IsNotExist(err) {
				t.Errorf("%+v, %v", r, err)
			}
			continue
		}
		if err != nil || len(r.Errors) != 1 || r.Options[0].Cost.N < leastRounds || r.Settings.Rounds != r.Options[0].Cost.N {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// No flag of ntap remote is left out: it is measured, or docs/CAPTURE.md says why it
// costs nothing a frame.
func TestEveryOptionIsSpokenOf(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	help, err := exec.CommandContext(ctx, "go", "run", "../../cmd/ntap", "remote", "-h").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../docs/CAPTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), "\n## What options cost\n")
	text, _, _ = strings.Cut(text, "\n## ")
	_, free, told := strings.Cut(text, "\nNothing a frame:")
	if !found || !told {
		t.Fatal("docs/CAPTURE.md does not say what options cost, and which cost nothing a frame")
	}
	measured := map[string]bool{}
	for _, o := range remoteOptions {
		measured[o.flag] = true
	}
	flags := regexp.MustCompile(`(?m)^  (?:-\w, |    )--([a-z-]+)`).FindAllStringSubmatch(string(help), -1)
	for _, f := range flags {
		named := regexp.MustCompile("`--" + f[1] + "[` ]").MatchString(free)
		switch {
		case f[1] == "help":
		case measured[f[1]] && named:
			t.Errorf("--%s is measured, and docs/CAPTURE.md says that it costs nothing a frame", f[1])
		case !measured[f[1]] && !named:
			t.Errorf("--%s is neither measured nor among those of which docs/CAPTURE.md says why they cost nothing a frame", f[1])
		}
	}
	if len(flags) < 40 {
		t.Errorf("only %d flags", len(flags))
	}
}

// Without room for the rings it says how much it takes, before it begins.
func TestNoRoomForOptions(t *testing.T) {
	if err := roomFor(1<<20, 1<<40); err == nil || !strings.Contains(err.Error(), "1048576 remotes with a ring each take 1099511627776 MiB of memory, and ") {
		t.Error(err)
	}
	if err := roomFor(1, 1); err != nil {
		t.Error(err)
	}
}

// What is nearest are those without an option next to it on either side.
func TestNearest(t *testing.T) {
	pairs := make([]optionPair, bares+3)
	for i := range bares {
		pairs[i].with.remote = float64(100 * i)
	}
	order := []int{bares, 1, bares + 1, bares + 2, 4, 2}
	for at, want := range []float64{100, 400, 250, 250, 150, 400} {
		if got := nearest(pairs, order, at); got != want {
			t.Errorf("at %d: %v, not %v", at, got, want)
		}
	}
}
