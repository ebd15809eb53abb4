// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"net/netip"
	"strings"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// close closes all that was opened, the latest first.
func (t *tap) close() {
	for i := len(t.closers) - 1; i >= 0; i-- {
		t.closers[i]()
	}
	t.closers = nil
}

// openKeys decides on the first key towards each collector.
func (t *tap) openKeys() (err error) {
	for _, d := range t.destinations {
		if d.keyring, err = newKeyring(&t.cfg, proto.Header{Suite: t.suite, Tap: t.id, Session: d.session}); err != nil {
			return err
		}
		t.closers = append(t.closers, d.keyring.wipe)
	}
	return nil
}

// openShard makes the next shard, with a lane to each collector, of so many lanes
// in all.
func (t *tap) openShard(name string, member, senders int) (*shard, error) {
	s := &shard{member: member, rec: proto.Record{LinkType: proto.LinkTypeEthernet}}
	counts := &CaptureAccount{Interface: name}
	if t.cfg.VXLAN != nil {
		return s, t.openTunnel(s, counts)
	}
	for i, d := range t.destinations {
		l := &s.lane
		if i > 0 {
			l = &lane{}
			s.more = append(s.more, l)
		}
		l.tap, l.to, l.number, l.account = t, d, uint16(len(t.all)), &ShardAccount{CaptureAccount: counts}
		s.all = append(s.all, l)
		if err := l.rekey(time.Now()); err != nil {
			return nil, err
		}
		t.closers = append(t.closers, func() { l.seal.wipe() })
		if err := t.near(len(t.all), func() (err error) {
			l.out, err = batch.NewSender(batch.SenderConfig{
				To: d.name, MTU: t.cfg.MTU, Mark: t.cfg.Mark, SendBuffer: t.cfg.SendBuffer, Shy: len(t.destinations) > 1, Later: t.cfg.File == "", Resolve: t.cfg.Resolve,
				Pace: t.cfg.SendRate / 8 / uint64(senders),
			})
			return err
		}); err != nil {
			return nil, err
		}
		t.closers = append(t.closers, func() { l.out.Close() })
		l.pace = laneShare{share: t.pace, at: len(t.all)*len(t.destinations) + i}
		l.locate()
	}
	s.begin()
	t.all = append(t.all, s)
	return s, nil
}

// near runs do, which maps memory of a shard, near the CPU of that shard.
func (t *tap) near(number int, do func() error) error {
	return near(engine.Of(t.cfg.CPUs, number), do)
}

// near is engine.Near; tests watch it.
var near = engine.Near

// openTunnel gives a shard a tunnel in place of lanes. All shards have the same
// source ports.
func (t *tap) openTunnel(s *shard, counts *CaptureAccount) (err error) {
	var first uint16
	if len(t.all) > 0 {
		first, _ = t.all[0].tunnel.fan.Ports()
	}
	if s.tunnel, err = t.newTunnel(first); err != nil {
		return err
	}
	t.closers = append(t.closers, s.tunnel.close)
	s.lane.tap, s.lane.number = t, uint16(len(t.all))
	s.account = &ShardAccount{CaptureAccount: counts, Tunnel: s.tunnel.account}
	t.all = append(t.all, s)
	return nil
}

// address returns where the shard's datagrams go, to the first collector or the VTEP.
func (s *shard) address() netip.AddrPort {
	if s.tunnel != nil {
		return s.tunnel.fan.To()
	}
	return s.out.Collector()
}

