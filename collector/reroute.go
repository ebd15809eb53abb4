// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Chosen.
const (
	openAgain = 2 * time.Second        // between attempts to open an output that could not be opened
	askReader = 100 * time.Millisecond // the same of a FIFO that has no reader yet
	openSoon  = time.Second            // the longest that new outputs wait for one that takes its time to open
)

// outputs are the places where a collector's frames go. Which they are may
// change while it runs:
//
//	configuration ──▶ specs ──▶ outlets, those of before where nothing changed ──▶ table ──(each worker, between batches)──▶ sinks
//
// An outlet that is not in the new table is closed once all workers have taken
// that up, so that what they gave it is written.
type outputs struct {
	sh      *shared
	ctx     context.Context
	account *Account
	now     atomic.Pointer[table]

	opened chan attempt
	again  bool  // the output that is opened failed before
	fatal  error // all outputs failed

	made map[string]bool // outputs that were open, whose file would be replaced if they were opened as at the start

	mu      sync.Mutex // of what follows; not held for frames
	leaving []*outlet  // not in the table any more, and not closed yet
}

// An attempt to open an output is over.
type attempt struct {
	of   *outlet // which waits
	next *outlet // that takes its place, if it is open
}

// A table is the outputs in force. It is never changed: another one replaces
// it.
type table struct {
	routes  []*route
	alters  []func()      // what makes outlets of before what they are to be, before workers take it up
	workers atomic.Int32  // that have not taken it up yet
	taken   chan struct{} // closed when all have
}

// A route is what an output, or a group of them, takes.
type route struct {
	*spec
	account *OutputAccount // of a group
	outs    []*outlet      // one; of a group its members
	spread  *places        // of a group: which member a flow goes to
}

// take notes that one more worker has taken up the table.
func (t *table) take() {
	if t.workers.Add(-1) == 0 {
		close(t.taken)
	}
}

// outlets returns the outputs of all routes.
func (t *table) outlets() (all []*outlet) {
	for _, r := range t.routes {
		all = append(all, r.outs...)
	}
	return all
}

// openOutputs opens the outputs of the configuration, on the calling
// goroutine: devices appear in its network namespace. One that cannot be opened
// now is tried again while the collector runs, if there are others; which is
// said.
func openOutputs(ctx context.Context, sh *shared, a *Account) (*outputs, error) {
	o := &outputs{sh: sh, ctx: ctx, account: a, opened: make(chan attempt), made: make(map[string]bool)}
	specs, err := sh.cfg.specs(&sh.cfg)
	if err != nil {
		return nil, err
	}
	t := o.table(specs, nil)
	var errs []error
	good := 0
	for _, l := range t.outlets() {
		if o.open(l, false); l.wait == nil {
			good++
		} else {
			errs = append(errs, l.wait.why)
		}
	}
	for _, l := range t.outlets() { // a FIFO is waited for where there is nothing else
		if good == 0 && errors.Is(l.wait.why, errNoReader) {
			if o.open(l, true); l.wait != nil {
				errs = []error{l.wait.why}
				break
			}
			good++
		}
	}
	if good == 0 || slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, errTerminal) }) {
		o.now.Store(t)
		return nil, errors.Join(errors.Join(errs...), o.close())
	}
	for _, l := range t.outlets() {
		if l.wait != nil {
			o.unopened(l)
		}
	}
	o.begun(t)
	o.now.Store(t)
	return o, nil
}

// begun notes which outputs have a file by now that is not to be replaced.
func (o *outputs) begun(t *table) {
	for _, l := range t.outlets() {
		if l.wait == nil && l.spec.once {
			o.made[l.spec.name] = true
		}
	}
}

// warn is told of what goes wrong with an output and is not fatal.
func (o *outputs) warn(err error) { o.sh.log.Warn().Err(err).Msg("output") }

