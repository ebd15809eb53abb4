// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// A tap that falls silent is told by the name that it announced. The name was
// empty where no account had been printed yet.
func TestSilentTapHasItsName(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	var out bytes.Buffer
	d.log = zerolog.New(&out)
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	s.say(t, false)
	for _, b := range s.out {
		if err := d.feed(b); err != nil {
			t.Fatal(err)
		}
	}
	out.Reset()
	for _, heard := range d.all.taps {
		d.attend(heard, time.Now().Add(time.Hour))
	}
	if want := `"tap":7,"name":"sim"`; !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "silent") {
		t.Errorf("%s: want %s", out.String(), want)
	}
}

// With Once a collector goes on for a while after all taps were seen to have ended.
// It counted from when it had last seen one that had not: where all had ended by the
// first look, or it stood still between two, it ended at once, and a tap that came a
// moment later was not heard.
func TestOnceSettles(t *testing.T) {
	var s settling
	at := time.Now()
	for i, look := range []struct {
		after      time.Duration
		done, want bool
	}{
		{0, true, false}, {settleTime - 1, true, false}, {1, true, true},
		{0, false, false}, {time.Second, true, false}, {settleTime / 2, true, false}, {settleTime / 2, false, false},
		{settleTime, true, false}, {settleTime, true, true},
	} {
		at = at.Add(look.after)
		if got := s.over(look.done, at); got != look.want {
			t.Errorf("look %d: over %v", i, got)
		}
	}
}
