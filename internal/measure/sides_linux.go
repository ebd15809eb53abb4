// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/remote"
	"github.com/ntap-project/ntap/ring"
)

// The roles of children.
const (
	RoleSource    = "source"
	RoleRemote    = "remote"
	RoleCollector = "collector"
	RoleFlights   = "flights"
	RoleStages    = "stages"
	RoleCrowd     = "crowd"
)

var roles = map[string]func() role{
	RoleSource:    sourceRole,
	RoleRemote:    remoteRole,
	RoleCollector: collectorRole,
	RoleFlights:   flightsRole,
	RoleStages:    stagesRole,
	RoleCrowd:     crowdRole,
}

// A SourceConfig says what source to open.
type SourceConfig struct {
	Device  string  `json:"device"`
	Traffic Traffic `json:"traffic"`
	CPU     int     `json:"cpu"` // it is pinned to; -1: none
}

func sourceRole() role {
	var s *Source
	return role{
		"open": taking(func(_ context.Context, cfg SourceConfig) (_ any, err error) {
			if s, err = OpenSource(cfg.Device, cfg.Traffic); err != nil {
				return nil, err
			}
			return nil, pin(cfg.CPU)
		}),
		"traffic": taking(func(_ context.Context, t Traffic) (any, error) { return nil, s.SetTraffic(t) }),
		"run":     taking(func(ctx context.Context, o Offer) (any, error) { return s.Run(ctx, o) }),
	}
}

// pin pins the calling thread to a CPU, or to none if that is negative.
func pin(cpu int) error {
	if cpu < 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("CPU %d: %w", cpu, os.NewSyscallError("sched_setaffinity", err))
	}
	return nil
}

// A RemoteConfig is what a remote is told beyond the defaults of ntap remote.
type RemoteConfig struct {
	Interfaces []string      `json:"interfaces"`
	NetNS      string        `json:"netns,omitempty"` // that they are in
	Collectors []string      `json:"collectors,omitempty"`
	Share      bool          `json:"share,omitempty"` // they share the flows
	VTEP       string        `json:"vtep,omitempty"`  // --to-vxlan, in place of collectors
	KeyFile    string        `json:"key_file"`
	Tap        uint32        `json:"tap"`
	Suite      string        `json:"suite,omitempty"` // "": the fastest
	Workers    int           `json:"workers,omitempty"`
	CPUs       string        `json:"cpus,omitempty"`
	Fanout     string        `json:"fanout,omitempty"`
	IO         string        `json:"io,omitempty"`
	Retire     time.Duration `json:"retire,omitempty"`
	BlockSize  int           `json:"block,omitempty"`
	RingBytes  int           `json:"ring,omitempty"`
	SnapLen    int           `json:"snaplen,omitempty"`
	MTU        int           `json:"mtu,omitempty"`
	SendRate   uint64        `json:"pace,omitempty"` // bit/s
	NoMark     bool          `json:"no_mark,omitempty"`
	Low        bool          `json:"low,omitempty"` // --low-latency
	Pad        bool          `json:"pad,omitempty"`
	Filter     string        `json:"filter,omitempty"`
	Shape      remote.Shape  `json:"shape,omitzero"`

	// Further is how many collectors there are beyond the first, which a Rig finds ports for.
	Further int `json:"-"`
}

