// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// Chosen.
const (
	// maxInterfaces is how many interfaces one session names, those that went
	// among them: a record's index is never used again. maxListed bounds what
	// they take in the announce, bytes. Further ones are captured all the same,
	// under one name.
	maxInterfaces = 1024
	maxListed     = 96 << 10
	// maxMatching is how many interfaces at a time a pattern takes in: they are
	// in the filter. "any" needs no such list.
	maxMatching = 512
	// maxStale is how many interfaces that went are still known by index: their
	// last frames may be in the ring.
	maxStale = 256

	linksPoll  = 100 * time.Millisecond // so often is looked whether to stop
	linksPause = 5 * time.Millisecond   // between lists of all interfaces
)

// others is the name of interfaces beyond maxInterfaces.
const others = "(others)"

// ntapAlias is what a collector writes on its virtual interfaces. They give
// back what was captured: a set leaves them out, or it would go round.
const ntapAlias = "ntap collector"

// any is the pattern of all interfaces.
const anyInterface = "any"

// isPattern says that a name given to -i means several interfaces.
func isPattern(name string) bool { return name == anyInterface || strings.ContainsAny(name, "*?[") }

// A set is several interfaces that share the rings of one capture, also those
// that come, go and are renamed while it runs.
type set struct {
	tap      *tap
	patterns []string
	any      bool

	table  atomic.Pointer[placeTable]
	listed [maxInterfaces]atomic.Bool // by number in the announce's list: it was one of these

	mu      sync.Mutex // not held while frames are taken, but for an interface that nobody knows yet
	links   *ring.Links
	retired []*ring.Links // which watch may still be using
	rings   []*ring.Ring
	filter  *setFilter
	live    map[int]ring.Interface // by index: those captured now
	strange map[string]bool        // of these it was said that they cannot be captured
	stale   []place                // of those that went, the oldest first
	program []bpf.RawInstruction   // in the rings
}

// newSet returns the set of these patterns.
func newSet(t *tap, patterns []string) (*set, error) {
	s := &set{tap: t, patterns: patterns, live: map[int]ring.Interface{}, strange: map[string]bool{}}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("remote: interfaces %q: not a pattern: * stands for any letters, ? for one, [a-f] for one of these", p)
		}
	}
	s.any = slices.Contains(patterns, anyInterface)
	s.table.Store(newPlaceTable(nil))
	return s, nil
}

// name is what messages and the account call the set.
func (s *set) name() string { return strings.Join(s.patterns, ",") }

// wants says that an interface belongs to the set.
func (s *set) wants(i *ring.Interface) bool {
	return (s.any || slices.ContainsFunc(s.patterns, func(p string) bool {
		ok, _ := path.Match(p, i.Name)
		return ok
	})) && !s.left(i)
}

// left says that an interface is left out whatever the patterns say.
func (s *set) left(i *ring.Interface) bool {
	return strings.HasPrefix(i.Alias, ntapAlias) ||
		slices.ContainsFunc(s.tap.captures, func(c *capture) bool { return c.set == nil && c.has(i) })
}

// use makes this the filter, now and for rings to come.
func (s *set) use(f *setFilter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.filter
	s.filter = f
	if s.links == nil {
		return nil // begin does it
	}
	err := s.update()
	if err != nil {
		s.filter = before
		err = errors.Join(err, s.update()) // what came or went meanwhile
	}
	return err
}

// begin looks which interfaces there are in the calling thread's network
// namespace, and returns the filter for them.
func (s *set) begin() ([]bpf.RawInstruction, error) {
	links, err := ring.OpenLinks()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire()
	s.links, s.rings, s.program = links, nil, nil
	s.stale = nil // indexes mean something else in another namespace
	clear(s.live)
	if err := s.update(); err != nil {
		return nil, err
	}
	if len(s.live) == 0 {
		s.tap.log.Warn().Str("interfaces", s.name()).Msg("no such interface yet: waiting for one")
	}
	return s.program, nil
}

// opened says which rings there are.
func (s *set) opened(rings []*ring.Ring) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rings = rings
	for index, i := range s.live {
		s.promiscuous(index, &i)
	}
	return s.update() // what came since begin
}

// retire gives up what tells of changes. s.mu is held.
func (s *set) retire() {
	if s.links != nil {
		s.retired = append(s.retired, s.links)
	}
	s.links, s.rings = nil, nil
}

// leave gives up a namespace.
func (s *set) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire()
}

// close closes what tells of changes. Nobody watches any more.
func (s *set) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire()
	s.tidy()
}

