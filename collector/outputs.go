// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"os"
)

// outputs are the places where a collector's frames go; every worker has its
// own end of each.
type outputs struct {
	sh     *shared
	tap    *tapSet     // nil: none
	file   *pcapngFile // nil: none
	vxlans []*vxlanSet
	counts []*OutputAccount
}

// openOutputs opens the outputs of the configuration, on the calling
// goroutine: devices appear in its network namespace.
func openOutputs(ctx context.Context, sh *shared) (*outputs, error) {
	o := &outputs{sh: sh}
	if sh.cfg.TAP == "" && sh.cfg.Write == "" && len(sh.cfg.VXLAN) == 0 {
		return nil, errors.New("collector: no output: give a virtual interface (-i), a file (-w) or a VTEP (--vxlan)")
	}
	warn := func(err error) { sh.log.Warn().Err(err).Msg("output") }
	if name := sh.cfg.TAP; name != "" {
		set, err := newTapSet(tapConfig{Name: name, Workers: sh.cfg.Workers, Isolate: sh.cfg.Isolate, Warn: warn})
		if err != nil {
			return nil, err
		}
		o.tap = set
		o.counts = append(o.counts, &OutputAccount{Name: "TAP " + name})
	}
	if path := sh.cfg.Write; path != "" {
		out := sh.cfg.Stdout
		if out == nil {
			out = os.Stdout
		}
		f, err := newPcapngFile(pcapngConfig{Path: path, Stdout: out, Warn: warn, Stop: ctx.Done()})
		if err != nil {
			return nil, errors.Join(err, o.close())
		}
		o.file = f
		o.counts = append(o.counts, &OutputAccount{Name: "pcapng " + path})
	}
	if err := o.openVXLAN(warn); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// open returns the worker's sinks, in the order of counts. The worker's own
// thread calls it.
func (o *outputs) open(worker int) ([]sink, error) {
	var sinks []sink
	if o.tap != nil {
		s, err := newTapSink(o.tap, worker, o.sh.cfg.IO)
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, s)
	}
	if o.file != nil {
		sinks = append(sinks, o.file.sink())
	}
	for _, v := range o.vxlans {
		sinks = append(sinks, v.sink(worker))
	}
	for i, s := range sinks {
		o.counts[i].add(s.Counts())
	}
	return sinks, nil
}

// close removes the devices and finishes the file, once the workers ended.
func (o *outputs) close() error {
	var err error
	if o.tap != nil {
		err = o.tap.Close()
	}
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
	}
	for _, v := range o.vxlans {
		err = errors.Join(err, v.close())
	}
	return err
}
