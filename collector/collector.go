// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/proto"
)

// Version of the software, as written files carry it. The linker may set it.
var Version = "0.1.0"

// Defaults, see Config.
const (
	defaultReorder = 64
	defaultWait    = 10 * time.Millisecond
	defaultReceive = 64 << 20
)

// Chosen.
const (
	assemblyLen = 2 << 20                // bytes a worker: more than a recvmmsg brings
	watch       = 50 * time.Millisecond  // the monitor looks this often whether all taps ended
	saveEvery   = 5 * time.Second        // the state file
	silence     = 3 * time.Second        // three reports that did not come are an alarm
	settleTime  = 100 * time.Millisecond // with Once, after the last tap ended
)

// shared is what the workers of one collector have in common. Nothing in it is
// locked per frame or datagram.
type shared struct {
	cfg         Config
	reorder     int
	reorderWait time.Duration
	window      time.Duration // for the clocks of taps that are not known; 0: not looked at
	taps        *taps
	state       *state
	agreed      agreements // in public-key mode
	flows       *flows     // nil: all share one socket of each worker
	log         zerolog.Logger
}

// taps finds taps by ID.
type taps struct {
	account *Account // which holds the map and its lock
}

// find returns tap id, or nil.
func (t *taps) find(id uint32) *tap {
	t.account.mu.Lock()
	defer t.account.mu.Unlock()
	return t.account.taps[id]
}

// get returns tap id, and makes it if it is new.
func (t *taps) get(id uint32) *tap {
	t.account.mu.Lock()
	defer t.account.mu.Unlock()
	p := t.account.taps[id]
	if p == nil {
		p = &tap{id: id, sessions: make(map[uint64]*session)}
		t.account.taps[id] = p
	}
	return p
}

// all returns every tap.
func (t *taps) all() []*tap {
	t.account.mu.Lock()
	defer t.account.mu.Unlock()
	out := make([]*tap, 0, len(t.account.taps))
	for _, p := range t.account.taps {
		out = append(out, p)
	}
	return out
}

// Run receives until ctx is done or, with Once, until every tap that was heard
// said bye. It ends in order: what was received is written, and the account
// adds up. The account is returned with any error, unless the collector could
// not start.
func Run(ctx context.Context, cfg Config) (*Account, error) {
	c, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return c.account, c.run(ctx)
}

// A collector is one that listens.
type collector struct {
	*shared
	in      []*batch.Receiver
	outs    *outputs
	workers []*worker
	account *Account
	memory  []*batch.Arena
}

// open opens sockets and outputs.
func open(ctx context.Context, cfg Config) (_ *collector, err error) {
	if cfg.Keys == nil && cfg.Allow == nil {
		return nil, errors.New("collector: no key: give a key file (ntap key new makes one), or a key pair and an allow-list (ntap key pair)")
	}
	if (cfg.Allow == nil) != (cfg.Pairs == nil) {
		return nil, errors.New("collector: public-key mode takes a key pair and an allow-list: give both, or none")
	}
	if cfg.Workers < 0 || cfg.Workers > engine.MaxShards {
		return nil, fmt.Errorf("collector: %d workers: 1 to %d, or 0 for 1", cfg.Workers, engine.MaxShards)
	}
	if cfg.Reorder < 0 || cfg.Reorder > 4096 {
		return nil, fmt.Errorf("collector: reorder window of %d datagrams: 1 to 4096", cfg.Reorder)
	}
	if err := errors.Join(checkIO(cfg.IO), checkMerge(&cfg)); err != nil {
		return nil, err
	}
	cfg.Workers = max(cfg.Workers, 1)
	st, err := openState(cfg.State)
	if err != nil {
		return nil, err
	}
	account := &Account{taps: make(map[uint32]*tap)}
	sh := &shared{
		cfg: cfg, reorder: cmp.Or(cfg.Reorder, defaultReorder), reorderWait: cmp.Or(cfg.ReorderWait, defaultWait),
		window: max(cmp.Or(cfg.ClockWindow, defaultWindow), 0), taps: &taps{account}, state: st, log: cfg.Log,
	}
	c := &collector{shared: sh, account: account}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.in, err = sh.listen(); err != nil {
		return nil, err
	}
	if c.outs, err = openOutputs(ctx, sh, account); err != nil {
		return nil, err
	}
	for i := range cfg.Workers {
		var mem *batch.Arena
		if err := sh.near(i, func() (err error) {
			mem, err = batch.NewArena(assemblyLen)
			return err
		}); err != nil {
			return nil, errors.Join(err, c.outs.close())
		}
		c.memory = append(c.memory, mem)
		w := &worker{
			shared: sh, number: i, in: c.in[i], listener: listener{home: c.in[i]}, asm: proto.NewAssembly(mem.Bytes()), streams: make(map[streamKey]*stream),
			outs: c.outs, pool: holdPool{spare: holdBytes}, account: new(WorkerAccount), gate: newGate(time.Now()),
		}
		w.cut.Memory = w.memory.Bytes
		if sh.flows != nil {
			w.strangers = c.in[cfg.Workers+i]
		}
		c.workers = append(c.workers, w)
		account.Workers = append(account.Workers, w.account)
	}
	return c, nil
}

