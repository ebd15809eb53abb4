// SPDX-License-Identifier: Apache-2.0

// Package outcome is the file that a run of make bench writes: what was measured,
// where and how, for the report, the plots and SIZING.md to be made of.
package outcome

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/perf/sizing"
)

// Schema is the version of the results file. Readers refuse others.
const Schema = 1

// Results are what one run measured. Costs are CPU time a frame in ns, rates
// are frames a second, sizes are bytes, unless said otherwise.
type Results struct {
	Schema   int           `json:"schema"`
	Machine  Machine       `json:"machine"`
	Commit   string        `json:"commit"`  // with -dirty if files had changed
	Command  string        `json:"command"` // that wrote it
	Go       string        `json:"go"`
	Begun    time.Time     `json:"begun"`
	Took     time.Duration `json:"took"`
	Settings Settings      `json:"settings"`

	Parts

	Profile *sizing.Profile `json:"profile,omitempty"` // what the sizing model is made of
}

// Settings are how much was measured.
type Settings struct {
	Quick  bool          `json:"quick,omitempty"` // proves that it runs, and nothing else
	Rounds int           `json:"rounds"`          // of everything that is compared, in turn
	Trial  time.Duration `json:"trial"`
	Source int           `json:"source_cpu"` // that the traffic source is pinned to; -1: none
}

// Parts are the sections of Results. Each is measured by itself.
type Parts struct {
	Quiet   *Quiet    `json:"quiet,omitempty"`
	Stages  []Stage   `json:"stages,omitempty"`
	Peers   []Peer    `json:"peers,omitempty"`
	Costs   []Cost    `json:"costs,omitempty"`
	Wire    []Wire    `json:"wire,omitempty"`
	Rates   []Rate    `json:"rates,omitempty"`
	Ratios  []Ratio   `json:"ratios,omitempty"`
	Curves  []Curve   `json:"curves,omitempty"`
	Latency []Latency `json:"latency,omitempty"`
	Taps    []Taps    `json:"taps,omitempty"`
	Scaling []Scaling `json:"scaling,omitempty"`
	Outputs []Output  `json:"outputs,omitempty"`
	Model   []Held    `json:"model,omitempty"`
	Options []Option  `json:"options,omitempty"`
	Soak    *Soak     `json:"soak,omitempty"`
	Errors  []string  `json:"errors,omitempty"` // of parts that are missing for them
}

// A Machine says where it was measured.
type Machine struct {
	Name   string   `json:"name"` // in file names
	CPU    string   `json:"cpu"`
	CPUs   int      `json:"cpus"`
	Kernel string   `json:"kernel"`
	Flags  []string `json:"flags"` // of the CPU, those that matter here
	Guest  bool     `json:"guest"` // runs under a hypervisor
	Memory uint64   `json:"memory"`
}

// Quiet says how quiet the machine was, and how fast.
type Quiet struct {
	Busy       measure.Spread `json:"busy"`        // CPUs that were busy with nothing of ours running
	CyclesANs  float64        `json:"cycles_a_ns"` // of a thread that computes; 0: no counters
	HasCounter bool           `json:"has_counters"`
}

// A Stage is one stage alone.
type Stage struct {
	Stage     string         `json:"stage"`
	Suite     string         `json:"suite,omitempty"` // and the code, as in aes-256-gcm/avx2, where it matters
	Frame     string         `json:"frame"`
	Bytes     float64        `json:"bytes"` // of a frame, mean
	Datagrams float64        `json:"datagrams,omitempty"`
	NS        measure.Spread `json:"ns"` // a frame
}

// A Peer is what ntap is compared with.
type Peer struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	How       string `json:"how"` // how it is set up; or why it is not available
}

// A Cost is what a system takes at a rate that it carries.
type Cost struct {
	System string                    `json:"system"`
	Frame  string                    `json:"frame"`
	Bytes  float64                   `json:"bytes"`
	Rate   float64                   `json:"rate"`
	Own    map[string]measure.Spread `json:"own,omitempty"`    // ns a frame, by process
	Cycles map[string]measure.Work   `json:"cycles,omitempty"` // a frame, by process: of the last trial
	Source measure.Spread            `json:"source"`           // ns a frame of the source's process
	All    measure.Spread            `json:"all"`              // ns a frame of all CPUs, less idle machine and source alone
	Ours   measure.Spread            `json:"ours,omitzero"`    // ns a frame of all processes of the trial and ksoftirqd, less source alone
	Lost   int64                     `json:"lost"`             // frames, in all trials
	RSS    map[string]uint64         `json:"rss,omitempty"`    // bytes, by process
}

// Wire is what crosses the wire.
type Wire struct {
	Frame     string  `json:"frame"`
	Rate      float64 `json:"rate"`
	Ratio     float64 `json:"ratio"`     // bytes on the wire, outer Ethernet header included, for a captured byte
	Datagrams float64 `json:"datagrams"` // a frame
	Bytes     float64 `json:"bytes"`     // mean UDP payload of a datagram
}

