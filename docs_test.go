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

// Every section of a document that a comment names is there: code used to send
// its reader to sections of docs/TUNING.md that did not exist.
func TestCitedSectionsExist(t *testing.T) {
	cited := 0
	goFiles(t, func(file string, text []byte) {
		text = regexp.MustCompile(`\n\s*// ?`).ReplaceAll(text, []byte(" "))
		for _, m := range regexp.MustCompile(`((?:docs|benchmarks)/[A-Z-]+\.md), "([^"]+)"`).FindAllSubmatch(text, -1) {
			cited++
			doc, err := os.ReadFile(string(m[1]))
			if err != nil {
				t.Errorf("%s cites %s: %v", file, m[1], err)
			}
			if !regexp.MustCompile(`(?m)^#+ ` + regexp.QuoteMeta(string(m[2])) + `$`).Match(doc) {
				t.Errorf("%s cites the section %q of %s, which is not there", file, m[2], m[1])
			}
		}
	})
	if cited < 5 {
		t.Errorf("only %d sections are cited", cited)
	}
}
