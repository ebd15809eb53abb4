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
	Error float64 // root mean square of how far the points it was fitted on are from it, ns
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
	m, missing := fitAll(p)
	for _, role := range Roles {
		for _, stage := range Stages(role) {
			if missing[stage] {
				return nil, fmt.Errorf("the profile has nothing about the stage %q: it was not made as root, or cut short; make it anew: ntap bench", stage)
			}
		}
	}
	if len(m.Suites()) == 0 {
		return nil, fmt.Errorf("the profile has no suite that both seals and opens; make it anew: ntap bench")
	}
	return m, nil
}

// FitOver is Fit of a profile that may lack stages: those are taken from base,
// and named. Suites that base alone has are not: their CPU is another.
func FitOver(p, base *Profile) (m *Model, missing map[string]bool, err error) {
	if len(p.Points) == 0 {
		return nil, nil, fmt.Errorf("the profile has no measurements; make it anew: ntap bench")
	}
	_, missing = fitAll(p)
	whole := *p
	whole.Points = slices.Clone(p.Points)
	for _, q := range base.Points {
		if missing[q.Stage] {
			whole.Points = append(whole.Points, q)
		}
	}
	m, err = Fit(&whole)
	if err != nil {
		return nil, nil, err
	}
	m.Profile = p
	return m, missing, nil
}

// fitAll fits what there is, and says of which stages there is nothing.
func fitAll(p *Profile) (m *Model, missing map[string]bool) {
	m, missing = &Model{Profile: p, lines: map[[2]string]Line{}}, map[string]bool{}
	points := map[[2]string][]Point{}
	for _, q := range p.Points {
		at := [2]string{q.Stage, q.Suite}
		points[at] = append(points[at], q)
	}
	has := map[string]bool{}
	for at, all := range points {
		m.lines[at] = fit(all, differences[at[0]])
		if sealed[at[0]] == (at[1] != "") {
			has[at[0]] = true
		}
	}
	for _, role := range Roles {
		for _, stage := range Stages(role) {
			missing[stage] = missing[stage] || !has[stage]
		}
	}
	return m, missing
}

// differences are the stages whose points are differences of larger numbers.
// A small one among them is small by chance.
var differences = map[string]bool{KernelCapture: true, Capture: true, KernelReceive: true, Order: true, TAP: true, VXLAN: true}

// fit fits a line through points of different lengths, each weighted by the
// square of its cost, since it is parts of it that count; or, where points are
// differences, by that of what all stages together take, about.
func fit(all []Point, differences bool) Line {
	const bytesOfFixed = 500 // what a frame takes is about as much as so many of its bytes
	var w, wx, wy, wxx, wxy float64
	for _, p := range all {
		weight := 1 / math.Pow(max(p.NS, 1), 2)
		if differences {
			weight = 1 / math.Pow(bytesOfFixed+p.Bytes, 2)
		}
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
		l.Error += math.Pow(l.At(p.Bytes)-p.NS, 2) / float64(len(all))
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

// A StageLine is the line of a stage.
type StageLine struct {
	Stage, Suite string
	Line
}

// Lines returns all of them, in the order in which a frame meets them.
func (m *Model) Lines() []StageLine {
	var all []StageLine
	for _, stage := range order {
		if l, ok := m.lines[[2]string{stage, ""}]; ok && !sealed[stage] {
			all = append(all, StageLine{stage, "", l})
		}
		for _, suite := range m.Suites() {
			if sealed[stage] {
				all = append(all, StageLine{stage, suite, m.lines[[2]string{stage, suite}]})
			}
		}
	}
	return all
}

// Within is how far the model may be off, as a part of what was measured.
const Within = 0.25

// A Held is a measured point beside what the model says of it.
type Held struct {
	Point
	Model float64 // ns a frame
}

// Off returns by which part the model is off: 0.1 is 10 % too much.
func (h Held) Off() float64 { return h.Model/h.NS - 1 }

// Held holds the model against whole sides: points whose stage is a role. Others,
// and those of suites that it does not know, are left out.
func (m *Model) Held(points []Point) []Held {
	var all []Held
	for _, p := range points {
		if _, known := own[Role(p.Stage)]; !known || !slices.Contains(m.Suites(), p.Suite) {
			continue
		}
		if c, err := m.Cost(Role(p.Stage), p.Suite, p.Frame); err == nil {
			all = append(all, Held{p, c.Own})
		}
	}
	return all
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
	if cipher == "clear" {
		cipher = Clear
	}
	for _, s := range all {
		name := suiteName(s)
		if s == cipher || name == cipher || cipher == "auto" && name != Clear {
			return s, nil
		}
	}
	return "", fmt.Errorf("cipher %q: the profile of %s has auto, clear, %s", cipher, m.Profile.Machine, strings.Join(all, ", "))
}

// suiteName is a suite's name without the code that runs it.
func suiteName(suite string) string {
	name, _, _ := strings.Cut(suite, "/")
	return name
}

// Clear is the suite that encrypts nothing.
const Clear = "plaintext"

// A Cost is what a frame takes on a host, in ns of CPU time.
type Cost struct {
	Own    float64 // of the shards or workers
	Kernel float64 // of the kernel, on CPUs that serve the network card
}

// Cost returns what a frame of a kind takes, as Ask has it: of a mix, the mean.
func (m *Model) Cost(role Role, suite, frame string) (Cost, error) {
	all, err := m.Breakdown(role, suite, frame)
	var c Cost
	for _, one := range all {
		if one.Stage == kernel[role] {
			c.Kernel += one.NS
		} else {
			c.Own += one.NS
		}
	}
	return c, err
}

// Breakdown returns what each stage of a role takes for a frame of a kind, the
// kernel's first.
func (m *Model) Breakdown(role Role, suite, frame string) ([]Point, error) {
	sizes, err := mixOf(frame)
	if err != nil {
		return nil, err
	}
	var all []Point
	for _, stage := range Stages(role) {
		if _, measured := m.Line(VXLANMixed, ""); stage == VXLAN && len(sizes) > 1 && measured {
			stage = VXLANMixed
		}
		p := Point{Stage: stage, Frame: frame}
		if sealed[stage] {
			p.Suite = suite
		}
		l, _ := m.Line(stage, suite)
		for _, s := range sizes {
			p.Bytes += s.part * s.bytes
			p.NS += s.part * l.At(s.bytes)
		}
		all = append(all, p)
	}
	return all, nil
}

// Stages returns the stages of a role, the kernel's first.
func Stages(role Role) []string { return append([]string{kernel[role]}, own[role]...) }
