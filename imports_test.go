// SPDX-License-Identifier: Apache-2.0

package ntap

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ntap-project/ntap/"

// mayImport is the picture of CONTRIBUTING.md: the packages of ours that each
// package may import. Tests may import forTests besides, and examples, which show
// whole programs, what a program may.
var mayImport = map[string][]string{
	".":                  {},
	"perf":               {},
	"perf/sizing":        {},
	"proto":              {},
	"crypto":             {},
	"crypto/gcmasm":      {},
	"ring":               {"ring/filter", "perf"},
	"ring/filter":        {},
	"batch":              {"perf"},
	"engine":             {"perf"},
	"remote":             {"ring", "ring/filter", "batch", "engine", "crypto", "proto", "perf"},
	"collector":          {"ring", "ring/filter", "batch", "engine", "crypto", "proto", "perf"},
	"internal/testnet":   {},
	"internal/measure":   {"perf/sizing", "remote", "collector", "ring", "ring/filter", "batch", "engine", "crypto", "proto", "perf"},
	"cmd/ntap":           {"internal/measure", "perf/sizing", "remote", "collector", "ring", "ring/filter", "batch", "engine", "crypto", "proto", "perf"},
	"benchmarks/flood":   {"proto"},
	"benchmarks/gen":     {"internal/measure"},
	"benchmarks/outcome": {"internal/measure", "perf/sizing"},
	"benchmarks/bench":   {"benchmarks/outcome", "engine", "internal/measure", "remote", "perf/sizing"},
	"benchmarks/report":  {"benchmarks/outcome", "internal/measure", "perf/sizing"},
	"benchmarks/cycles":  {},
	"benchmarks/sockets": {"ring", "benchmarks/cycles"},
	"benchmarks/inject":  {"ring", "benchmarks/cycles"},
	"benchmarks/latency": {},

	"benchmarks/crypto":     {},
	"internal/emulate/init": {},
	"internal/xstate":       {},
}

var forTests = []string{"internal/testnet", "internal/xstate"}

// nearKernel are the packages and files that may use unsafe and x/sys/unix.
var nearKernel = []string{"ring/", "batch/", "engine/", "crypto/", "collector/tap_", "internal/testnet/", "internal/measure/", "benchmarks/"}

// maxLines is how long a file may be; long are those over it, with the reason.
const maxLines = 500

var long = map[string]string{}

// goFiles calls f with the path and text of every Go file.
func goFiles(t *testing.T, f func(file string, text []byte)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && p != ".") {
			return fs.SkipDir
		}
		if strings.HasSuffix(p, ".go") {
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			n++
			f(filepath.ToSlash(p), text)
		}
		return nil
	})
	if err != nil || n < 20 {
		t.Fatalf("%d Go files, %v", n, err)
	}
}

func TestImportPicture(t *testing.T) {
	seen := map[string]bool{}
	goFiles(t, func(file string, text []byte) {
		dir := path.Dir(file)
		allowed, known := mayImport[dir]
		if !known {
			t.Errorf("%s: folder %s is not in the picture", file, dir)
			return
		}
		seen[dir] = true
		test := strings.HasSuffix(file, "_test.go")
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		if name := parsed.Name.Name; name == "util" || name == "common" || name == "helpers" {
			t.Errorf("%s: a package named %s says nothing", file, name)
		}
		for _, i := range parsed.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			if (p == "unsafe" || p == "golang.org/x/sys/unix") && !test &&
				!slices.ContainsFunc(nearKernel, func(s string) bool { return strings.HasPrefix(file, s) }) {
				t.Errorf("%s imports %s, which is for %v", file, p, nearKernel)
			}
			ours, ok := strings.CutPrefix(p, module)
			if !ok || slices.Contains(allowed, ours) || test && (ours == dir || slices.Contains(forTests, ours)) ||
				test && strings.HasPrefix(path.Base(file), "example_") && parsed.Name.Name == path.Base(dir)+"_test" && slices.Contains(mayImport["cmd/ntap"], ours) {
				continue
			}
			t.Errorf("%s imports %s; package %s may import %v", file, ours, dir, allowed)
		}
	})
	for dir := range mayImport {
		if !seen[dir] {
			t.Errorf("the picture has %s, the code has not", dir)
		}
	}
}

