// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"slices"
	"time"
)

// unopened says that an output is not there yet.
func (o *outputs) unopened(l *outlet) {
	if errors.Is(l.wait.why, errNoReader) {
		o.sh.log.Warn().Err(l.wait.why).Msg("output: waiting for its reader; until then its frames are refused")
		return
	}
	o.sh.log.Error().Err(l.wait.why).Msgf("output: not opened; its frames are refused, and it is tried again every %v", openAgain)
}

// open opens an output that is in no table yet. wait says that it may wait for
// the reader of a FIFO.
func (o *outputs) open(l *outlet, wait bool) {
	from := outputs{sh: o.sh, ctx: o.ctx, again: l.again}
	if !wait {
		ctx, stop := context.WithCancel(o.ctx)
		stop()
		from.ctx = ctx
	}
	out, err := l.spec.open(&from)
	if err != nil {
		l.wait = &waiting{why: err, again: time.Now().Add(openAgain)}
		if errors.Is(err, errNoReader) {
			l.wait.again = time.Now().Add(askReader)
		}
		return
	}
	if l.spec.merges && o.sh.cfg.Merge > 0 {
		out = merged(out, &o.sh.cfg)
	}
	l.output, l.wait = out, nil
	if out.name != "" && out.name != l.account.of.Name {
		o.account.forget(l.account.of)
		l.account = o.account.output(out.name, l.each).part()
	}
}

// try begins to open an output that waits. It does not outlast ctx.
func (o *outputs) try(ctx context.Context, l *outlet) {
	l.wait.trying = true
	a := attempt{l, &outlet{spec: l.spec, account: l.account.of.part(), snap: l.snap, how: l.how, again: l.again, wait: &waiting{why: l.wait.why}}}
	go func() {
		o.open(a.next, false)
		select {
		case o.opened <- a:
		case <-ctx.Done():
			_ = a.next.close() // nobody waits for it any more
		}
	}()
}

// openAll opens outputs, all at the same time, and has taken told of each, and
// waits for no longer than openSoon. It returns false if ctx is done before.
func (o *outputs) openAll(ctx context.Context, all []*outlet, taken func(attempt)) bool {
	for _, l := range all {
		o.try(ctx, l)
	}
	soon := time.NewTimer(openSoon)
	defer soon.Stop()
	for left := len(all); left > 0; {
		select {
		case a := <-o.opened:
			if slices.Contains(all, a.of) {
				left--
				taken(a)
			} else {
				o.settle(ctx, a)
			}
		case <-soon.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// adopt makes an output open that is in no table yet.
func (o *outputs) adopt(a attempt) {
	l, next := a.of, a.next
	if next.wait == nil {
		l.account.fold()
		l.account, l.output, l.wait = next.account, next.output, nil
		return
	}
	next.account.fold()
	*l.wait = *next.wait
	o.unopened(l)
}

// settle puts an output that is open now in the place of what stood in for it.
func (o *outputs) settle(ctx context.Context, a attempt) {
	l, next := a.of, a.next
	before := o.now.Load()
	switch known := slices.Contains(before.outlets(), l); {
	case !known: // it is not wanted any more
		if err := next.close(); err != nil {
			o.warn(err)
		}
		return
	case next.wait != nil:
		next.account.fold()
		why := l.wait.why
		*l.wait = *next.wait
		if why.Error() != l.wait.why.Error() {
			o.unopened(l)
		}
		return
	}
	t := o.empty()
	for _, r := range before.routes {
		fresh := *r
		fresh.outs = slices.Clone(r.outs)
		if i := slices.Index(fresh.outs, l); i >= 0 {
			fresh.outs[i] = next
		}
		t.routes = append(t.routes, &fresh)
	}
	if l.wait.why != errNotYet {
		o.sh.log.Info().Str("output", l.spec.name).Msg("output: opened now")
	}
	o.publish(ctx, t)
}

// attend has outputs that failed opened again, in a while. False: all have.
func (o *outputs) attend(ctx context.Context, now time.Time) bool {
	before := o.now.Load()
	works := 0
	gone := make(map[*outlet]*outlet)
	for _, l := range before.outlets() {
		err := l.failure()
		switch {
		case err != nil:
			fresh := o.fresh(l.spec)
			fresh.again, fresh.wait = true, &waiting{why: err, again: now.Add(openAgain)}
			gone[l] = fresh
		case l.wait == nil:
			works++
		}
	}
	if len(gone) == 0 {
		return true
	}
	if works == 0 {
		for l := range gone {
			o.fatal = errors.Join(o.fatal, l.failure())
		}
		return false
	}
	t := o.empty()
	for _, r := range before.routes {
		fresh := *r
		fresh.outs = slices.Clone(r.outs)
		for i, l := range r.outs {
			if next := gone[l]; next != nil {
				o.sh.log.Error().Err(next.wait.why).Str("output", l.spec.name).Msgf("the output fails: its frames are refused, and it is tried again every %v", openAgain)
				fresh.outs[i] = next
			}
		}
		t.routes = append(t.routes, &fresh)
	}
	o.publish(ctx, t)
	return true
}

// retry tries again to open outputs that could not be opened, when it is time.
func (o *outputs) retry(ctx context.Context, now time.Time) {
	for _, r := range o.now.Load().routes {
		for _, l := range r.outs {
			if l.wait != nil && !l.wait.trying && !now.Before(l.wait.again) {
				o.try(ctx, l)
			}
		}
	}
}
