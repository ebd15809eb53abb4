// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
)

// Names and addresses on the hosts of a Rig.
const (
	CaptureDevice = "cap0"  // on A: what the source writes to
	TAPDevice     = "ntap0" // on B: what the collector writes to
	LinkA         = "up0"   // the link's end on A,
	LinkB         = "up1"   // and on B
	Port          = 5678
)

var (
	AddrA = netip.MustParseAddr("10.99.0.1")
	AddrB = netip.MustParseAddr("10.99.0.2")
	AddrV = netip.MustParseAddr("10.99.1.3") // of a VTEP that B reaches, see VTEP
)

// Chosen.
const (
	quiet      = 250 * time.Millisecond
	settleMost = 5 * time.Second
	settleLook = 10 * time.Millisecond
)

// Counting has hardware counters attached to everything on rigs that are made from
// then on. It is for hosts whose counters are real: in a virtual machine every
// context switch of a thread that is counted writes dozens of registers that the
// hypervisor has to write for it, which took 100 µs where it was found out, twenty times what is
// to be measured.
var Counting bool

// Quiet is how long nothing more comes out until a trial takes the rest for lost.
var Quiet = quiet

// A Rig is two hosts, a link between them, a traffic source on A, and what is
// to be measured. It belongs to one goroutine.
type Rig struct {
	A, B      *Host
	Dir       string  // for files; removed at Close
	KeyFile   string  // a master key
	MTU       int     // of the link
	Frequency float64 // cycles a ns; 0: nobody counts them
	parties   []*party
	children  []*Child
	source    *Child
	flights   bool   // source is of sealed datagrams
	offered   uint64 // frames of all trials
	pieces    uint64 // that come out of a frame of the source
	remote    *Child // nil: none
	told      RemoteConfig
	capture   *Host  // where the source writes, and what it writes is captured: A, or a host apart
	collector *Child // nil: none
	machine   *Counter
	softirq   *Counter
	ksoftirqd []int                  // the kernel's threads
	arrived   func() (uint64, error) // frames that came out so far; nil: nobody counts them
	quiet     time.Duration          // see Quiet
	ends      []func()
}

// A party is a process that takes part.
type party struct {
	name    string
	pid     int
	counter *Counter
}

