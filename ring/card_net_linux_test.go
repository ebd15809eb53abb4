// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// fakeCards answers for cards that have clocks, in place of the drivers of the
// interfaces that the kernel has: names and flags are the kernel's. As drivers
// do, each forgets what it was set to when it is deleted.
type fakeCards struct {
	mu      sync.Mutex
	filters map[int]int32 // by index of the interface: what it stamps
	sets    []int32       // all settings, in order
	mute    bool          // SIOCGHWTSTAMP is not known to the driver
	narrow  bool          // of received frames only PTP's, though it says all
	refuse  error         // of SIOCSHWTSTAMP
	some    bool          // says that it can stamp PTP only
}

func cards(t *testing.T) *fakeCards {
	t.Helper()
	f := &fakeCards{filters: map[int]int32{}}
	kernel := card
	t.Cleanup(func() { card = kernel })
	index := func(name string) int {
		i, err := LookUp(name)
		if err != nil {
			return -1
		}
		return i.Index
	}
	card.info = func(_ int, name string) (*unix.EthtoolTsInfo, error) {
		info := &unix.EthtoolTsInfo{So_timestamping: unix.SOF_TIMESTAMPING_RX_HARDWARE | unix.SOF_TIMESTAMPING_RAW_HARDWARE,
			Rx_filters: 1<<unix.HWTSTAMP_FILTER_NONE | 1<<unix.HWTSTAMP_FILTER_ALL}
		if f.some {
			info.Rx_filters = 1<<unix.HWTSTAMP_FILTER_NONE | 1<<unix.HWTSTAMP_FILTER_PTP_V2_EVENT
		}
		return info, nil
	}
	card.get = func(_ int, name string) (*unix.HwTstampConfig, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.mute {
			return nil, unix.EOPNOTSUPP
		}
		return &unix.HwTstampConfig{Tx_type: unix.HWTSTAMP_TX_ON, Rx_filter: f.filters[index(name)]}, nil
	}
	card.set = func(_ int, name string, c *unix.HwTstampConfig) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		i := index(name)
		if i < 0 {
			return unix.ENODEV
		}
		if f.refuse != nil {
			return f.refuse
		}
		if !f.mute && c.Tx_type != unix.HWTSTAMP_TX_ON {
			t.Errorf("what the card is set to for sent frames was changed to %d", c.Tx_type)
		}
		if f.narrow && c.Rx_filter == unix.HWTSTAMP_FILTER_ALL {
			c.Rx_filter = unix.HWTSTAMP_FILTER_PTP_V2_EVENT
		}
		f.filters[i] = c.Rx_filter
		f.sets = append(f.sets, c.Rx_filter)
		return nil
	}
	return f
}

// stamps says that the card of an interface stamps all frames.
func (f *fakeCards) stamps(t *testing.T, name string) bool {
	t.Helper()
	i, err := LookUp(name)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.filters[i.Index] == unix.HWTSTAMP_FILTER_ALL
}

func (f *fakeCards) settings() []int32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sets)
}

func openHardware(t *testing.T, iface string, n int) []*Ring {
	t.Helper()
	cfg := plenty(iface)
	cfg.Hardware = true
	rings, err := OpenFanout(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, r := range rings {
			r.Close()
		}
	})
	return rings
}

const all, none = unix.HWTSTAMP_FILTER_ALL, unix.HWTSTAMP_FILTER_NONE

// A card is set to stamp all frames once, by the first of the rings on it, and
// back to what it was at the end. One that stamps already is left alone.
func TestCardIsSetAndRestored(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for _, mute := range []bool{false, true} {
		f := cards(t)
		f.mute = mute
		rings := openHardware(t, iface, 2)
		if !f.stamps(t, iface) {
			t.Error("the card does not stamp")
		}
		for _, r := range rings {
			if r.Clock() != nil {
				t.Error(r.Clock())
			}
		}
		rings[1].Close()
		if !mute && !f.stamps(t, iface) {
			t.Error("the second ring to use the card switched it off")
		}
		rings[0].Close()
		if f.stamps(t, iface) {
			t.Error("the card goes on stamping")
		}
		if want := []int32{all, none}; !mute && !slices.Equal(f.settings(), want) {
			t.Errorf("it was set to %v, not %v", f.settings(), want)
		}
	}
	f := cards(t)
	i, _ := LookUp(iface)
	f.filters[i.Index] = all
	openHardware(t, iface, 1)[0].Close()
	if len(f.settings()) != 0 || !f.stamps(t, iface) {
		t.Errorf("a card that stamps was set to %v", f.settings())
	}
}

