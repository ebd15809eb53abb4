// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"testing"

	"github.com/ntap-project/ntap/proto"
)

// The announce says where timestamps come from.
func TestAnnounceSaysWhichClock(t *testing.T) {
	for want, cfg := range map[string]Config{
		"kernel software": {}, "network card": {Hardware: true}, "capture file": {File: "x.pcap"},
	} {
		tap := tap{cfg: cfg}
		tap.filter.Store(&choice{})
		parts, err := tap.announce(new(destination), false, 1400)
		if err != nil {
			t.Fatal(err)
		}
		var j proto.AnnounceJoiner
		var a *proto.Announce
		for _, p := range parts {
			if a, err = j.Add(p); err != nil {
				t.Fatal(err)
			}
		}
		if a == nil || a.Clock != want {
			t.Errorf("%+v, want the clock %q", a, want)
		}
	}
}
