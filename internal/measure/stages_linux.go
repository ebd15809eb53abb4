// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// A CallCost is what a thread of one stage took.
type CallCost struct {
	Units       uint64        `json:"units"` // frames, or datagrams
	CPU         time.Duration `json:"cpu"`   // of the thread
	Nanoseconds float64       `json:"ns"`    // a unit: the median of its batches, where they are timed; else the mean
}

func stagesRole() role {
	var in *batch.Receiver
	var from *ring.Ring
	return role{
		"pure": taking(func(_ context.Context, run StageRun) (any, error) { return RunStage(run) }),
		"send": taking(func(ctx context.Context, d time.Duration) (any, error) { return sendFlights(ctx, d) }),
		"listen": func(context.Context, json.RawMessage) (any, error) {
			runtime.LockOSThread()
			all, err := batch.Listen(batch.ListenConfig{Addr: fmt.Sprintf(":%d", Port), Buffer: 64 << 20, Poll: 20 * time.Millisecond})
			if err == nil {
				in = all[0]
			}
			return nil, err
		},
		"receive": taking(func(ctx context.Context, d time.Duration) (any, error) { return receiveFor(ctx, in, d) }),
		"attach": taking(func(_ context.Context, name string) (_ any, err error) {
			runtime.LockOSThread()
			from, err = ring.Open(ring.Config{Interface: name, Promiscuous: true})
			return nil, err
		}),
		"capture": taking(func(ctx context.Context, d time.Duration) (any, error) { return captureFor(ctx, from, d) }),
	}
}

// sendFlights sends full flights, one after the other.
func sendFlights(ctx context.Context, d time.Duration) (c CallCost, err error) {
	runtime.LockOSThread()
	out, err := batch.NewSender(batch.SenderConfig{To: netip.AddrPortFrom(AddrB, Port).String(), SendBuffer: 4 << 20})
	if err != nil {
		return c, err
	}
	defer out.Close()
	flight := batch.MaxPayload / out.Size()
	var took []float64
	before := threadCPU()
	for end := time.Now().Add(d); ctx.Err() == nil; {
		start := time.Now()
		if len(took) > 8 && start.After(end) {
			break
		}
		for range flight {
			out.Slot()[proto.HeaderLen]++
			out.Queue(out.Size())
		}
		if err := out.Flush(); err != nil {
			return c, err
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/float64(flight))
		c.Units += uint64(flight)
	}
	c.CPU = threadCPU() - before
	if n := out.Stats().Unsent.Load() + out.Stats().Refused.Load(); n > 0 {
		return c, fmt.Errorf("%d datagrams of %d were not taken", n, c.Units)
	}
	slices.Sort(took)
	c.Nanoseconds = took[len(took)/2]
	return c, nil
}

// receiveFor receives datagrams for a time, as a worker does, and does nothing
// with them.
func receiveFor(ctx context.Context, in *batch.Receiver, d time.Duration) (c CallCost, err error) {
	before := threadCPU()
	for end := time.Now().Add(d); ctx.Err() == nil && time.Now().Before(end); {
		if _, err := in.Recv(); err != nil {
			return c, err
		}
		for _, ok := in.Next(); ok; _, ok = in.Next() {
			c.Units++
		}
	}
	return c.mean(before), nil
}

// captureFor takes frames from the ring for a time, and does nothing with them.
func captureFor(ctx context.Context, r *ring.Ring, d time.Duration) (c CallCost, err error) {
	before := threadCPU()
	for end := time.Now().Add(d); ctx.Err() == nil && time.Now().Before(end); {
		b, err := r.Take(20 * time.Millisecond)
		if err != nil {
			return c, err
		}
		if b == nil {
			continue
		}
		for _, ok := b.Next(); ok; _, ok = b.Next() {
			c.Units++
		}
		b.Release()
	}
	return c.mean(before), nil
}

func (c CallCost) mean(before time.Duration) CallCost {
	c.CPU = threadCPU() - before
	if c.Units > 0 {
		c.Nanoseconds = float64(c.CPU) / float64(c.Units)
	}
	return c
}
