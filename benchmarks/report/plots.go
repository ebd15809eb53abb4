// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/ntap-project/ntap/benchmarks/outcome"
)

// A drawing is a plot that can be made of results.
type drawing struct {
	name   string // in the file's name
	what   string
	x, y   string // of the axes
	logX   bool
	logY   bool
	ticks  []plot.Tick // of the x axis; none: as they come
	series []series
}

// A series is a line of a drawing.
type series struct {
	name   string
	points plotter.XYs
	spread []struct{ Low, High float64 } // from each point; none: not known
}

// plotted is a drawing that was made.
type plotted struct{ what, file string }

// plots returns the drawings for which there is something to draw.
func plots(r *outcome.Results) (all []drawing) {
	for _, d := range []drawing{costPlot(r), deliveredPlot(r), lossPlot(r), scalingPlot(r), latencyPlot(r)} {
		d.series = slices.DeleteFunc(d.series, func(s series) bool { return len(s.points) == 0 })
		if len(d.series) > 0 {
			all = append(all, d)
		}
	}
	return all
}

// add adds a point to the series of that name. What cannot be drawn is left out:
// a logarithm has no place for 0.
func (d *drawing) add(name string, x, y, low, high float64) {
	if !(x > 0 || !d.logX && x == 0) || !(y > 0 || !d.logY && y == 0) || math.IsInf(x, 0) || math.IsInf(y, 0) {
		return
	}
	i := slices.IndexFunc(d.series, func(s series) bool { return s.name == name })
	if i < 0 {
		i = len(d.series)
		d.series = append(d.series, series{name: name})
	}
	s := &d.series[i]
	s.points = append(s.points, plotter.XY{X: x, Y: y})
	if d.logY && low <= 0 {
		low = y
	}
	s.spread = append(s.spread, struct{ Low, High float64 }{y - max(min(low, y), 0), max(high, y) - y})
}

// costPlot is CPU a frame against its size, at the highest of the rates at which
// it was measured.
func costPlot(r *outcome.Results) drawing {
	d := drawing{name: "cpu", what: "CPU a frame against frame size", x: "bytes of a frame", y: "all CPU a frame, ns (without the source)", logX: true, logY: true}
	for _, n := range []int{64, 128, 300, 600, 1300, 2500, 5000, 9000} {
		d.ticks = append(d.ticks, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
	}
	for _, c := range fastest(r.Costs) {
		if _, err := strconv.Atoi(c.Frame); err == nil && c.Ours.N > 0 {
			d.add(c.System, c.Bytes, c.Ours.Median, c.Ours.Least, c.Ours.Most)
		}
	}
	d.sort()
	return d
}

// fastest leaves of the costs of one system at one size the one at the highest
// rate.
func fastest(costs []outcome.Cost) (all []outcome.Cost) {
	for _, c := range costs {
		i := slices.IndexFunc(all, func(a outcome.Cost) bool { return a.System == c.System && a.Frame == c.Frame })
		switch {
		case i < 0:
			all = append(all, c)
		case all[i].Rate < c.Rate:
			all[i] = c
		}
	}
	return all
}

// sort sorts each series by x.
func (d *drawing) sort() {
	for i := range d.series {
		s := &d.series[i]
		order := make([]int, len(s.points))
		for k := range order {
			order[k] = k
		}
		slices.SortStableFunc(order, func(a, b int) int {
			switch {
			case s.points[a].X < s.points[b].X:
				return -1
			case s.points[a].X > s.points[b].X:
				return 1
			}
			return 0
		})
		points, spread := slices.Clone(s.points), slices.Clone(s.spread)
		for k, from := range order {
			s.points[k], s.spread[k] = points[from], spread[from]
		}
	}
}

func deliveredPlot(r *outcome.Results) drawing {
	d := drawing{name: "delivered", what: "Frames delivered against frames offered", x: "offered, million frames a second", y: "delivered meanwhile, million frames a second"}
	for _, c := range r.Curves {
		for _, p := range c.Points {
			y := min(p.Through, p.Offered) / 1e6
			d.add(c.System+", "+c.Frame+" B", p.Offered/1e6, y, y, y)
		}
	}
	d.sort()
	return d
}

func lossPlot(r *outcome.Results) drawing {
	d := drawing{name: "loss", what: "Throughput against loss", x: "offered, million frames a second", y: "lost, %"}
	for _, c := range r.Curves {
		for _, p := range c.Points {
			if p.Offered > 0 {
				y := max(0, 100*(1-p.Arrived/p.Offered))
				d.add(c.System+", "+c.Frame+" B", p.Offered/1e6, y, y, y)
			}
		}
	}
	d.sort()
	return d
}

func scalingPlot(r *outcome.Results) drawing {
	d := drawing{name: "scaling", what: "Highest rate without loss against shards and workers", x: "shards of the remote, and workers of the collector", y: "million frames a second, none lost"}
	for _, s := range r.Scaling {
		d.add(s.Frame+" B", float64(s.Workers), s.Rate.Median/1e6, s.Rate.Least/1e6, s.Rate.Most/1e6)
		if tick := (plot.Tick{Value: float64(s.Workers), Label: strconv.Itoa(s.Workers)}); !slices.Contains(d.ticks, tick) {
			d.ticks = append(d.ticks, tick)
		}
	}
	d.sort()
	return d
}

// latencyPlot is the distribution, with the tail drawn out: at 99 % the x axis has
// 100, at 99.9 % 1000.
func latencyPlot(r *outcome.Results) drawing {
	d := drawing{name: "latency", what: "Latency from capture to TAP: its distribution", x: "part of the frames that took no longer", y: "µs", logX: true, logY: true}
	for _, q := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		d.ticks = append(d.ticks, plot.Tick{Value: 100 / (100 - q), Label: strconv.FormatFloat(q, 'g', -1, 64) + " %"})
	}
	for _, l := range r.Latency {
		name := fmt.Sprintf("%s B, %s, %.0f %% of the rate", l.Frame, l.Mode, 100*l.Load)
		if l.Load == 0 {
			name = fmt.Sprintf("%s B, %s, %.0f frames a second", l.Frame, l.Mode, l.Rate)
		}
		for _, p := range l.Points {
			if p[0] < 100 {
				d.add(name, 100/(100-p[0]), p[1]/1e3, p[1]/1e3, p[1]/1e3)
			}
		}
	}
	d.sort()
	return d
}

