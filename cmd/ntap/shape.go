// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/remote"
)

// shapeFlags say which of the captured frames are sent, and how much of them.
type shapeFlags struct {
	slice, mask, rate, sample, breaker string
	dedup                              time.Duration
}

func (s *shapeFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.slice, "slice", "", "headers: send frames up to the end of their headers")
	f.StringVar(&s.mask, "mask", "", "payload: send frames whole, with zeros behind their headers and checksums to match")
	f.StringVar(&s.rate, "rate-limit", "", "send at most so many captured bits or frames a second, as in 500M or 100kpps, or both with a comma; what is beyond is counted")
	f.StringVar(&s.sample, "sample", "", "1/N: send one of N flows, whole and in both directions")
	f.DurationVar(&s.dedup, "dedup", 0, "leave out frames that were seen on another interface within this time")
	f.StringVar(&s.breaker, "breaker", "", "send nothing while the host is busier than this, as in cpu=90%,nic=80% or nic=8G")
}

// read makes a Shape of the flags.
func (s *shapeFlags) read() (c remote.Shape, err error) {
	switch s.slice {
	case "", "headers":
		c.Headers = s.slice != ""
	default:
		return c, usagef("remote: --slice %s: it knows headers; to cut at a length, -s", s.slice)
	}
	switch s.mask {
	case "", "payload":
		c.Mask = s.mask != ""
	default:
		return c, usagef("remote: --mask %s: it knows payload", s.mask)
	}
	if c.Rate, err = parseLimit(s.rate); err != nil {
		return c, usagef("remote: --rate-limit: %w", err)
	}
	if s.sample != "" {
		of, ok := strings.CutPrefix(s.sample, "1/")
		n, err := strconv.ParseUint(of, 10, 32)
		if !ok || err != nil || n < 1 {
			return c, usagef("remote: --sample %s: want 1/N, as in 1/16", s.sample)
		}
		c.Sample = uint32(n)
	}
	c.Dedup = s.dedup
	if c.Breaker, err = parseBreaker(s.breaker); err != nil {
		return c, usagef("remote: --breaker: %w", err)
	}
	if err := c.Check(); err != nil {
		return c, usagef("remote: %w", err)
	}
	return c, nil
}

// parseLimit reads bits or frames a second, or both with a comma between.
func parseLimit(s string) (r remote.RateLimit, err error) {
	for part := range strings.SplitSeq(s, ",") {
		if s == "" {
			break
		}
		frames, isFrames := strings.CutSuffix(strings.ToLower(strings.TrimSpace(part)), "pps")
		switch {
		case isFrames && r.Frames == 0:
			v, err := parseScaled(frames)
			if err != nil || v < 1 || v > 1e10 {
				return r, fmt.Errorf("%q: want frames a second, 1 to 10G, as in 100kpps", part)
			}
			r.Frames = uint64(v)
		case !isFrames && r.Bits == 0:
			if r.Bits, err = parseRate(part); err != nil {
				return r, fmt.Errorf("%w, or frames a second, as in 100kpps", err)
			}
		default:
			return r, fmt.Errorf("%q: there are two limits of one kind", s)
		}
	}
	return r, nil
}

// parseBreaker reads cpu=P%, nic=P% and nic=RATE, with commas between.
func parseBreaker(s string) (b remote.Breaker, err error) {
	for part := range strings.SplitSeq(s, ",") {
		if s == "" {
			break
		}
		what, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		text, isPart := strings.CutSuffix(value, "%")
		v, err := strconv.ParseFloat(text, 64)
		if isPart && (err != nil || !(v > 0 && v <= 100)) {
			return b, fmt.Errorf("%q: over 0%% and up to 100%%", part)
		}
		switch {
		case what == "cpu" && isPart:
			b.CPU = v / 100
		case what == "nic" && isPart:
			b.NIC = v / 100
		case what == "nic" && ok:
			if b.NICBits, err = parseRate(value); err != nil {
				return b, err
			}
		default:
			return b, fmt.Errorf("%q: want cpu=90%%, nic=80%% or nic=8G", part)
		}
	}
	return b, nil
}