func (s *set) tidy() {
	for _, l := range s.retired {
		l.Close()
	}
	s.retired = nil
}

// watch follows the interfaces until ctx is done.
func (s *set) watch(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		links := s.links
		s.tidy()
		s.mu.Unlock()
		if links == nil { // between two namespaces
			time.Sleep(linksPoll)
			continue
		}
		changed, err := links.Changed(linksPoll)
		if changed && err == nil {
			s.mu.Lock()
			if s.links == links {
				err = s.update()
			}
			s.mu.Unlock()
			time.Sleep(linksPause)
		}
		if err != nil && ctx.Err() == nil {
			s.tap.log.Error().Err(err).Str("interfaces", s.name()).Msg("changes of interfaces are not seen now")
			time.Sleep(interval)
		}
	}
}

// update looks which interfaces there are: it names new ones in the announce's
// list, and brings table and filter up to date. s.mu is held.
func (s *set) update() error {
	all, err := s.links.List()
	if err != nil {
		return err
	}
	log := &s.tap.log
	now := map[int]ring.Interface{}
	var only, except []int
	for _, i := range all {
		if s.left(&i) {
			except = append(except, i.Index)
		}
		if !s.wants(&i) {
			continue
		}
		if i.LinkType == 0 {
			if !s.strange[i.Name] && len(s.strange) < maxInterfaces {
				s.strange[i.Name] = true
				log.Warn().Str("interface", i.Name).Msg("not captured: its frames are of a kind that ntap does not know")
			}
			continue
		}
		if !s.any && len(now) == maxMatching {
			if !s.strange[others] {
				s.strange[others] = true
				log.Error().Str("interfaces", s.name()).Int("most", maxMatching).Msg("more interfaces match than are captured: the rest is left out; -i any has no such limit")
			}
			break
		}
		now[i.Index] = i
		only = append(only, i.Index)
	}
	var places []place
	for index, i := range now {
		if _, known := s.live[index]; !known {
			s.promiscuous(index, &i)
		}
		at := s.tap.list(describe(i))
		s.listed[at].Store(true)
		places = append(places, place{int32(index), at})
	}
	old := s.table.Load()
	for index := range s.live {
		if _, still := now[index]; !still {
			if at, ok := old.find(int32(index)); ok {
				s.stale = append(s.stale, place{int32(index), at})
			}
		}
	}
	s.stale = slices.DeleteFunc(s.stale, func(p place) bool { _, back := now[int(p.index)]; return back })
	s.stale = s.stale[max(0, len(s.stale)-maxStale):]
	before := s.live
	s.live = now
	s.table.Store(newPlaceTable(append(places, s.stale...)))
	if s.any {
		only = nil
	} else if only == nil {
		only = []int{}
	}
	if !s.any {
		except = nil
	}
	err = s.swap(only, except)
	s.tell(before)
	return err
}

// tell logs what changed since before, once the rings know. s.mu is held.
func (s *set) tell(before map[int]ring.Interface) {
	log := &s.tap.log
	for index, i := range s.live {
		switch old, known := before[index]; {
		case !known && s.rings != nil:
			log.Info().Str("interface", i.Name).Msg("an interface came: captured")
		case known && old.Name != i.Name:
			log.Info().Str("interface", i.Name).Str("before", old.Name).Msg("an interface has another name")
		}
		s.filter.say(log, &i)
	}
	for index, i := range before {
		if _, still := s.live[index]; !still {
			log.Info().Str("interface", i.Name).Msg("an interface went")
		}
	}
}

// swap brings the filter of the rings up to date.
func (s *set) swap(only, except []int) error {
	program, err := s.compose(only, except)
	if err != nil || slices.Equal(program, s.program) {
		return err
	}
	if err := swapAll(s.rings, program, s.program); err != nil {
		return err
	}
	s.program = program
	return nil
}

// promiscuous has an interface take frames for others too. Of "any" that is not
// wanted, as tcpdump has it.
func (s *set) promiscuous(index int, i *ring.Interface) {
	if !s.tap.cfg.Promiscuous || s.any || i.Loopback || len(s.rings) == 0 {
		return
	}
	if err := s.rings[0].Promiscuous(index); err != nil {
		s.tap.log.Warn().Err(err).Str("interface", i.Name).Msg("only frames for this host are captured there")
	}
}

