// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// An output is one place where frames go. Every worker has its own end of it.
type output struct {
	name  string
	takes choice
	sink  func(worker int, a *OutputAccount) (sink, error) // a worker's end; the worker's own thread calls it
	tick  func(now time.Time)                              // what it does by the clock; nil: nothing
	close func() error                                     // once the sinks are closed
}

// outputs are the places where a collector's frames go.
type outputs struct {
	sh     *shared
	list   []output
	counts []*OutputAccount // of list
}

// openOutputs opens the outputs of the configuration, on the calling
// goroutine: devices appear in its network namespace.
func openOutputs(ctx context.Context, sh *shared) (*outputs, error) {
	o := &outputs{sh: sh}
	warn := func(err error) { sh.log.Warn().Err(err).Msg("output") }
	for _, open := range []func() error{
		func() error { return o.openTAPs(warn) },
		func() error { return o.openFiles(ctx, warn) },
		func() error { return o.openVXLAN(warn) },
		o.openServers,
		o.openReceiver,
	} {
		if err := open(); err != nil {
			return nil, errors.Join(err, o.close())
		}
	}
	if len(o.list) == 0 {
		return nil, errors.New("collector: no output: give a virtual interface (-i), a file (-w), a VTEP (--vxlan) or an address for readers (--pcap-over-ip)")
	}
	return o, nil
}

// add adds an output that was opened.
func (o *outputs) add(out output) {
	o.list = append(o.list, out)
	o.counts = append(o.counts, &OutputAccount{Name: out.name})
}

// openTAPs makes the virtual interfaces.
func (o *outputs) openTAPs(warn func(error)) error {
	cfg := &o.sh.cfg
	for _, c := range cfg.TAPs {
		takes, err := c.Select.choose(true)
		if err != nil {
			return fmt.Errorf("collector: TAP %s: %w", c.Name, err)
		}
		set, err := newTapSet(tapConfig{Name: c.Name, Workers: cfg.Workers, Isolate: c.Isolate, Warn: warn})
		if err != nil {
			return err
		}
		o.add(output{
			name: "TAP " + c.Name, takes: takes, close: set.Close,
			sink: func(worker int, _ *OutputAccount) (sink, error) { return newTapSink(set, worker, cfg.IO) },
		})
	}
	return nil
}

// openFiles opens files, pipes and recordings.
func (o *outputs) openFiles(ctx context.Context, warn func(error)) error {
	cfg := &o.sh.cfg
	files := cfg.Files
	if cfg.Write != "" {
		files = append([]File{{Path: cfg.Write}}, files...)
	}
	seen := make(map[string]bool)
	for _, c := range files {
		if seen[c.Path] {
			return fmt.Errorf("collector: %s is given twice: each output needs a file of its own", c.Path)
		}
		seen[c.Path] = true
		stdout := cfg.Stdout
		if stdout == nil {
			stdout = os.Stdout
		}
		out, err := openFile(ctx, c, stdout, warn)
		if err != nil {
			return err
		}
		out.name = "pcapng " + c.Path
		o.add(out)
	}
	return nil
}

// open returns the worker's sinks, in the order of counts. The worker's own
// thread calls it.
func (o *outputs) open(worker int) ([]sink, error) {
	sinks := make([]sink, 0, len(o.list))
	for i, out := range o.list {
		s, err := out.sink(worker, o.counts[i])
		if err != nil {
			for _, s := range sinks {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		o.counts[i].add(s.Counts())
		sinks = append(sinks, selected(s, out.takes))
	}
	return sinks, nil
}

// tick does what outputs do by the clock.
func (o *outputs) tick(now time.Time) {
	for _, out := range o.list {
		if out.tick != nil {
			out.tick(now)
		}
	}
}

// close removes the devices and finishes the files, once the workers ended.
func (o *outputs) close() error {
	var err error
	for _, out := range o.list {
		err = errors.Join(err, out.close())
	}
	return err
}