// A SideAccount is the account of either side so far. Frames, unless said.
type SideAccount struct {
	Suite       string `json:"suite,omitempty"`
	Captured    uint64 `json:"captured,omitempty"` // with those that the kernel dropped
	KernelDrops uint64 `json:"kernel_drops,omitempty"`
	Shed        uint64 `json:"shed,omitempty"`      // left out by a Shape, or too long
	Elsewhere   uint64 `json:"elsewhere,omitempty"` // sealed for other collectors, which share flows with the first
	Wrapped     uint64 `json:"wrapped,omitempty"`   // taken for a VTEP, where there is no collector
	Copied      uint64 `json:"copied,omitempty"`    // sealed for further collectors, all together
	Sealed      uint64 `json:"sealed,omitempty"`
	SealedBytes uint64 `json:"sealed_bytes,omitempty"`
	Sent        uint64 `json:"sent,omitempty"`       // datagrams
	SentBytes   uint64 `json:"sent_bytes,omitempty"` // UDP payload
	Unsent      uint64 `json:"unsent,omitempty"`     // datagrams

	Received    uint64 `json:"received,omitempty"`     // datagrams
	Dropped     uint64 `json:"dropped,omitempty"`      // datagrams refused
	SocketDrops uint64 `json:"socket_drops,omitempty"` // trains of datagrams
	Unpacked    uint64 `json:"unpacked,omitempty"`
	Cut         uint64 `json:"cut,omitempty"` // given beyond those, since the wire saw one as several
	Delivered   uint64 `json:"delivered,omitempty"`
	Undelivered uint64 `json:"undelivered,omitempty"` // that outputs had no room for, or refused
	Lost        uint64 `json:"lost,omitempty"`

	Error string `json:"error,omitempty"` // how it ended, if not well
}

// A Memory is what Go's runtime says of a side.
type Memory struct {
	Mallocs uint64 `json:"mallocs"` // objects, ever
	GCs     uint32 `json:"gcs"`
	Heap    uint64 `json:"heap"` // bytes in use
}

func readMemory() Memory {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Memory{m.Mallocs, m.NumGC, m.HeapAlloc}
}

// side is what both sides have in common: Run in the background, with an
// account that others may read.
type side struct {
	stop    context.CancelFunc
	ended   chan error
	account func() SideAccount
	settle  func()
}

func (s *side) methods(start method) role {
	return role{
		"start": start,
		"account": func(context.Context, json.RawMessage) (any, error) {
			if s.account == nil {
				return nil, errors.New("it was not started")
			}
			return s.account(), nil
		},
		"memory": func(context.Context, json.RawMessage) (any, error) { return readMemory(), nil },
		"stop": func(context.Context, json.RawMessage) (any, error) {
			if s.stop == nil {
				return nil, errors.New("it was not started")
			}
			s.stop()
			err := <-s.ended
			s.settle()
			a := s.account()
			if err != nil {
				a.Error = err.Error()
			}
			return a, nil
		},
	}
}

// begin has run do its work in the background, with a context that ends it, and
// waits until it has given its account to the function it is handed.
func (s *side) begin(ctx context.Context, run func(ctx context.Context, started func(account func() SideAccount)) error) (any, error) {
	ctx, s.stop = context.WithCancel(ctx)
	s.ended = make(chan error, 1)
	started := make(chan func() SideAccount, 1)
	go func() {
		s.ended <- run(ctx, func(account func() SideAccount) { started <- account })
	}()
	select {
	case err := <-s.ended:
		return nil, fmt.Errorf("it did not start: %w", err)
	case s.account = <-started:
		return s.account(), nil
	}
}

// keysAndSuite reads a key file and the name of a suite; "" is the fastest.
func keysAndSuite(keyFile, name string) (*crypto.KeyFile, crypto.Suite, error) {
	keys, err := crypto.LoadKeyFile(keyFile)
	if err != nil {
		return nil, 0, err
	}
	suite, _ := crypto.Pick()
	if name != "" {
		suite, err = crypto.ParseSuite(name)
	}
	return keys, suite, err
}

// warnings is a log of what goes wrong, for the end of a child's standard error.
func warnings() zerolog.Logger { return zerolog.New(os.Stderr).Level(zerolog.WarnLevel) }

