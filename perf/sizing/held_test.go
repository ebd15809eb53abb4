// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

// The profile that is built in, which make sizing makes of committed results,
// makes a model, and that is held against whole sides that it was not fitted on.
func TestDefaultHolds(t *testing.T) {
	p := Default()
	m, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	if p.Machine == "" || p.Commit == "" || p.Date == "" {
		t.Errorf("it does not say where it is from: %q %q %q", p.Machine, p.Commit, p.Date)
	}
	held := m.Held(p.Checks)
	if len(held) != len(p.Checks) {
		t.Errorf("%d points of %d are held against the model", len(held), len(p.Checks))
	}
	seen := map[string]int{}
	for _, h := range held {
		seen[h.Stage]++
		t.Logf("%s at %s bytes: measured %.0f ns, the model says %.0f: %+.0f %%", h.Stage, h.Frame, h.NS, h.Model, 100*h.Off())
		if math.Abs(h.Off()) > Within {
			t.Errorf("%s at %s bytes: measured %.0f ns, the model says %.0f", h.Stage, h.Frame, h.NS, h.Model)
		}
		if slices.ContainsFunc(p.Points, func(q Point) bool { return q.Frame == h.Frame && q.Stage != VXLANMixed }) {
			t.Errorf("the model was fitted on frames of %s", h.Frame)
		}
	}
	for _, role := range Roles {
		if seen[string(role)] == 0 {
			t.Errorf("nothing is held against the model of %s", role)
		}
	}
}

// A model that is wrong is seen to be.
func TestHeldSeesWhatIsWrong(t *testing.T) {
	p, lines := invented()
	m, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	right := lines[Capture].At(700) + lines[Pack].At(700) + 0.2*700 + lines[Send].At(700)
	held := m.Held([]Point{
		{Stage: string(Remote), Suite: "aes-256-gcm/avx2", Frame: "700", Bytes: 700, NS: right},
		{Stage: string(Remote), Suite: "aes-256-gcm/avx2", Frame: "700", Bytes: 700, NS: 2 * right},
		{Stage: string(Remote), Suite: "rot13", Frame: "700", Bytes: 700, NS: right},
		{Stage: TAP, Frame: "700", Bytes: 700, NS: right},
	})
	if len(held) != 2 || math.Abs(held[0].Off()) > 1e-6 || math.Abs(held[1].Off()+0.5) > 1e-6 {
		t.Errorf("%+v", held)
	}
}

// A profile of someone without rights is completed by another one, and what is
// not its own is named. What it has itself stays.
func TestFitOver(t *testing.T) {
	p, _ := invented()
	base, _ := invented()
	for i := range base.Points {
		base.Points[i].NS *= 10
	}
	part := *p
	part.Points = slices.DeleteFunc(slices.Clone(p.Points), func(q Point) bool { return q.Stage != Pack && q.Stage != Seal && q.Stage != Open })
	m, missing, err := FitOver(&part, base)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, is := range maps.All(missing) {
		if is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if got := strings.Join(names, ","); got != "capture,kernel capture,kernel receive,order,receive,send,tap,vxlan" {
		t.Error(got)
	}
	pack, _ := m.Line(Pack, "")
	tap, _ := m.Line(TAP, "")
	if math.Abs(pack.Frame-30) > 1e-6 || math.Abs(tap.Frame-3000) > 1e-6 {
		t.Errorf("pack %+v, TAP %+v", pack, tap)
	}
	if _, missing, err := FitOver(p, base); err != nil || slices.Contains(slices.Collect(maps.Values(missing)), true) {
		t.Errorf("%v of a whole profile is missing, %v", missing, err)
	}
	if _, _, err := FitOver(&Profile{Schema: Schema}, &Profile{Schema: Schema}); err == nil {
		t.Error("a model of nothing")
	}
}

// Frames of several sizes do not go together as VXLAN: there the point that was
// measured with a mix counts, not the line.
func TestVXLANOfAMix(t *testing.T) {
	p, _ := invented()
	plain, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	p.Points = append(p.Points, Point{Stage: VXLANMixed, Frame: "imix", Bytes: 361.8, NS: 5000})
	mixed, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	for frame, more := range map[string]float64{"300": 0, "imix": 4600} { // VXLAN alone: 400
		a, err1 := plain.Cost(CollectorVXLAN, Clear, frame)
		b, err2 := mixed.Cost(CollectorVXLAN, Clear, frame)
		if err1 != nil || err2 != nil || math.Abs(b.Own-a.Own-more) > 1e-6 {
			t.Errorf("%s: %v and %v, %v %v", frame, a, b, err1, err2)
		}
	}
}

// What numbers do not say is said.
func TestNotes(t *testing.T) {
	p, _ := invented()
	m, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	for want, a := range map[string]Ask{
		"longer than any":    {Rate: 1e9, Frame: "9000", Role: Remote, Cipher: "auto"},
		"queues at the most": {Rate: 1e12, Frame: "64", Role: Collector, Cipher: "auto"},
		"shards of remotes":  {Rate: 10e9, Frame: "64", Role: Collector, Cipher: "auto"},
		"than most hosts":    {Rate: 1e12, Frame: "64", Role: CollectorVXLAN, Cipher: "clear"},
		"more than is":       {Rate: 1e9, Frame: "1514", Role: Remote, Cipher: "chacha20-poly1305"},
	} {
		plan, err := m.Plan(a)
		if err != nil || !strings.Contains(strings.Join(plan.Notes, "\n"), want) {
			t.Errorf("%+v: %q does not say %q, %v", a, plan.Notes, want, err)
		}
	}
	plan, err := m.Plan(Ask{Rate: 1e6, Frame: "300", Role: Collector, Cipher: "auto"})
	if err != nil || len(plan.Notes) != 0 {
		t.Errorf("%q %v", plan.Notes, err)
	}
}
