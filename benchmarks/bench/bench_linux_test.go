// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/internal/testnet"
)

// TestMain lets this program be the children that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == measure.ChildArg {
		if err := measure.Serve(os.Args[2], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestWrongFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-only nothing":        `no part is called "nothing"; there are quiet,`,
		"-rounds -1":           "-rounds -1: 1 to 1000",
		"-trial 1ms":           "-trial 1ms: 10ms to 10m",
		"-source-cpu 4711":     "-source-cpu 4711: this process may run on [",
		"-soak -1s":            "-soak -1s: up to 720h",
		"-load 1.5 -soak 1s":   "-load 1.5: a part of the highest rate",
		"-frame 12 -soak 1s":   `-frame: frames of "12" bytes: 60 to`,
		"-frame nine -soak 1s": `-frame: frames of "nine" bytes: 60 to`,
		"-options-for 2h":      "-options-for 2h0m0s: 1s to 1h",
		"-options-rounds -1":   "-options-rounds -1: 1 to 1000",
		"more":                 "it takes flags only",
	} {
		if err := run(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", args, err, want)
		}
	}
}

// A run that is cut short writes nothing.
func TestCutShort(t *testing.T) {
	testnet.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "results.json")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, []string{"-quick", "-out", path}); err == nil || !strings.Contains(err.Error(), "interrupted: nothing is written") {
		t.Error(err)
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 0 {
		t.Errorf("it left %v", all)
	}
}

// So does one that is cut short while it measures.
func TestCutShortInTheMiddle(t *testing.T) {
	testnet.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "results.json")
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan struct{})
	saved := sections
	defer func() { sections = saved }()
	sections = slices.Clone(saved)
	first := sections[1].run
	sections[1].run = func(b *bench, ctx context.Context) error {
		close(began)
		return first(b, ctx)
	}
	go func() {
		<-began
		time.Sleep(300 * time.Millisecond) // some of it is measured by then, or being set up
		cancel()
	}()
	if err := run(ctx, []string{"-quick", "-rounds", "50", "-only", "quiet,costs", "-out", path}); err == nil || !strings.Contains(err.Error(), "interrupted: nothing is written") {
		t.Error(err)
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 0 {
		t.Errorf("it left %v", all)
	}
}

// Without rights it says so before it begins.
func TestNoRoot(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "setpriv")
	dir, err := os.MkdirTemp("", "ntap-bench-") // which nobody may read t.TempDir of
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "bench")
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute) // it may have to compile all
	defer stop()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := testnet.Command(t, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", program, "-quick")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "it makes network namespaces and interfaces: run it as root") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A peer that is not there gets a row that says so, and the others are measured.
func TestMissingPeer(t *testing.T) {
	testnet.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "results.json")
	if err := run(t.Context(), []string{"-quick", "-trial", "30ms", "-only", "costs", "-wireguard", "/nowhere/wireguard", "-out", path}); err != nil {
		t.Fatal(err)
	}
	r, err := outcome.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	missing, measured := false, map[string]bool{}
	for _, p := range r.Peers {
		missing = missing || p.Name == sysWireGuard && !p.Available && strings.HasPrefix(p.How, "wireguard-go: stat /nowhere/wireguard")
	}
	for _, c := range r.Costs {
		measured[c.System] = c.Own != nil && c.Rate > 0
	}
	if !missing || !measured[sysNtap] || !measured[sysSource] || measured[sysWireGuard] {
		t.Errorf("%+v, %v", r.Peers, measured)
	}
}

// The account of a remote is behind the source: what crossed the wire is for what
// the account has of the frames. It used to be for what was offered, and the wire
// seemed to carry less than was captured.
func TestWireIsOfTheAccount(t *testing.T) {
	b := &bench{}
	b.wire(comparison{frame: "300", rate: 1000}, []measure.Trial{{
		Offered: measure.Offered{Frames: 1000, Bytes: 300000},
		Remote:  measure.SideAccount{Sealed: 500, SealedBytes: 150000, Sent: 110, SentBytes: 155380},
	}})
	if w := b.results.Wire; len(w) != 1 || w[0].Ratio != 160000./150000 || w[0].Datagrams != 0.22 {
		t.Errorf("%+v", w)
	}
}

func TestMachineName(t *testing.T) {
	for cpu, want := range map[string]string{
		"AMD EPYC 7763 64-Core Processor":               "amd-epyc-7763-2cpu",
		"Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz": "intel-xeon-platinum-8370c-2cpu",
		"arm64": "arm64-2cpu",
	} {
		if got := machineName(&outcome.Machine{CPU: cpu, CPUs: 2}); got != want {
			t.Errorf("%s: %s, not %s", cpu, got, want)
		}
	}
}

// A soak says what it did, and one whose load was not offered, or that lost a
// frame, is none: it used to pass at three quarters of the load.
func TestSoakRuns(t *testing.T) {
	testnet.RequireRoot(t)
	b := &bench{begun: time.Now(), highest: map[string]float64{"imix": 4000}}
	b.Quick, b.Rounds, b.Trial, b.Source = true, 1, 30*time.Millisecond, measure.SourceCPU()
	path := filepath.Join(t.TempDir(), "soak.json")
	b.results.Schema = outcome.Schema
	defer func(d time.Duration) { measure.Quiet = d }(measure.Quiet)
	measure.Quiet = 3 * time.Second // a collector that stands still for less loses nothing
	err := b.soakRun(t.Context(), "imix", 0.5, time.Second, path)
	r, loadErr := outcome.Load(path)
	if loadErr != nil || r.Soak == nil || r.Soak.Frames == 0 || r.Soak.Lost != 0 || r.Soak.Asked != 2000 || len(r.Soak.RSS[measure.RoleRemote]) != 10 {
		t.Fatalf("%+v, %v", r, loadErr)
	}
	// A machine that stands still now and then offers less, and that is said.
	offered := r.Soak.Rate >= soakOffered*r.Soak.Asked
	if offered != (err == nil) || offered != (len(r.Errors) == 0) || err != nil && !strings.Contains(err.Error(), "that is no soak at 50 %") {
		t.Errorf("%.0f frames a second of %.0f: %v; in the file %q", r.Soak.Rate, r.Soak.Asked, err, r.Errors)
	}
	b.highest["imix"] = 1e9 // what no source offers
	if _, err := b.soak(t.Context(), "imix", 1, 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "that is no soak at 100 %") {
		t.Errorf("a load that nobody offered: %v", err)
	}
}