// Every program that a test starts has an end: testnet.Command and Daemon, or
// exec.CommandContext. One that hung used to hold up all tests until go test ended
// them.
func TestProgramsOfTestsEnd(t *testing.T) {
	n := 0
	goFiles(t, func(file string, text []byte) {
		if !strings.HasSuffix(file, "_test.go") && !strings.HasPrefix(file, "internal/testnet/") {
			return
		}
		n += bytes.Count(text, []byte("testnet.Command("))
		if unbounded := "exec.Command" + "("; bytes.Contains(text, []byte(unbounded)) {
			t.Errorf("%s: %s…): a program that may never end; start it with testnet.Command", file, unbounded)
		}
	})
	if n == 0 {
		t.Error("no test starts a program: this test looks for the wrong thing")
	}
}

// giouring links only with a flag of the linker: nothing imports it without its
// build tag.
func TestGiouringIsBehindItsTag(t *testing.T) {
	n := 0
	goFiles(t, func(file string, text []byte) {
		if !bytes.Contains(text, []byte(`"github.com/pawelgaczynski/giouring"`)) || file == "imports_test.go" {
			return
		}
		n++
		if !bytes.Contains(text[:min(len(text), 200)], []byte("\n//go:build giouring\n")) {
			t.Errorf("%s imports giouring without its build tag", file)
		}
	})
	if n == 0 {
		t.Error("nothing imports giouring: there is no second backend")
	}
}

// The plots' library is for what makes reports: no program that people run has
// it.
func TestPlotsAreOfBenchmarks(t *testing.T) {
	n := 0
	goFiles(t, func(file string, text []byte) {
		if !bytes.Contains(text, []byte(`"gonum.org/`)) || file == "imports_test.go" {
			return
		}
		n++
		if !strings.HasPrefix(file, "benchmarks/") {
			t.Errorf("%s imports gonum, which is for benchmarks", file)
		}
	})
	if n == 0 {
		t.Error("nothing imports gonum: there are no plots")
	}
	for dir, allowed := range mayImport {
		for _, one := range allowed {
			if strings.HasPrefix(one, "benchmarks/") && !strings.HasPrefix(dir, "benchmarks/") {
				t.Errorf("%s may import %s, and with it what is for benchmarks", dir, one)
			}
		}
	}
}

// Go files say their licence in the first line, others that can hold a comment
// near it.
func TestFilesSayTheirLicence(t *testing.T) {
	const line = "SPDX-License-Identifier: Apache-2.0"
	goFiles(t, func(file string, text []byte) {
		if !bytes.HasPrefix(text, []byte("// "+line+"\n")) {
			t.Errorf("%s: the first line is not its SPDX line", file)
		}
	})
	n := 0
	for _, pattern := range []string{"Makefile", ".ci/*", "*.md", "*/*.sh", "*/*/*.sh", "*/*.py", "*/*/*.py"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n++
			if !bytes.Contains(text[:min(len(text), 200)], []byte(line)) {
				t.Errorf("%s: no SPDX line in its first 200 bytes", file)
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d files that are not Go", n)
	}
}

func TestFilesAreShort(t *testing.T) {
	generated := regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
	goFiles(t, func(file string, text []byte) {
		n := bytes.Count(text, []byte("\n"))
		switch _, excused := long[file]; {
		case generated.Match(text):
		case n > maxLines && !excused:
			t.Errorf("%s has %d lines: over %d a file needs a reason", file, n, maxLines)
		case n <= maxLines && excused:
			t.Errorf("%s has %d lines, and needs no reason any more", file, n)
		}
	})
}

// Nothing is skipped but by testnet.Missing, which fails where CI=true: a run of
// all tests there has run all of them. Nor does a script leave out lines of its
// own, or end before its end.
func TestNothingIsSkippedUnseen(t *testing.T) {
	const helper = "internal/testnet/require.go"
	goSkips := regexp.MustCompile(`\b(t|tb|f)\.(Skip|Skipf|SkipNow)\(|\btesting\.Short\(`)
	n := 0
	goFiles(t, func(file string, text []byte) {
		if call := goSkips.Find(text); call == nil {
			return
		} else if n++; file != helper {
			t.Errorf("%s: %s: tests are skipped by testnet.Missing, which fails in CI", file, call)
		}
	})
	scripts, err := filepath.Glob("cmd/ntap/testdata/*/*.txt")
	if n == 0 || err != nil || len(scripts) == 0 {
		t.Errorf("%d skips, %d scripts, %v: this test looks for the wrong thing", n, len(scripts), err)
	}
	scriptSkips := regexp.MustCompile(`(?m)^\s*(\[.*|skip\b.*|stop\b.*)$`)
	for _, file := range scripts {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if line := scriptSkips.Find(text); line != nil {
			t.Errorf("%s: %q: a script runs all its lines; what it needs, TestRootScripts requires", file, line)
		}
	}
}
