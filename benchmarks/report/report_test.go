// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/perf/sizing"
)

// fixture is a results file of a quick run.
const fixture = "testdata/fixture.json"

func load(t *testing.T) *outcome.Results {
	t.Helper()
	r, err := outcome.Load(fixture)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// save writes results to a new folder.
func save(t *testing.T, r *outcome.Results) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine-commit.json")
	if err := outcome.Save(path, r); err != nil {
		t.Fatal(err)
	}
	return path
}

// Of a results file come a report and every plot, as SVG and as PNG, which are
// images and have something in them.
func TestReport(t *testing.T) {
	path := save(t, load(t))
	var said bytes.Buffer
	if err := run([]string{path}, &said); err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(path, ".json")
	text, err := os.ReadFile(base + ".md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Measured: ", "shows that everything runs", "## Targets", "## Beside what", "## Ratios", "## CPU a frame", "## Bytes on the wire",
		"## Highest rate without loss", "## Latency", "## Stages, each alone", "## Outputs of a collector", "## Many taps", "## Shards and workers", "## The sizing model",
		`| socat | not available: socat: not found \| apt-get install socat |`, "**missed**", "| remote | aes-256-gcm/avx2 | 700 | 400 | 440 | +10 % | yes |", "+50 % | **no** |",
		"frames a second without loss of ntap | VXLAN in WireGuard | 300 |", "at least 20 |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report has no %q", want)
		}
	}
	for _, name := range []string{"cpu", "delivered", "loss", "scaling", "latency"} {
		if !strings.Contains(string(text), "("+filepath.Base(base)+"-"+name+".svg)") {
			t.Errorf("the report does not show %s", name)
		}
		svg, err := os.Open(base + "-" + name + ".svg")
		if err != nil {
			t.Fatal(err)
		}
		paths := 0
		for d := xml.NewDecoder(svg); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "path" {
				paths++
			}
		}
		svg.Close()
		if paths < 5 {
			t.Errorf("%s.svg has %d paths", name, paths)
		}
		b, err := os.ReadFile(base + "-" + name + ".png")
		if err != nil {
			t.Fatal(err)
		}
		if img, err := png.Decode(bytes.NewReader(b)); err != nil || img.Bounds().Dx() < 400 {
			t.Errorf("%s.png: %v", name, err)
		}
	}
}

// A run of which parts are missing has a report that says so.
func TestReportOfAPart(t *testing.T) {
	r := &outcome.Results{Schema: outcome.Schema, Parts: outcome.Parts{Errors: []string{"latency: none came"}}}
	path := save(t, r)
	if err := run([]string{path}, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".md")
	if err != nil || !strings.Contains(string(text), "## What is missing\n\n- latency: none came") || !strings.Contains(string(text), "not measured") {
		t.Errorf("%v\n%s", err, text)
	}
	if all, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.svg")); len(all) > 0 {
		t.Errorf("plots of nothing: %v", all)
	}
}

// Numbers that nobody can draw or divide by do not stop the report.
func TestReportOfNothings(t *testing.T) {
	zero := measure.SpreadOf(0)
	r := &outcome.Results{Schema: outcome.Schema, Parts: outcome.Parts{
		Costs:   []outcome.Cost{{System: "ntap", Frame: "300", Bytes: 300, Ours: zero}, {System: "x", Frame: "300", Bytes: 300, Ours: measure.SpreadOf(-5)}},
		Curves:  []outcome.Curve{{System: "ntap", Frame: "300", Points: []measure.Attempt{{}, {Offered: 1e6, Arrived: 2e6}}}},
		Latency: []outcome.Latency{{Mode: "default", Points: [][2]float64{{0, 0}, {100, 5}, {50, 0}}}},
		Scaling: []outcome.Scaling{{Workers: 1, Frame: "300"}},
	}}
	if err := run([]string{save(t, r)}, io.Discard); err != nil {
		t.Fatal(err)
	}
}

// Each goal says whether it is reached.
func TestGoals(t *testing.T) {
	r := &outcome.Results{Machine: outcome.Machine{Flags: []string{"VAES"}}}
	r.Costs = []outcome.Cost{
		{System: system, Frame: "1300", Rate: 1e4, Own: map[string]measure.Spread{"remote": measure.SpreadOf(900)}},
		{System: system, Frame: "1300", Rate: 2e5, Own: map[string]measure.Spread{"remote": measure.SpreadOf(299), "collector": measure.SpreadOf(600)}},
	}
	r.Latency = []outcome.Latency{{Mode: "default", Load: 0.1, P99: 1e6}, {Mode: "default", Load: 0.9, P99: 9e9}, {Mode: "--low-latency", P50: 2e5}}
	r.Ratios = []outcome.Ratio{{What: "a", Peer: "b", Frame: "300", Ratio: measure.SpreadOf(21), Target: 20}, {What: "no target", Ratio: measure.SpreadOf(1)}}
	want := map[string]string{
		"remote, own CPU a frame of 1300 bytes": "reached", "collector, own CPU a frame of 1300 bytes": "**missed**, 1.09 times the target",
		"remote, own CPU a frame of 300 bytes": "not measured", "latency at light load, p99": "reached", "latency with --low-latency, p50": "**missed**, 2.00 times the target",
		"a, as times that of b, 300 bytes": "reached",
	}
	for _, g := range goals(r) {
		if w, known := want[g.what]; known && w != g.reached() {
			t.Errorf("%s: %s, want %s", g.what, g.reached(), w)
		}
		delete(want, g.what)
		if strings.Contains(g.what, "no target") {
			t.Error("a goal without a target")
		}
	}
	if len(want) > 0 {
		t.Errorf("no goals %v", want)
	}
}

