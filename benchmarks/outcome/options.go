// SPDX-License-Identifier: Apache-2.0

package outcome

import (
	"math"

	"github.com/ntap-project/ntap/internal/measure"
)

// An Option is what a frame takes more with an option of a remote than without, in
// ns of CPU, by rounds in which all had their turn.
type Option struct {
	Option  string             `json:"option"` // as it is given; NoOption: none
	Frame   string             `json:"frame"`
	Own     measure.Difference `json:"own"`               // of the remote's process, all of it
	Remote  measure.Difference `json:"remote"`            // of the remote's process, beyond that without
	Capture measure.Difference `json:"capture"`           // of the source, in whose time the kernel captures, beyond that without
	Where   Where              `json:"where,omitempty"`   // the option works
	Cost    measure.Difference `json:"cost"`              // of Remote and Capture what Where says
	Dropped uint64             `json:"dropped,omitempty"` // frames that the ring had no room for, in all rounds
}

// Where says where an option works: in the remote's process, in the kernel where
// frames are captured, or in both.
type Where string

// Where options work.
const (
	InRemote Where = ""
	InKernel Where = "kernel"
	InBoth   Where = "both"
)

// NoOption is the Option of a remote without any. There are several of them, which are held
// against each other: their Cost is both, and it is noise.
const NoOption = "none"

// Noise is how far apart two of the same are, ns a frame: the farthest that the median of
// a remote without an option is from the others.
func (p *Parts) Noise(o *Option) (ns float64) {
	for i := range p.Options {
		x := &p.Options[i]
		if x.Option != NoOption || x.Frame != o.Frame {
			continue
		}
		d := x.Cost
		switch o.Where {
		case InRemote:
			d = x.Remote
		case InKernel:
			d = x.Capture
		}
		ns = max(ns, math.Abs(d.Median))
	}
	return ns
}

// HasCosts says that options were measured, and by rounds: files of before have others.
func (p *Parts) HasCosts() bool {
	return len(p.Options) > 0 && p.Options[0].Cost.N > 0
}
