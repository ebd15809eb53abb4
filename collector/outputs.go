// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A spec is an output as it is configured, found good.
type spec struct {
	name   string  // of no other output
	how    any     // the configuration without the selection
	takes  *choice // the selection
	inside bool    // the output itself selects
	each   bool    // it gives frames to each of several clients
	says   bool    // what it writes says what the snap length is
	once   bool    // opened again, it would replace what it has written
	twice  string  // why there are not to be two of that name; "": there may be
	merges bool    // Config.Merge is about it
	last   bool    // its error ends the collector, whatever other outputs there are
	beside bool    // one of that name may be opened while another one is open

	open func(o *outputs) (output, error) // nil: it is a group
	over []*spec                          // of a group: its members
}

// An output is one place where frames go, open. Every worker has its own end of
// it.
type output struct {
	name    string                                           // where it is known only now; "": that of the spec
	sink    func(worker int, a *OutputAccount) (sink, error) // a worker's end; the worker's own thread calls it
	tick    func(now time.Time)                              // what it does by the clock; nil: nothing
	failure func() error                                     // why it takes nothing any more; nil: it does, or this cannot be
	close   func() error                                     // once the sinks are closed; nil: nothing
	alter   func(how any) (apply func())                     // what makes it one of that spec.how, open as it is; nil: it has to be opened anew
}

// An outlet is an output in force. One that could not be opened yet refuses
// frames.
type outlet struct {
	*spec
	account *OutputAccount // a part of the output's
	snap    int            // what its files or clients were told is the snap length
	how     any            // as the spec's, or what it was altered to
	wait    *waiting       // until it can be opened; nil: it is open
	again   bool           // it failed, and is opened once more: what it has written stays

	mu     sync.Mutex // not held for frames
	output output
	closed bool
}

// A waiting says why an output is not open yet. Only the goroutine that opens
// outputs looks at it.
type waiting struct {
	why    error
	again  time.Time // when it is tried again
	trying bool      // it is being tried
}

// sink returns the worker's end. The worker's own thread calls it.
func (l *outlet) sink(worker int) (sink, error) {
	if l.wait != nil {
		return newRefusal(l), nil
	}
	s, err := l.output.sink(worker, l.account)
	if err == nil {
		l.account.add(s.Counts())
	}
	return s, err
}

// failure returns why an output that was open takes nothing any more.
func (l *outlet) failure() error {
	if l.wait != nil || l.output.failure == nil {
		return nil
	}
	return l.output.failure()
}

// tick does what the output does by the clock.
func (l *outlet) tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && l.output.tick != nil {
		l.output.tick(now)
	}
}

// close closes the output, once its sinks are closed.
func (l *outlet) close() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && l.output.close != nil {
		err = l.output.close()
	}
	l.closed = true
	l.account.fold()
	return err
}

// A refusal stands in for an output that is not there.
type refusal struct {
	each   bool
	frames uint64 // since Flush
	counts SinkCounts
}

func newRefusal(l *outlet) sink {
	s := &refusal{each: l.each}
	l.account.add(&s.counts)
	return s
}

func (s *refusal) Write(*Origin, *proto.Record) { s.frames++ }
func (s *refusal) Flush() error {
	s.counts.Refused.Add(s.frames)
	if s.each {
		s.counts.Given.Add(s.frames)
	}
	s.frames = 0
	return nil
}
func (s *refusal) Counts() *SinkCounts { return &s.counts }
func (s *refusal) Close() error        { return s.Flush() }

// specs returns what the configuration says, or all that is wrong with it.
func (c *Outputs) specs(cfg *Config) ([]*spec, error) {
	var (
		all  []*spec
		errs []error
		seen = make(map[string]bool)
	)
	var take func(s *spec, err error) *spec
	take = func(s *spec, err error) *spec {
		if err != nil {
			errs = append(errs, fmt.Errorf("collector: %w", err))
			return nil
		}
		if seen[s.name] && s.twice != "" {
			errs = append(errs, fmt.Errorf("collector: %s is given twice: %s", s.name, s.twice))
		}
		seen[s.name] = true
		for _, m := range s.over {
			take(m, nil)
		}
		return s
	}
	add := func(s *spec, err error) {
		if s = take(s, err); s != nil {
			all = append(all, s)
		}
	}
	for _, t := range c.TAPs {
		add(t.spec())
	}
	if cfg.Write != "" {
		add(File{Path: cfg.Write}.spec())
	}
	for _, f := range c.Files {
		add(f.spec())
	}
	for _, v := range c.VXLAN {
		add(v.spec(cfg))
	}
	for _, s := range c.Serve {
		add(s.spec())
	}
	for _, b := range c.Balance {
		add(b.spec(cfg))
	}
	if cfg.receiver != nil {
		add(cfg.receiver.spec(cfg.ReceiveSelect))
	}
	if len(all) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("collector: no output: give a virtual interface (-i), a file (-w), a VTEP (--vxlan) or an address for readers (--pcap-over-ip)"))
	}
	return all, errors.Join(errs...)
}

