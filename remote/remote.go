// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// Version of the software, as announces carry it. The linker may set it.
var Version = "0.1.0"

// Defaults, see Config.
const (
	defaultRing = ring.DefaultBlocks * ring.DefaultBlockSize
	defaultSend = 4 << 20

	// maxShards is what the wire can number.
	maxShards = 1 << 16
)

// A tap is what the shards of one run share. Nothing in it changes while they
// run, except as said.
type tap struct {
	cfg          Config
	id           uint32
	suite        uint8
	destinations []*destination
	shares       []uint8 // by the high bits of a flow's hash: which of them has it; nil: each gets all
	all          []*shard
	closers      []func()
	relocated    chan struct{} // a collector has another address
	started      time.Time
	host         string
	captures     []*capture

	containers *containers
	where      atomic.Pointer[namespace] // that is captured in; nil: the own, or it is not there now
	moves      atomic.Uint64             // times that where changed

	mu         sync.Mutex        // for what follows
	interfaces []proto.Interface // of the announce: sets add to them, and a file, which has one shard
	listed     int               // bytes that they take there, at the most
	known      atomic.Uint32     // how often they changed,
	introduced atomic.Uint32     // and how many of these changes were announced

	pace    *paceShare // nil: no rate, or one sender has it all
	breaker *breaker   // nil: none
	filter  atomic.Pointer[choice]
	shards  int
	log     zerolog.Logger
}

// Run captures and sends until ctx is done, or until the capture file ends.
// It ends in order: what was captured is sent, the collector is told, and the
// account adds up. The account is returned with any error, unless the remote
// could not start.
func Run(ctx context.Context, cfg Config) (*Account, error) {
	crypto.Burn()
	defer crypto.Burn()
	t, err := newTap(cfg)
	if err != nil {
		return nil, err
	}
	shards, closeAll, err := t.open()
	defer closeAll()
	if err != nil {
		return nil, err
	}
	account := t.account(shards)
	if err := t.hello(shards, account); err != nil {
		return nil, err
	}
	if cfg.Started != nil {
		cfg.Started(account)
	}
	stopStats := t.printStats(account)
	var watchers sync.WaitGroup
	watched, unwatch := context.WithCancel(ctx)
	watchers.Go(func() {
		if len(t.destinations) == 0 {
			return
		}
		var all []*keyring
		for _, d := range t.destinations {
			all = append(all, d.keyring)
		}
		watchKeys(watched, all, cfg.Reload)
	})
	watchers.Go(func() { t.watchFilters(watched, cfg.Filters) })
	ctx, end := context.WithCancel(ctx)
	defer end()
	if t.elsewhere() {
		watchers.Go(func() { t.follow(watched, end) })
	}
	if t.breaker != nil {
		watchers.Go(func() { t.breaker.watch(watched) })
	}
	for _, c := range t.captures {
		if c.set != nil {
			watchers.Go(func() { c.set.watch(watched) })
		}
	}
	err = engine.Run(ctx, engine.Place(len(shards), cfg.CPUs), func(ctx context.Context, i int) error {
		crypto.Burn()
		defer crypto.Burn()
		s := shards[i]
		end, err := s.enter()
		if err != nil {
			return err
		}
		defer end()
		if s.source != nil {
			return s.replay(ctx)
		}
		return s.run(ctx)
	})
	unwatch()
	watchers.Wait()
	stopStats()
	err = errors.Join(err, t.goodbye(shards))
	t.log.Info().Msg("remote stopped")
	if cfg.Out != nil {
		account.Print(cfg.Out)
	}
	return account, errors.Join(err, account.Check())
}

// hello tells each collector, if there is one, who speaks, and the log.
func (t *tap) hello(shards []*shard, account *Account) error {
	if v := t.cfg.VXLAN; v != nil {
		fan := shards[0].tunnel.fan
		first, n := fan.Ports()
		t.footing()
		t.log.Info().Uint32("tap", t.id).Str("name", t.cfg.Name).Int("shards", len(shards)).Stringer("vtep", account.Collector).
			Uint32("vni", v.VNI).Uint16("source_port", first).Int("source_ports", n).Int("mtu", fan.MTU()).Bool("segmented", fan.Segmented()).
			Msg("remote started, without a collector")
		return nil
	}
	// Who speaks comes before what it says, where the network keeps the order;
	// and so does the time at which each shard says it: a collector that does
	// not know the tap joins by that, and a capture file's data is of the past.
	for i := 0; i < farewell && t.destinations[0].keyring.telling(time.Now()) != nil; i++ {
		for _, l := range shards[0].all {
			if err := shards[0].tolerate(l, l.tell()); err != nil {
				return err
			}
		}
		time.Sleep(pause) // until the collector has done its part: that takes it less than a millisecond
	}
	if err := shards[0].announce(false); err != nil {
		return err
	}
	for _, s := range shards {
		if err := s.report(time.Now(), false); err != nil {
			return err
		}
	}
	t.paced(shards[0].out)
	t.footing()
	for i := len(shards[0].all) - 1; i >= 0; i-- {
		l, text := shards[0].all[i], "remote started"
		if i > 0 {
			text = "another collector"
		}
		if err := l.out.Astray(); err != nil {
			l.troubled, l.said = true, time.Now()
			t.log.Warn().Err(err).Str("collector", l.to.name).Msg("it cannot be reached now: what is for it is counted as not taken, and its name is looked up again")
		}
		where := append([]*Account{account}, account.Also...)[i].to()
		t.log.Info().Uint32("tap", t.id).Str("name", t.cfg.Name).Str("session", fmt.Sprintf("%016x", l.to.session)).
			Str("suite", account.Suite).Str("collector", where).Int("shards", len(shards)).
			Int("datagram", l.out.Size()).Bool("segmented", l.out.Segmented()).Msg(text)
	}
	return nil
}