// outlet returns what is in force for a spec: that of the table before, if it
// is the same or, open as it is, can become so; or else one that
// is to be opened.
func (o *outputs) outlet(t *table, s *spec, old []*outlet) *outlet {
	for i, l := range old {
		if l != nil && l.wait == nil && l.failure() == nil && l.like(s) && reflect.DeepEqual(l.how, s.how) {
			old[i] = nil
			return l
		}
	}
	for i, l := range old {
		if l == nil || l.wait != nil || l.failure() != nil || !l.like(s) || l.output.alter == nil {
			continue
		}
		if apply := l.output.alter(s.how); apply != nil {
			old[i] = nil
			t.alters = append(t.alters, func() { apply(); l.how, l.snap = s.how, s.takes.SnapLen })
			return l
		}
	}
	return o.fresh(s)
}

// fresh returns an outlet that is to be opened.
func (o *outputs) fresh(s *spec) *outlet {
	return &outlet{spec: s, account: o.account.output(s.name, s.each).part(), snap: s.takes.SnapLen, how: s.how, wait: &waiting{why: errNotYet}, again: o.made[s.name]}
}

// errNotYet says that an output waits for one that has what it needs.
var errNotYet = errors.New("collector: it was not tried yet")

// like says that the outlet may be that of s, if its options are: it has the
// name, and what it said of the snap length stays true.
func (l *outlet) like(s *spec) bool {
	return l.spec.name == s.name && !(s.says && grows(l.snap, s.takes.SnapLen))
}

// grows says that a snap length is longer than another.
func grows(from, to int) bool { return from != 0 && (to == 0 || to > from) }

// empty returns a table without routes.
func (o *outputs) empty() *table {
	t := &table{taken: make(chan struct{})}
	t.workers.Store(int32(max(o.sh.cfg.Workers, 1)))
	return t
}

// table returns the table for specs, with the outlets of before.
func (o *outputs) table(specs []*spec, before *table) *table {
	t := o.empty()
	var old []*outlet
	if before != nil {
		old = before.outlets()
	}
	for _, s := range specs {
		r := &route{spec: s}
		if s.over == nil {
			l := o.outlet(t, s, old)
			r.outs = []*outlet{l}
		} else {
			r.account = o.account.output(s.name, false).part()
			names := make([]string, len(s.over))
			for i, m := range s.over {
				r.outs = append(r.outs, o.outlet(t, m, old))
				names[i] = m.name
			}
			r.spread = spread(names)
		}
		t.routes = append(t.routes, r)
	}
	if before != nil { // what has not changed keeps what workers have made of it
		for _, r := range t.routes {
			for _, b := range before.routes {
				if b.spec.name != r.spec.name {
					continue
				}
				if b.spread != nil && r.spread != nil {
					r.account = b.account
				}
				if reflect.DeepEqual(b.takes.Selection, r.takes.Selection) {
					r.spec.takes = b.takes
				}
			}
		}
	}
	return t
}

// run opens what could not be opened yet, or failed, and has the configuration read anew
// when it is asked to, until ctx is done. It calls stop once all outputs failed.
func (o *outputs) run(ctx context.Context, stop func()) {
	tick := time.NewTicker(askReader)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.sh.cfg.Reload:
			o.sh.reload()
			if o.sh.cfg.Reroute != nil {
				o.reroute(ctx)
			}
		case a := <-o.opened:
			o.settle(ctx, a)
		case now := <-tick.C:
			if o.retry(ctx, now); !o.attend(ctx, now) {
				stop()
				return
			}
		}
	}
}