func remoteRole() role {
	s := &side{}
	return s.methods(taking(func(ctx context.Context, cfg RemoteConfig) (any, error) {
		c, err := cfg.config()
		if err != nil {
			return nil, err
		}
		s.settle = engine.Settle(c.Workers)
		return s.begin(ctx, func(ctx context.Context, started func(func() SideAccount)) error {
			c.Started = func(a *remote.Account) { started(func() SideAccount { return remoteAccount(a) }) }
			_, err := remote.Run(ctx, c)
			return err
		})
	}))
}

// config is what package remote is told.
func (cfg *RemoteConfig) config() (c remote.Config, err error) {
	ask := engine.Ask{Workers: fmt.Sprint(max(cfg.Workers, 1)), CPUs: cfg.CPUs, Interfaces: remote.Captures(cfg.Interfaces), Elsewhere: cfg.NetNS != ""}
	plan, err := engine.Arrange(ask)
	if err != nil {
		return c, err
	}
	c = remote.Config{
		Interfaces: cfg.Interfaces, NetNS: cfg.NetNS, Tap: cfg.Tap, IO: cfg.IO, Share: cfg.Share, SendRate: cfg.SendRate, SnapLen: cfg.SnapLen, MTU: cfg.MTU,
		Workers: plan.Workers, CPUs: plan.CPUs, Retire: cfg.Retire, BlockSize: cfg.BlockSize, RingBytes: cfg.RingBytes, LowLatency: cfg.Low,
		Pad: cfg.Pad, Filter: remote.Filter{Text: cfg.Filter}, Shape: cfg.Shape,
		Promiscuous: true, Mark: 0x3074, // as cmd/ntap/remote.go has them
		Log: warnings(),
	}
	if cfg.NoMark {
		c.Mark = 0
	}
	if cfg.Fanout != "" {
		if c.Fanout, err = ring.ParseFanout(cfg.Fanout); err != nil {
			return c, err
		}
	}
	if cfg.VTEP != "" {
		c.VXLAN = &remote.VXLAN{To: cfg.VTEP, VNI: cfg.Tap}
		return c, nil
	}
	c.Collector, c.Others = cfg.Collectors[0], cfg.Collectors[1:]
	c.Keys, c.Suite, err = keysAndSuite(cfg.KeyFile, cfg.Suite)
	return c, err
}

func remoteAccount(a *remote.Account) SideAccount {
	t := a.Total()
	s := SideAccount{Suite: a.Suite, Captured: t.Captured, KernelDrops: t.KernelDrops, Shed: t.Shed() + t.TooLong, Elsewhere: t.Elsewhere,
		Sealed: t.Sealed, SealedBytes: t.SealedBytes, Sent: t.Sent, SentBytes: t.SentBytes, Unsent: t.Unsent}
	if v := a.Tunnel(); v != nil {
		s.Wrapped = v.Taken.Load()
	}
	for _, other := range a.Also {
		s.Copied += other.Total().Sealed
	}
	return s
}

// check returns an error if a remote's account is not that of so many frames: each
// was left out for a reason, or went to every collector that was to get it. All of
// it has to be behind it.
func (a *SideAccount) check(frames uint64, further int, share bool) error {
	if a.Captured != frames { // those that the kernel dropped are among them
		return fmt.Errorf("the source sent %d frames, the remote knows of %d", frames, a.Captured)
	}
	if out := a.KernelDrops + a.Shed + a.Elsewhere + a.Wrapped + a.Sealed; out != frames {
		return fmt.Errorf("the remote knows of %d frames, but those that it sent and those that it left out make %d: %+v", frames, out, *a)
	}
	copies := a.Sealed * uint64(further)
	if share {
		copies = a.Elsewhere
	}
	if a.Copied != copies {
		return fmt.Errorf("further collectors were sent %d frames, which should be %d: %+v", a.Copied, copies, *a)
	}
	return nil
}

