// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A Line is what a stage costs: Frame for each frame, and Byte for each of its
// bytes, both in ns of CPU time.
type Line struct {
	Frame float64
	Byte  float64
	Error float64 // root mean square of the relative errors of the points it was fitted on
	Worst float64 // the largest of them
	N     int     // points
}

// At returns the cost of a frame of that many bytes, ns.
func (l Line) At(bytes float64) float64 { return max(0, l.Frame+l.Byte*bytes) }

// A Model is the lines of a profile.
type Model struct {
	Profile *Profile
	lines   map[[2]string]Line // by stage and suite
}

// Fit makes the model: least squares of the relative errors, stage by stage,
// with no line falling below 0 at either end.
func Fit(p *Profile) (*Model, error) {
	m := &Model{Profile: p, lines: map[[2]string]Line{}}
	points := map[[2]string][]Point{}
	for _, q := range p.Points {
		at := [2]string{q.Stage, q.Suite}
		points[at] = append(points[at], q)
	}
	for at, all := range points {
		m.lines[at] = fit(all)
	}
	for _, role := range Roles {
		for _, stage := range append([]string{kernel[role]}, own[role]...) {
			if !sealed[stage] && m.lines[[2]string{stage, ""}].N == 0 {
				return nil, fmt.Errorf("the profile has nothing about the stage %q: it was not made as root, or cut short; make it anew: ntap bench", stage)
			}
		}
	}
	if len(m.Suites()) == 0 {
		return nil, fmt.Errorf("the profile has no suite that both seals and opens; make it anew: ntap bench")
	}
	return m, nil
}

// fit fits a line through points of different lengths, each weighted by the
// square of its cost, since it is parts of it that count.
func fit(all []Point) Line {
	var w, wx, wy, wxx, wxy float64
	for _, p := range all {
		weight := 1 / math.Pow(max(p.NS, 1), 2)
		w += weight
		wx += weight * p.Bytes
		wy += weight * p.NS
		wxx += weight * p.Bytes * p.Bytes
		wxy += weight * p.Bytes * p.NS
	}
	l := Line{N: len(all)}
	if d := w*wxx - wx*wx; d > 1e-12*w*wxx {
		l.Byte = (w*wxy - wx*wy) / d
	}
	switch l.Frame = (wy - l.Byte*wx) / w; {
	case l.Byte < 0:
		l.Byte, l.Frame = 0, wy/w
	case l.Frame < 0:
		l.Frame, l.Byte = 0, wxy/wxx
	}
	for _, p := range all {
		e := math.Abs(l.At(p.Bytes)-p.NS) / max(p.NS, 1)
		l.Error += e * e / float64(len(all))
		l.Worst = max(l.Worst, e)
	}
	l.Error = math.Sqrt(l.Error)
	return l
}

// Line returns the line of a stage, and whether it was measured.
func (m *Model) Line(stage, suite string) (Line, bool) {
	if !sealed[stage] {
		suite = ""
	}
	l, ok := m.lines[[2]string{stage, suite}]
	return l, ok
}

// Suites returns the suites that were measured, the cheapest first.
func (m *Model) Suites() []string {
	var s []string
	for at := range m.lines {
		if at[0] == Seal && m.lines[[2]string{Open, at[1]}].N > 0 {
			s = append(s, at[1])
		}
	}
	slices.SortFunc(s, func(a, b string) int {
		const long = 1000 // bytes
		x, y := m.lines[[2]string{Seal, a}].At(long), m.lines[[2]string{Seal, b}].At(long)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return strings.Compare(a, b)
	})
	return s
}

// Suite returns the suite that a cipher's name stands for: auto is the cheapest
// that keeps secrets, and a name without a kernel the cheapest of that name.
func (m *Model) Suite(cipher string) (string, error) {
	all := m.Suites()
	for _, s := range all {
		name, _, _ := strings.Cut(s, "/")
		if s == cipher || name == cipher || cipher == "auto" && name != Clear {
			return s, nil
		}
	}
	return "", fmt.Errorf("cipher %q is not in the profile of %s; there are auto, %s", cipher, m.Profile.Machine, strings.Join(all, ", "))
}

// Clear is the suite that encrypts nothing.
const Clear = "plaintext"

// A Cost is what a frame takes on a host, in ns of CPU time.
type Cost struct {
	Own    float64 // of the shards or workers
	Kernel float64 // of the kernel, on CPUs that serve the network card
}

// Cost returns it for frames of that length.
func (m *Model) Cost(role Role, suite string, bytes float64) Cost {
	var c Cost
	for _, stage := range own[role] {
		l, _ := m.Line(stage, suite)
		c.Own += l.At(bytes)
	}
	l, _ := m.Line(kernel[role], "")
	c.Kernel = l.At(bytes)
	return c
}

// Stages returns the stages of a role, the kernel's first.
func Stages(role Role) []string { return append([]string{kernel[role]}, own[role]...) }