// reroute makes what the configuration says now what is in force. One that
// cannot be used changes nothing.
func (o *outputs) reroute(ctx context.Context) {
	before := o.now.Load()
	var (
		specs   []*spec
		t       *table
		inForce func()
	)
	err, ok := await(ctx, func() error {
		c, then, err := o.sh.cfg.Reroute()
		if err == nil {
			specs, err = c.specs(&o.sh.cfg)
		}
		inForce = then
		return err
	})
	if !ok {
		return
	}
	if err == nil {
		err = stays(specs, before)
	}
	if err != nil {
		o.account.refused.Add(1)
		for line := range strings.Lines(err.Error()) {
			o.sh.log.Error().Str("why", strings.TrimSpace(line)).Msg("the new configuration")
		}
		o.sh.log.Error().Msg("the new configuration cannot be used: that from before stays in force")
		return
	}
	t = o.table(specs, before)
	kept, leaving := 0, make(map[string]bool)
	for _, l := range parted(before, t) {
		leaving[l.spec.name] = true
	}
	var fresh []*outlet
	for _, l := range t.outlets() {
		if l.wait == nil {
			kept++
		} else if l.spec.beside || !leaving[l.spec.name] {
			fresh = append(fresh, l)
		}
	}
	if !o.openAll(ctx, fresh, o.adopt) {
		return
	}
	for _, alter := range t.alters {
		alter()
	}
	if !o.publish(ctx, t) {
		return
	}
	if inForce != nil {
		inForce()
	}
	var late []*outlet // which have what others had until now
	for _, l := range t.outlets() {
		if l.wait != nil && !l.wait.trying && l.wait.why == errNotYet {
			late = append(late, l)
		}
	}
	if !o.openAll(ctx, late, func(a attempt) { o.settle(ctx, a) }) {
		return
	}
	o.account.reloads.Add(1)
	o.sh.log.Info().Int("outputs", len(t.outlets())).Int("unchanged", kept-len(t.alters)).Int("changed", len(t.alters)).Int("ended", len(leaving)).Msg("the new configuration is in force")
}

// stays says what may not change while an output runs.
func stays(specs []*spec, before *table) error {
	var errs []error
	for _, s := range specs {
		for _, m := range append([]*spec{s}, s.over...) {
			for _, l := range before.outlets() {
				if l.wait == nil && l.spec.name == m.name && m.once && grows(l.snap, m.takes.SnapLen) {
					errs = append(errs, fmt.Errorf("%s: a snap length of %d bytes (0: all) in the place of %d: its file says that no frame is longer, and would be replaced; give it another name, or start anew",
						m.name, m.takes.SnapLen, l.snap))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// parted returns the outlets of a table that are not in another.
func parted(from, in *table) (gone []*outlet) {
	kept := make(map[*outlet]bool)
	for _, l := range in.outlets() {
		kept[l] = true
	}
	for _, l := range from.outlets() {
		if !kept[l] {
			gone = append(gone, l)
		}
	}
	return gone
}

// publish has every worker take up a table, and closes what is not in it any
// more. It returns false if ctx is done before they have.
func (o *outputs) publish(ctx context.Context, t *table) bool {
	before := o.now.Load()
	o.begun(t)
	o.mu.Lock()
	o.leaving = append(o.leaving, parted(before, t)...)
	o.mu.Unlock()
	o.now.Store(t)
	select {
	case <-t.taken:
	case <-ctx.Done():
		return false
	}
	if err := o.part(); err != nil {
		o.warn(err)
	}
	for _, b := range before.routes { // of groups that are gone
		if b.account != nil && !slicesHas(t.routes, b.account) {
			b.account.fold()
		}
	}
	return true
}

func slicesHas(routes []*route, a *OutputAccount) bool {
	return slices.ContainsFunc(routes, func(r *route) bool { return r.account == a })
}

// part closes what no worker has any more.
func (o *outputs) part() (err error) {
	o.mu.Lock()
	leaving := o.leaving
	o.leaving = nil
	o.mu.Unlock()
	for _, l := range leaving {
		err = errors.Join(err, l.close())
	}
	return err
}

// tick does what outputs do by the clock.
func (o *outputs) tick(now time.Time) {
	for _, r := range o.now.Load().routes {
		for _, l := range r.outs {
			l.tick(now)
		}
	}
}

// close removes the devices and finishes the files, once the workers ended.
func (o *outputs) close() error {
	err := o.part()
	for _, l := range o.now.Load().outlets() {
		err = errors.Join(err, l.close())
	}
	return err
}

// await returns what do returns, or false when ctx is done before.
func await(ctx context.Context, do func() error) (error, bool) {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err, true
	case <-ctx.Done():
		return nil, false
	}
}
