// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// costsFile has what options cost, as the newest results of make bench-options say.
const costsFile = "docs/CAPTURE.md"

// Between these lines of costsFile is the table.
const (
	costsBegin = "<!-- what options cost: make options-table -->\n"
	costsEnd   = "<!-- end -->\n"
)

// optionFrames are the sizes that were measured.
func optionFrames(r *outcome.Results) (frames []string) {
	for _, o := range r.Options {
		if !slices.Contains(frames, o.Frame) {
			frames = append(frames, o.Frame)
		}
	}
	return frames
}

// optionNames are the options that were measured, without none.
func optionNames(r *outcome.Results) (names []string) {
	for _, o := range r.Options {
		if o.Option != outcome.NoOption && !slices.Contains(names, o.Option) {
			names = append(names, o.Option)
		}
	}
	return names
}

// optionOf returns what was measured of an option.
func optionOf(r *outcome.Results, name, frame string) *outcome.Option {
	for i := range r.Options {
		if o := &r.Options[i]; o.Option == name && o.Frame == frame {
			return o
		}
	}
	return &outcome.Option{}
}

// costsTable writes what options cost, a row an option.
func costsTable(r *outcome.Results) string {
	p := &page{}
	frames := optionFrames(r)
	head, own := []string{"option"}, []string{"none: all that a frame takes of the remote"}
	for _, frame := range frames {
		head = append(head, frame+" B")
		own = append(own, fmt.Sprintf("%.0f", optionOf(r, outcome.NoOption, frame).Own.Median))
	}
	rows := [][]string{own}
	for _, name := range optionNames(r) {
		row := []string{name}
		for _, frame := range frames {
			o := optionOf(r, name, frame)
			row = append(row, o.Cost.Text(r.Noise(o)))
		}
		rows = append(rows, row)
	}
	p.table(head, rows)
	return strings.TrimLeft(p.String(), "\n")
}

// options writes the report's part.
func (p *page) options(r *outcome.Results) {
	if !r.HasCosts() {
		return
	}
	p.say("\n## Options of a remote\n\nCPU, ns a frame, beyond what a frame takes without the option: the median of %d rounds in which all had their turn. \"Less than\" is where that cannot be told from nothing: its interval (95 %%) has 0 in it, or two remotes without any option are as far apart.\n", r.Options[0].Cost.N)
	p.WriteString(costsTable(r))
	p.say("In detail, medians and quartiles. Own: all that a frame takes of the remote's process. Remote: what of that is beyond the remotes without an option that had their turns before and after. Capture: what the kernel takes more to put the frame in the ring, which is in the time of whoever sends or receives the frame; it counts where the option works there. The rows without an option are held against each other.")
	text := func(d measure.Difference) string {
		return fmt.Sprintf("%.0f [%.0f to %.0f]", d.Median, d.Lower, d.Upper)
	}
	var rows [][]string
	for i := range r.Options {
		o := &r.Options[i]
		where := map[outcome.Where]string{outcome.InRemote: "remote", outcome.InKernel: "kernel", outcome.InBoth: "both"}[o.Where]
		dropped := ""
		if o.Dropped > 0 {
			dropped = fmt.Sprint(o.Dropped)
		}
		rows = append(rows, []string{o.Option, o.Frame, text(o.Own), text(o.Remote), text(o.Capture), fmt.Sprintf("%.0f [%.0f to %.0f]", o.Cost.Median, o.Cost.Low, o.Cost.High), where, dropped})
	}
	p.table([]string{"option", "frame", "own", "remote", "capture", "cost, and its interval", "it works in", "dropped"}, rows)
}

// costsText returns costsFile with what the results say.
func costsText(r *outcome.Results, results string, old []byte) ([]byte, error) {
	before, rest, found := bytes.Cut(old, []byte(costsBegin))
	_, after, ended := bytes.Cut(rest, []byte(costsEnd))
	if !found || !ended {
		return nil, fmt.Errorf("%s has no place for the table: the lines %q and %q", costsFile, strings.TrimSpace(costsBegin), strings.TrimSpace(costsEnd))
	}
	p := &page{}
	p.say("%s%s of [%s](../%s/%s): %d rounds, %s, %d CPUs, Linux %s, commit %s.\n", costsBegin, "Medians", results, resultsDir, strings.TrimSuffix(results, ".json")+".md",
		r.Options[0].Cost.N, r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel, r.Commit)
	p.WriteString(costsTable(r))
	p.WriteString(costsEnd)
	text := slices.Concat(before, p.Bytes(), after)
	for _, name := range optionNames(r) {
		// The row of the flag in another table ends with its cost.
		flag := strings.TrimSuffix(strings.TrimPrefix(strings.SplitN(name, ",", 2)[0], "`"), "`")
		row := regexp.MustCompile("(?m)^(\\| `" + regexp.QuoteMeta(strings.Fields(flag)[0]) + " .*; )[^;|]* ns \\|$")
		var costs []string
		for _, frame := range optionFrames(r) {
			o := optionOf(r, name, frame)
			costs = append(costs, o.Cost.Text(r.Noise(o)))
		}
		text = row.ReplaceAllFunc(text, func(b []byte) []byte {
			head := row.FindSubmatch(b)[1]
			return fmt.Appendf(slices.Clone(head), "%s ns |", strings.Join(costs, ", "))
		})
	}
	return text, nil
}

// writeCosts brings costsFile up to date.
func writeCosts(r *outcome.Results, path, top string) (made []string, err error) {
	switch {
	case !r.HasCosts():
		return nil, fmt.Errorf("%s has no options: make bench-options measures them", path)
	case r.Settings.Quick:
		return nil, fmt.Errorf("%s is of a quick run, whose figures say nothing; make bench-options makes others", path)
	}
	name := filepath.Join(top, costsFile)
	old, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	text, err := costsText(r, filepath.Base(path), old)
	if err != nil {
		return nil, err
	}
	return []string{name}, outcome.WriteFile(name, text)
}
