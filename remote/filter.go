// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
	"github.com/ntap-project/ntap/ring/filter"
)

// A Filter says which frames are captured. The zero Filter takes all.
type Filter struct {
	Text    string         // an expression, docs/FILTER.md; "": everything
	Program filter.Program // if not nil, used as it is; Text then only says what it is

	lookUp func(context.Context, string) ([]netip.Addr, error) // of names in Text; nil: the system's resolver
}

// all says that the filter leaves nothing out.
func (f *Filter) all() bool { return f.Text == "" && f.Program == nil }

// A FilterError is a filter that cannot be used. Behind it may be a
// *filter.Error, which points at the word that is wrong.
type FilterError struct{ Err error }

func (e *FilterError) Error() string { return e.Err.Error() }
func (e *FilterError) Unwrap() error { return e.Err }

// compile returns the program for frames of a link type; nil takes everything.
func (f *Filter) compile(o filter.Options) (filter.Program, error) {
	if f.Program != nil && o.Live {
		if err := f.Program.CheckLive(); err != nil {
			return nil, &FilterError{fmt.Errorf("%s: %w", f.Text, err)}
		}
	}
	if f.Program != nil || f.Text == "" {
		return f.Program, nil
	}
	o.LookUp = f.lookUp
	p, err := filter.Compile(f.Text, o)
	if err != nil {
		return nil, &FilterError{err}
	}
	return p, nil
}

// compile makes the filter for what is captured here: f, and before it what
// leaves out the remote's own datagrams.
func (c *capture) compile(f *Filter) (program []bpf.RawInstruction, nothing bool, err error) {
	if !c.netmask.IsValid() && f.masked() {
		c.tap.log.Warn().Str("interface", c.cfg.Interface).Str("filter", f.Text).Msg(noNetmask)
	}
	user, err := f.compile(filter.Options{LinkType: c.link, Live: true, SnapLen: proto.MaxFrame, Netmask: c.netmask})
	if err != nil && c.link != filter.Ethernet { // else it is wrong everywhere
		return nil, false, &FilterError{fmt.Errorf("%s: %w", c.cfg.Interface, err)}
	} else if err != nil {
		return nil, false, err
	}
	program, err = exclude(user, c.tap.owns(), c.link)
	return program, user != nil && user.MatchesNothing(), err
}

// exclude puts before a program what leaves out the remote's own datagrams, to
// all of its collectors.
func exclude(program []bpf.RawInstruction, owns []ring.Own, link uint16) (_ []bpf.RawInstruction, err error) {
	for i, own := range owns {
		if own.LinkType = link; i > 0 {
			own.Mark = 0 // the first part looks at that
		}
		if program, err = ring.Exclude(program, own); err != nil {
			return nil, err
		}
	}
	return program, nil
}

// remembering returns a resolver that asks for each name once: programs of one
// filter have the same addresses on all interfaces.
func remembering() func(context.Context, string) ([]netip.Addr, error) {
	known := map[string][]netip.Addr{}
	return func(ctx context.Context, host string) (addrs []netip.Addr, err error) {
		addrs, ok := known[host]
		if !ok {
			if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err == nil {
				known[host] = addrs
			}
		}
		return addrs, err
	}
}

// A choice is a filter in use, with the programs for each interface. It does
// not change once it is in use.
type choice struct {
	Filter
	programs map[*capture][]bpf.RawInstruction
	parts    map[*capture]*setFilter // of sets
}

// choose compiles a filter for all that is captured live. A capture file's
// shard does that for itself, when interfaces come.
func (t *tap) choose(f Filter) (*choice, error) {
	f.lookUp = remembering()
	c := &choice{Filter: f, programs: make(map[*capture][]bpf.RawInstruction, len(t.captures)), parts: map[*capture]*setFilter{}}
	empty := 0
	for _, capture := range t.captures {
		if capture.set != nil {
			parts, nothing, err := capture.set.compile(&f, t.owns())
			if err != nil {
				return nil, err
			}
			c.parts[capture] = parts
			if nothing {
				empty++
			}
			continue
		}
		if first := t.captures[0]; f.Program != nil && capture.link != first.link {
			return nil, &FilterError{fmt.Errorf("remote: filter: %s and %s have different link types (%d and %d), so no one program fits both: give an expression, or start a remote for each, with --tap IDs of their own",
				first.cfg.Interface, capture.cfg.Interface, first.link, capture.link)}
		}
		program, nothing, err := capture.compile(&f)
		if err != nil {
			return nil, err
		}
		c.programs[capture] = program
		if nothing {
			empty++
			t.log.Warn().Str("interface", capture.cfg.Interface).Str("filter", f.Text).Msg("the filter matches no frame there")
		}
	}
	if empty > 0 && empty == len(t.captures) {
		return nil, &FilterError{fmt.Errorf("remote: filter %q: no frame can match it", f.Text)}
	}
	return c, nil
}

// maxAnnounced bounds what an announce says of a filter, bytes.
const maxAnnounced = 4096

// announced is the filter as the announce tells it.
func (c *choice) announced() string {
	if len(c.Text) <= maxAnnounced {
		return c.Text
	}
	return strings.ToValidUTF8(c.Text[:maxAnnounced], "") + "…"
}