// open opens everything that the shards need, on the calling goroutine: in its
// network namespace. closeAll is never nil.
func (t *tap) open() (shards []*shard, closeAll func(), err error) {
	closeAll = t.close
	if err := t.openKeys(); err != nil {
		return nil, closeAll, err
	}
	if t.elsewhere() {
		where, err := t.findNamespace()
		if err != nil {
			return nil, closeAll, err
		}
		t.where.Store(where)
		t.log.Info().Str("namespace", t.cfg.NetNS+t.cfg.Container).Str("path", where.path).Msg("capturing in another network namespace")
	}
	_, patterns := sources(t.cfg.Interfaces)
	names := Captures(t.cfg.Interfaces)
	senders := len(t.destinations) // lanes of all shards
	if t.cfg.File == "" {
		senders *= len(names) * t.cfg.Workers
	}
	t.pace = newPaceShare(t.cfg.SendRate/8, senders)
	if t.cfg.File != "" {
		f, err := openFile(t.cfg.File)
		if err != nil {
			return nil, closeAll, err
		}
		t.closers = append(t.closers, func() { f.Close() })
		s, err := t.openShard(t.cfg.File, 0, senders)
		if err != nil {
			return nil, closeAll, err
		}
		s.source = f
		t.interfaces = f.Interfaces()
	}
	for i, name := range names {
		var own []*shard
		for member := range t.cfg.Workers {
			s, err := t.openShard(name, member, senders)
			if err != nil {
				return nil, closeAll, err
			}
			own = append(own, s)
		}
		var c *capture
		if i == 0 && len(patterns) > 0 {
			c, err = t.captureSet(patterns, own)
		} else {
			c, err = t.capture(name, own)
		}
		if err != nil {
			return nil, closeAll, err
		}
		t.captures = append(t.captures, c)
		for _, s := range own {
			s.capture = c
		}
	}
	chosen, err := t.choose(t.cfg.Filter)
	if err != nil {
		return nil, closeAll, err
	}
	t.filter.Store(chosen)
	for _, c := range t.captures {
		if c.set != nil {
			if err := c.set.use(chosen.parts[c]); err != nil {
				return nil, closeAll, err
			}
		}
		if err := c.open(chosen.programs[c]); err != nil {
			return nil, closeAll, err
		}
		t.closers = append(t.closers, c.close)
	}
	shards = t.all
	for _, s := range shards {
		s.filter = chosen
		if s.source != nil {
			if err := s.meet(t.interfaces); err != nil {
				return nil, closeAll, err
			}
			continue
		}
		s.ring = s.capture.rings[s.member]
		if s.capture.set == nil {
			s.rec.Interface, s.tally.at = s.capture.at, s.capture.at
			s.rec.LinkType = proto.LinkType(s.ring.Interface().LinkType)
		}
	}
	if err := t.shape(shards); err != nil {
		return nil, closeAll, err
	}
	t.shards = len(shards)
	t.introduced.Store(t.known.Load()) // with the first announce
	return shards, closeAll, nil
}

// capture looks at one interface.
func (t *tap) capture(name string, own []*shard) (*capture, error) {
	c := t.ringsOf(name, own)
	return c, t.inside(func() error {
		iface, err := ring.LookUp(name)
		c.link, c.netmask = iface.LinkType, ring.Netmask(name)
		return err
	})
}

// captureSet looks at all interfaces that match patterns, but for those that
// are captured by name.
func (t *tap) captureSet(patterns []string, own []*shard) (*capture, error) {
	set, err := newSet(t, patterns)
	if err != nil {
		return nil, err
	}
	c := t.ringsOf(set.name(), own)
	c.set, c.cfg.All = set, true
	for _, s := range own {
		s.account.Interface = set.name()
		s.account.Interfaces = make([]InterfaceCount, maxInterfaces)
		s.places = &placer{set: set, table: set.table.Load()}
	}
	return c, nil
}

// ringsOf returns a capture for shards, as the configuration has it.
func (t *tap) ringsOf(name string, own []*shard) *capture {
	return &capture{
		tap:   t,
		count: t.cfg.Workers,
		cfg: ring.Config{
			Interface:   name,
			Blocks:      t.ringBlocks(),
			BlockSize:   t.cfg.BlockSize,
			Retire:      t.cfg.Retire,
			SnapLen:     t.cfg.SnapLen,
			Fanout:      t.cfg.Fanout,
			Promiscuous: t.cfg.Promiscuous,
			Hardware:    t.cfg.Hardware,
			Immediate:   t.cfg.LowLatency,
			Spin:        t.cfg.LowLatency,
			Near:        func(member int, open func() error) error { return t.near(int(own[member].number), open) },
		},
	}
}

// ringBlocks returns how many blocks each ring has.
func (t *tap) ringBlocks() int { return max(t.cfg.RingBytes/t.cfg.BlockSize, 2) }

// sources says which interfaces are captured by name, and by which patterns
// others are.
func sources(interfaces []string) (named, patterns []string) {
	for _, name := range interfaces {
		if isPattern(name) {
			patterns = append(patterns, name)
		} else {
			named = append(named, name)
		}
	}
	return named, patterns
}

// Captures says what has rings of its own, in the order of the shards: first
// all patterns together, whose shards announce what comes, then each interface
// that is named.
func Captures(interfaces []string) []string {
	named, patterns := sources(interfaces)
	if len(patterns) == 0 {
		return named
	}
	return append([]string{strings.Join(patterns, ",")}, named...)
}

// describe says what the announce says of an interface.
func describe(i ring.Interface) proto.Interface {
	out := proto.Interface{Name: i.Name, LinkType: proto.LinkType(i.LinkType), Speed: i.Speed}
	if i.MAC != nil {
		out.MAC = i.MAC.String()
	}
	return out
}
