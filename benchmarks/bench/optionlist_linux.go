// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/internal/measure"
	"github.com/ntap-project/ntap/remote"
)

// A remoteOption is something that a remote is told, and what it costs a frame.
type remoteOption struct {
	name  string // as it is given
	flag  string // of it, without dashes
	cfg   measure.RemoteConfig
	apart bool // the source is on a host of its own
	// where says which part of what a frame takes more is the option's. A source writes frames
	// into a TAP, and what the kernel does for a capture it does in the source's time: a filter
	// works there alone. Each collector and VTEP is also in the filter that leaves out the tap's own datagrams.
	where outcome.Where
}

// Filters that let all frames through.
const (
	oneFilter  = "not port 22 and not net 192.0.2.0/24"
	longFilter = "not (host 192.0.2.1 or 192.0.2.2 or 192.0.2.3 or 192.0.2.4 or 192.0.2.5 or 192.0.2.6 or 192.0.2.7 or 192.0.2.8" +
		" or 198.51.100.1 or 198.51.100.2 or 198.51.100.3 or 198.51.100.4 or 198.51.100.5 or 198.51.100.6 or 198.51.100.7 or 198.51.100.8)"
)

// keptOf is of which sample all flows of the source are kept.
const keptOf = 2

// remoteOptions are those that are measured, each beside remotes without any. All
// frames are sent with all of them. docs/CAPTURE.md, "What options cost", says of those that are
// not here why.
var remoteOptions = []remoteOption{
	{name: "`udp`, a filter", flag: "filter", where: outcome.InKernel, cfg: measure.RemoteConfig{Filter: "udp"}},
	{name: "`" + oneFilter + "`", flag: "filter", where: outcome.InKernel, cfg: measure.RemoteConfig{Filter: oneFilter}},
	{name: "a filter that leaves out 16 hosts", flag: "filter", where: outcome.InKernel, cfg: measure.RemoteConfig{Filter: longFilter}},
	{name: "`-i 'cap*'`", flag: "interface", where: outcome.InBoth, cfg: measure.RemoteConfig{Interfaces: []string{"cap*"}}},
	{name: "`-i any`", flag: "interface", where: outcome.InBoth, cfg: measure.RemoteConfig{Interfaces: []string{"any"}}},
	{name: "`--netns`", flag: "netns", where: outcome.InBoth, apart: true},
	{name: "`--mark 0`", flag: "mark", where: outcome.InKernel, cfg: measure.RemoteConfig{NoMark: true}},
	{name: "`--workers 2`", flag: "workers", where: outcome.InBoth, cfg: measure.RemoteConfig{Workers: 2}},
	{name: "`--workers 2 --fanout cpu`", flag: "fanout", where: outcome.InBoth, cfg: measure.RemoteConfig{Workers: 2, Fanout: "cpu"}},
	{name: "`-s 96`", flag: "snaplen", where: outcome.InBoth, cfg: measure.RemoteConfig{SnapLen: 96}},
	{name: "`-s 9000`, which cuts nothing", flag: "snaplen", where: outcome.InBoth, cfg: measure.RemoteConfig{SnapLen: 9000}},
	{name: "`--breaker cpu=100%`", flag: "breaker", cfg: measure.RemoteConfig{Shape: remote.Shape{Breaker: remote.Breaker{CPU: 1}}}},
	{name: "`--sample 1/2`, of flows that are kept", flag: "sample", cfg: measure.RemoteConfig{Shape: remote.Shape{Sample: keptOf}}},
	{name: "`--dedup 10ms`", flag: "dedup", cfg: measure.RemoteConfig{Shape: remote.Shape{Dedup: 10 * time.Millisecond}}},
	{name: "`--slice headers`", flag: "slice", cfg: measure.RemoteConfig{Shape: remote.Shape{Headers: true}}},
	{name: "`--mask payload`", flag: "mask", cfg: measure.RemoteConfig{Shape: remote.Shape{Mask: true}}},
	{name: "`--rate-limit 1T`", flag: "rate-limit", cfg: measure.RemoteConfig{Shape: remote.Shape{Rate: remote.RateLimit{Bits: 1e12}}}},
	{name: "`--pace 100G`", flag: "pace", cfg: measure.RemoteConfig{SendRate: 100e9}},
	{name: "`--pad`", flag: "pad", cfg: measure.RemoteConfig{Pad: true}},
	{name: "`--mtu 600`", flag: "mtu", cfg: measure.RemoteConfig{MTU: 600}},
	{name: "`-K`", flag: "clear", cfg: measure.RemoteConfig{Suite: "plaintext"}},
	{name: "`--suite chacha20-poly1305`", flag: "suite", cfg: measure.RemoteConfig{Suite: "chacha20-poly1305"}},
	{name: "`--io uring`", flag: "io", cfg: measure.RemoteConfig{IO: "uring"}},
	{name: "`--io zerocopy`", flag: "io", cfg: measure.RemoteConfig{IO: "zerocopy"}},
	{name: "two collectors, `--send copy`", flag: "collector", where: outcome.InBoth, cfg: measure.RemoteConfig{Further: 1}},
	{name: "three collectors, `--send copy`", flag: "collector", where: outcome.InBoth, cfg: measure.RemoteConfig{Further: 2}},
	{name: "two collectors, `--send share`", flag: "send", where: outcome.InBoth, cfg: measure.RemoteConfig{Further: 1, Share: true}},
	{name: "three collectors, `--send share`", flag: "send", where: outcome.InBoth, cfg: measure.RemoteConfig{Further: 2, Share: true}},
	{name: "`--to-vxlan`", flag: "to-vxlan", where: outcome.InBoth, cfg: measure.RemoteConfig{VTEP: measure.AddrB.String()}},
}

// bare is one without an option.
const bare = outcome.NoOption
