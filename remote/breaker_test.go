// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// A busyHost is what a breaker of the tests looks at: its CPUs, and two cards.
type busyHost struct {
	*breaker
	now         time.Time
	busy, total float64
	bytes       map[string]uint64 // that cards have sent; a card that is not there is gone
	routes      []string          // by collector: the card; empty: no route
	noCPU       bool
}

var errGone = errors.New("gone")

// newBusyHost makes a breaker towards as many collectors as there are routes.
func newBusyHost(t *testing.T, cfg Breaker, routes ...string) *busyHost {
	h := &busyHost{now: time.Unix(1_700_000_000, 0), bytes: map[string]uint64{"eth0": 0, "eth1": 0}, routes: routes}
	h.breaker = &breaker{Breaker: cfg, log: zerolog.Nop()}
	h.cpu = func() (float64, float64, error) {
		if h.noCPU {
			return 0, 0, errGone
		}
		return h.busy, h.total, nil
	}
	h.sent = func(device string) (uint64, error) {
		if n, ok := h.bytes[device]; ok {
			return n, nil
		}
		return 0, errGone
	}
	h.route = func(to netip.AddrPort) (string, uint64, error) {
		name := h.routes[to.Port()]
		if _, there := h.bytes[name]; there {
			return name, 1e9, nil
		}
		return "", 0, errGone
	}
	if cfg.NIC > 0 || cfg.NICBits > 0 {
		for i := range routes {
			c := &card{to: func() netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i)) }}
			h.cards = append(h.cards, c)
			if _, err := h.reroute(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// after lets a look's time pass under a load, looks, and says whether the breaker
// is open.
func (h *busyHost) after(cpu float64, bits map[string]float64) bool {
	h.now = h.now.Add(breakerLook)
	h.total += 50
	h.busy += 50 * cpu
	for device, b := range bits {
		if _, ok := h.bytes[device]; ok {
			h.bytes[device] += uint64(b / 8 * breakerLook.Seconds())
		}
	}
	h.look(h.now)
	return h.open.Load()
}

func on(device string, bits float64) map[string]float64 { return map[string]float64{device: bits} }

// A breaker opens after two looks over a limit, stays open while the load is
// near it, and closes after three seconds well below.
func TestBreaker(t *testing.T) {
	for name, c := range map[string]struct {
		cfg      Breaker
		cpu, nic float64 // a look that is over, of a quarter of a second
	}{
		"cpu": {Breaker{CPU: 0.9}, 0.95, 0}, "nic": {Breaker{NIC: 0.8}, 0, 0.85e9}, "bits": {Breaker{NICBits: 8e8}, 0, 0.85e9},
		"both": {Breaker{CPU: 0.9, NIC: 0.8}, 0.1, 0.85e9},
	} {
		t.Run(name, func(t *testing.T) {
			h := newBusyHost(t, c.cfg, "eth0")
			h.after(0, nil)
			for i, over := range []bool{true, false, true, true} {
				cpu, bits := 0.0, 0.0
				if over {
					cpu, bits = c.cpu, c.nic
				}
				if open := h.after(cpu, on("eth0", bits)); open != (i == 3) {
					t.Fatalf("look %d: open is %v", i, open)
				}
			}
			for range 20 { // a little below the limit is not below enough
				if !h.after(0.95*c.cpu, on("eth0", 0.95*c.nic)) {
					t.Fatal("it flutters")
				}
			}
			for i := range breakerShuts {
				if open := h.after(0, nil); i < breakerShuts-1 && !open || i == breakerShuts-1 && open {
					t.Fatalf("below for %d looks: open is %v", i+1, open)
				}
			}
			if h.unread.Load() != 0 {
				t.Error("it says that it could not tell the load")
			}
		})
	}
}

// What cannot be read for a moment changes nothing. What cannot be read any more,
// since the card is gone, there is no route, or no /proc, closes an open breaker,
// and is counted. It used to stay open for ever, and the tap sent nothing.
func TestBreakerThatSeesNothing(t *testing.T) {
	for name, lose := range map[string]func(*busyHost){
		"the card is gone": func(h *busyHost) { delete(h.bytes, "eth0") },
		"no route":         func(h *busyHost) { h.routes[0] = "" },
		"no /proc":         func(h *busyHost) { h.noCPU = true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newBusyHost(t, Breaker{CPU: 0.9, NIC: 0.8}, "eth0")
			for range 1 + breakerOpens {
				h.after(0.95, on("eth0", 0.9e9))
			}
			if !h.open.Load() {
				t.Fatal("it did not open")
			}
			lose(h)
			closed := 0
			for looks := 1; looks <= 3*breakerBlind; looks++ {
				if !h.after(0.1, nil) && closed == 0 {
					closed = looks
				}
			}
			if closed < breakerBlind || closed > breakerBlind+breakerRoutes || h.open.Load() {
				t.Errorf("it closed after %d looks", closed)
			}
			if n := h.unread.Load(); n < 2*breakerBlind || n > 3*breakerBlind {
				t.Errorf("%d looks are counted as blind", n)
			}
			// What can be read still opens it.
			if name != "no /proc" {
				h.after(0.95, nil)
				if h.after(0.95, nil); !h.open.Load() {
					t.Error("the CPUs are not looked at any more")
				}
			}
		})
	}
}