// draw returns the drawing as a file of that format, svg or png.
func (d *drawing) draw(format string) ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = d.what, d.x, d.y
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Millimeter
	p.Title.Padding = 3 * vg.Millimeter
	p.Add(plotter.NewGrid())
	if d.logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{}
	}
	if d.logY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if len(d.ticks) > 0 {
		p.X.Tick.Marker = plot.ConstantTicks(d.ticks)
	}
	for i, s := range d.series {
		line, points, err := plotter.NewLinePoints(s.points)
		if err != nil {
			return nil, err
		}
		line.Color, points.Color, points.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		line.Dashes = plotutil.Dashes(i / 7) // there are 7 colours
		p.Add(line, points)
		p.Legend.Add(s.name, line, points)
		bars, err := plotter.NewYErrorBars(struct {
			plotter.XYs
			plotter.YErrors
		}{s.points, s.spread})
		if err != nil {
			return nil, err
		}
		bars.Color = plotutil.Color(i)
		p.Add(bars)
	}
	if !d.logY {
		p.Y.Min = 0
	}
	if p.X.Min == p.X.Max { // an axis needs two ends
		p.X.Min, p.X.Max = p.X.Min*0.9, p.X.Max*1.1
	}
	if p.Y.Min == p.Y.Max {
		p.Y.Min, p.Y.Max = p.Y.Min*0.9, p.Y.Max*1.1+1
	}
	w, err := draw.NewFormattedCanvas(28*vg.Centimeter, 15*vg.Centimeter, format)
	if err != nil {
		return nil, err
	}
	// The legend stands beside the plot: within, it would lie on the lines.
	all, legend := draw.Crop(draw.New(w), vg.Millimeter, -vg.Millimeter, vg.Millimeter, -vg.Millimeter), p.Legend
	p.Legend = plot.NewLegend()
	beside := legend.Rectangle(all).Size().X + 5*vg.Millimeter
	p.Draw(draw.Crop(all, 0, -beside, 0, 0))
	legend.Draw(draw.Crop(all, all.Size().X-beside+5*vg.Millimeter, 0, 0, -vg.Centimeter))
	var b bytes.Buffer
	_, err = w.WriteTo(&b)
	return b.Bytes(), err
}