// near runs do, which maps memory of a worker, near the CPU of that worker.
func (sh *shared) near(worker int, do func() error) error {
	return near(engine.Of(sh.cfg.CPUs, worker), do)
}

// near is engine.Near; tests watch it.
var near = engine.Near

// close closes sockets, and erases keys.
func (c *collector) close() {
	for _, r := range c.in {
		r.Close()
	}
	c.agreed.wipe()
	for _, m := range c.memory {
		m.Close()
	}
	for _, w := range c.workers {
		w.memory.Close()
	}
}

// run receives, until ctx is done or all is done. Then everything is closed.
func (c *collector) run(ctx context.Context) error {
	defer c.close()
	sh, cfg := c.shared, &c.cfg
	sh.buffered(c.in[0], cmp.Or(cfg.ReceiveBuffer, defaultReceive))
	sh.log.Info().Stringer("address", c.in[0].Addr()).Int("workers", cfg.Workers).Int("buffer", c.in[0].Buffer()).
		Bool("grouped", c.in[0].Grouped()).Msg("collector started")
	if cfg.Ready != nil {
		cfg.Ready(c.in[0].Addr(), c.account)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var monitor sync.WaitGroup
	monitor.Go(func() { sh.monitor(ctx, stop, c.account, c.outs) })
	monitor.Go(func() { c.outs.run(ctx, stop) })
	err := engine.Run(ctx, engine.Place(cfg.Workers, cfg.CPUs), func(ctx context.Context, i int) error {
		crypto.Burn()
		defer crypto.Burn()
		w := c.workers[i]
		if err := w.takeUp(c.outs.now.Load()); err != nil {
			return errors.Join(err, w.closeSinks())
		}
		end, err := w.byConfig()
		if err != nil {
			return errors.Join(err, w.closeSinks())
		}
		defer end()
		return w.run(ctx)
	})
	stop()
	monitor.Wait()
	err = errors.Join(err, c.outs.fatal)
	if errors.Is(err, errOutputGone) {
		sh.log.Info().Err(err).Msg("the collector ends: the reader of its output is gone")
		err = nil
	} else if errors.Is(err, ErrStop) {
		err = nil
	}
	err = errors.Join(err, c.outs.close(), sh.state.Save())
	sh.log.Info().Msg("collector stopped")
	if cfg.Out != nil {
		c.account.Print(cfg.Out)
	}
	return errors.Join(err, c.account.Check())
}

// listen opens the sockets: for each worker one and, behind those, a second one
// for strangers. Where no datagram proves where it comes from, as in clear, all
// come to the first.
func (sh *shared) listen() ([]*batch.Receiver, error) {
	cfg := batch.ListenConfig{
		Addr: sh.cfg.Listen, Workers: sh.cfg.Workers, Buffer: cmp.Or(sh.cfg.ReceiveBuffer, defaultReceive), Poll: pollWait, Spin: sh.cfg.LowLatency,
		Near: sh.near,
	}
	if cfg.Workers > 1 {
		cfg.Steer = steering(cfg.Workers)
	}
	if sh.cfg.AllowPlaintext {
		return batch.Listen(cfg)
	}
	apart := cfg
	apart.Second = cfg.Buffer
	flows := newFlows(cfg.Workers, &sh.taps.account.flows)
	apart.Steer = flows.program(nil)
	in, err := batch.Listen(apart)
	if err == nil {
		sh.flows, flows.first = flows, in[0]
		return in, nil
	}
	in, err2 := batch.Listen(cfg)
	if err2 == nil {
		sh.log.Warn().Err(err).Msg("a flood of strangers takes room from known flows")
	}
	return in, err2
}

// monitor does what happens by the clock: the state file, alarms for silent
// taps, the account each second, and the end with Once.
func (sh *shared) monitor(ctx context.Context, stop func(), a *Account, outs *outputs) {
	crypto.Burn()
	defer crypto.Burn()
	tick := time.NewTicker(watch)
	defer tick.Stop()
	nextSave, nextStats := time.Now().Add(saveEvery), time.Now().Add(second)
	var ends settling
	var wrong mistakeLog
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
		outs.tick(now)
		wrong.look(now, a.Drops, sh.log)
		all := sh.taps.all()
		done := len(all) > 0
		for _, t := range all {
			sh.attend(t, now)
			done = done && t.done()
		}
		if ends.over(done, time.Now()) && sh.cfg.Once { // now may be long ago
			stop()
			return
		}
		if now.After(nextSave) {
			nextSave = now.Add(saveEvery)
			if err := sh.state.Save(); err != nil {
				sh.log.Error().Err(err).Msg("the newest sessions are not kept: a recording could be replayed after a restart")
			}
		}
		if now.After(nextStats) {
			nextStats = nextStats.Add(second)
			if sh.cfg.Stats && sh.cfg.Out != nil {
				a.printLine(sh.cfg.Out, now)
			}
		}
	}
}