// NewRig makes the hosts and the link, whose MTU is in bytes.
func NewRig(mtu int) (_ *Rig, err error) {
	r := &Rig{MTU: mtu, Frequency: frequency(), quiet: Quiet, pieces: 1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.Dir, err = os.MkdirTemp("", "ntap-measure-"); err != nil {
		return nil, err
	}
	r.KeyFile = filepath.Join(r.Dir, "master.key")
	key, err := crypto.NewKey()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(r.KeyFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(crypto.WriteMaster(f, key), f.Close()); err != nil {
		return nil, err
	}
	for _, h := range []**Host{&r.A, &r.B} {
		if *h, err = NewHost(); err != nil {
			return nil, err
		}
	}
	r.capture = r.A
	if err := Join(r.A, r.B, LinkA, LinkB, AddrA, AddrB, mtu); err != nil {
		return nil, err
	}
	if Counting {
		r.machine, r.softirq = machineCounter(), softirqCounter()
	}
	r.ksoftirqd = Ksoftirqd()
	return r, nil
}

// What all rigs of a process count together: a CPU has few counters, and those
// that more want than there are count part of the time only. They are good to
// have and need not be there: a virtual machine may have none.
var (
	frequency      = sync.OnceValue(Frequency)
	machineCounter = sync.OnceValue(func() *Counter {
		cpus, err := engine.CPUs()
		if err != nil {
			return nil
		}
		c, _ := CountMachine(cpus)
		return c
	})
	softirqCounter = sync.OnceValue(func() *Counter {
		c, _ := CountThreads(Ksoftirqd()...)
		return c
	})
)

// Close ends everything on the rig.
func (r *Rig) Close() {
	for i := len(r.ends) - 1; i >= 0; i-- {
		r.ends[i]()
	}
	for _, c := range r.children {
		c.Kill()
	}
	for _, p := range r.parties {
		p.counter.Close()
	}
	for _, h := range []*Host{r.A, r.B} {
		if h != nil {
			h.Close()
		}
	}
	if r.Dir != "" {
		os.RemoveAll(r.Dir)
	}
}

// AtClose has f called when the rig is closed, before its processes end.
func (r *Rig) AtClose(f func()) { r.ends = append(r.ends, f) }

// Arrived has the frames that came out counted by f.
func (r *Rig) Arrived(f func() (uint64, error)) { r.arrived = f }

// ArrivedOn has them counted by an interface of B.
func (r *Rig) ArrivedOn(device string) {
	r.arrived = func() (uint64, error) {
		frames, _, err := r.B.Received(device)
		return frames, err
	}
}

// SourceCPU is where sources run: the first CPU, so that it stays the same, or
// any if there is but one.
func SourceCPU() int {
	cpus, err := engine.CPUs()
	if err != nil || len(cpus) < 2 {
		return -1
	}
	return cpus[0]
}

// ShardCPU is where one shard is pinned if nothing is to disturb it: the last CPU, if
// that is not the source's; else "", which is anywhere.
func ShardCPU() string {
	cpus, err := engine.CPUs()
	if err != nil || len(cpus) < 2 {
		return ""
	}
	return fmt.Sprint(cpus[len(cpus)-1])
}

// Measure has the CPU of a process measured under a name.
func (r *Rig) Measure(name string, pid int) {
	var c *Counter
	if Counting {
		c, _ = CountProcess(pid)
	}
	r.parties = append(r.parties, &party{name, pid, c})
}

// start starts a child and asks it to begin.
func (r *Rig) start(ctx context.Context, h *Host, role, begin string, with any, env ...string) (*Child, error) {
	c, err := h.Start(role, env...)
	if err != nil {
		return nil, err
	}
	r.children = append(r.children, c)
	ctx, cancel := within(ctx, 0)
	defer cancel()
	if err := c.Ask(ctx, begin, with, nil); err != nil {
		return nil, err
	}
	r.Measure(role, c.PID())
	return c, nil
}

// Source starts the traffic source, pinned to cpu unless that is negative.
func (r *Rig) Source(ctx context.Context, t Traffic, cpu int) (err error) {
	if r.source, err = r.start(ctx, r.capture, RoleSource, "open", SourceConfig{CaptureDevice, t, cpu}); err != nil {
		return err
	}
	r.pieces = Pieces(t.Frame)
	return r.capture.Up(CaptureDevice)
}

// Traffic has the source send other frames from now on.
func (r *Rig) Traffic(ctx context.Context, t Traffic) error {
	ctx, cancel := within(ctx, 0)
	defer cancel()
	r.pieces = Pieces(t.Frame)
	return r.source.Ask(ctx, "traffic", t, nil)
}

// Flights starts a source of sealed datagrams instead, of so many taps, sealed
// by the suite named or the fastest. A collector has to listen on B, or a sink
// to be there.
func (r *Rig) Flights(ctx context.Context, t Traffic, taps int, suite string, cpu int, env ...string) (err error) {
	r.source, err = r.start(ctx, r.A, RoleFlights, "open", FlightsConfig{
		To: netip.AddrPortFrom(AddrB, Port).String(), KeyFile: r.KeyFile, Taps: taps, Suite: suite, Traffic: t, CPU: cpu,
	}, env...)
	r.flights, r.pieces = err == nil, Pieces(t.Frame)
	return err
}

// Remote starts a remote on A that captures what the source writes, and sends
// it to B. What cfg leaves out of interfaces, collectors, key and tap is filled in.
func (r *Rig) Remote(ctx context.Context, cfg RemoteConfig, env ...string) (err error) {
	cfg.KeyFile, cfg.Tap = r.KeyFile, 1
	if len(cfg.Interfaces) == 0 {
		cfg.Interfaces = []string{CaptureDevice}
	}
	if r.capture != r.A {
		cfg.NetNS = r.capture.path()
	}
	for i := range 1 + cfg.Further {
		cfg.Collectors = append(cfg.Collectors, netip.AddrPortFrom(AddrB, Port+uint16(i)).String())
	}
	r.told = cfg
	r.remote, err = r.start(ctx, r.A, RoleRemote, "start", cfg, env...)
	return err
}

// Apart has the source on a host of its own, which a remote captures in from A. It
// comes before the source.
func (r *Rig) Apart() error {
	h, err := NewHost()
	if err != nil {
		return err
	}
	r.capture = h
	r.AtClose(h.Close)
	return nil
}

// Collector starts a collector on B, with a TAP unless cfg says otherwise.
func (r *Rig) Collector(ctx context.Context, cfg CollectorConfig, env ...string) (err error) {
	cfg.Listen, cfg.KeyFile = fmt.Sprintf(":%d", Port), r.KeyFile
	if len(cfg.VXLAN) == 0 && cfg.Write+cfg.Serve+cfg.TAP == "" && !cfg.Receive {
		cfg.TAP = TAPDevice
	}
	if r.collector, err = r.start(ctx, r.B, RoleCollector, "start", cfg, env...); err != nil {
		return err
	}
	r.arrived = func() (uint64, error) {
		a, err := r.account(ctx, r.collector)
		return a.Unpacked + a.Cut, err
	}
	if cfg.TAP == TAPDevice && !cfg.Nowhere {
		r.ArrivedOn(TAPDevice)
	}
	return nil
}

func (r *Rig) account(ctx context.Context, c *Child) (a SideAccount, err error) {
	if c == nil {
		return a, nil
	}
	ctx, cancel := within(ctx, 0)
	defer cancel()
	err = c.Ask(ctx, "account", nil, &a)
	return a, err
}

// Accounts returns the accounts of both sides so far.
func (r *Rig) Accounts(ctx context.Context) (remote, collector SideAccount, err error) {
	remote, err1 := r.account(ctx, r.remote)
	collector, err2 := r.account(ctx, r.collector)
	return remote, collector, errors.Join(err1, err2)
}

// Memory returns what Go's runtime says of both sides.
func (r *Rig) Memory(ctx context.Context) (remote, collector Memory, err error) {
	ctx, cancel := within(ctx, 0)
	defer cancel()
	err1 := r.remote.Ask(ctx, "memory", nil, &remote)
	return remote, collector, errors.Join(err1, r.collector.Ask(ctx, "memory", nil, &collector))
}

// VTEP joins a third host to B, at AddrV, which drops what it receives; the
// path there has room for VXLAN around full frames. Close ends it.
func (r *Rig) VTEP() error {
	v, err := NewHost()
	if err != nil {
		return err
	}
	r.AtClose(v.Close)
	if err := Join(r.B, v, "vt0", "vt1", netip.MustParseAddr("10.99.1.2"), AddrV, 10000); err != nil {
		return err
	}
	_, err = v.DropAll("vt1")
	return err
}

// Stop ends both sides in order, or the taps that a source plays, and returns their accounts, which add up, or
// an error.
func (r *Rig) Stop(ctx context.Context) (remote, collector SideAccount, err error) {
	ctx, cancel := within(ctx, 0)
	defer cancel()
	if r.flights {
		if err := r.source.Ask(ctx, "close", nil, nil); err != nil {
			return remote, collector, err
		}
	}
	for _, one := range []struct {
		child *Child
		a     *SideAccount
	}{{r.remote, &remote}, {r.collector, &collector}} {
		if one.child == nil {
			continue
		}
		if err := one.child.Ask(ctx, "stop", nil, one.a); err != nil {
			return remote, collector, err
		}
		if one.a.Error != "" {
			return remote, collector, errors.New(one.a.Error)
		}
	}
	return remote, collector, nil
}
