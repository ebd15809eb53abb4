// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/ring"
)

// A Breaker has nothing sent while the host's CPUs or the network card towards
// the collector are busier than this, so that the tap is the first to give way.
// The zero value is none.
type Breaker struct {
	CPU     float64 // part of all CPUs, over 0 to 1; 0: whatever they are
	NIC     float64 // part of the card's speed that it sends, over 0 to 1; 0: whatever it is
	NICBits uint64  // the same in bits a second, where the speed is not known; 0: any number
}

func (b *Breaker) check() error {
	switch {
	case !(b.CPU >= 0 && b.CPU <= 1):
		return fmt.Errorf("CPU load of %v: a part of all CPUs, up to 100%%", b.CPU)
	case !(b.NIC >= 0 && b.NIC <= 1):
		return fmt.Errorf("load of the network card of %v: a part of its speed, up to 100%%", b.NIC)
	case b.NIC > 0 && b.NICBits > 0:
		return errors.New("load of the network card: a part of its speed, or bits a second, not both")
	}
	return nil
}

// Chosen: a breaker opens after so many looks in a row over the limit, and
// closes after so many below that part of it: it does not flutter.
const (
	breakerLook   = 250 * time.Millisecond
	breakerOpens  = 2
	breakerShuts  = 12
	breakerBelow  = 0.8
	breakerRoutes = 4  // looks, after which routes are looked up again
	breakerBlind  = 12 // looks in a row that could not tell the load, after which frames are sent
)

// A breaker is a Breaker at work. Shards read open, once a block.
type breaker struct {
	Breaker
	open   atomic.Bool
	unread atomic.Uint64 // looks that could not tell all of the load

	cards []*card // none if only CPUs are looked at
	cpu   func() (busy, total float64, err error)
	route func(to netip.AddrPort) (device string, speed uint64, err error) // bit/s
	sent  func(device string) (uint64, error)                              // bytes
	log   zerolog.Logger

	looks, over, under, blind int
	was                       struct {
		busy, total float64
		at          time.Time
	}
}

// A card is the network card towards one collector, as a breaker sees it. It
// changes with the route.
type card struct {
	to     func() netip.AddrPort
	device string // empty: there is no route
	limit  float64
	was    uint64 // bytes sent at the last look,
	known  bool   // if there was one
	bits   float64
	fresh  bool // bits is of this look
}

// newBreaker makes the breaker of the cards towards these collectors. It has to be
// called in the cards' network namespace, which it goes on to look at.
func newBreaker(cfg Breaker, to []func() netip.AddrPort, log zerolog.Logger) (*breaker, func(), error) {
	b := &breaker{Breaker: cfg, log: log}
	b.cpu = func() (float64, float64, error) { return cpuTime("/proc/stat") }
	if cfg.NIC == 0 && cfg.NICBits == 0 {
		return b, func() {}, nil
	}
	router, err := batch.OpenRouter()
	if err != nil {
		return nil, nil, fmt.Errorf("remote: --breaker: %w", err)
	}
	links, err := ring.OpenLinks()
	if err != nil {
		router.Close()
		return nil, nil, fmt.Errorf("remote: --breaker: %w", err)
	}
	// What a file below net shows is of the namespace in which it was opened,
	// proc_pid_net(5).
	f, err := os.Open("/proc/thread-self/net/dev")
	end := func() { router.Close(); links.Close(); f.Close() } // a nil File may be closed
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("remote: --breaker: %w", err)
	}
	b.sent = func(device string) (uint64, error) { return sentBytes(f, device) }
	b.route = func(to netip.AddrPort) (string, uint64, error) { return towards(router, links, to) }
	for _, to := range to {
		c := &card{to: to}
		b.cards = append(b.cards, c)
		switch speed, err := b.reroute(c); {
		case err != nil:
			end()
			return nil, nil, fmt.Errorf("remote: --breaker: no network card to look at: %w", err)
		case cfg.NIC > 0 && speed == 0:
			end()
			return nil, nil, fmt.Errorf("remote: --breaker: the speed of %s is not known: give bits a second, as in nic=8G", c.device)
		}
	}
	return b, end, nil
}

// towards returns the device that datagrams to an address go out by, and its
// speed in bit/s; 0: it is not known.
func towards(router *batch.Router, links *ring.Links, to netip.AddrPort) (string, uint64, error) {
	index, err := router.Egress(to)
	if err != nil {
		return "", 0, err
	}
	if _, err := links.Changed(0); err != nil { // what it tells is not kept
		return "", 0, err
	}
	all, err := links.List()
	for _, i := range all {
		if i.Index == index {
			return i.Name, i.Speed, nil
		}
	}
	return "", 0, errors.Join(err, fmt.Errorf("remote: the device towards %v is gone", to.Addr()))
}

// reroute looks by which card a collector is reached now.
func (b *breaker) reroute(c *card) (speed uint64, err error) {
	device, speed, err := b.route(c.to())
	limit := float64(b.NICBits)
	if b.NIC > 0 {
		limit = b.NIC * float64(speed)
	}
	if device != c.device && c.device != "" && device != "" {
		b.log.Info().Str("before", c.device).Str("interface", device).Msg("the breaker looks at another network card: the route to the collector changed")
	}
	if device != c.device {
		c.known = false
	}
	c.device, c.limit = device, limit
	return speed, err
}