func newTap(cfg Config) (*tap, error) {
	switch {
	case (cfg.Public == nil) != (cfg.Identity == nil):
		return nil, errors.New("remote: public-key mode takes the collector's public key and an identity: give both, or none")
	case cfg.Public != nil && cfg.Keys != nil:
		return nil, errors.New("remote: a key file and public-key mode exclude each other")
	case cfg.Public != nil && cfg.Suite == crypto.Plaintext:
		return nil, errors.New("remote: plaintext has no keys: leave out the collector's public key, or choose another suite")
	case cfg.VXLAN != nil && cfg.Collector != "":
		return nil, errors.New("remote: a collector and a VTEP exclude each other: with a collector, it sends VXLAN (collector --vxlan)")
	case cfg.VXLAN != nil && (cfg.SendRate != 0 || cfg.Pad || cfg.IO == ioUring || cfg.IO == ioZeroCopy):
		return nil, errors.New("remote: a rate, padding and io_uring are for what goes to a collector, not for VXLAN")
	case cfg.Keys == nil && cfg.Public == nil && cfg.VXLAN == nil:
		return nil, errors.New("remote: no key: give a key file (ntap key tap --id N --key-file MASTER makes one)")
	case len(cfg.Interfaces) == 0 && cfg.File == "" && cfg.NetNS+cfg.Container == "":
		return nil, errors.New("remote: nothing to capture: give an interface (-i) or a capture file (-r)")
	case len(cfg.Interfaces) > 0 && cfg.File != "":
		return nil, errors.New("remote: an interface (-i) and a capture file (-r) exclude each other")
	case cfg.NetNS != "" && cfg.Container != "":
		return nil, errors.New("remote: a network namespace and a container exclude each other: a container means its namespace")
	case cfg.File != "" && cfg.NetNS+cfg.Container != "":
		return nil, errors.New("remote: a capture file (-r) is in no network namespace, nor in a container: leave out --netns and --container")
	case cfg.Hardware && (cfg.File != "" || slices.ContainsFunc(cfg.Interfaces, isPattern) || len(cfg.Interfaces) == 0):
		return nil, errors.New("remote: timestamps of the network card are for interfaces that are named: no capture file, no any, no pattern")
	case cfg.SnapLen < 0 || cfg.SnapLen > proto.MaxFrame:
		return nil, fmt.Errorf("remote: snap length %d: 1 to %d bytes, or 0 for whole frames", cfg.SnapLen, proto.MaxFrame)
	case cfg.Workers < 0 || max(cfg.Workers, 1)*max(len(cfg.Interfaces), 1) > maxShards:
		return nil, fmt.Errorf("remote: %d workers on %d interfaces: at most %d shards in all", cfg.Workers, len(cfg.Interfaces), maxShards)
	}
	if err := checkIO(cfg.IO); err != nil {
		return nil, err
	}
	if cfg.NetNS+cfg.Container != "" && len(cfg.Interfaces) == 0 {
		cfg.Interfaces = []string{anyInterface}
	}
	if n := 1 + len(cfg.Others); n > maxCollectors {
		return nil, fmt.Errorf("remote: %d collectors: at most %d", n, maxCollectors)
	} else if n > 1 && cfg.IO == ioUring {
		return nil, fmt.Errorf("remote: --io %s waits for what it sends, and one of several collectors may not hold up the others: use --io %s", ioUring, ioMmsg)
	}
	if err := cfg.Shape.Check(); err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	seen := make(map[string]bool)
	for _, name := range append([]string{cfg.Collector}, cfg.Others...) {
		if seen[name] {
			return nil, fmt.Errorf("remote: collector %s is named twice", name)
		}
		seen[name] = true
	}
	clear(seen)
	for _, name := range cfg.Interfaces {
		if seen[name] {
			return nil, fmt.Errorf("remote: interface %s is named twice: its frames would be sent twice", name)
		}
		seen[name] = true
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	cfg.Name = cmp.Or(cfg.Name, host)
	cfg.Workers = cmp.Or(cfg.Workers, 1)
	cfg.RingBytes = cmp.Or(cfg.RingBytes, defaultRing)
	cfg.BlockSize = cmp.Or(cfg.BlockSize, ring.DefaultBlockSize)
	cfg.Retire = cmp.Or(cfg.Retire, ring.DefaultRetire)
	if cfg.LowLatency {
		cfg.Retire = time.Millisecond // nothing waits in a block
	}
	cfg.SendBuffer = cmp.Or(cfg.SendBuffer, defaultSend)
	var random [2]byte
	rand.Read(random[:]) // never fails, crypto/rand
	now := time.Now()
	t := &tap{
		cfg:     cfg,
		id:      cfg.Tap,
		suite:   uint8(cfg.Suite),
		started: now,
		host:    host,
		log:     cfg.Log,

		containers: hostContainers(),
		relocated:  make(chan struct{}, 1),
	}
	names := append([]string{cfg.Collector}, cfg.Others...)
	if cfg.VXLAN != nil {
		names = nil
	}
	for i, name := range names {
		// No two have the same session, hence none the same keys.
		session := proto.NewSession(now.UnixNano(), binary.BigEndian.Uint16(random[:])+uint16(i))
		t.destinations = append(t.destinations, &destination{name: name, session: session})
	}
	if cfg.Share && len(names) > 1 {
		t.shares = newShares(names)
	}
	return t, nil
}

// account returns the account of the shards, with those towards further
// collectors.
func (t *tap) account(shards []*shard) *Account {
	if t.cfg.VXLAN != nil {
		a := &Account{tap: t, Tap: t.id, Name: t.cfg.Name, Suite: crypto.Plaintext.String(), Collector: shards[0].address()}
		for _, s := range shards {
			a.Shards = append(a.Shards, s.account)
		}
		return a
	}
	var all []*Account
	for i, d := range t.destinations {
		a := &Account{
			tap: t, Tap: t.id, Name: t.cfg.Name, Session: d.session, Suite: t.cfg.Suite.String(),
			Collector: shards[0].all[i].out.Collector(),
		}
		for _, s := range shards {
			a.Shards = append(a.Shards, s.all[i].account)
		}
		all = append(all, a)
	}
	all[0].Also = all[1:]
	return all[0]
}

// announce returns the plaintexts of the next announce to a collector, each at
// most size bytes. Only shard 0 calls it.
func (t *tap) announce(d *destination, bye bool, size int) ([][]byte, error) {
	d.revision++
	t.mu.Lock()
	interfaces := t.interfaces
	t.mu.Unlock()
	a := proto.Announce{
		Tap:        t.id,
		Name:       t.cfg.Name,
		Host:       t.host,
		Software:   "ntap " + Version + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Started:    t.started.UnixNano(),
		Interfaces: interfaces,
		Filter:     t.filter.Load().announced(),
		SnapLen:    uint32(t.cfg.SnapLen),
		Clock:      "kernel software",
		Shards:     t.shards,
		Bye:        bye,
		Now:        time.Now().UnixNano(),
		Pad:        t.cfg.Pad,
	}
	switch {
	case t.cfg.File != "":
		a.Clock = "capture file"
	case t.cfg.Hardware:
		a.Clock = "network card"
		for _, c := range t.captures {
			if c.kernelClock.Load() {
				a.Clock += "; of " + c.cfg.Interface + " kernel software"
			}
		}
	}
	a.Captured, a.Dropped = t.captured(len(interfaces))
	parts, err := a.Split(d.revision, size)
	if err != nil { // a long list is worth more without numbers than none
		a.Captured, a.Dropped = nil, 0
		parts, err = a.Split(d.revision, size)
	}
	return parts, err
}

// goodbye tells the final account of every shard, and then that the tap ends:
// more than once, since nobody can ask again.
func (t *tap) goodbye(shards []*shard) error {
	for i := range farewell {
		if t.cfg.VXLAN != nil {
			break // nobody to tell
		}
		if i > 0 {
			time.Sleep(pause)
		}
		for _, s := range shards {
			if err := errors.Join(s.count(), s.report(time.Now(), true)); err != nil {
				return err
			}
		}
		if err := shards[0].announce(true); err != nil {
			return err
		}
	}
	for _, s := range shards {
		if err := s.count(); err != nil {
			return err
		}
	}
	return nil
}

// printStats prints the account every second until the returned function is
// called.
func (t *tap) printStats(a *Account) (stop func()) {
	if !t.cfg.Stats || t.cfg.Out == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case now := <-tick.C:
				n := a.Total()
				if v := a.Tunnel(); v != nil {
					fmt.Fprintf(t.cfg.Out, "%s %d captured %d kernel drops %d sent %d too long %d refused\n",
						now.Format(time.TimeOnly), n.Captured, n.KernelDrops, v.Sent.Load(), v.TooLong.Load(), v.Refused.Load())
					continue
				}
				fmt.Fprintf(t.cfg.Out, "%s %d captured %d kernel drops %d sealed %d datagrams %d sent %d unsent %d refused\n",
					now.Format(time.TimeOnly), n.Captured, n.KernelDrops, n.Sealed, n.Datagrams, n.Sent, n.Unsent, n.Refused)
			}
		}
	}()
	return func() { close(quit); <-done }
}