// SIZING.md has every rate and frame of every role, says what was left out and
// why, and the profile beside it is one that ntap size reads.
func TestSizing(t *testing.T) {
	r := load(t)
	r.Settings.Quick = false
	path := save(t, r)
	top := t.TempDir()
	var said bytes.Buffer
	if err := run([]string{"-sizing", "-C", top, path}, &said); err != nil || !strings.Contains(said.String(), "a collector at 700 bytes says 3000 ns") {
		t.Fatal(err, said.String())
	}
	text, err := os.ReadFile(filepath.Join(top, sizingFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range tableRoles {
		_, part, found := strings.Cut(string(text), "\n### "+role.name+"\n")
		part, _, _ = strings.Cut(part, "\n##")
		for _, rate := range tableRates {
			for _, frame := range tableFrames {
				if row := fmt.Sprintf("| %s | %s | ", sizing.Bits(rate), frame); !found || strings.Count(part, row) != 1 {
					t.Errorf("%s: %d times %q", role.name, strings.Count(part, row), row)
				}
			}
		}
	}
	for _, want := range []string{
		"For whoever chooses", "| AES avx2 |", "| AES aesni |", "| ChaCha20 |", "| clear |", "aes-256-gcm/avx512 |", "**Left out: the machine that was measured cannot run it**",
		"## Settings", "sysctl -w net.core.rmem_max=", "ethtool -L eth0 combined", "## How the model works", "error of the fit", "Calibrate it for your host", "ntap bench",
		"## Where it stops being true", "## 40 and 100 Gbit/s", "NIC queues", "Memory bandwidth", "TAP queues", "times one", "machine-commit.json",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("SIZING.md has no %q", want)
		}
	}
	if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "%!") {
		t.Error("SIZING.md has numbers that are none")
	}
	p, err := sizing.Load(filepath.Join(top, profileFile))
	if err != nil || p.Commit != r.Commit || !strings.Contains(p.Note, "machine-commit.json") || len(p.Points) != len(r.Profile.Points) {
		t.Errorf("%+v %v", p, err)
	}
}

// What is no results file, or of another version, or says nothing, is refused,
// and nothing is written.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	r := load(t)
	r.Settings.Quick, r.Profile = false, nil
	none, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Profile = &sizing.Profile{Schema: sizing.Schema + 1, Points: []sizing.Point{{Stage: sizing.TAP, Bytes: 1, NS: 1}}}
	old, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"it has 99, this program reads": {write("old.json", `{"schema":99}`)},
		"is no results file":            {write("half.json", `{"schema":1,"ma`)},
		"no such file":                  {filepath.Join(dir, "nothing.json")},
		"one results file":              {"a", "b"},
		"figures say nothing":           {"-sizing", "-C", dir, fixture},
		"it has no profile":             {"-sizing", "-C", dir, write("none.json", string(none))},
		"another version":               {"-sizing", "-C", dir, write("oldprofile.json", string(old))},
		"has no results file":           {"-C", dir},
	} {
		if err := run(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v does not say %q", args, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, sizingFile)); err == nil {
		t.Error("SIZING.md was written")
	}
}

// Without a name it is the newest run that counts, by its time, and files of
// other versions are passed over.
func TestNewest(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, resultsDir)
	for i, name := range []string{"a", "z", "m"} {
		r := load(t)
		r.Begun = time.Date(2026, 1, []int{1, 2, 3}[i], 0, 0, 0, 0, time.UTC)
		if err := outcome.Save(filepath.Join(dir, name+".json"), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(`{"schema":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := newest(dir); err != nil || filepath.Base(got) != "m.json" {
		t.Error(got, err)
	}
}

// What is committed fits together: SIZING.md and the profile that is built in are
// what the newest results say. make sizing makes them so.
func TestCommitted(t *testing.T) {
	const top = "../.."
	path, err := newest(filepath.Join(top, resultsDir))
	if err != nil {
		t.Fatal("no results are committed: ", err)
	}
	r, err := outcome.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	text, profile, err := sizingOf(r, filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{sizingFile: text, profileFile: profile} {
		if got, err := os.ReadFile(filepath.Join(top, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what %s says: run make sizing (%v)", name, path, err)
		}
	}
}

// The numbers of README.md are those of the newest committed results.
func TestReadme(t *testing.T) {
	path, err := newest(filepath.Join("../..", resultsDir))
	if err != nil {
		t.Fatal(err)
	}
	r, err := outcome.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	ratio := func(what, peer, frame string) float64 {
		for _, x := range r.Ratios {
			if strings.HasPrefix(x.What, what) && x.Peer == peer && x.Frame == frame && x.Target > 0 {
				return x.Ratio.Median
			}
		}
		t.Errorf("%s has no ratio of %s to %s at %s bytes", path, what, peer, frame)
		return 0
	}
	const cpu, rate = "all CPU a frame of ntap at ", "frames a second without loss of ntap"
	wants := []string{
		fmt.Sprintf("**%.2f** times the CPU of the kernel's own mirroring", ratio(cpu, "kernel VXLAN", "300")),
		fmt.Sprintf("**%.2f** times at 1300", ratio(cpu, "kernel VXLAN", "1300")),
		fmt.Sprintf("carries **%.1f** and **%.1f** times the frames", ratio(rate, "VXLAN in WireGuard", "300"), ratio(rate, "VXLAN in WireGuard", "1300")),
	}
	for _, w := range r.Wire {
		if w.Frame == "imix" {
			wants = append(wants, fmt.Sprintf("grows by **%.1f %%**", 100*(w.Ratio-1)))
		}
	}
	if len(wants) != 4 {
		t.Errorf("%s says nothing of IMIX on the wire", path)
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("README.md does not say %q, as %s does", want, path)
		}
	}
}
