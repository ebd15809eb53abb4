// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
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
	breakerLook  = 250 * time.Millisecond
	breakerOpens = 2
	breakerShuts = 12
	breakerBelow = 0.8
)

// A breaker is a Breaker at work. Shards read open, once a block.
type breaker struct {
	Breaker
	open atomic.Bool

	device string
	speed  uint64                                               // bit/s
	read   func() (busy, total float64, sent uint64, err error) // CPU time; bytes
	log    zerolog.Logger

	over, under int
	was         struct {
		busy, total float64
		sent        uint64
		at          time.Time
	}
}

// newBreaker makes the breaker of a card, whose speed is in bit/s. It has to be called
// in the card's network namespace, which it goes on to look at.
func newBreaker(cfg Breaker, device string, speed uint64, log zerolog.Logger) (*breaker, func(), error) {
	b := &breaker{Breaker: cfg, device: device, speed: speed, log: log}
	if cfg.NIC > 0 {
		if speed == 0 {
			return nil, nil, fmt.Errorf("remote: --breaker: the speed of %s is not known: give bits a second, as in nic=8G", device)
		}
		b.NICBits = uint64(cfg.NIC * float64(speed))
	}
	// What a file below net shows is of the namespace in which it was opened,
	// proc_pid_net(5).
	f, err := os.Open("/proc/thread-self/net/dev")
	if err != nil {
		return nil, nil, fmt.Errorf("remote: --breaker: %w", err)
	}
	b.read = func() (busy, total float64, sent uint64, err error) {
		if sent, err = sentBytes(f, device); err != nil {
			return 0, 0, 0, err
		}
		busy, total, err = cpuTime("/proc/stat")
		return busy, total, sent, err
	}
	return b, func() { f.Close() }, nil
}

// watch looks until ctx is done.
func (b *breaker) watch(ctx context.Context) {
	tick := time.NewTicker(breakerLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			b.look(now)
		}
	}
}

// look compares with the last look. What cannot be read is as it was.
func (b *breaker) look(now time.Time) {
	busy, total, sent, err := b.read()
	if err != nil {
		return
	}
	was := b.was
	b.was.busy, b.was.total, b.was.sent, b.was.at = busy, total, sent, now
	if was.at.IsZero() || total <= was.total || !now.After(was.at) || sent < was.sent {
		return
	}
	cpu, bits := (busy-was.busy)/(total-was.total), float64(sent-was.sent)*8/now.Sub(was.at).Seconds()
	is := func(part float64) bool {
		return b.CPU > 0 && cpu > part*b.CPU || b.NICBits > 0 && bits > part*float64(b.NICBits)
	}
	switch open := b.open.Load(); {
	case !open && is(1):
		if b.over++; b.over >= breakerOpens {
			b.under = 0
			b.open.Store(true)
			b.log.Warn().Str("interface", b.device).Float64("cpu", cpu).Float64("bits", bits).Msg("the host is too busy: frames are not sent, but counted")
		}
	case !open:
		b.over = 0
	case is(breakerBelow):
		b.under = 0
	default:
		if b.under++; b.under >= breakerShuts {
			b.over = 0
			b.open.Store(false)
			b.log.Info().Str("interface", b.device).Float64("cpu", cpu).Float64("bits", bits).Msg("frames are sent again")
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
