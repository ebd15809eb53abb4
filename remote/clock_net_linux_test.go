// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// When the card whose clock was asked for is replaced by one without, capture
// goes on with the kernel's time: frames are counted as such, and the announce
// says so. It used to wait for ever for a card with a clock.
func TestCardWithoutClockTakesOver(t *testing.T) {
	iface, peer := testnet.Veth(t)
	s := openShards(t, iface)[0]
	s.tap.cfg.Hardware, s.capture.cfg.Hardware = true, true
	openAnew(t, s)
	const sent = 40
	testnet.Send(t, peer, sent, 100)
	for got := 0; got < sent; {
		b, err := s.ring.Take(time.Minute)
		if err != nil || b == nil {
			t.Fatal("no block", err)
		}
		got += b.Len()
		if err := s.forward(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.drain(); err != nil {
		t.Fatal(err)
	}
	a := s.tap.account([]*shard{s})
	var text strings.Builder
	a.Print(&text)
	if n := a.Total().Unstamped; n != sent || !strings.Contains(text.String(), "40 frames that the network card did not stamp") {
		t.Errorf("%d frames have the kernel's time, of %d:\n%s", n, sent, &text)
	}
	parts, err := s.tap.announce(s.to, false, 1400)
	if err != nil {
		t.Fatal(err)
	}
	var joined strings.Builder
	for _, p := range parts {
		joined.Write(p)
	}
	if want := "network card; of " + iface + " kernel software"; !strings.Contains(joined.String(), want) {
		t.Errorf("the announce does not say %q: %q", want, joined.String())
	}
}