// watchFilters takes the filters that come while the remote runs, until ctx is
// done, and makes the one in use anew when a collector has another address. Shards take up a new one between blocks; one that cannot be used
// changes nothing.
func (t *tap) watchFilters(ctx context.Context, filters <-chan Filter) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-filters: // never, if there is no channel
			if now := t.filter.Load(); f.Text != now.Text || !slices.Equal(f.Program, now.Program) {
				t.change(f)
			}
		case <-t.relocated:
			t.change(t.filter.Load().Filter)
		}
	}
}

func (t *tap) change(f Filter) {
	c, err := t.choose(f)
	if err != nil {
		t.log.Error().Err(err).Msg("the filter stays as it was")
		return
	}
	if err := t.attach(c); err != nil {
		t.log.Error().Err(err).Msg("the filter stays as it was")
		return
	}
	t.filter.Store(c)
	t.log.Info().Str("filter", c.announced()).Msg("new filter")
}

// attach puts a filter into all rings, each between two frames: none is lost.
// If one does not take it, all have the one before again, and it is an error.
func (t *tap) attach(c *choice) error {
	for i, capture := range t.captures {
		err := capture.use(c)
		if err == nil {
			continue
		}
		for _, changed := range t.captures[:i] {
			if e := changed.use(t.filter.Load()); e != nil {
				err = errors.Join(err, fmt.Errorf("remote: %s has the new filter all the same: %w", changed.cfg.Interface, e))
			}
		}
		return err
	}
	return nil
}

// use puts a filter into the rings of a capture: into all or, with an error,
// none.
func (c *capture) use(f *choice) error {
	if c.set != nil {
		return c.set.use(f.parts[c])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := swapAll(c.rings, f.programs[c], c.cfg.Filter)
	if err == nil {
		c.cfg.Filter = f.programs[c] // for rings that are opened anew
	}
	return err
}

// swapAll swaps the filter of all rings. If one does not take the new one, those
// that did get the old one back.
func swapAll(rings []*ring.Ring, program, before []bpf.RawInstruction) error {
	for i, r := range rings {
		err := r.Swap(program)
		if err == nil {
			continue
		}
		for k, changed := range rings[:i] {
			if e := changed.Swap(before); e != nil {
				err = errors.Join(err, fmt.Errorf("remote: ring %d of %d has the new filter all the same: %w", k, len(rings), e))
			}
		}
		return err
	}
	return nil
}

// refilter takes up a filter that was changed. Shard 0 announces it at once:
// frames that a collector gets from then on are under the new one.
func (s *shard) refilter() error {
	c := s.tap.filter.Load()
	if c == s.filter {
		return nil
	}
	before := s.filter
	s.filter = c
	if s.source != nil { // rings have it already
		machines := s.machines
		s.machines = nil
		if err := s.meet(s.tap.interfaces); err != nil {
			s.tap.log.Error().Err(err).Msg("the filter stays as it was")
			s.filter, s.machines = before, machines
			s.tap.filter.CompareAndSwap(c, before)
			return nil
		}
	}
	if s.number > 0 {
		return nil
	}
	return s.announce(false)
}

// meet gets to know the interfaces of the capture file.
func (s *shard) meet(known []proto.Interface) (err error) {
	s.machines, err = s.filter.machines(s.machines, known)
	s.tap.mu.Lock()
	defer s.tap.mu.Unlock()
	s.tap.interfaces = known
	return err
}

// machines returns one for each interface of a capture file, those that are
// there already included. Without a filter there are none.
func (f *Filter) machines(have []*filter.Machine, interfaces []proto.Interface) ([]*filter.Machine, error) {
	if f.all() {
		return nil, nil
	}
	if len(interfaces) == 0 { // a word that is wrong is so for all link types
		_, err := f.compile(filter.Options{LinkType: filter.Ethernet})
		return nil, err
	}
next:
	for n := len(have); n < len(interfaces); n++ {
		i := &interfaces[n]
		for old := range n {
			if interfaces[old].LinkType == i.LinkType {
				have = append(have, have[old])
				continue next
			}
		}
		if f.Program != nil && n > 0 {
			return nil, &FilterError{fmt.Errorf("remote: filter: interfaces %d and %d of the file have different link types (%d and %d), so no one program fits both: give an expression",
				0, n, interfaces[0].LinkType, i.LinkType)}
		}
		program, err := f.compile(filter.Options{LinkType: uint16(i.LinkType)})
		if err != nil {
			return nil, fmt.Errorf("remote: interface %d of the file, of link type %d: %w", n, i.LinkType, err)
		}
		m, err := filter.NewMachine(program)
		if err != nil {
			return nil, &FilterError{fmt.Errorf("remote: %s: %w", f.Text, err)}
		}
		have = append(have, m)
	}
	return have, nil
}

// passes reports whether the filter takes a frame of the capture file.
func (s *shard) passes(r *proto.Record) bool {
	return s.machines == nil || s.machines[r.Interface].Run(r.Data, r.OrigLen) != 0
}
