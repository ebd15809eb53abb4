// SPDX-License-Identifier: Apache-2.0

package ntap

import (
	"os"
	"regexp"
	"testing"
)

// Every test that docs/FIDELITY.md names is there.
func TestFidelityNamesTests(t *testing.T) {
	doc, err := os.ReadFile("docs/FIDELITY.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	goFiles(t, func(_ string, text []byte) {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
	})
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllSubmatch(doc, -1)
	for _, m := range named {
		if !there[string(m[1])] {
			t.Errorf("docs/FIDELITY.md names %s, which is no test", m[1])
		}
	}
	if len(named) < 40 {
		t.Errorf("docs/FIDELITY.md names only %d tests", len(named))
	}
}
