// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/internal/measure"
)

// telling are the CPU's features that make a difference here.
var telling = []cpuid.FeatureID{cpuid.AESNI, cpuid.CLMUL, cpuid.AVX2, cpuid.VAES, cpuid.VPCLMULQDQ, cpuid.AVX512F, cpuid.AESARM, cpuid.PMULL}

// machine notes where it is measured, and of what.
func (b *bench) machine(ctx context.Context) error {
	m := &b.results.Machine
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	m.CPU = strings.Join(strings.Fields(cpuid.CPU.BrandName), " ")
	if m.CPU == "" {
		m.CPU = runtime.GOARCH
	}
	cpus, err := engine.CPUs()
	if err != nil {
		return err
	}
	m.CPUs = len(cpus)
	for _, id := range telling {
		if cpuid.CPU.Supports(id) {
			m.Flags = append(m.Flags, id.String())
		}
	}
	m.Guest = cpuid.CPU.Supports(cpuid.HYPERVISOR)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = info.Totalram * uint64(info.Unit)
	}
	m.Name = machineName(m)
	b.results.Go = runtime.Version()
	b.results.Commit = commit(ctx)
	return nil
}

// machineName makes a name of what a machine is: it stands for a class of them,
// and is told from no other of its class.
func machineName(m *outcome.Machine) string {
	cpu := strings.ToLower(regexp.MustCompile(`\(R\)|\(TM\)|CPU|Processor|@.*|[0-9]+-Core`).ReplaceAllString(m.CPU, ""))
	cpu = strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(cpu, "-"), "-")
	return fmt.Sprintf("%s-%dcpu", cpu, m.CPUs)
}

// commit returns that of the folder that it runs in.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=9", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	c := strings.TrimSpace(string(out))
	// Results of earlier runs change nothing that is measured.
	if out, err = exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!SIZING.md").Output(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		c += "-dirty"
	}
	return c
}

// quiet says how quiet the machine is, with nothing of ours running.
func (b *bench) quiet(ctx context.Context) error {
	var busy []float64
	for range b.Rounds {
		before, err := measure.ReadMachineTime()
		if err != nil {
			return err
		}
		d := pick(b, 400*time.Millisecond, 50*time.Millisecond)
		time.Sleep(d)
		after, err := measure.ReadMachineTime()
		if err != nil {
			return err
		}
		busy = append(busy, float64(after.BusySince(before))/float64(d))
	}
	q := &outcome.Quiet{Busy: measure.SpreadOf(busy...), CyclesANs: measure.Frequency()}
	q.HasCounter = q.CyclesANs > 0
	b.results.Quiet = q
	b.say("busy with other things: %v of %d CPUs", q.Busy, b.results.Machine.CPUs)
	if q.Busy.Median > 0.2 {
		b.say("that is much: the figures will be worse than they should")
	}
	return ctx.Err()
}