// read notes how much a card sends, in bits a second, and says whether that can
// be told at all.
func (b *breaker) read(c *card, since time.Duration) bool {
	c.fresh = false
	if c.device == "" || c.limit == 0 {
		return false // no route, or a card whose speed is not known
	}
	sent, err := b.sent(c.device)
	if err != nil {
		c.known = false
		return false
	}
	if c.known && sent >= c.was && since > 0 {
		c.bits, c.fresh = float64(sent-c.was)*8/since.Seconds(), true
	}
	c.was, c.known = sent, true
	return true // at the first look at a card nothing is told yet
}

// watch looks until ctx is done.
func (b *breaker) watch(ctx context.Context) {
	tick := time.NewTicker(breakerLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.look(time.Now()) // not when the tick was: what the cards sent is read now
		}
	}
}

// look compares with the last look. While something cannot be read all is as it
// was, unless the rest is over its limit; for so long as breakerBlind looks take:
// nobody knows then whether the host is busy, and a tap that sends nothing for
// ever is no tap.
func (b *breaker) look(now time.Time) {
	was, cpu, readable := b.was, -1.0, true
	since := now.Sub(was.at)
	b.was.at = now
	if busy, total, err := b.cpu(); err == nil {
		b.was.busy, b.was.total = busy, total
		if !was.at.IsZero() && total > was.total {
			cpu = (busy - was.busy) / (total - was.total)
		}
	} else if b.CPU > 0 {
		readable = false
	}
	again := b.looks%breakerRoutes == breakerRoutes-1
	b.looks++
	for _, c := range b.cards {
		if ok := b.read(c, since); again || !ok {
			b.reroute(c) // an error leaves it without a device, which read then says
			readable = readable && ok
		}
	}
	if was.at.IsZero() || since <= 0 {
		return
	}
	busiest := card{limit: 1}
	for _, c := range b.cards {
		if c.fresh && c.bits/c.limit >= busiest.bits/busiest.limit {
			busiest = *c
		}
	}
	is := func(part float64) bool { return b.CPU > 0 && cpu > part*b.CPU || busiest.bits > part*busiest.limit }
	b.decide(is, readable, func(e *zerolog.Event) *zerolog.Event {
		if cpu >= 0 { // else it cannot be read, or it is the first look
			e.Str("cpu", fmt.Sprintf("%.0f%%", cpu*100))
		}
		if busiest.device != "" {
			e.Str("interface", busiest.device).Str("sends", fmt.Sprintf("%.1fM", busiest.bits/1e6))
		}
		return e
	})
}

// decide opens or closes. is says whether the load is over a part of the limit.
func (b *breaker) decide(is func(part float64) bool, readable bool, load func(*zerolog.Event) *zerolog.Event) {
	if readable {
		b.blind = 0
	} else {
		b.unread.Add(1)
		b.blind++
	}
	switch open := b.open.Load(); {
	case !open && is(1):
		if b.over++; b.over >= breakerOpens {
			b.under = 0
			b.open.Store(true)
			load(b.log.Warn()).Msg("the host is too busy: frames are not sent, but counted")
		}
	case open && is(breakerBelow):
		b.under = 0
	case !readable && b.blind < breakerBlind: // as it was
	case !readable:
		if b.blind == breakerBlind {
			b.log.Warn().Int("looks", b.blind).Bool("closed", open).
				Msg("the breaker cannot tell how busy the host is (no route, no network card, its speed, or /proc): frames are sent until it can")
		}
		b.over = 0
		b.open.Store(false)
	case !open:
		b.over = 0
	default:
		if b.under++; b.under >= breakerShuts {
			b.over = 0
			b.open.Store(false)
			load(b.log.Info()).Msg("frames are sent again")
		}
	}
}

// sentBytes reads what a device has sent from an open /proc/net/dev.
func sentBytes(f io.ReaderAt, device string) (uint64, error) {
	buf := make([]byte, 64<<10)
	n, err := f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return 0, err
	}
	for line := range bytes.Lines(buf[:n]) {
		name, rest, ok := strings.Cut(string(line), ":")
		if !ok || strings.TrimSpace(name) != device {
			continue
		}
		// Eight columns of what was received come first; bytes are the first
		// of either, proc_net_dev(5).
		if f := strings.Fields(rest); len(f) >= 9 {
			return strconv.ParseUint(f[8], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s is not in /proc/net/dev", device)
}

// cpuTime reads the time that all CPUs were busy, and all time, in ticks.
func cpuTime(path string) (busy, total float64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 9 || f[0] != "cpu" {
		return 0, 0, fmt.Errorf("%s begins with %q", path, line)
	}
	for i, text := range f[1:9] { // user nice system idle iowait irq softirq steal, proc_stat(5)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", path, err)
		}
		total += v
		if i != 3 && i != 4 {
			busy += v
		}
	}
	return busy, total, nil
}
