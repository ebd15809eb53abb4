// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"math"
	"strings"
	"testing"
)

func TestTapName(t *testing.T) {
	for _, c := range []struct {
		pattern string
		tap     uint32
		want    string // or, in quotes, what the error says
	}{
		{"ntap0", 7, "ntap0"},
		{"ntap%t", 7, "ntap7"},
		{"ntap%t", math.MaxUint32, "ntap4294967295"},
		{"%t-%t", 3, "3-3"},
		{"exactly15bytes_", 0, "exactly15bytes_"},
		{"abcdefghijkl.%t", 12, "abcdefghijkl.12"},
		{"", 0, "'is empty'"},
		{".", 0, "'a directory'"},
		{"..", 0, "'a directory'"},
		{"a/b", 0, "'has a /'"},
		{"../x%t", 0, "'has a /'"},
		{"a:b", 0, "'or a :'"},
		{"a b", 0, "'blank'"},
		{"a\nb", 0, "'control character'"},
		{"naïve", 0, "'outside ASCII'"},
		{"tap%d", 0, "'not part of %t'"},
		{"tap%", 0, "'not part of %t'"},
		{"sixteen_bytes_lo", 0, "'has 16 bytes'"},
		{"longsite_name%t", 999, "'for tap 999'"},
	} {
		got, err := tapName(c.pattern, c.tap)
		if part, bad := strings.CutPrefix(c.want, "'"); bad {
			if part = strings.TrimSuffix(part, "'"); err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%q, tap %d: %q, %v; want an error with %q", c.pattern, c.tap, got, err, part)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%q, tap %d: %q, %v; want %q", c.pattern, c.tap, got, err, c.want)
		}
	}
}
