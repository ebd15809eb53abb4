// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"strings"
	"testing"
)

// What a remote's kernel did not take are datagrams of all kinds, reports among
// them: they were printed as some of those in which frames were lost, so that
// "0 frames lost in 0 datagrams, 8 of those never sent".
func TestUnsentIsOfAllKinds(t *testing.T) {
	a := &Account{taps: map[uint32]*tap{7: {id: 7, past: TapTotal{Unsent: 8}}}}
	var out strings.Builder
	a.Print(&out)
	if want := "0 frames lost in 0 datagrams; of all kinds the remote's kernel did not take 8\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwant %q", out.String(), want)
	}
}