// learn finds the place of an interface that the table does not have: it came a
// moment ago, or has gone already.
func (s *set) learn(index int32, link proto.LinkType) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.table.Load().find(index)
	if !ok && s.links != nil && s.update() == nil {
		at, ok = s.table.Load().find(index)
	}
	if !ok {
		at = s.tap.list(proto.Interface{Name: fmt.Sprintf("if%d", index), LinkType: link})
		s.stale = append(s.stale, place{index, at})
		s.table.Store(newPlaceTable(append(s.table.Load().all(), place{index, at})))
	}
	return at
}

// ofSet says that the interface of a number in the announce's list is, or was,
// one of a set.
func (t *tap) ofSet(at int) bool {
	return slices.ContainsFunc(t.captures, func(c *capture) bool { return c.set != nil && c.set.listed[at].Load() })
}

// relist has sets look anew which interfaces are theirs.
func (t *tap) relist() {
	for _, c := range t.captures {
		if c.set == nil {
			continue
		}
		if err := c.set.refresh(); err != nil {
			t.log.Error().Err(err).Str("interfaces", c.set.name()).Msg("changes of interfaces are not seen now")
		}
	}
}

func (s *set) refresh() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links == nil {
		return nil
	}
	return s.update()
}

// list returns the place of an interface in the announce's list: a new one if
// there is none of its name, MAC and link type. Its speed may come to be known
// later, or be another when it is up again.
func (t *tap) list(i proto.Interface) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	same := func(o proto.Interface) bool { o.Speed = i.Speed; return o == i }
	if at := slices.IndexFunc(t.interfaces, same); at >= 0 {
		if i.Speed != 0 && i.Speed != t.interfaces[at].Speed {
			t.interfaces = slices.Clone(t.interfaces) // announces read the one before
			t.interfaces[at].Speed = i.Speed
			t.known.Add(1)
		}
		return uint32(at)
	}
	size := len(i.Name)*6 + len(i.MAC) + len(`{"name":"","linktype":65535,"mac":"","speed":18446744073709551615},`)
	if len(t.interfaces) >= maxInterfaces-1 || t.listed+size > maxListed {
		i = proto.Interface{Name: others, LinkType: proto.LinkTypeEthernet}
		if at := slices.Index(t.interfaces, i); at >= 0 {
			return uint32(at)
		}
		t.log.Warn().Int("interfaces", len(t.interfaces)).Msg("so many interfaces had names of their own in this session: frames of further ones are captured, and given out under one name")
	}
	t.listed += size
	t.interfaces = append(slices.Clip(t.interfaces), i)
	t.known.Add(1)
	return uint32(len(t.interfaces) - 1)
}

// A placer says of each frame of a set where it was captured, for one shard.
type placer struct {
	set   *set
	table *placeTable
	index int32 // of the frame before; 0: not known
	at    uint32
	count *InterfaceCount // of that interface,
	since struct {        // and what is not in it yet: shapeCounts has why
		frames, bytes uint64
	}
}

// settle brings the count of the interface up to date.
func (p *placer) settle() {
	if p.count != nil {
		p.count.Frames.Add(p.since.frames)
		p.count.Bytes.Add(p.since.bytes)
	}
	p.since.frames, p.since.bytes = 0, 0
}

// renew takes up changes. It is called once a block.
func (s *shard) renew() {
	p := s.places
	if t := p.set.table.Load(); t != p.table {
		p.table, p.index = t, 0
	}
	s.introduce()
}

// place puts into the record where its frame was captured, and counts it.
func (s *shard) place(f *ring.Frame) {
	p := s.places
	if f.Index != p.index {
		at, ok := p.table.find(f.Index)
		if !ok {
			at = p.set.learn(f.Index, proto.LinkType(f.LinkType))
			s.introduce()
		}
		p.settle()
		p.index, p.at, p.count = f.Index, at, &s.account.Interfaces[at]
	}
	s.rec.Interface, s.rec.LinkType = p.at, proto.LinkType(f.LinkType)
	p.since.frames++
	p.since.bytes += uint64(len(f.Data))
}

// introduce sees to it that interfaces are announced before frames of them go
// out. Shard 0 announces; it comes by at least every poll, and others wait for
// it. What is being packed is closed first.
func (s *shard) introduce() {
	t := s.tap
	n := t.known.Load()
	if n == t.introduced.Load() {
		return
	}
	if s.number > 0 {
		for end := time.Now().Add(2 * poll); t.introduced.Load() < n && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		return // a collector can do without
	}
	for _, l := range s.all {
		l.emit()
	}
	if err := s.announce(false); err != nil {
		t.log.Error().Err(err).Msg("new interfaces are not announced")
	}
	s.begin()
	t.introduced.Store(n)
}
