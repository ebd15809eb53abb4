// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// invented is a profile of a host whose costs are known.
func invented() (*Profile, map[string]Line) {
	lines := map[string]Line{KernelCapture: {Frame: 140, Byte: 0.1}, Capture: {Frame: 10}, Pack: {Frame: 30, Byte: 0.05}, Send: {Byte: 0.05},
		KernelReceive: {Byte: 0.05}, Receive: {Byte: 0.1}, Order: {Frame: 50, Byte: 0.02}, TAP: {Frame: 300, Byte: 0.05}, VXLAN: {Frame: 400}}
	p := &Profile{Schema: Schema, Machine: "invented"}
	for _, bytes := range []float64{64, 300, 1514} {
		for stage, l := range lines {
			p.Points = append(p.Points, Point{Stage: stage, Bytes: bytes, NS: l.At(bytes)})
		}
		for suite, cost := range map[string]float64{"aes-256-gcm/avx2": 0.2, "aes-256-gcm/aesni": 0.3, "chacha20-poly1305": 0.6, Clear: 0.1} {
			p.Points = append(p.Points, Point{Stage: Seal, Suite: suite, Bytes: bytes, NS: cost * bytes}, Point{Stage: Open, Suite: suite, Bytes: bytes, NS: cost * bytes})
		}
	}
	return p, lines
}

// What the points were made of comes out, and plans follow from it by
// arithmetic that is done here once more.
func TestFit(t *testing.T) {
	p, lines := invented()
	m, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	for stage, want := range lines {
		got, ok := m.Line(stage, "")
		if !ok || math.Abs(got.Frame-want.Frame) > 1e-6 || math.Abs(got.Byte-want.Byte) > 1e-9 || got.Error > 1e-6 || got.N != 3 {
			t.Errorf("%s: %+v, want %+v", stage, got, want)
		}
	}
	for cipher, want := range map[string]string{"auto": "aes-256-gcm/avx2", "aes-256-gcm": "aes-256-gcm/avx2", "aes-256-gcm/aesni": "aes-256-gcm/aesni",
		"chacha20-poly1305": "chacha20-poly1305", Clear: Clear} {
		if got, err := m.Suite(cipher); err != nil || got != want {
			t.Errorf("%s: %s %v", cipher, got, err)
		}
	}
	plan, err := m.Plan(Ask{Rate: 10e9, Frame: "300", Role: Remote, Cipher: "auto"})
	frames := 10e9 / 8 / 324.0
	ns := 10 + 30 + 300*0.05 + 300*0.2 + 300*0.05
	if err != nil || math.Abs(plan.Frames-frames) > 1 || math.Abs(plan.Cost.Own-ns) > 1e-6 || math.Abs(plan.Cost.Kernel-170) > 1e-6 ||
		plan.Cores != int(math.Ceil(frames*ns/0.8e9)) || plan.IRQ != int(math.Ceil(frames*170/0.8e9)) {
		t.Errorf("%+v %v; %v frames/s of %v ns", plan, err, frames, ns)
	}
	if plan.Ring < leastRing || plan.Ring&(plan.Ring-1) != 0 || plan.Out < plan.Rate/1.3 || plan.Out > plan.Rate*1.2 {
		t.Errorf("%+v", plan)
	}
	mixed, err := m.Plan(Ask{Rate: 1e9, Frame: "imix", Role: CollectorVXLAN, Cipher: Clear})
	if err != nil || math.Abs(mixed.Bytes-361.8) > 0.1 || mixed.Socket < leastSocket || mixed.Out < 1e9 {
		t.Errorf("%+v %v", mixed, err)
	}
	if each, of := plan.Buffers(); each != plan.Ring || of != plan.Cores || plan.Process() != process {
		t.Errorf("a remote takes %d x %d bytes and %d", of, each, plan.Process())
	}
	for _, plan := range []Plan{plan, mixed} {
		lines := strings.Join(plan.Settings("eth0"), "\n")
		for _, want := range []string{"sysctl -w net.core.", "ethtool -L eth0 combined", "ethtool -G eth0 rx", "ntap "} {
			if !strings.Contains(lines, want) {
				t.Errorf("no %q in\n%s", want, lines)
			}
		}
		t.Log(lines)
	}
}

// The memory of a collector is what the kernel really takes: twice what a buffer
// is asked to have, of both sockets of a worker; in clear there is one. It used
// to be what one socket was asked for. And each buffer bridges what it is to.
func TestCollectorMemory(t *testing.T) {
	p, _ := invented()
	m, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		rate    float64
		cipher  string
		sockets int
	}{{1e9, "auto", 2}, {1e9, Clear, 1}, {400e9, "auto", 2}, {400e9, Clear, 1}} {
		plan, err := m.Plan(Ask{Rate: v.rate, Frame: "1514", Role: Collector, Cipher: v.cipher})
		if err != nil {
			t.Fatal(err)
		}
		each, of := plan.Buffers()
		if plan.Sockets != v.sockets || each != 2*v.sockets*plan.Socket || of != plan.Cores || plan.Process() <= process {
			t.Errorf("%+v: %d x %d bytes and %d: %+v", v, of, each, plan.Process(), plan)
		}
		bridged := float64(plan.Socket) / (plan.In / 8 / float64(plan.Cores)) // s: the kernel's doubling is for its own part
		if bridged < socketHolds || plan.Socket > leastSocket && bridged > 2*socketHolds {
			t.Errorf("%+v: a buffer of %d bytes bridges %.3f s", v, plan.Socket, bridged)
		}
	}
}