// A settling waits for taps that may still come, once all that were heard ended.
type settling struct{ since time.Time } // when that was seen; zero: it was not

// over says whether all taps have been done for settleTime.
func (s *settling) over(done bool, now time.Time) bool {
	switch {
	case !done:
		s.since = time.Time{}
	case s.since.IsZero():
		s.since = now
	default:
		return now.Sub(s.since) >= settleTime
	}
	return false
}

// attend notes when a tap falls silent, and when it is heard again.
func (sh *shared) attend(t *tap, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[t.newest.Load()]
	if s == nil {
		return
	}
	silent := !s.bye.Load() && now.Sub(time.Unix(0, s.heard.Load())) > silence
	if silent == t.silent {
		return
	}
	t.silent = silent
	if a := s.announce.Load(); a != nil {
		t.name = a.Name
	}
	if silent {
		sh.log.Warn().Uint32("tap", t.id).Str("name", t.name).Time("heard", time.Unix(0, s.heard.Load())).Msg("the tap is silent")
	} else {
		sh.log.Info().Uint32("tap", t.id).Str("name", t.name).Msg("the tap is heard again, or has ended")
	}
}

// steering returns the classic BPF program that picks a worker's first socket
// by tap ID and shard, so that a shard's datagrams always meet the same worker.
// The program sees the UDP payload at offset 0 (reuseport_select_sock,
// net/core/sock_reuseport.c); where that has no header it yields 0.
func steering(workers int) []bpf.RawInstruction {
	raw, err := bpf.Assemble(append(chooseWorker(workers), bpf.RetA{}))
	if err != nil {
		panic("collector: steering: " + err.Error())
	}
	return raw
}

// chooseWorker returns the part of a program that leaves the number of the worker in
// the accumulator.
func chooseWorker(workers int) []bpf.Instruction {
	if workers < 2 {
		return []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: 0}}
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 2, Size: 2}, // shard
		bpf.TAX{},
		bpf.LoadAbsolute{Off: 4, Size: 4}, // tap ID
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: uint32(workers)},
	}
}

// steered returns the worker that a datagram is steered to, as the program of
// steering does. In a train of datagrams all go by the first one's header; one
// that comes to another worker than its own was put behind a forged one, and
// its counter might be one that its own worker has seen.
func steered(tap uint32, shard uint16, workers int) int {
	return int((tap + uint32(shard)) % uint32(workers))
}

func hex64(n uint64) string { return fmt.Sprintf("%016x", n) }
