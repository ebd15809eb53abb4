// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Chosen.
const (
	levelMost = 20 * time.Second      // a remote brings its account up to date five times a second
	levelLook = 20 * time.Millisecond // between looks at it
	stopMost  = 5 * time.Second
	// CrowdRetire is how long a block waits for more frames: each remote gets a batch in
	// some 5 ms, and blocks are to be as full as they are where frames are many.
	CrowdRetire = 50 * time.Millisecond
	idleMost    = 10 * time.Second
	idleLook    = 4 * time.Millisecond // a remote is idle that takes a tenth of so much at the most
)

// A Crowd is remotes, each on a rig of its own, that are told different things, and one
// source for all of them. It belongs to one goroutine.
//
// A round is in two halves. First all remotes are stopped, and the source writes to each of them the
// same frames, a batch here and a batch there, which wait in the rings. Then one
// after the other goes on and sends what it has. So nobody disturbs anybody, all see
// the same of what disturbs the machine, and nobody is woken more than once a
// round: what a frame takes is that of a remote which is busy.
type Crowd struct {
	rigs   []*Rig
	source *Child
}

// A Turn is what one remote had to do in a round, and took.
type Turn struct {
	Offered Offered       // CPU in it is the source's, in whose time the kernel captures
	Remote  time.Duration // CPU of the remote, and of ksoftirqd meanwhile
}

// NewCrowd starts the source, pinned to cpu unless that is negative. Rigs have no source
// of their own, and get their remotes afterwards. Close comes before that of the rigs.
func NewCrowd(ctx context.Context, rigs []*Rig, t Traffic, cpu int) (_ *Crowd, err error) {
	cfg := CrowdConfig{Device: CaptureDevice, Traffic: t, CPU: cpu}
	for _, r := range rigs {
		cfg.NetNS = append(cfg.NetNS, r.capture.path())
	}
	c := &Crowd{rigs: rigs}
	if c.source, err = StartHere(RoleCrowd); err != nil {
		return nil, err
	}
	if err = ask(ctx, c.source, "open", cfg, time.Minute, nil); err == nil {
		for _, r := range rigs {
			err = errors.Join(err, r.capture.Up(CaptureDevice))
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the source.
func (c *Crowd) Close() { c.source.Kill() }

// Traffic has the source send other frames from now on.
func (c *Crowd) Traffic(ctx context.Context, t Traffic) error {
	return ask(ctx, c.source, "traffic", t, time.Minute, nil)
}

// Round has each remote get so many batches of 64 frames, for which their rings
// must have room, and send them, in an order that is another with each seed. It returns
// what that took, by rig, and in which order they went on. An account that does not add up at the end is an error.
func (c *Crowd) Round(ctx context.Context, batches int, seed uint64) (turns []Turn, order []int, err error) {
	// Whatever happens, all go on.
	defer func() {
		for _, r := range c.rigs {
			unix.Kill(r.remote.PID(), unix.SIGCONT)
		}
	}()
	for _, r := range c.rigs {
		if err := stop(r.remote.PID()); err != nil {
			return nil, nil, err
		}
	}
	var offered []Offered
	if err := ask(ctx, c.source, "run", crowdOffer{batches, seed}, time.Minute, &offered); err != nil {
		return nil, nil, err
	}
	turns = make([]Turn, len(c.rigs))
	for i, o := range offered {
		turns[i].Offered = o
		c.rigs[i].offered += o.Frames
	}
	time.Sleep(CrowdRetire + CrowdRetire/5) // until the last blocks are handed over
	order = rand.New(rand.NewPCG(seed, 2)).Perm(len(c.rigs))
	for _, i := range order {
		if turns[i].Remote, err = c.rigs[i].drain(ctx); err != nil {
			return nil, nil, err
		}
	}
	for _, r := range c.rigs {
		unix.Kill(r.remote.PID(), unix.SIGCONT)
	}
	for i, r := range c.rigs {
		if turns[i].Offered.Failed > 0 {
			return nil, nil, fmt.Errorf("the source's device did not take %d frames", turns[i].Offered.Failed)
		}
		if _, err := r.Level(ctx); err != nil {
			return nil, nil, err
		}
	}
	return turns, order, nil
}

// drain lets a stopped remote send what its ring has, stops it again, and returns what CPU
// it took.
func (r *Rig) drain(ctx context.Context) (time.Duration, error) {
	before, err := r.taken()
	if err != nil {
		return 0, err
	}
	if err := unix.Kill(r.remote.PID(), unix.SIGCONT); err != nil {
		return 0, fmt.Errorf("%s: %w", RoleRemote, os.NewSyscallError("kill", err))
	}
	if err := r.idle(ctx, before); err != nil {
		return 0, err
	}
	if err := stop(r.remote.PID()); err != nil {
		return 0, err
	}
	after, err := r.taken()
	return after - before, err
}

// taken returns the CPU that the remote has taken so far, and ksoftirqd.
func (r *Rig) taken() (time.Duration, error) {
	pt, err := ReadProcessTime(r.remote.PID())
	if err != nil {
		return 0, fmt.Errorf("%s ended: %w%s", RoleRemote, err, r.remote.said.after())
	}
	for _, tid := range r.ksoftirqd {
		if k, err := ReadProcessTime(tid); err == nil {
			pt.CPU += k.CPU
		}
	}
	return pt.CPU, nil
}

// idle waits until the remote has nothing to do. It had taken so much when it went on:
// one that has not begun yet, since it gets no CPU, looks as if it were idle.
func (r *Rig) idle(ctx context.Context, before time.Duration) error {
	began := false
	for end := time.Now().Add(idleMost); ctx.Err() == nil; {
		time.Sleep(idleLook)
		now, err := r.taken()
		if err != nil || began && now-before <= idleLook/10 {
			return err
		}
		began = began || now > before
		if time.Now().After(end) {
			return fmt.Errorf("%s is still busy %v after it went on", RoleRemote, idleMost)
		}
		before = now
	}
	return ctx.Err()
}

// Level waits until the remote's account knows of all that was sent on the rig so far, and
// returns it. One that does not add up by then is an error.
func (r *Rig) Level(ctx context.Context) (a SideAccount, err error) {
	for end := time.Now().Add(levelMost); ; time.Sleep(levelLook) {
		if a, err = r.account(ctx, r.remote); err != nil {
			return a, err
		}
		err = a.check(r.offered, r.told.Further, r.told.Share)
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return a, err
		}
	}
}

// stop stops a process, and waits until it is.
func stop(pid int) error {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("process %d: %w", pid, os.NewSyscallError("kill", err))
	}
	for end := time.Now().Add(stopMost); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return err
		}
		// The name, in brackets, may hold anything; then comes the state: proc_pid_stat(5).
		if rest := b[bytes.LastIndexByte(b, ')')+1:]; len(rest) > 1 && rest[1] == 'T' {
			return nil
		}
	}
	return fmt.Errorf("process %d did not stop in %v", pid, stopMost)
}
