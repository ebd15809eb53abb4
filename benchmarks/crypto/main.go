// SPDX-License-Identifier: Apache-2.0

// Crypto measures every AEAD of package crypto, crypto/cipher's AES-256-GCM and
// Intel's IPsec-MB side by side, and prints a table and the ratios. It is run by
// make bench-crypto, in the top folder.
//
// Each implementation has a process of its own that measures on request (crypto's
// test binary, ipsecmb/ipsecmb.c). The requests are short and go around, so that
// whatever else the machine does hits all of them alike; a figure is the median
// of its rounds, and a ratio the median of the ratios within each round. With
// perf counters (kernel.perf_event_paranoid 2 or less) ratios are of cycles.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	slice   = 300 * time.Microsecond // one request, about
	longest = 100 * time.Second      // no new round after that
)

var rounds = flag.Int("rounds", 251, "how often everything is measured")

// Bytes of text in a datagram.
var sizes = []int{64, 256, 576, 1024, 1440, 8900, 65000}

var ops = []string{"seal", "open"}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks/crypto:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "bench-crypto")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := start(dir)
	defer func() {
		for _, p := range all {
			p.in.Close()
			p.command.Wait()
		}
	}()
	if err != nil {
		return err
	}
	if err := measure(all); err != nil {
		return err
	}
	fmt.Printf("medians of %d rounds\n", len(all[0].results[cell(ops[0], sizes[0])]))
	tables(all)
	ratios(all)
	return nil
}

// A peer is one implementation, in a process of its own.
type peer struct {
	name    string
	is      string // what it says of itself
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	results map[string][]result // by cell
	// What it stands for in the ratios.
	chosen, standard, ipsec bool
}

// A result is of one operation, of one round.
type result struct{ ns, cycles float64 }

func cell(op string, size int) string { return fmt.Sprint(op, " ", size) }

// start builds and starts all that can run here, and returns what it started
// also with an error.
func start(dir string) (all []*peer, err error) {
	tests, mb := filepath.Join(dir, "crypto.test"), filepath.Join(dir, "ipsecmb")
	if err := build("go", "test", "-c", "-o", tests, "./crypto"); err != nil {
		return nil, err
	}
	args := []string{"-test.run", "^$", "-test.bench", "^BenchmarkServe$", "-test.benchtime", "1x"}
	list := exec.Command(tests, args...)
	list.Env = append(os.Environ(), "NTAP_SERVE=list")
	names, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", list, err, names)
	}
	add := func(p *peer, env string) error {
		if env != "" {
			p.command.Env = append(os.Environ(), env)
		}
		if err := p.start(); err != nil {
			return err
		}
		all = append(all, p)
		return nil
	}
	var chosen string
	for line := range strings.Lines(string(names)) {
		f := append(strings.Fields(line), "", "", "")
		switch f[0] + f[1] {
		case "measuredkernel", "measuredsuite":
			p := &peer{name: f[2], command: exec.Command(tests, args...), standard: f[2] == "aesni" || f[2] == "armv8"}
			env := []string{"NTAP_SERVE=" + f[2]}
			if f[2] == "generic" { // as where the CPU has none
				env = append(env, "GODEBUG=cpu.aes=off,cpu.pclmulqdq=off,cpu.pmull=off")
			}
			p.command.Env = append(os.Environ(), env...)
			if err := add(p, ""); err != nil {
				return all, err
			}
		case "measuredchosen":
			chosen = f[2]
		}
	}
	for _, p := range all {
		p.chosen = p.name == chosen
	}
	if !slices.ContainsFunc(all, func(p *peer) bool { return p.standard }) {
		for _, p := range all { // a CPU without AES instructions
			p.standard = p.name == "generic"
		}
	}
	const header = "/usr/include/intel-ipsec-mb.h"
	if _, err := os.Stat(header); err != nil {
		fmt.Printf("no IPsec-MB here, so no comparison with it: no %s (Debian: apt-get install libipsec-mb-dev gcc)\n", header)
		return all, nil
	}
	if err := build("cc", "-O2", "-o", mb, "benchmarks/crypto/ipsecmb/ipsecmb.c", "-lIPSec_MB"); err != nil {
		return all, err
	}
	for _, m := range []string{"auto", "avx512", "avx2", "avx", "sse"} {
		p := &peer{name: "IPsec-MB " + m, command: exec.Command(mb, m), ipsec: m == "auto"}
		if err := add(p, ""); err != nil && m == "auto" {
			return all, err
		} else if err != nil {
			fmt.Printf("%s: not on this CPU\n", p.name)
		}
	}
	return all, nil
}

