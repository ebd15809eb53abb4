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
