// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// costsOf makes results of options: two without any, 4 and 6 ns apart from the others, and
// two options.
func costsOf() *outcome.Results {
	d := func(median, half float64) measure.Difference {
		return measure.Difference{Median: median, Lower: median - 2*half, Upper: median + 2*half, Low: median - half, High: median + half, N: 40}
	}
	r := &outcome.Results{Schema: outcome.Schema, Commit: "abc"}
	for _, frame := range []string{"60", "300"} {
		r.Options = append(r.Options,
			outcome.Option{Option: outcome.NoOption, Frame: frame, Own: d(150, 9), Remote: d(4, 5), Capture: d(-6, 1), Cost: d(2, 5), Where: outcome.InBoth},
			outcome.Option{Option: outcome.NoOption, Frame: frame, Own: d(150, 9), Remote: d(-3, 5), Capture: d(1, 1), Cost: d(-2, 5), Where: outcome.InBoth},
			outcome.Option{Option: "`--dedup 10ms`", Frame: frame, Own: d(200, 9), Remote: d(50, 5), Cost: d(50, 5)},
			outcome.Option{Option: "`udp`, a filter", Frame: frame, Capture: d(5, 1), Cost: d(5, 1), Where: outcome.InKernel},
		)
	}
	return r
}

// What is above noise is a figure, what is not says less than what it is; noise is of the
// part that counts.
func TestCostsTable(t *testing.T) {
	want := `| option | 60 B | 300 B |
|---|---|---|
| none: all that a frame takes of the remote | 150 | 150 |
| ` + "`--dedup 10ms`" + ` | 50 | 50 |
| ` + "`udp`, a filter" + ` | less than 6 | less than 6 |

`
	if got := costsTable(costsOf()); got != want {
		t.Errorf("%s", got)
	}
}

// The document has the table where its marks are, the costs in the rows of the flags, and
// all else as it was.
func TestCostsText(t *testing.T) {
	old := "before\n| `--dedup 10ms` | a; b | one hash; 1 ns |\n| `--mask payload` | c | zeros; 7 ns |\n" + costsBegin + "old\n" + costsEnd + "after\n"
	top := t.TempDir()
	name := filepath.Join(top, costsFile)
	if err := outcome.WriteFile(name, []byte(old)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(top, resultsDir, "machine-commit-options.json")
	if err := outcome.Save(path, costsOf()); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"-costs", "-C", top}, io.Discard); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n| `--dedup 10ms` | a; b | one hash; 50, 50 ns |\n| `--mask payload` | c | zeros; 7 ns |\n" + costsBegin + "Medians of [machine-commit-options.json](../benchmarks/results/machine-commit-options.md): 40 rounds",
		costsTable(costsOf()) + costsEnd + "after\n",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if again, err := costsText(costsOf(), filepath.Base(path), got); err != nil || !bytes.Equal(again, got) {
		t.Errorf("a second time it is another: %v\n%s", err, again)
	}
	if _, err := costsText(costsOf(), "x.json", []byte("nothing")); err == nil || !strings.Contains(err.Error(), "has no place for the table") {
		t.Error(err)
	}
}

// A report of options has the table, how far each is from noise, and nothing of what was
// not measured.
func TestReportOfOptions(t *testing.T) {
	path := save(t, costsOf())
	if err := run([]string{path}, io.Discard); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Options of a remote", "the median of 40 rounds", costsTable(costsOf()), "| `--dedup 10ms` | 60 | 200 [182 to 218] | 50 [40 to 60] | 0 [0 to 0] | 50 [45 to 55] | remote |  |"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the report has no %q:\n%s", want, b)
		}
	}
	if strings.Contains(string(b), "## Targets") {
		t.Error("it speaks of targets")
	}
}

// Options are no whole run: SIZING.md is not made of them, however new they are; and what
// has none, or is of a quick run, is refused.
func TestOptionsApart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), resultsDir)
	whole, options := load(t), costsOf()
	options.Begun = whole.Begun.AddDate(1, 0, 0)
	for name, r := range map[string]*outcome.Results{"whole": whole, "options": options} {
		if err := outcome.Save(filepath.Join(dir, name+".json"), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		sizing, costs bool
		want          string
	}{{true, false, "whole.json"}, {false, true, "options.json"}, {false, false, "whole.json options.json"}} {
		all, err := newestOf(dir, c.sizing, c.costs)
		var names []string
		for _, path := range all {
			names = append(names, filepath.Base(path))
		}
		if got := strings.Join(names, " "); err != nil || got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
	if err := run([]string{"-costs", filepath.Join(dir, "whole.json")}, io.Discard); err == nil || !strings.Contains(err.Error(), "make bench-options measures them") {
		t.Error(err)
	}
	options.Settings.Quick = true
	if err := run([]string{"-costs", save(t, options)}, io.Discard); err == nil || !strings.Contains(err.Error(), "figures say nothing") {
		t.Error(err)
	}
}

// What docs/CAPTURE.md says of costs is what the newest results of options say. make
// options-table makes it so.
func TestCommittedCosts(t *testing.T) {
	const top = "../.."
	all, err := newestOf(filepath.Join(top, resultsDir), false, true)
	if err != nil {
		t.Fatal("no results of options are committed: ", err)
	}
	r, err := outcome.Load(all[0])
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(top, costsFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := costsText(r, filepath.Base(all[0]), old)
	if err != nil || !bytes.Equal(text, old) {
		t.Errorf("%s is not what %s says: run make options-table (%v)", costsFile, all[0], err)
	}
	if n := strings.Count(string(text), " ns |\n"); n < 6 {
		t.Errorf("only %d flags have their cost in their row", n)
	}
}
