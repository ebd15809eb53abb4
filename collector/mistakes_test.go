// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// Drops that look like a mistake are told when they begin, with how many there
// are and what to look at, and then once a minute at the most; others are not.
// Nothing was said of a remote with a wrong key until the account at the end.
func TestMistakesAreTold(t *testing.T) {
	var out bytes.Buffer
	var m mistakeLog
	var counts [NumDrops]uint64
	at := time.Now()
	look := func(after time.Duration) []string {
		at = at.Add(after)
		out.Reset()
		m.look(at, func(d Drop) uint64 { return counts[d] }, zerolog.New(&out))
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
	says := func(lines []string, want ...string) {
		t.Helper()
		if len(want) == 0 && out.Len() > 0 || len(want) > 0 && len(lines) != len(want) {
			t.Fatalf("%q, want %q", lines, want)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%q lacks %q", lines, w)
			}
		}
	}
	says(look(0))
	counts[DropForged], counts[DropReplay], counts[DropSession] = 3, 5, 6
	says(look(time.Second), `"datagrams":3,"reason":"forged","look_at":"a remote's key`)
	for range 50 {
		counts[DropForged] += 1000
		says(look(time.Second))
	}
	counts[DropSuite]++
	says(look(time.Second), `"datagrams":1,"reason":"of a refused suite"`)
	says(look(mistakeAgain), `"datagrams":50000,"reason":"forged"`)
	says(look(mistakeAgain))
}
