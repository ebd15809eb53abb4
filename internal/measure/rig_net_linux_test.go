// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// TestMain lets the test binary be the children of its rigs.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == ChildArg {
		if err := Serve(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newRig(t *testing.T) *Rig {
	t.Helper()
	testnet.RequireRoot(t)
	r, err := NewRig(1500)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.quiet = testnet.Patience // what comes late, from a process that stood still, comes
	return r
}

// offer has the source run until it has offered so many frames, and calls f with each
// trial: one that stands still offers none in that time.
func offer(t *testing.T, r *Rig, o Offer, least uint64, f func(Trial)) {
	t.Helper()
	frames := uint64(0)
	for end := time.Now().Add(testnet.Patience); frames < least; {
		trial, err := r.Trial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		f(trial)
		if frames += trial.Offered.Frames; time.Now().After(end) {
			t.Fatalf("the source offered %d frames of %d", frames, least)
		}
	}
}

// A trial end to end: what was offered came out, both sides' accounts say so
// at the end, and every process took some CPU.
func TestTrial(t *testing.T) {
	for _, frame := range []string{"300", "imix", "gso"} {
		t.Run(frame, func(t *testing.T) {
			r := newRig(t)
			ctx := t.Context()
			if err := r.Source(ctx, Mixed(frame), -1); err != nil {
				t.Fatal(err)
			}
			if err := r.Collector(ctx, CollectorConfig{}); err != nil {
				t.Fatal(err)
			}
			if err := r.Remote(ctx, RemoteConfig{}); err != nil {
				t.Fatal(err)
			}
			pieces := uint64(1)
			o := Offer{Rate: 20000, For: 500 * time.Millisecond}
			if frame == "gso" {
				o.Rate, pieces = 500, 44
			}
			total := uint64(0)
			for range 2 {
				offer(t, r, o, 100, func(trial Trial) {
					total += trial.Offered.Frames
					if trial.Lost(pieces) != 0 || trial.Offered.Failed > 0 {
						t.Errorf("%+v", trial)
					}
					for _, name := range []string{RoleSource, RoleRemote, RoleCollector} {
						if trial.Parties[name].RSS == 0 {
							t.Errorf("%s: %+v", name, trial.Parties[name])
						}
					}
					t.Logf("%+v", trial)
				})
			}
			remote, collector, err := r.Stop(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if remote.Captured != total || remote.Sealed != total || collector.Unpacked != total || collector.Delivered != total*pieces || collector.Lost != 0 {
				t.Errorf("offered %d: %+v %+v", total, remote, collector)
			}
		})
	}
}

// A remote with a sink behind it sends, and nothing comes out.
func TestSink(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	if how, err := r.B.DropAll(LinkB); err != nil {
		t.Fatal(err)
	} else {
		t.Log(how)
	}
	if err := r.Source(ctx, Traffic{Frame: "300"}, -1); err != nil {
		t.Fatal(err)
	}
	if err := r.Remote(ctx, RemoteConfig{}); err != nil {
		t.Fatal(err)
	}
	trial, err := r.Trial(ctx, Offer{Rate: 10000, For: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := r.Stop(ctx)
	if err != nil || a.Sealed != trial.Offered.Frames || a.Sent == 0 || a.Unsent > 0 {
		t.Errorf("%+v; %+v %v", trial, a, err)
	}
}

// A child that is asked what it cannot do says so, and one that is killed is
// an error, not a wait.
func TestChild(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := r.A.Start(RoleRemote)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []string{"account", "dance", "start"} {
		if err := c.Ask(ctx, do, RemoteConfig{KeyFile: "/nonexistent"}, nil); err == nil {
			t.Errorf("%s: no error", do)
		} else {
			t.Log(err)
		}
	}
	c.Kill()
	if err := c.Ask(ctx, "account", nil, nil); err == nil {
		t.Error("a dead child answers")
	}
	if c, err = r.A.Start("dancer"); err != nil {
		t.Fatal(err)
	}
	if err := c.Ask(ctx, "account", nil, nil); err == nil {
		t.Error("a child without a role answers")
	} else {
		t.Log(err)
	}
}

// Taps that are played are taps to a collector: all that they sealed comes out.
func TestFlights(t *testing.T) {
	for _, c := range []struct {
		taps  int
		frame string
	}{{1, "300"}, {40, "imix"}, {2, "gso"}} {
		t.Run(fmt.Sprint(c.taps, c.frame), func(t *testing.T) {
			r := newRig(t)
			ctx := t.Context()
			if err := r.Collector(ctx, CollectorConfig{Nowhere: c.taps == 1}); err != nil {
				t.Fatal(err)
			}
			if err := r.Flights(ctx, Mixed(c.frame), c.taps, "", -1); err != nil {
				t.Fatal(err)
			}
			pieces := uint64(1)
			o := Offer{Rate: 20000, For: 500 * time.Millisecond}
			if c.frame == "gso" {
				o.Rate, pieces = 500, 44
			}
			total := uint64(0)
			offer(t, r, o, 100, func(trial Trial) {
				if total += trial.Offered.Frames; trial.Lost(pieces) != 0 {
					t.Errorf("%+v", trial)
				}
			})
			_, a, err := r.Stop(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if a.Lost > 0 || a.Sealed != total || a.Unpacked != a.Sealed {
				t.Errorf("%d offered; %+v", total, a)
			}
		})
	}
}

// Frames that the ring had no room for are among those that the remote counts, and
// the account adds up: they used to be counted twice, and a run that overloaded a
// remote was an error.
func TestBalanceOfAnOverload(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	if _, err := r.B.DropAll(LinkB); err != nil {
		t.Fatal(err)
	}
	if err := r.Source(ctx, Traffic{Frame: "1300"}, -1); err != nil {
		t.Fatal(err)
	}
	if err := r.Remote(ctx, RemoteConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(r.remote.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(testnet.Patience); time.Now().Before(end); { // 64 MiB are full after 47,000 frames
		var o Offered
		if err := ask(ctx, r.source, "run", Offer{For: 200 * time.Millisecond}, time.Minute, &o); err != nil {
			t.Fatal(err)
		}
		if r.offered += o.Frames; r.offered > 60000 {
			break
		}
	}
	if err := unix.Kill(r.remote.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := r.Balance(ctx); err != nil {
		t.Fatal(err)
	}
	if a, _, err := r.Accounts(ctx); err != nil || a.KernelDrops == 0 {
		t.Errorf("%+v of %d frames, %v", a, r.offered, err)
	}
}
