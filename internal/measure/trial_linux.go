// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"time"
)

// A Use is the CPU that a process, or all of them, took.
type Use struct {
	NS   float64       `json:"ns"`            // CPU time: cycles at the clock's rate where they are counted, else Time
	Time time.Duration `json:"time"`          // user and system, as the kernel's clock has it; time that a hypervisor took is in it
	Work Work          `json:"work,omitzero"` // as the processor counted; all 0 if that is not known
	RSS  uint64        `json:"rss,omitempty"` // bytes, at the end
}

// A Trial is what came of one run of the source.
type Trial struct {
	Offered   Offered        `json:"offered"`
	Arrived   uint64         `json:"arrived"` // frames that came out; those that GSO frames stand for, where they are cut
	Through   uint64         `json:"through"` // of them when the source ended
	Counted   bool           `json:"counted"` // Arrived is known
	Parties   map[string]Use `json:"parties"` // by role
	Ours      float64        `json:"ours"`    // ns of CPU of all parties, and of ksoftirqd
	Machine   Use            `json:"machine"` // of everything that ran meanwhile
	Steal     time.Duration  `json:"steal,omitempty"`
	Remote    SideAccount    `json:"remote,omitzero"`    // what was added in the trial
	Collector SideAccount    `json:"collector,omitzero"` // what was added in the trial
}

// Lost returns how many frames of those offered did not come out, if all of
// them are cut into pieces of each.
func (t *Trial) Lost(pieces uint64) int64 { return int64(t.Offered.Frames*pieces) - int64(t.Arrived) }

// Attempt is a trial at a rate of frames that come out as so many pieces each.
func (r *Rig) Attempt(ctx context.Context, rate float64, d time.Duration, pieces uint64) (a Attempt, t Trial, err error) {
	if t, err = r.Trial(ctx, Offer{Rate: rate, For: d}); err != nil {
		return a, t, err
	}
	a = Attempt{Asked: rate, Offered: t.Offered.Rate(), Lossless: t.Offered.Failed == 0 && t.Lost(pieces) == 0 && t.Collector.Undelivered == 0}
	a.Arrived = float64(t.Arrived) / float64(pieces) / t.Offered.Took.Seconds()
	a.Through = float64(t.Through) / float64(pieces) / t.Offered.Took.Seconds()
	a.Behind = max(0, 1-a.Through/a.Offered) * t.Offered.Took.Seconds()
	a.Carried = a.Lossless && a.Behind <= backlogMost
	return a, t, nil
}

// Trial has the source run once, waits until what it sent has come out, and
// says what that took.
func (r *Rig) Trial(ctx context.Context, o Offer) (t Trial, err error) {
	before, err := r.look(ctx)
	if err != nil {
		return t, err
	}
	sub, cancel := within(ctx, o.For)
	defer cancel()
	if err := r.source.Ask(sub, "run", o, &t.Offered); err != nil {
		return t, err
	}
	r.offered += t.Offered.Frames
	if r.arrived != nil {
		n, err := r.arrived()
		if err != nil {
			return t, err
		}
		t.Through = n - before.arrived
	}
	if err := r.settle(ctx, before.arrived, t.Offered.Frames*r.pieces); err != nil {
		return t, err
	}
	after, err := r.look(ctx)
	if err != nil {
		return t, err
	}
	t.Arrived, t.Counted = after.arrived-before.arrived, r.arrived != nil
	t.Parties = make(map[string]Use, len(r.parties))
	for i, p := range r.parties {
		u := r.use(after.times[i].CPU-before.times[i].CPU, after.counts[i].Since(before.counts[i]))
		u.RSS = after.times[i].RSS
		t.Parties[p.name] = u
		t.Ours += u.NS
	}
	t.Ours += r.use(after.softirqd-before.softirqd, after.softirq.Since(before.softirq)).NS
	t.Machine = r.use(after.clock.BusySince(before.clock), after.machine.Since(before.machine))
	t.Steal = after.clock.Steal - before.clock.Steal
	t.Remote, t.Collector = after.remote.since(before.remote), after.collector.since(before.collector)
	return t, nil
}

