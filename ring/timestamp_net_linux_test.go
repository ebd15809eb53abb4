// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A card without a clock is refused with words, before anything is captured.
// There is none with one where tests run: of that way only the refusal is shown.
func TestHardwareTimestampsRefused(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for _, name := range []string{iface, "lo"} {
		cfg := plenty(name)
		cfg.Hardware = true
		if r, err := Open(cfg); err == nil {
			r.Close()
			t.Errorf("%s: a clock that it has not", name)
		} else if want := name + " has no hardware timestamps; leave out --timestamp hw"; !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", name, err, want)
		}
		if err := HardwareTimestamps(name); err == nil {
			t.Errorf("%s has a clock", name)
		}
	}
}

// The kernel's times are of now, in ns, and those of one sender in order.
func TestTimestamps(t *testing.T) {
	r, _, peer := testRing(t, nil)
	before := time.Now().UnixNano()
	const n = 200
	testnet.Send(t, peer, n, 100)
	last, fine := int64(0), false
	take(t, r, n, func(f Frame) {
		if f.Time < before || f.Time < last || f.Time > time.Now().UnixNano() {
			t.Errorf("a frame of %d, after one of %d, sent after %d", f.Time, last, before)
		}
		last = f.Time
		fine = fine || f.Time%1000 != 0
	})
	if !fine {
		t.Error("no time has nanoseconds")
	}
}
