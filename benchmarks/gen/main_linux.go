// SPDX-License-Identifier: Apache-2.0

// Command gen is the traffic source of the benchmarks: it makes a TAP device,
// or takes one that exists, writes frames of many flows into it, at a rate,
// and prints what it offered.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/measure"
)

func main() {
	var t measure.Traffic
	var o measure.Offer
	device := flag.String("dev", "cap0", "TAP device")
	size := flag.Int("size", 300, "bytes of a frame, from the Ethernet header on")
	flag.StringVar(&t.Frame, "frame", "", "instead of -size: imix, or gso")
	flag.Float64Var(&o.Rate, "rate", 0, "frames a second; 0: as many as go")
	flag.DurationVar(&o.For, "for", 3*time.Second, "how long")
	flag.IntVar(&t.Flows, "flows", 64, "number of flows")
	kinds := flag.String("kinds", measure.UDP4, "kinds of flows: "+strings.Join([]string{measure.UDP4, measure.TCP4, measure.UDP6, measure.TCP6}, ","))
	flag.IntVar(&t.VLAN, "vlan", 0, "of a hundred flows so many have a VLAN tag")
	cpu := flag.Int("cpu", -1, "CPU to run on; -1: any")
	flag.Parse()
	if t.Frame == "" {
		t.Frame = strconv.Itoa(*size)
	}
	t.Kinds = strings.Split(*kinds, ",")
	if err := run(*device, t, o, *cpu); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(device string, t measure.Traffic, o measure.Offer, cpu int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	s, err := measure.OpenSource(device, t)
	if err != nil {
		return err
	}
	defer s.Close()
	if cpu >= 0 {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("cpu %d: %w", cpu, err)
		}
	}
	time.Sleep(200 * time.Millisecond) // the carrier came up just now
	r, err := s.Run(ctx, o)
	if err != nil {
		return err
	}
	took := r.Took.Seconds()
	fmt.Printf("offered %d failed %d seconds %.3f mpps %.3f gbps %.3f cpu_ns %.0f\n", r.Frames, r.Failed, took,
		r.Rate()/1e6, float64(r.Bytes)*8/took/1e9, float64(r.CPU.Nanoseconds())/float64(r.Frames+r.Failed))
	return nil
}