// A CollectorConfig is what a collector is told beyond the defaults of ntap
// collector.
type CollectorConfig struct {
	Listen  string        `json:"listen"`
	KeyFile string        `json:"key_file"`
	Clear   bool          `json:"clear,omitempty"` // takes plaintext
	TAP     string        `json:"tap,omitempty"`
	Nowhere bool          `json:"nowhere,omitempty"` // the TAP gets none of the frames
	VXLAN   []string      `json:"vxlan,omitempty"`
	Workers int           `json:"workers,omitempty"`
	CPUs    string        `json:"cpus,omitempty"`
	IO      string        `json:"io,omitempty"`
	Write   string        `json:"write,omitempty"` // a pcapng file, instead of the TAP
	Serve   string        `json:"serve,omitempty"` // HOST:PORT of PCAP over IP, instead of the TAP
	Low     bool          `json:"low,omitempty"`   // --low-latency
	Merge   time.Duration `json:"merge,omitempty"`
	Receive bool          `json:"receive,omitempty"` // a function of this program gets the frames, instead of the TAP
}

func collectorRole() role {
	s := &side{}
	return s.methods(taking(func(ctx context.Context, cfg CollectorConfig) (any, error) {
		keys, err := crypto.LoadKeyFile(cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		plan, err := engine.Arrange(engine.Ask{Workers: fmt.Sprint(max(cfg.Workers, 1)), CPUs: cfg.CPUs})
		if err != nil {
			return nil, err
		}
		s.settle = engine.Settle(plan.Workers)
		c := collector.Config{
			Listen: cfg.Listen, Keys: keys, AllowPlaintext: cfg.Clear, IO: cfg.IO, Write: cfg.Write, LowLatency: cfg.Low,
			Workers: plan.Workers, CPUs: plan.CPUs, Log: warnings(), Stdout: io.Discard, Merge: cfg.Merge,
		}
		if cfg.TAP != "" {
			tap := collector.TAP{Name: cfg.TAP, Isolate: true}
			if cfg.Nowhere {
				tap.Select.Taps = collector.TapSet{{First: 1<<32 - 1, Last: 1<<32 - 1}} // which no tap has
			}
			c.TAPs = []collector.TAP{tap}
		}
		if cfg.Serve != "" {
			c.Serve = []collector.Serve{{Addr: cfg.Serve}}
		}
		for _, to := range cfg.VXLAN {
			c.VXLAN = append(c.VXLAN, collector.VXLAN{To: to})
		}
		return s.begin(ctx, func(ctx context.Context, started func(func() SideAccount)) error {
			c.Ready = func(_ netip.AddrPort, a *collector.Account) {
				started(func() SideAccount { return collectorAccount(a) })
			}
			if cfg.Receive {
				return receive(ctx, c)
			}
			_, err := collector.Run(ctx, c)
			return err
		})
	}))
}

// receive is a program that counts the frames of each batch.
func receive(ctx context.Context, c collector.Config) error {
	r, err := collector.Listen(ctx, c)
	if err != nil {
		return err
	}
	frames := make([]struct {
		n uint64
		_ [7]uint64 // a cache line for each worker
	}, c.Workers)
	return r.Run(func(b *collector.Batch) error {
		frames[b.Worker].n += uint64(len(b.Frames))
		return nil
	})
}

func collectorAccount(a *collector.Account) SideAccount {
	s := SideAccount{Received: a.Received(), SocketDrops: a.SocketDrops() + a.StrangerDrops()}
	for _, w := range a.Workers {
		for i := range w.Drops {
			s.Dropped += w.Drops[i].Load()
		}
		s.Unpacked += w.Unpacked.Load()
		s.Cut += w.Cut.Load()
	}
	for _, o := range a.Outputs() {
		t := o.Sum()
		s.Delivered += t.Delivered
		s.Undelivered += t.Refused + t.Full + t.NotEthernet + t.TooLong + t.NoVNI
	}
	for _, t := range a.Taps() {
		s.Lost += t.Lost
		s.Sealed += t.Sealed
		s.KernelDrops += t.KernelDrops
	}
	return s
}
