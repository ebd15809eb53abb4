// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"strings"
	"testing"

	"github.com/klauspost/cpuid/v2"
)

// TestChoose: the best kernel of the CPU, another one if it is named, and an
// error that says what there is if that one cannot run.
func TestChoose(t *testing.T) {
	all := func(...cpuid.FeatureID) bool { return true }
	none := func(ids ...cpuid.FeatureID) bool { return len(ids) == 0 }
	for _, c := range []struct {
		name string
		has  func(...cpuid.FeatureID) bool
		want string // "": an error
	}{
		{"", all, kernels[0].name},
		{chacha, all, kernels[0].name},
		{"generic", all, "generic"},
		{"", none, "generic"},
		{kernels[0].name, all, kernels[0].name},
		{kernels[0].name, none, ""},
		{"pentium", all, ""},
	} {
		k, err := choose(c.name, c.has)
		switch {
		case c.want == "" && (err == nil || !strings.Contains(err.Error(), "generic") || !strings.Contains(err.Error(), "NTAP_CPU="+c.name)):
			t.Errorf("%q: error %v", c.name, err)
		case c.want != "" && (err != nil || k.name != c.want):
			t.Errorf("%q: %+v, %v; want %s", c.name, k, err, c.want)
		}
	}
	for _, k := range kernels {
		if !k.usable() {
			t.Logf("not on this CPU: %s", k.name)
		}
	}
}