// A card that refuses, or does less than it was asked for, is an error with
// words, and is left as it was; with AnyClock the ring captures, and says why
// frames have the kernel's time.
func TestCardRefuses(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for want, change := range map[string]func(*fakeCards){
		"ioctl SIOCSHWTSTAMP: operation not permitted; it takes CAP_NET_ADMIN": func(f *fakeCards) { f.refuse = unix.EPERM },
		"gives those of some only (filter 12":                                  func(f *fakeCards) { f.narrow = true },
		"for some frames only (PTP), not for all; leave out":                   func(f *fakeCards) { f.some = true },
	} {
		f := cards(t)
		change(f)
		cfg := plenty(iface)
		cfg.Hardware = true
		if r, err := Open(cfg); err == nil {
			r.Close()
			t.Errorf("no error with %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
		if n := len(f.settings()); n > 0 && f.settings()[n-1] != none {
			t.Errorf("%q: the card is left at %v", want, f.settings())
		}
		cfg.AnyClock = true
		r, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r.Clock() == nil || !strings.Contains(r.Clock().Error(), want) {
			t.Errorf("the ring says %v, not %q", r.Clock(), want)
		}
		r.Close()
	}
}

// Frames that the card did not stamp are counted; those that the host sent
// never had the card's time, and are not.
func TestUnstampedFramesAreCounted(t *testing.T) {
	iface, peer := testnet.Veth(t) // whose frames have the kernel's time
	cards(t)
	r := openHardware(t, iface, 1)[0]
	const received, sent = 70, 30
	testnet.Send(t, peer, received, 100)
	testnet.Send(t, iface, sent, 100)
	take(t, r, received+sent, func(f Frame) {
		if f.Time == 0 {
			t.Error("a frame without a time")
		}
	})
	if s, err := r.Stats(); err != nil || s.Unstamped != received {
		t.Errorf("%d frames have the kernel's time, of %d received: %v", s.Unstamped, received, err)
	}
	r, _, peer = testRing(t, nil)
	testnet.Send(t, peer, received, 100)
	take(t, r, received, func(Frame) {})
	if s, err := r.Stats(); err != nil || s.Unstamped != 0 {
		t.Errorf("%d counted, though nobody asked for the card's time: %v", s.Unstamped, err)
	}
}

// A card forgets that it stamps when it goes down: once it is up it is set
// again, whether frames come or not, and whether it says that it is off or
// goes on saying that it is on. At the end it is as it was at the start.
func TestCardIsSetAgainAfterDown(t *testing.T) {
	for _, forgets := range []bool{true, false} {
		for _, traffic := range []bool{true, false} {
			iface, peer := testnet.Veth(t)
			f := cards(t)
			r := openHardware(t, iface, 1)[0]
			testnet.Run(t, "ip link set "+iface+" down")
			if b, err := r.Take(time.Minute); b != nil || !errors.Is(err, ErrDown) {
				t.Fatalf("down: %v, %v", b, err)
			}
			idle(t, r, 3)
			if n := len(f.settings()); n != 1 {
				t.Errorf("set %d times while it was down", n-1)
			}
			if i, _ := LookUp(iface); forgets {
				f.mu.Lock()
				f.filters[i.Index] = none
				f.mu.Unlock()
			}
			testnet.Run(t, "ip link set "+iface+" up")
			testnet.WaitUp(t, iface)
			testnet.WaitUp(t, peer)
			if traffic {
				testnet.Send(t, peer, 5, 100)
				take(t, r, 5, func(Frame) {})
			}
			for end := time.Now().Add(time.Minute); len(f.settings()) < 2 && time.Now().Before(end); {
				idle(t, r, 1)
			}
			idle(t, r, 3)
			if want := []int32{all, all}; !slices.Equal(f.settings(), want) || !f.stamps(t, iface) {
				t.Errorf("forgets %v, traffic %v: set to %v, not %v", forgets, traffic, f.settings(), want)
			}
			r.Close()
			if f.stamps(t, iface) {
				t.Error("the card goes on stamping")
			}
		}
	}
}

// A ring leaves the card alone that came under the name of its own. It used to
// switch it off, under a new ring that had just switched it on. A card that got
// another name is switched off under that.
func TestRestoresItsOwnCard(t *testing.T) {
	iface, _ := testnet.Veth(t)
	f := cards(t)
	old := openHardware(t, iface, 1)[0]
	testnet.Run(t, "ip link del "+iface)
	testnet.Run(t, "ip link add "+iface+" type veth peer name other0")
	fresh := openHardware(t, iface, 1)[0]
	old.Close()
	if !f.stamps(t, iface) {
		t.Error("the end of the old card's ring switched the new card off")
	}
	testnet.Run(t, "ip link set "+iface+" name renamed0")
	fresh.Close()
	if f.stamps(t, "renamed0") {
		t.Error("the card that was renamed goes on stamping")
	}
}