// A Rate is the highest without loss.
type Rate struct {
	System   string           `json:"system"`
	Frame    string           `json:"frame"`
	Bytes    float64          `json:"bytes"`
	Rate     measure.Spread   `json:"rate"`
	Gbps     float64          `json:"gbps"`            // of captured bytes, at the median
	Bound    bool             `json:"bound,omitempty"` // by the source
	Searches []measure.Search `json:"searches"`
}

// A Ratio compares ntap with a peer, in pairs of trials that took turns.
type Ratio struct {
	What   string         `json:"what"`
	Peer   string         `json:"peer"`
	Frame  string         `json:"frame"`
	Ratio  measure.Spread `json:"ratio"`
	Target float64        `json:"target"`  // to reach
	Most   bool           `json:"at_most"` // it is to be at most that; else at least
}

// Met says that the median reaches the target.
func (r *Ratio) Met() bool {
	if r.Most {
		return r.Ratio.Median <= r.Target
	}
	return r.Ratio.Median >= r.Target
}

// A Curve is offered against delivered.
type Curve struct {
	System string            `json:"system"`
	Frame  string            `json:"frame"`
	Points []measure.Attempt `json:"points"`
}

// A Latency is the time from the capture to the TAP, in ns: kernel timestamps of
// both, on one clock.
type Latency struct {
	Mode   string       `json:"mode"` // flags beyond the defaults
	Frame  string       `json:"frame"`
	Load   float64      `json:"load"` // part of the highest rate
	Rate   float64      `json:"rate"`
	Probes int64        `json:"probes"`
	Lost   int64        `json:"lost"`
	P50    int64        `json:"p50"`
	P99    int64        `json:"p99"`
	P999   int64        `json:"p999"`
	Least  int64        `json:"least"`
	Most   int64        `json:"most"`
	Points [][2]float64 `json:"points"` // the distribution: percent, ns
	// Busy is how many CPUs' time each side took.
	Busy map[string]float64 `json:"busy,omitempty"`
	Wire float64            `json:"wire,omitempty"` // bytes on the wire, outer Ethernet header included, for a captured byte
}

// An Output is what a collector takes with it.
type Output struct {
	Output string         `json:"output"` // none, tap, vxlan, pcapng
	Frame  string         `json:"frame"`
	Bytes  float64        `json:"bytes"`
	Rate   float64        `json:"rate"`
	Own    measure.Spread `json:"own"` // ns a frame of the collector's process
	Lost   int64          `json:"lost"`
}

// Held is a whole side, measured, beside what the sizing model says of it, which
// was not fitted on that.
type Held struct {
	Side  string  `json:"side"`
	Suite string  `json:"suite"`
	Frame string  `json:"frame"`
	NS    float64 `json:"ns"`    // a frame
	Model float64 `json:"model"` // ns a frame
	Holds bool    `json:"holds"` // within sizing.Within
}

// Taps is one collector with many taps.
type Taps struct {
	Taps  int            `json:"taps"`
	Frame string         `json:"frame"`
	Rate  float64        `json:"rate"` // of all taps together
	Own   measure.Spread `json:"own"`  // ns a frame of the collector's process
	RSS   uint64         `json:"rss"`  // of the collector
	Lost  int64          `json:"lost"`
}

// Scaling is what more shards give.
type Scaling struct {
	Workers int                       `json:"workers"`
	Frame   string                    `json:"frame"`
	Rate    measure.Spread            `json:"rate"` // highest without loss, end to end
	Own     map[string]measure.Spread `json:"own"`  // ns a frame, by process, at one rate for all
	// Alone is, by side, ns a frame of a remote or a collector by itself, with as
	// much to do for each shard or worker however many there are.
	Alone map[string]measure.Spread `json:"alone,omitempty"`
}

// A Soak is a long run at a set load.
type Soak struct {
	Frame   string            `json:"frame"`
	Highest float64           `json:"highest"` // frames a second without loss, as searched before
	Asked   float64           `json:"asked"`   // frames a second
	Rate    float64           `json:"rate"`    // that were offered
	Took    time.Duration     `json:"took"`
	Frames  uint64            `json:"frames"`
	Lost    int64             `json:"lost"`
	Mallocs map[string]uint64 `json:"mallocs"` // objects, by side
	GCs     map[string]uint32 `json:"gcs"`
	RSS     map[string][]int  `json:"rss"` // MiB after each tenth, by side
}

// ErrVersion says that a results file is of another version.
var ErrVersion = errors.New("another version of the results file")

// Load reads a results file.
func Load(path string) (*Results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var version struct{ Schema int }
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("%s is no results file: %w", path, err)
	}
	if version.Schema != Schema {
		return nil, fmt.Errorf("%s: %w: it has %d, this program reads %d; run make bench anew, or take the program of its commit", path, ErrVersion, version.Schema, Schema)
	}
	r := &Results{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Save writes v as JSON to path: all of it, or nothing.
func Save(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(b, '\n'))
}

// WriteFile writes a file under another name first.
func WriteFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
