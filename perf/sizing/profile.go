// SPDX-License-Identifier: Apache-2.0

// Package sizing says what a deployment needs, from what was measured on a host:
// a line, cost a frame and cost a byte, for each stage that a frame passes.
package sizing

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Schema is the version of a Profile. Readers refuse others.
const Schema = 1

// The stages, as a profile names them. Those of the kernel run where the
// network card's interrupts, or the sender, are; all others in a shard or worker.
const (
	KernelCapture = "kernel capture" // into the ring
	Capture       = "capture"        // out of it, and all else that a shard does
	Pack          = "pack"
	Seal          = "seal"
	Send          = "send" // with what the kernel does down to the device
	KernelReceive = "kernel receive"
	Receive       = "receive"
	Open          = "open"
	Order         = "order" // and unpack, and all else that a worker does
	TAP           = "tap"
	VXLAN         = "vxlan"        // where frames of a flow have one size, and go together
	VXLANMixed    = "vxlan, mixed" // and where they have not: measured with a mix, where it was
)

// sealed are the stages that depend on the suite.
var sealed = map[string]bool{Seal: true, Open: true}

// order is that in which a frame meets them.
var order = []string{KernelCapture, Capture, Pack, Seal, Send, KernelReceive, Receive, Open, Order, TAP, VXLAN, VXLANMixed}

// A Role is what a host does.
type Role string

const (
	Remote          Role = "remote"
	Collector       Role = "collector"       // to a TAP
	CollectorVXLAN  Role = "collector-vxlan" // to a VTEP
	kernelOfRemote       = KernelCapture
	kernelOfCollect      = KernelReceive
)

// Roles are all of them.
var Roles = []Role{Remote, Collector, CollectorVXLAN}

// own are the stages of a role's threads.
var own = map[Role][]string{
	Remote:         {Capture, Pack, Seal, Send},
	Collector:      {Receive, Open, Order, TAP},
	CollectorVXLAN: {Receive, Open, Order, VXLAN},
}

// kernel is the stage that the kernel has before those.
var kernel = map[Role]string{Remote: kernelOfRemote, Collector: kernelOfCollect, CollectorVXLAN: kernelOfCollect}

// A Point is one measurement.
type Point struct {
	Stage string  `json:"stage"`           // or, of a whole side, the role
	Suite string  `json:"suite,omitempty"` // of stages that seal or open, and of whole sides
	Frame string  `json:"frame"`
	Bytes float64 `json:"bytes"` // of a frame, mean
	NS    float64 `json:"ns"`    // CPU time a frame
}

// A Profile is what was measured on one host.
type Profile struct {
	Schema  int     `json:"schema"`
	Machine string  `json:"machine"`
	Commit  string  `json:"commit,omitempty"`
	Date    string  `json:"date,omitempty"`
	Note    string  `json:"note,omitempty"`
	Points  []Point `json:"points"`           // the model is fitted on these,
	Checks  []Point `json:"checks,omitempty"` // and held against these: whole sides
}

// What can have been measured: beyond, a file was damaged.
const (
	mostBytes = 1 << 20
	mostNS    = 1e9
	mostFile  = 64 << 20 // bytes of a profile, or of a results file
)

// ErrSchema says that a profile is of another version.
var ErrSchema = errors.New("another version of the profile")

// Load reads a profile, or the one that a results file of make bench holds.
func Load(path string) (*Profile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("profile: %w; ntap bench makes one", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostFile+1))
	if err == nil && len(b) > mostFile {
		err = fmt.Errorf("over %d MiB: that is no profile", mostFile>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w; ntap bench makes one", path, err)
	}
	p, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", path, err)
	}
	return p, nil
}

// Parse is Load of a file's content.
func Parse(b []byte) (*Profile, error) {
	var outer struct {
		Schema  *int
		Profile *json.RawMessage
	}
	if err := json.Unmarshal(b, &outer); err != nil {
		return nil, fmt.Errorf("not a profile: %w; ntap bench makes one", err)
	}
	if outer.Profile != nil {
		b = *outer.Profile
	}
	p := &Profile{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("not a profile: %w; ntap bench makes one", err)
	}
	if p.Schema != Schema {
		return nil, fmt.Errorf("%w: it has %d, this program reads %d; make it anew: ntap bench", ErrSchema, p.Schema, Schema)
	}
	for _, q := range append(p.Points, p.Checks...) {
		if !(q.Bytes > 0 && q.Bytes <= mostBytes) || !(q.NS >= 0 && q.NS <= mostNS) || q.Stage == "" {
			return nil, fmt.Errorf("a point that nobody measured: stage %q, %v bytes, %v ns", q.Stage, q.Bytes, q.NS)
		}
	}
	return p, nil
}

//go:embed default.json
var builtIn []byte

// Default returns the profile that is built in, made by make sizing of a results
// file that is committed.
func Default() *Profile {
	p, err := Parse(builtIn)
	if err != nil {
		panic("sizing: the profile that is built in: " + err.Error()) // a test holds it
	}
	return p
}
