// SPDX-License-Identifier: Apache-2.0

package collector

import "errors"

// ends are a worker's ends of the outputs in force.
type ends struct {
	table  *table
	bare   map[*outlet]sink
	groups map[*OutputAccount]*balanceSink
	gone   []bool // of the sinks: it failed, which was said
	since  uint64 // frames that the worker had given when it took up the table
}

// given returns how many frames this worker has given to outputs.
func (w *worker) given() uint64 { return w.account.Unpacked.Load() + w.account.Cut.Load() }

// takeUp makes a table the worker's, between batches. The ends of outputs that
// are in the table before too stay as they are; others are flushed and closed.
// The error is that of an output which cannot be given frames: others are
// taken up all the same.
func (w *worker) takeUp(t *table) (err error) {
	w.settle()
	old := w.ends
	w.ends = ends{table: t, bare: make(map[*outlet]sink), groups: make(map[*OutputAccount]*balanceSink), since: w.given()}
	sinks := make([]sink, 0, len(t.routes))
	for _, r := range t.routes {
		for _, l := range r.outs {
			s, known := old.bare[l]
			if a, ok := s.(interface{ altered() }); ok {
				a.altered()
			}
			if !known {
				var e error
				if s, e = l.sink(w.number); e != nil {
					s, err = newRefusal(l), errors.Join(err, e)
				}
			}
			w.bare[l] = s
		}
		sinks = append(sinks, w.route(r, &old))
	}
	if old.table != nil {
		for _, l := range old.table.outlets() {
			if _, stays := w.bare[l]; stays {
				continue
			}
			if e := old.bare[l].Close(); e != nil {
				w.log.Warn().Err(e).Str("output", l.spec.name).Msg("output")
			}
		}
	}
	w.gone = make([]bool, len(sinks))
	w.sinks, w.direct = sinks, nil
	if len(sinks) == 1 {
		w.direct, _ = sinks[0].(*batchSink)
	}
	t.take()
	return err
}

// turnTo takes up another table.
func (w *worker) turnTo(t *table) {
	if err := w.takeUp(t); err != nil {
		w.log.Error().Err(err).Msg("output: its frames are refused")
	}
}

// route returns the sink of a route. One that is as before stays, with what its
// selection knows.
func (w *worker) route(r *route, old *ends) sink {
	if r.spread != nil {
		b := old.groups[r.account]
		if b == nil {
			b = new(balanceSink)
			r.account.add(&b.counts)
		}
		b.to(r, w)
		w.groups[r.account] = b
		return selected(b, *r.takes)
	}
	l := r.outs[0]
	if old.table != nil {
		for i, b := range old.table.routes {
			if b.spread == nil && b.outs[0] == l && b.takes == r.takes {
				return w.sinks[i]
			}
		}
	}
	bare := w.bare[l]
	if !r.inside {
		return selected(bare, *r.takes)
	}
	if s, ok := bare.(chooser); ok {
		s.choose(r.takes)
	}
	return bare
}

// closeSinks flushes and closes the worker's ends.
func (w *worker) closeSinks() (err error) {
	if w.table == nil {
		for _, s := range w.sinks {
			err = errors.Join(err, s.Close())
		}
		return err
	}
	w.settle()
	for _, l := range w.table.outlets() {
		err = errors.Join(err, w.bare[l].Close())
	}
	return err
}

// settle notes what outputs were given under the table.
func (w *worker) settle() {
	if w.table == nil {
		return
	}
	n := w.given() - w.since
	w.since += n
	for _, r := range w.table.routes {
		if r.spread == nil {
			r.outs[0].account.gave(n)
			continue
		}
		r.account.gave(n)
		b := w.groups[r.account]
		for i, l := range r.outs {
			l.account.gave(b.given[i])
			b.given[i] = 0
		}
	}
}

// failed notes that a sink cannot be given frames any more. As long as there
// are others the worker goes on, and the sink counts its frames as refused.
func (w *worker) failed(i int, err error) error {
	if w.table == nil || w.table.routes[i].last {
		return err
	}
	if !w.gone[i] {
		w.gone[i] = true
		if r := w.table.routes[i]; len(w.gone) > 1 && (r.spread != nil || r.outs[0].output.failure == nil) { // else it is said there
			w.log.Error().Err(err).Str("output", w.table.routes[i].name).Msg("the output fails: its frames are refused, and the others go on")
		}
	}
	for _, gone := range w.gone {
		if !gone {
			return nil
		}
	}
	return err
}
