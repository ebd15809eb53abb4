// SPDX-License-Identifier: Apache-2.0

// Command report makes of a results file (benchmarks/outcome) what people read:
// a Markdown report and plots beside it, or, with -sizing, SIZING.md and the
// profile that ntap size has built in, or, with -costs, what docs/CAPTURE.md says of
// options.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ntap-project/ntap/benchmarks/outcome"
)

// Where things are, from the top of the repository.
const (
	resultsDir  = "benchmarks/results"
	sizingFile  = "SIZING.md"
	profileFile = "perf/sizing/default.json"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	sizing := f.Bool("sizing", false, "make SIZING.md and the profile that is built in, instead of the report")
	costs := f.Bool("costs", false, "bring what options cost up to date in "+costsFile+", instead of the report; FILE is of make bench-options")
	top := f.String("C", ".", "top of the repository, where SIZING.md and docs are")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "usage: report [-sizing | -costs] [FILE]\nFILE is a results file of make bench or make bench-options; without it, the newest of %s, or of both kinds for the report.\n", resultsDir)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if f.NArg() > 1 {
		return fmt.Errorf("%q: one results file", f.Args())
	}
	paths := f.Args()
	if len(paths) == 0 {
		var err error
		if paths, err = newestOf(filepath.Join(*top, resultsDir), *sizing, *costs); err != nil {
			return err
		}
	}
	for _, path := range paths {
		if err := makeOf(path, *top, *sizing, *costs, w); err != nil {
			return err
		}
	}
	return nil
}

// makeOf makes what is asked for of one results file.
func makeOf(path, top string, sizing, costs bool, w io.Writer) error {
	r, err := outcome.Load(path)
	if err != nil {
		return fmt.Errorf("%w; make bench makes a results file", err)
	}
	var made []string
	switch {
	case sizing:
		made, err = writeSizing(r, path, top)
	case costs:
		made, err = writeCosts(r, path, top)
	default:
		made, err = writeReport(r, path)
	}
	for _, name := range made {
		fmt.Fprintln(w, "written:", name)
	}
	for _, h := range r.Model {
		if sizing && !h.Holds {
			fmt.Fprintf(w, "the model of a %s at %s bytes says %.0f ns, measured were %.0f: too far off, and the test of perf/sizing fails; measure anew\n", h.Side, h.Frame, h.Model, h.NS)
		}
	}
	return err
}

// newestOf returns the newest results files of a folder that something is made of: of
// SIZING.md a whole run, of costs one of options, of reports both, if there are both.
func newestOf(dir string, sizing, costs bool) ([]string, error) {
	options, err := newestWith(dir, onlyOptions)
	if costs {
		return []string{options}, err
	}
	whole, wrong := newest(dir)
	if wrong == nil && (sizing || err != nil) {
		return []string{whole}, nil
	}
	if wrong != nil && (sizing || err != nil) {
		return nil, wrong
	}
	if wrong != nil {
		return []string{options}, nil
	}
	return []string{whole, options}, nil
}

// onlyOptions says that a run was of options alone.
func onlyOptions(r *outcome.Results) bool { return r.HasCosts() && len(r.Costs) == 0 }

// newest returns the results file of a folder whose run began last. Those of
// other versions, of soaks, and of options alone, are left out.
func newest(dir string) (string, error) {
	return newestWith(dir, func(r *outcome.Results) bool { return r.Soak == nil && !onlyOptions(r) })
}

// newestWith is newest of those that are wanted.
func newestWith(dir string, wanted func(*outcome.Results) bool) (string, error) {
	all, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return "", err
	}
	var path string
	var last *outcome.Results
	var wrong error
	for _, one := range all {
		r, err := outcome.Load(one)
		if err != nil {
			wrong = errors.Join(wrong, err)
			continue
		}
		if wanted(r) && (last == nil || r.Begun.After(last.Begun)) {
			path, last = one, r
		}
	}
	if last == nil {
		return "", errors.Join(fmt.Errorf("%s has no results file; make bench makes one", dir), wrong)
	}
	return path, nil
}

// writeReport writes the report and the plots beside the results file.
func writeReport(r *outcome.Results, path string) (made []string, err error) {
	base := strings.TrimSuffix(path, filepath.Ext(path))
	var shown []plotted
	for _, p := range plots(r) {
		for _, format := range []string{"svg", "png"} {
			b, err := p.draw(format)
			if err != nil {
				return made, fmt.Errorf("plot of %s: %w", p.what, err)
			}
			name := base + "-" + p.name + "." + format
			if err := outcome.WriteFile(name, b); err != nil {
				return made, err
			}
			made = append(made, name)
		}
		shown = append(shown, plotted{p.what, filepath.Base(base) + "-" + p.name + ".svg"})
	}
	name := base + ".md"
	if err := outcome.WriteFile(name, markdown(r, filepath.Base(path), shown)); err != nil {
		return made, err
	}
	return append(made, name), nil
}

// writeSizing writes SIZING.md and the profile.
func writeSizing(r *outcome.Results, path, top string) (made []string, err error) {
	if r.Settings.Quick {
		return nil, fmt.Errorf("%s is of make bench-quick, whose figures say nothing; make bench makes others", path)
	}
	text, profile, err := sizingOf(r, filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, one := range []struct {
		name string
		b    []byte
	}{{sizingFile, text}, {profileFile, profile}} {
		name := filepath.Join(top, one.name)
		if err := outcome.WriteFile(name, one.b); err != nil {
			return made, err
		}
		made = append(made, name)
	}
	return made, nil
}