// A card that is away for less than that leaves an open breaker open; one that
// comes back is looked at again.
func TestBreakerCardComesBack(t *testing.T) {
	h := newBusyHost(t, Breaker{NIC: 0.8}, "eth0")
	for range 1 + breakerOpens {
		h.after(0, on("eth0", 0.9e9))
	}
	n := h.bytes["eth0"]
	delete(h.bytes, "eth0")
	for range breakerBlind - 2 { // the look that finds it again is one more that can tell nothing
		if !h.after(0, nil) {
			t.Fatal("it closed at once")
		}
	}
	h.bytes["eth0"] = n / 2 // its counters begin anew
	for range breakerShuts {
		if !h.after(0, on("eth0", 0.9e9)) {
			t.Fatal("the card is busy, and it closed")
		}
	}
	for range breakerShuts {
		h.after(0, nil)
	}
	if h.open.Load() {
		t.Error("the card is idle, and it is open")
	}
}

// The card that counts is that of the route, also when that moves, with every
// collector's own. It used to be the first collector's at the start.
func TestBreakerFollowsTheRoute(t *testing.T) {
	h := newBusyHost(t, Breaker{NIC: 0.8}, "eth0")
	for range 1 + breakerOpens {
		h.after(0, on("eth0", 0.9e9))
	}
	h.routes[0] = "eth1" // while eth0 stays busy
	for range breakerRoutes + breakerShuts + 1 {
		h.after(0, on("eth0", 0.9e9))
	}
	if h.open.Load() {
		t.Error("another card is busy, and the breaker is open")
	}
	for range breakerOpens {
		h.after(0, on("eth1", 0.9e9))
	}
	if !h.open.Load() {
		t.Error("the route's card is busy, and the breaker is closed")
	}
	second := newBusyHost(t, Breaker{NIC: 0.8}, "eth0", "eth1")
	for range 1 + breakerOpens {
		second.after(0, on("eth1", 0.9e9))
	}
	if !second.open.Load() {
		t.Error("the card towards the second collector is busy, and the breaker is closed")
	}
	if h.unread.Load()+second.unread.Load() != 0 {
		t.Error("a look is counted as blind")
	}
}

func TestReadsOfABreaker(t *testing.T) {
	text := "Inter-|   Receive\n face |bytes\n    lo:  5 0 0 0 0 0 0 0  7 0 0 0 0 0 0 0\n  eth0: 9 1 0 0 0 0 0 0 123456789012 3 0 0 0 0 0 0\n"
	if n, err := sentBytes(strings.NewReader(text), "eth0"); n != 123456789012 || err != nil {
		t.Error(n, err)
	}
	if _, err := sentBytes(strings.NewReader(text), "th0"); err == nil {
		t.Error("it found a device that is not there")
	}
	if busy, total, err := cpuTime("/proc/stat"); err != nil || busy <= 0 || total <= busy {
		t.Error(busy, total, err)
	}
}

// The log has the load in the units of the flag, and only of what there is. It
// used to have cpu=0.3333333333333333, bits=17157905.518727742 and interface= .
func TestBreakerSaysTheLoad(t *testing.T) {
	for _, v := range []struct {
		cfg    Breaker
		routes []string
		bits   map[string]float64
		want   string
		not    string
	}{
		{Breaker{CPU: 0.5}, nil, nil, `"cpu":"67%"`, "interface"},
		{Breaker{NICBits: 1e6}, []string{"eth0"}, map[string]float64{"eth0": 17e6 + 1}, `"cpu":"67%","interface":"eth0","sends":"17.0M"`, "bits"},
	} {
		h, says := newBusyHost(t, v.cfg, v.routes...), &strings.Builder{}
		h.log = zerolog.New(says)
		for range breakerOpens + 2 {
			h.after(2.0/3, v.bits)
		}
		if !strings.Contains(says.String(), v.want) || strings.Contains(says.String(), v.not) {
			t.Errorf("%s", says)
		}
	}
}
