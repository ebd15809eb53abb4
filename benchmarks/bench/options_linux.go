// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/remote"
)

// remoteOptions are what is measured beside a remote without any, the first.
// But for the sampling, none of them leaves out a frame, so that as many are packed, sealed and
// sent.
var remoteOptions = []struct {
	name string
	cfg  measure.RemoteConfig
}{
	{"", measure.RemoteConfig{}},
	{"a filter: not port 22 and not net 192.0.2.0/24", measure.RemoteConfig{Filter: "not port 22 and not net 192.0.2.0/24"}},
	{"--sample 1/1000000, which keeps none", measure.RemoteConfig{Shape: remote.Shape{Sample: 1000000}}},
	{"--dedup 10ms", measure.RemoteConfig{Shape: remote.Shape{Dedup: 10 * time.Millisecond}}},
	{"--slice headers", measure.RemoteConfig{Shape: remote.Shape{Headers: true}}},
	{"--mask payload", measure.RemoteConfig{Shape: remote.Shape{Mask: true}}},
	{"--rate-limit 1T", measure.RemoteConfig{Shape: remote.Shape{Rate: remote.RateLimit{Bits: 1e12}}}},
	{"--breaker cpu=100%", measure.RemoteConfig{Shape: remote.Shape{Breaker: remote.Breaker{CPU: 1}}}},
	{"--pad", measure.RemoteConfig{Pad: true}},
}

// options measures what options of the remote take, in turn. What it sends is
// dropped behind the wire.
func (b *bench) options(ctx context.Context) error {
	rigs := make([]*measure.Rig, len(remoteOptions))
	for i, o := range remoteOptions {
		r, err := measure.NewRig(linkMTU)
		if err != nil {
			return err
		}
		defer r.Close()
		if _, err := r.B.DropAll(measure.LinkB); err != nil {
			return err
		}
		if err := r.Source(ctx, measure.Traffic{Frame: "300"}, b.Source); err != nil {
			return err
		}
		if err := r.Remote(ctx, o.cfg); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		rigs[i] = r
	}
	for _, frame := range pick(b, []string{"300", "1300"}, []string{"300"}) {
		own := make([][]float64, len(rigs))
		all, more := make([][]float64, len(rigs)), make([][]float64, len(rigs))
		for range min(b.Rounds, 2) {
			for i, r := range rigs {
				if err := r.Traffic(ctx, measure.Traffic{Frame: frame}); err != nil {
					return err
				}
				t, err := r.Trial(ctx, measure.Offer{Rate: easy(frame), For: b.Trial / 2})
				if err != nil {
					return fmt.Errorf("%s: %w", remoteOptions[i].name, err)
				}
				own[i] = append(own[i], t.Parties[measure.RoleRemote].NS/frames(&t))
				all[i] = append(all[i], t.Ours/frames(&t)) // a filter runs in the kernel, where the source writes
				more[i] = append(more[i], all[i][len(all[i])-1]-all[0][len(all[0])-1])
			}
		}
		for i, o := range remoteOptions {
			b.results.Options = append(b.results.Options, outcome.Option{Option: o.name, Frame: frame, Rate: easy(frame),
				Own: measure.SpreadOf(own[i]...), More: measure.SpreadOf(more[i]...)})
		}
	}
	for i, r := range rigs {
		if err := r.Balance(ctx); err != nil {
			return fmt.Errorf("%s: the account does not add up: %w", remoteOptions[i].name, err)
		}
	}
	return nil
}