// Balance ends both sides in order and holds their accounts against all that the source
// has sent on the rig: each frame came out, or was counted as one that did not.
func (r *Rig) Balance(ctx context.Context) error {
	remote, collector, err := r.Stop(ctx)
	if err != nil {
		return err
	}
	sent := r.offered
	if r.remote != nil {
		if err := remote.check(sent, r.told.Further, r.told.Share); err != nil {
			return err
		}
		sent = remote.Sealed
	}
	if r.collector == nil {
		return nil
	}
	if got := collector.Unpacked + collector.Lost; got != sent {
		return fmt.Errorf("%d frames were sealed, the collector knows of %d", sent, got)
	}
	if all := collector.Unpacked + collector.Cut; collector.Delivered+collector.Undelivered != all && collector.Delivered+collector.Undelivered != 0 {
		return fmt.Errorf("%d frames came out of datagrams, outputs know of %d", all, collector.Delivered+collector.Undelivered)
	}
	return nil
}

// use makes a Use of what clock and counters say.
func (r *Rig) use(d time.Duration, w Work) Use {
	u := Use{NS: float64(d), Time: d, Work: w}
	if w.Cycles() > 0 && r.Frequency > 0 {
		u.NS = w.Cycles() / r.Frequency
	}
	return u
}

// settle waits until all that was offered has come out, or nothing more comes.
func (r *Rig) settle(ctx context.Context, before, offered uint64) error {
	if r.arrived == nil {
		if r.remote == nil {
			return nil // nothing is on its way
		}
		time.Sleep(quiet)
		return nil
	}
	last, still := uint64(0), 0
	for end := time.Now().Add(max(settleMost, r.quiet)); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(settleLook) {
		n, err := r.arrived()
		if err != nil {
			return err
		}
		if still++; n != last {
			last, still = n, 0
		}
		// What is still in the remote's last block comes within its timer; so
		// more than was offered shows as well. Looks are counted, and not the time: all
		// may have stood still, this process and those that it looks at.
		if quietFor := time.Duration(still) * settleLook; quietFor >= r.quiet || n-before >= offered && quietFor >= quiet/5 {
			return nil
		}
	}
	return ctx.Err()
}

// A glance is everything that is counted, at one time.
type glance struct {
	arrived           uint64
	times             []ProcessTime
	counts            []Reading
	softirq, machine  Reading
	softirqd          time.Duration // of ksoftirqd
	clock             MachineTime
	remote, collector SideAccount
}

func (r *Rig) look(ctx context.Context) (g glance, err error) {
	if r.arrived != nil {
		if g.arrived, err = r.arrived(); err != nil {
			return g, err
		}
	}
	if g.remote, g.collector, err = r.Accounts(ctx); err != nil {
		return g, err
	}
	for _, p := range r.parties {
		pt, err := ReadProcessTime(p.pid)
		if err != nil {
			return g, fmt.Errorf("%s ended: %w", p.name, err)
		}
		g.times = append(g.times, pt)
		g.counts = append(g.counts, p.counter.Read())
	}
	g.softirq, g.machine = r.softirq.Read(), r.machine.Read()
	for _, tid := range r.ksoftirqd {
		if pt, err := ReadProcessTime(tid); err == nil {
			g.softirqd += pt.CPU
		}
	}
	g.clock, err = ReadMachineTime()
	return g, err
}

// since returns what was added since b. What is not a count stays.
func (a SideAccount) since(b SideAccount) SideAccount {
	a.Captured -= b.Captured
	a.KernelDrops -= b.KernelDrops
	a.Shed -= b.Shed
	a.Elsewhere -= b.Elsewhere
	a.Wrapped -= b.Wrapped
	a.Copied -= b.Copied
	a.Sealed -= b.Sealed
	a.SealedBytes -= b.SealedBytes
	a.Sent -= b.Sent
	a.SentBytes -= b.SentBytes
	a.Unsent -= b.Unsent
	a.Received -= b.Received
	a.Dropped -= b.Dropped
	a.SocketDrops -= b.SocketDrops
	a.Unpacked -= b.Unpacked
	a.Cut -= b.Cut
	a.Delivered -= b.Delivered
	a.Undelivered -= b.Undelivered
	a.Lost -= b.Lost
	return a
}
