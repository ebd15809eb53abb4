// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
)

// What a remote is told by every field that ntap bench does not have.
var crowdConfigs = map[string]RemoteConfig{
	"none":     {},
	"pattern":  {Interfaces: []string{"cap*"}},
	"any":      {Interfaces: []string{"any"}},
	"snaplen":  {SnapLen: 96},
	"copy":     {Further: 2},
	"share":    {Further: 1, Share: true},
	"vxlan":    {VTEP: AddrB.String()},
	"sample":   {Shape: remote.Shape{Sample: 2}},
	"limit":    {Shape: remote.Shape{Rate: remote.RateLimit{Frames: 10}}},
	"workers":  {Workers: 2, Fanout: "cpu"},
	"netns":    {},
	"pace":     {SendRate: 1e9, MTU: 600, NoMark: true},
	"zerocopy": {IO: "zerocopy"},
}

// Remotes of all kinds take their turns: each gets the same frames from one source, which
// says what each took, and each account adds up.
func TestCrowd(t *testing.T) {
	testnet.RequireRoot(t)
	ctx := t.Context()
	var rigs []*Rig
	var names []string
	for name := range crowdConfigs {
		r := newRig(t)
		if _, err := r.B.DropAll(LinkB); err != nil {
			t.Fatal(err)
		}
		if name == "netns" {
			if err := r.Apart(); err != nil {
				t.Fatal(err)
			}
		}
		rigs, names = append(rigs, r), append(names, name)
	}
	c, err := NewCrowd(ctx, rigs, Traffic{Frame: "60"}, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, r := range rigs {
		cfg := crowdConfigs[names[i]]
		cfg.RingBytes, cfg.Retire = 4<<20, CrowdRetire
		if err := r.Remote(ctx, cfg); err != nil {
			t.Fatalf("%s: %v", names[i], err)
		}
	}
	const batches, rounds = 4, 2
	for seed := range uint64(rounds) {
		if err := c.Traffic(ctx, Traffic{Frame: []string{"300", "1300"}[seed], Kept: 2}); err != nil {
			t.Fatal(err)
		}
		turns, order, err := c.Round(ctx, batches, seed)
		if err != nil {
			t.Fatal(err)
		}
		if len(order) != len(rigs) {
			t.Errorf("%v", order)
		}
		for i, turn := range turns {
			if turn.Offered.Frames != batches*writeBatch || turn.Offered.CPU <= 0 || turn.Remote <= 0 {
				t.Errorf("%s: %+v", names[i], turn)
			}
		}
	}
	const frames = rounds * batches * writeBatch
	for i, r := range rigs {
		a, err := r.Level(ctx)
		if err != nil {
			t.Fatalf("%s: %v", names[i], err)
		}
		got := map[string]uint64{"sealed": a.Sealed, "copied": a.Copied, "elsewhere": a.Elsewhere, "wrapped": a.Wrapped, "shed": a.Shed}
		want := map[string]uint64{"sealed": frames}
		switch names[i] {
		case "copy":
			want["copied"] = 2 * frames
		case "share":
			want["sealed"], want["copied"], want["elsewhere"] = frames-a.Elsewhere, a.Elsewhere, a.Elsewhere
			if a.Elsewhere == 0 || a.Sealed == 0 {
				t.Errorf("share: one got all: %+v", a)
			}
		case "vxlan":
			want["sealed"], want["wrapped"] = 0, frames
		case "limit":
			want["sealed"], want["shed"] = frames-a.Shed, a.Shed
			if a.Shed < frames/2 {
				t.Errorf("limit: %+v", a)
			}
		case "snaplen":
			if a.SealedBytes != 96*frames {
				t.Errorf("snaplen: %d bytes of %d frames", a.SealedBytes, frames)
			}
		}
		for what, n := range got {
			if n != want[what] {
				t.Errorf("%s: %d frames %s, not %d: %+v", names[i], n, what, want[what], a)
			}
		}
		if err := r.Balance(ctx); err != nil {
			t.Errorf("%s: %v", names[i], err)
		}
	}
}

// An account that lacks a frame somewhere is an error that says so.
func TestAccountsThatDoNotAddUp(t *testing.T) {
	for _, c := range []struct {
		a       SideAccount
		further int
		share   bool
		want    string
	}{
		{SideAccount{Captured: 10, Sealed: 7, KernelDrops: 2, Shed: 1}, 0, false, ""},
		{SideAccount{Captured: 10, Sealed: 10, Copied: 20}, 2, false, ""},
		{SideAccount{Captured: 10, Sealed: 4, Elsewhere: 6, Copied: 6}, 2, true, ""},
		{SideAccount{Captured: 10, Wrapped: 10}, 0, false, ""},
		{SideAccount{Captured: 9, Sealed: 9}, 0, false, "the source sent 10 frames, the remote knows of 9"},
		{SideAccount{Captured: 10, Sealed: 9}, 0, false, "make 9"},
		{SideAccount{Captured: 10, Sealed: 10, Copied: 19}, 2, false, "further collectors were sent 19 frames, which should be 20"},
		{SideAccount{Captured: 10, Sealed: 4, Elsewhere: 6, Copied: 5}, 1, true, "which should be 6"},
		{SideAccount{Captured: 10, Sealed: 10, Copied: 1}, 0, false, "which should be 0"},
	} {
		err := c.a.check(10, c.further, c.share)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && !strings.Contains(got, c.want) {
			t.Errorf("%+v: %v, not %q", c.a, err, c.want)
		}
	}
}

// A process that is gone is no process that stopped.
func TestStopOfNothing(t *testing.T) {
	if err := stop(1 << 30); err == nil || !strings.Contains(err.Error(), "process 1073741824") {
		t.Error(err)
	}
	if err := enter("/nowhere"); !os.IsNotExist(err) {
		t.Error(err)
	}
}
