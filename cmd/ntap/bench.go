// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/perf/sizing"
)

// What the shortest and the longest measurement are good for: below, trials
// are too short to mean anything, and beyond, they change nothing.
const (
	leastBench = time.Second
	mostBench  = time.Hour
)

func newBench() *cobra.Command {
	var out string
	var length time.Duration
	c := &cobra.Command{
		Use:   "bench",
		Short: "measure what each stage costs on this host, in about a minute, for ntap size",
		Long: `Measures what each stage of the tap costs on this host, and writes a profile for
ntap size --profile. As root it measures everything, in network namespaces of its
own; without rights only what works in memory. Let nothing else run meanwhile.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if length < leastBench || length > mostBench {
				return usagef("bench: --for %v: %v to %v", length, leastBench, mostBench)
			}
			if out != "-" { // better known now than in a minute
				if info, err := os.Stat(filepath.Dir(out)); err != nil || !info.IsDir() {
					return usagef("bench: --out %s: %s is no folder that is there", out, filepath.Dir(out))
				}
			}
			said := c.ErrOrStderr()
			p, err := makeProfile(c.Context(), length, func(s string) { fmt.Fprintln(said, s) })
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			if err := writeProfile(c.OutOrStdout(), out, p); err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			if out == "-" {
				return nil
			}
			return printProfile(c.OutOrStdout(), out, p)
		},
	}
	c.Flags().StringVar(&out, "out", "ntap-profile.json", "file to write; -: standard output")
	c.Flags().DurationVar(&length, "for", time.Minute, "about how long to measure")
	return c
}

// writeProfile writes p to a file, all of it or nothing, or to w.
func writeProfile(w io.Writer, out string, p *sizing.Profile) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", " ")
	if err := e.Encode(p); err != nil {
		return err
	}
	if out == "-" {
		_, err := w.Write(b.Bytes())
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b.Bytes())
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}

// printProfile says what came out.
func printProfile(w io.Writer, out string, p *sizing.Profile) error {
	m, missing, err := sizing.FitOver(p, sizing.Default())
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n\n%-16s %-24s %12s %12s %10s\n", p.Machine, "stage", "suite", "ns a frame", "ns a byte", "error")
	for _, l := range m.Lines() {
		if !missing[l.Stage] {
			fmt.Fprintf(w, "%-16s %-24s %12.1f %12.3f %7.1f ns\n", l.Stage, l.Suite, l.Frame, l.Byte, l.Error)
		}
	}
	if p.Note != "" {
		fmt.Fprintf(w, "\n%s\n", p.Note)
	}
	if held := m.Held(p.Checks); len(held) > 0 {
		fmt.Fprintf(w, "\nThe model against whole sides, which it was not made of:\n%-16s %-24s %6s %12s %12s\n", "side", "suite", "frame", "measured", "model")
		for _, h := range held {
			fmt.Fprintf(w, "%-16s %-24s %6s %9.0f ns %9.0f ns %+5.0f%%\n", h.Stage, h.Suite, h.Frame, h.NS, h.Model, 100*(h.Model/h.NS-1))
		}
	}
	_, err = fmt.Fprintf(w, "\nwrote %s; now: ntap size --rate 10G --frame imix --role remote --profile %s\n", out, out)
	return err
}

// notMeasured is the note of a profile that was made without rights.
const notMeasured = "Made without the rights for more (%v): stages of the kernel were left out (capture, sending, receiving, ordering, TAP, VXLAN). " +
	"ntap size takes them from the profile that is built in, and says so; sudo ntap bench measures them."
