// SPDX-License-Identifier: Apache-2.0

package ntap

import (
	"bytes"
	"context"
	"fmt"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
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

// What godoc shows of an example compiles when it is copied: it is a program. One
// showed a call of a function that only tests had.
func TestExamplesAreWhole(t *testing.T) {
	dir := t.TempDir()
	overlay, programs := "", []string(nil)
	goFiles(t, func(file string, text []byte) {
		if !strings.HasSuffix(file, "_test.go") || !bytes.Contains(text, []byte("\nfunc Example")) {
			return
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, file, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range doc.Examples(parsed) {
			if e.Play == nil {
				t.Errorf("%s: Example%s is no program when it is copied", file, e.Name)
				continue
			}
			var b bytes.Buffer
			if err := format.Node(&b, fset, e.Play); err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("example%d", len(programs))
			copied := filepath.Join(dir, name+".go")
			if err := os.WriteFile(copied, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			root, err := filepath.Abs(".")
			if err != nil {
				t.Fatal(err)
			}
			overlay += fmt.Sprintf(",%q: %q", filepath.Join(root, name, "main.go"), copied)
			programs = append(programs, "./"+name)
		}
	})
	if len(programs) < 6 {
		t.Fatalf("only %d examples", len(programs))
	}
	replace := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(replace, []byte(`{"Replace": {`+overlay[1:]+`}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute) // it may have to compile all
	defer stop()
	if out, err := exec.CommandContext(ctx, "go", append([]string{"build", "-overlay", replace}, programs...)...).CombinedOutput(); err != nil {
		t.Errorf("copied from godoc: %v\n%s", err, out)
	}
}