func build(name string, args ...string) error {
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

func (p *peer) start() error {
	p.results = make(map[string][]result)
	var err error
	if p.in, err = p.command.StdinPipe(); err != nil {
		return err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return err
	}
	p.out = bufio.NewScanner(out)
	if err := p.command.Start(); err != nil {
		return err
	}
	answer, err := p.answer()
	if err != nil {
		p.in.Close()
		p.command.Wait()
		return err
	}
	p.is = strings.TrimPrefix(answer, "is ")
	return nil
}

// answer returns the next line that is meant for us.
func (p *peer) answer() (string, error) {
	for p.out.Scan() {
		if a, ok := strings.CutPrefix(p.out.Text(), "measured "); ok {
			return a, nil
		}
	}
	return "", fmt.Errorf("%s ended", p.name)
}

// ask has p do op times times.
func (p *peer) ask(op string, size, times int) (r result, err error) {
	if _, err := fmt.Fprintln(p.in, op, size, times); err != nil {
		return r, fmt.Errorf("%s: %w", p.name, err)
	}
	answer, err := p.answer()
	if err != nil {
		return r, err
	}
	if _, err := fmt.Sscan(answer, &r.ns, &r.cycles); err != nil {
		return r, fmt.Errorf("%s: %q: %w", p.name, answer, err)
	}
	return result{r.ns / float64(times), r.cycles / float64(times)}, nil
}

// measure has all do everything, round after round; each round of a cell begins
// with another one.
func measure(all []*peer) error {
	times, end := map[string][]int{}, time.Now().Add(longest)
	for round := range max(*rounds, 1) + 1 {
		if round > 1 && time.Now().After(end) {
			break
		}
		for _, op := range ops {
			for _, size := range sizes {
				c := cell(op, size)
				for i := range all {
					i = (i + round) % len(all)
					if round == 0 { // finds out how many times are a slice
						r, err := all[i].ask(op, size, 20)
						if err != nil {
							return err
						}
						times[c] = append(times[c], 1+int(float64(slice.Nanoseconds())/r.ns))
						continue
					}
					r, err := all[i].ask(op, size, times[c][i])
					if err != nil {
						return err
					}
					all[i].results[c] = append(all[i].results[c], r)
				}
			}
		}
	}
	return nil
}

// quartiles returns the median of f of every round, and how far the quartiles
// are from each other.
func quartiles(n int, f func(round int) float64) (median, between float64) {
	v := make([]float64, n)
	for i := range v {
		v[i] = f(i)
	}
	slices.Sort(v)
	return v[n/2], v[n*3/4] - v[n/4]
}

func tables(all []*peer) {
	for _, p := range all {
		what := ""
		if p.chosen {
			what = ", the one that is used on this CPU"
		}
		if p.standard {
			what += ", crypto/cipher"
		}
		if p.is != p.name || what != "" {
			fmt.Printf("%s: %s%s\n", p.name, p.is, what)
		}
	}
	table(all, "ns a datagram: median, ± half of what is between the quartiles", "%.0f ±%.0f%%", func(r result) float64 { return r.ns })
	if all[0].results[cell(ops[0], sizes[0])][0].cycles > 0 {
		table(all, "cycles in user mode a datagram", "%.0f ±%.0f%%", func(r result) float64 { return r.cycles })
	}
}

func table(all []*peer, title, format string, f func(result) float64) {
	fmt.Printf("\n%-22s  %s\n%-22s", "", title, "")
	for _, size := range sizes {
		fmt.Printf("%15d", size)
	}
	fmt.Println(" bytes")
	for _, op := range ops {
		for _, p := range all {
			fmt.Printf("%-5s%-17s", op, p.name)
			for _, size := range sizes {
				r := p.results[cell(op, size)]
				m, between := quartiles(len(r), func(i int) float64 { return f(r[i]) })
				fmt.Printf("%15s", fmt.Sprintf(format, m, 50*between/m))
			}
			fmt.Println()
		}
	}
	fmt.Println()
}

// ratios prints how many times as fast as crypto/cipher the kernel in use is,
// and its time as a multiple of IPsec-MB's: by cycles in user mode where they
// are counted, since those of other processes are not among them.
func ratios(all []*peer) {
	find := func(f func(*peer) bool) *peer {
		if i := slices.IndexFunc(all, f); i >= 0 {
			return all[i]
		}
		return nil
	}
	chosen := find(func(p *peer) bool { return p.chosen })
	standard := find(func(p *peer) bool { return p.standard })
	ipsec := find(func(p *peer) bool { return p.ipsec })
	lines := func(name string, of, by *peer) {
		if of == nil || by == nil {
			return
		}
		for _, op := range ops {
			for _, size := range sizes {
				a, b := of.results[cell(op, size)], by.results[cell(op, size)]
				m, _ := quartiles(len(a), func(i int) float64 {
					if a[i].cycles > 0 && b[i].cycles > 0 {
						return a[i].cycles / b[i].cycles
					}
					return a[i].ns / b[i].ns
				})
				fmt.Printf("%s %s %d %.2f\n", name, op, size, m)
			}
		}
	}
	lines("ratio", standard, chosen)
	lines("ipsecmb", chosen, ipsec)
}