func (t TAP) spec() (*spec, error) {
	takes, err := t.Select.choose(true)
	if err == nil {
		_, err = tapName(t.Name, 0) // a pattern has to do for the shortest ID at least
	}
	if err != nil {
		return nil, fmt.Errorf("TAP %s: %w", t.Name, err)
	}
	t.Select = Selection{}
	name := "TAP " + t.Name
	if t.NetNS != "" {
		name += " in " + t.NetNS
	}
	return &spec{
		name: name, how: t, takes: &takes, twice: "each output needs an interface of its own",
		open: func(o *outputs) (output, error) {
			cfg := &o.sh.cfg
			set, err := newTapSet(tapConfig{
				Name: t.Name, Workers: cfg.Workers, Isolate: t.Isolate, Persist: t.Persist, NetNS: t.NetNS, Warn: o.warn,
			})
			if err != nil {
				return output{}, err
			}
			return output{
				close: set.Close,
				tick:  set.tick,
				sink:  func(worker int, _ *OutputAccount) (sink, error) { return newTapSink(set, worker, cfg.IO) },
			}, nil
		},
	}, nil
}

func (c File) spec() (*spec, error) {
	takes, err := c.Select.choose(true)
	var names namePattern
	if err == nil {
		names, err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	opened := c
	c.Select = Selection{}
	return &spec{
		name: "pcapng " + c.Path, how: c, takes: &takes, says: true, merges: true, once: names.plain() && !c.Rotate.rotates(), twice: "each output needs a file of its own",
		open: func(o *outputs) (output, error) {
			stdout := o.sh.cfg.Stdout
			if stdout == nil {
				stdout = os.Stdout
			}
			return openFile(o.ctx, opened, o.again, stdout, o.warn)
		},
	}, nil
}

func (c VXLAN) spec(cfg *Config) (*spec, error) {
	to, err := proto.VXLANAddress(c.To)
	if err != nil {
		return nil, err
	}
	if tap, only := cfg.Keys.Tap(); only {
		_, err = c.VNI.Of(tap) // or nothing could ever go there
	}
	takes, err2 := c.Select.choose(true)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("VXLAN to %s: %w", c.To, err)
	}
	c.Select = Selection{}
	return &spec{
		name: "VXLAN " + to, how: c, takes: &takes, twice: "its frames would be sent twice", beside: true, // Fans share source ports
		open: func(o *outputs) (output, error) {
			s, err := newVXLANSet(c, o.sh.cfg.Workers, o.warn)
			if err != nil {
				return output{}, err
			}
			return output{close: s.close, alter: s.alter, sink: func(worker int, _ *OutputAccount) (sink, error) { return s.sink(worker), nil }}, nil
		},
	}, nil
}

func (c Serve) spec() (*spec, error) {
	takes, err := c.Select.choose(true)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("pcap over IP at %s: %w", c.Addr, err)
	}
	s := &spec{name: "pcap over IP " + c.Addr, takes: &takes, inside: true, each: true, says: true, merges: true}
	if _, port, _ := net.SplitHostPort(c.Addr); port != "0" {
		s.twice = "each output needs an address of its own"
	}
	opened := c
	c.Select = Selection{SnapLen: c.Select.SnapLen} // which new clients are told
	s.how = c
	s.open = func(o *outputs) (output, error) {
		srv, err := newServer(opened, o.sh.log)
		if err != nil {
			return output{}, fmt.Errorf("collector: pcap over IP at %s: %w", c.Addr, err)
		}
		return output{name: "pcap over IP " + srv.addr, sink: srv.sink, close: srv.close, alter: srv.alter}, nil
	}
	return s, nil
}

// spec is the program itself as an output.
func (r *Receiver) spec(by Selection) (*spec, error) {
	takes, err := by.choose(true)
	if err != nil {
		return nil, fmt.Errorf("Receiver: %w", err)
	}
	return &spec{
		name: "this program", how: r, takes: &takes, merges: true, last: true,
		open: func(*outputs) (output, error) {
			return output{sink: func(worker int, _ *OutputAccount) (sink, error) {
				return &batchSink{take: r.take, worker: worker}, nil
			}}, nil
		},
	}, nil
}
