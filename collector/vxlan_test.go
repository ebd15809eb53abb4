// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"math"
	"strings"
	"testing"
)

func TestParseVNI(t *testing.T) {
	for _, c := range []struct {
		text string
		tap  uint32
		vni  uint32
		err  string // of ParseVNI, or else of Of
	}{
		{"tap", 7, 7, ""},
		{"tap", 1<<24 - 1, 1<<24 - 1, ""},
		{"tap", 1 << 24, 0, "more than 24 bits; give it one: --vni tap,16777216=VNI"},
		{"tap,16777216=5", 1 << 24, 5, ""},
		{"tap,4294967295=5", math.MaxUint32, 5, ""},
		{"tap,4294967295=5", 5, 0, "--vni gives 5 to tap 4294967295"},
		{"tap,7=8,8=7", 8, 7, ""},
		{"100", 7, 100, ""},
		{"100", math.MaxUint32, 100, ""},
		{"100,7=1", 7, 1, ""},
		{"100,7=1", 8, 100, ""},
		{"7=1001, 8=1002", 7, 1001, ""},
		{"7=1001, 8=1002", 8, 1002, ""},
		{"7=1001, 8=1002", 9, 0, "tap 9 has no VNI: it is not in --vni"},
		{"0", 7, 0, ""},
		{"16777216", 7, 0, "24 bits"},
		{"7=16777216", 7, 0, "24 bits"},
		{"-1", 7, 0, "no VNI"},
		{"", 7, 0, "no VNI"},
		{"7=", 7, 0, "no VNI"},
		{"=7", 7, 0, "no tap ID"},
		{"4294967296=7", 7, 0, "no tap ID"},
		{"7=1,7=2", 7, 0, "tap 7 has two VNIs"},
		{"tap,5", 7, 0, "two rules"},
		{"tap,tap", 7, 0, "two rules"},
	} {
		v, err := ParseVNI(c.text)
		vni := uint32(0)
		if err == nil {
			vni, err = v.Of(c.tap)
		}
		switch {
		case c.err == "" && (err != nil || vni != c.vni):
			t.Errorf("%q, tap %d: %d, %v; want %d", c.text, c.tap, vni, err, c.vni)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q, tap %d: %d, %v; want an error with %q", c.text, c.tap, vni, err, c.err)
		}
	}
	if n, err := new(VNIs).Of(7); n != 7 || err != nil {
		t.Errorf("the zero value gives %d, %v", n, err)
	}
}
