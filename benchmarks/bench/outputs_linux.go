// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
)

// An outputRig is a collector with one kind of output.
type outputRig struct {
	name  string
	cfg   measure.CollectorConfig
	setUp func(*measure.Rig) error // before it starts; nil: nothing
	begun func(*measure.Rig) error // once it runs; nil: nothing
	rig   *measure.Rig
	own   map[string][]float64 // by frame: ns a frame of the collector's process
	lost  int64
}

// outputRigs are those that are measured. Files are in dir, which is memory: not the
// disk is measured.
func outputRigs(dir string) []outputRig {
	const served = "127.0.0.1:57012"
	pipe := filepath.Join(dir, "pipe")
	return []outputRig{
		{name: "none", cfg: measure.CollectorConfig{Nowhere: true}},
		{name: "a function of a Receiver", cfg: measure.CollectorConfig{Receive: true}},
		{name: "tap"},
		{name: "a TAP for each tap ID", cfg: measure.CollectorConfig{TAP: "each%t"}},
		{name: "vxlan", cfg: measure.CollectorConfig{VXLAN: []string{measure.AddrV.String()}}, setUp: (*measure.Rig).VTEP},
		{name: "pcapng", cfg: measure.CollectorConfig{Write: filepath.Join(dir, "out.pcapng")}},
		{name: "pcapng to /dev/null", cfg: measure.CollectorConfig{Write: "/dev/null"}},
		{name: "pcapng to /dev/null, --merge 20ms", cfg: measure.CollectorConfig{Write: "/dev/null", Merge: 20 * time.Millisecond}},
		{name: "pcapng to a pipe", cfg: measure.CollectorConfig{Write: pipe}, setUp: func(r *measure.Rig) error { return readPipe(r, pipe) }},
		{name: "pcap over IP, one client", cfg: measure.CollectorConfig{Serve: served}, begun: func(r *measure.Rig) error { return client(r, served) }},
	}
}

func (k *outputRig) open(ctx context.Context, source int) (err error) {
	k.own = map[string][]float64{}
	if k.rig, err = measure.NewRig(linkMTU); err != nil {
		return err
	}
	if k.setUp != nil {
		if err := k.setUp(k.rig); err != nil {
			return err
		}
	}
	if err := k.rig.B.Up("lo"); err != nil {
		return err
	}
	if err := k.rig.Collector(ctx, k.cfg); err != nil {
		return err
	}
	if k.begun != nil {
		if err := k.begun(k.rig); err != nil {
			return err
		}
	}
	return k.rig.Flights(ctx, measure.Traffic{Frame: "300"}, 1, "", source)
}

// outputs measures the collector with each kind of output, in turn. The source
// plays a tap.
func (b *bench) outputs(ctx context.Context) error {
	dir, err := os.MkdirTemp("/dev/shm", "ntap-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kinds := outputRigs(dir)
	for i := range kinds {
		k := &kinds[i]
		err := k.open(ctx, b.Source)
		if k.rig != nil {
			defer k.rig.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	for _, frame := range pick(b, []string{"64", "300", "1514", "imix"}, []string{"300"}) {
		for range min(b.Rounds, 2) {
			for i := range kinds {
				k := &kinds[i]
				if err := k.rig.Traffic(ctx, traffic(frame)); err != nil {
					return err
				}
				t, err := k.rig.Trial(ctx, measure.Offer{Rate: easy(frame), For: b.Trial / 2})
				if err != nil {
					return fmt.Errorf("%s: %w", k.name, err)
				}
				k.own[frame] = append(k.own[frame], t.Parties[measure.RoleCollector].NS/frames(&t))
				k.lost += t.Lost(1)
				os.Truncate(filepath.Join(dir, "out.pcapng"), 0) // what it holds is memory
			}
		}
		bytes, _ := measure.MeanLength(frame)
		for i := range kinds {
			k := &kinds[i]
			b.results.Outputs = append(b.results.Outputs, outcome.Output{Output: k.name, Frame: frame, Bytes: bytes, Rate: easy(frame), Own: measure.SpreadOf(k.own[frame]...), Lost: k.lost})
			k.lost = 0
		}
	}
	return nil
}

// client reads what a collector serves until the rig is closed.
func client(r *measure.Rig, addr string) error {
	var c net.Conn
	err := r.B.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	})
	if err == nil {
		r.AtClose(func() { c.Close() })
		go io.Copy(io.Discard, c) // until it is closed
	}
	return err
}

// readPipe makes a FIFO and reads it until the rig is closed.
func readPipe(r *measure.Rig, path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("%s: %w", path, os.NewSyscallError("mkfifo", err))
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // which waits for nobody
	if err == nil {
		r.AtClose(func() { f.Close() })
		go io.Copy(io.Discard, f)
	}
	return err
}