// A line is never negative where frames are: noise does not make a stage free.
func TestFitOfNoise(t *testing.T) {
	for _, c := range []struct {
		points []Point
		want   Line
	}{
		{[]Point{{Bytes: 64, NS: 100}, {Bytes: 1514, NS: 90}}, Line{Frame: 94.47, Byte: 0}},
		{[]Point{{Bytes: 64, NS: 1}, {Bytes: 1514, NS: 1514}}, Line{Frame: 0, Byte: 0.0159}},
		{[]Point{{Bytes: 64, NS: 0}, {Bytes: 1514, NS: 0}}, Line{}},
		{[]Point{{Bytes: 64, NS: 50}}, Line{Frame: 50}},
	} {
		l := fit(c.points, false)
		if math.Abs(l.Frame-c.want.Frame) > 0.05 || math.Abs(l.Byte-c.want.Byte) > 0.001 || l.Frame < 0 || l.Byte < 0 || math.IsNaN(l.Error) {
			t.Errorf("%v: %+v, want %+v", c.points, l, c.want)
		}
	}
}

// What cannot be is refused, and the message says what could.
func TestRefused(t *testing.T) {
	p, _ := invented()
	m, err := Fit(p)
	if err != nil {
		t.Fatal(err)
	}
	good := Ask{Rate: 1e9, Frame: "300", Role: Remote, Cipher: "auto"}
	for name, change := range map[string]func(*Ask){
		"10T": func(a *Ask) { a.Rate = 1e14 }, "1k": func(a *Ask) { a.Rate = math.NaN() }, "as in": func(a *Ask) { a.Rate = -1 }, "bit/s": func(a *Ask) { a.Rate = math.Inf(1) },
		"60 to": func(a *Ask) { a.Frame = "59" }, "imix": func(a *Ask) { a.Frame = "huge" }, "collector-vxlan": func(a *Ask) { a.Role = "spy" },
		"chacha20-poly1305": func(a *Ask) { a.Cipher = "rot13" },
	} {
		a := good
		change(&a)
		if _, err := m.Plan(a); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v does not say %q", a, err, name)
		}
	}
	for _, stage := range []string{KernelCapture, Capture, Pack, Send, KernelReceive, Receive, Order, TAP, VXLAN, Seal, Open} {
		q := *p
		q.Points = nil
		for _, point := range p.Points {
			if point.Stage != stage {
				q.Points = append(q.Points, point)
			}
		}
		if _, err := Fit(&q); err == nil || !strings.Contains(err.Error(), "ntap bench") {
			t.Errorf("without %s: %v", stage, err)
		}
	}
}

// A file of another version, a broken one, and one cut short are refused with
// the remedy; a results file is taken for the profile in it.
func TestLoad(t *testing.T) {
	p, _ := invented()
	whole, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "profile.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got, err := Load(write(string(whole))); err != nil || len(got.Points) != len(p.Points) {
		t.Error(got, err)
	}
	if got, err := Load(write(`{"schema":77,"profile":` + string(whole) + `}`)); err != nil || len(got.Points) != len(p.Points) {
		t.Error(got, err)
	}
	if _, err := Load(write(`{"schema":99}`)); !errors.Is(err, ErrSchema) {
		t.Error(err)
	}
	for n := range len(whole) {
		if _, err := Parse(whole[:n]); err == nil {
			t.Errorf("cut at %d: taken", n)
		}
	}
	for _, text := range []string{"", "[]", `{"schema":1,"points":[{"stage":"tap","bytes":-1,"ns":1}]}`, `{"schema":1,"points":[{"stage":"","bytes":1,"ns":1}]}`,
		`{"schema":1,"points":[{"stage":"tap","bytes":64,"ns":1e300}]}`, `{"schema":1,"checks":[{"stage":"tap","bytes":1e300,"ns":1}]}`} {
		if _, err := Load(write(text)); err == nil {
			t.Errorf("%q is taken", text)
		} else {
			t.Log(err)
		}
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "ntap bench") {
		t.Error(err)
	}
}

func TestBits(t *testing.T) {
	for rate, want := range map[float64]string{1e9: "1 Gbit/s", 2.5e9: "2.5 Gbit/s", 100e9: "100 Gbit/s", 1.234e12: "1.23 Tbit/s", 500: "500 bit/s", 15e6: "15 Mbit/s"} {
		if got := Bits(rate); got != want {
			t.Errorf("%v: %s, want %s", rate, got, want)
		}
	}
}
