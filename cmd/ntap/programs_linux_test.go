// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// notRun has the lines of the documents that TestPrograms does not run, by what
// they begin with, and why.
var notRun = map[string]string{
	"NIC ─▶ ring":   "a picture",
	"make demo":     "testdata/root/demo.txt runs what it runs",
	"make test":     "it is what runs this",
	"wireshark ":    "a window; tshark, with the same code, is told the same",
	"go get github": "what it would get is this checkout",
}

// The commands of README.md and docs/OUTPUTS.md, all of them, as they stand: what
// a collector is started for, reads live frames of a remote and ends, by itself or
// by Ctrl-C, and the collector ends in order; programs in Go compile.
func TestPrograms(t *testing.T) {
	t.Parallel()
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "tcpdump", "tshark", "dumpcap", "bash", "nc", "openssl", "make", "ip", "unshare", "nsenter", "mount", "ovs-vsctl", "ovsdb-server", "ovs-vswitchd")
	host := newDocHost(t)
	used := map[string]bool{}
	for _, d := range []struct {
		name string
		most int // lines that are run, at least
	}{{"README.md", 18}, {"docs/OUTPUTS.md", 37}} {
		n := 0
		for _, s := range documented(t, d.name, used) {
			n += len(s.lines)
			t.Run(d.name+"/"+s.name, func(t *testing.T) {
				for _, code := range s.code {
					compiles(t, code)
				}
				if len(s.lines) > 0 {
					runDocumented(t, host, s.lines)
				}
			})
		}
		if n < d.most {
			t.Errorf("%s has only %d commands that are run", d.name, n)
		}
	}
	for begin := range notRun {
		if !used[begin] {
			t.Errorf("no line begins with %q any more", begin)
		}
	}
}

// A docSection is what a section of a document tells to do.
type docSection struct {
	name  string
	lines []string // commands
	code  []string // in Go
}

// documented returns the sections of a document that have any, without the lines
// of notRun, which it notes in used.
func documented(t *testing.T, document string, used map[string]bool) (all []docSection) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	var now docSection
	flush := func() {
		if len(now.lines)+len(now.code) > 0 {
			all = append(all, now)
		}
	}
	fenced := false
	for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
		line = strings.TrimSuffix(line, "\n")
		command, indented := strings.CutPrefix(line, "    ")
		switch {
		case line == "```go":
			now.code, fenced = append(now.code, ""), true
		case strings.HasPrefix(line, "```"):
			if !fenced {
				t.Fatalf("%s: what is this, and who runs it? %s", document, line)
			}
			fenced = false
		case fenced:
			now.code[len(now.code)-1] += line + "\n"
		case strings.HasPrefix(line, "#"):
			flush()
			now = docSection{name: strings.TrimLeft(line, "# ")}
		case indented && !left(command, used):
			now.lines = append(now.lines, command)
		}
	}
	flush()
	return all
}

func left(line string, used map[string]bool) bool {
	for begin := range notRun {
		if strings.HasPrefix(line, begin) {
			used[begin] = true
			return true
		}
	}
	return false
}

// compiles compiles what stands in a document, in a function that has ctx and
// keys.
func compiles(t *testing.T, code string) {
	dir := t.TempDir()
	text := "package snippet\n\nimport (\n\t\"context\"\n\t\"fmt\"\n\n\t\"github.com/ntap-project/ntap/collector\"\n\t\"github.com/ntap-project/ntap/crypto\"\n)\n\n" +
		"func Snippet(ctx context.Context, keys *crypto.KeyFile) error {\n" + code + "}\n"
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	file, overlay := filepath.Join(dir, "snippet.go"), filepath.Join(dir, "overlay.json")
	for name, text := range map[string]string{file: text, overlay: fmt.Sprintf(`{"Replace": {%q: %q}}`, filepath.Join(root, "snippet", "snippet.go"), file)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startShell(t, dir, os.Environ(), "cd "+root+" && go build -overlay "+overlay+" ./snippet").end()
}

// runDocumented runs the commands of a section.
func runDocumented(t *testing.T, host *docHost, lines []string) {
	w := host.world(t, strings.Join(lines, "\n"))
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "ntap collector ") && !strings.Contains(line, "|"):
			w.stopCollector()
			w.startCollector(line)
		case strings.HasPrefix(line, "ntap remote "):
			w.start("cp tap7.key /etc/ntap").end() // as it was given to the host
			w.remote = w.start(line)
			w.remote.until("the remote starts", func() bool { return strings.Contains(w.remote.said(), "remote started") })
		case strings.Contains(line, "suricata ") && w.suricata:
			w.feedSuricata(line)
		default:
			w.command(line)
		}
	}
	w.stopCollector()
	if w.remote != nil {
		w.remote.signal(syscall.SIGINT)
		w.remote.end()
	}
}

func (w *docWorld) startCollector(line string) {
	gone(w.t, ":5678") // what tshark had started may still end
	w.collector, w.fed = w.start(line), false
	w.collector.until("the collector starts", w.collector.collects)
}

// stopCollector ends a collector, which has given frames to somebody.
func (w *docWorld) stopCollector() {
	w.t.Helper()
	if w.collector == nil {
		return
	}
	if !w.fed {
		w.feed()
	}
	w.collector.signal(syscall.SIGINT)
	w.collector.end()
	if text := w.collector.printed() + w.collector.said(); account(text, "frames written to") == 0 {
		w.t.Errorf("%s: no frame was written:\n%s", w.collector.line, text)
	}
	w.collector = nil
}

// enough is how many lines a program prints before Ctrl-C.
const enough = 20

var count = regexp.MustCompile(` -c (\d+)\b`)

// command runs a line while frames come, until it has ended by itself or, if it
// does not say after how many frames, has seen enough.
func (w *docWorld) command(line string) {
	w.t.Helper()
	if w.collector != nil && strings.Contains(w.collector.line, " -w ") {
		w.feed() // its files are there from the first frame on
		w.recorded()
	}
	s := w.start(line)
	printed := func() int { return strings.Count(s.printed(), "\n") }
	ends := count.FindStringSubmatch(line)
	select {
	case <-s.done: // it reads nothing
	case <-time.After(200 * time.Millisecond):
	}
	s.until("it has seen enough", func() bool {
		if s.ended() || ends == nil && printed() >= enough {
			return true
		}
		w.feed()
		return false
	})
	stopped := !s.ended()
	s.signal(syscall.SIGINT)
	if err := s.ran(); err != nil && !stopped { // after Ctrl-C a pipe may end within a frame, which tshark says
		w.t.Fatalf("%s: %v", line, err)
	}
	if ends != nil && ends[1] != strconv.Itoa(printed()) {
		w.t.Errorf("%s printed %d lines:\n%s", line, printed(), s.printed())
	}
	if text := s.said(); strings.Contains(line, "ntap collector") && (!stopped && !strings.Contains(text, "the reader of its output is gone") || !strings.Contains(text, "collector stopped")) {
		w.t.Errorf("%s: the collector does not end in order with its reader:\n%s", line, text)
	}
	if strings.Contains(line, "tshark") && printed() == 0 {
		w.t.Errorf("%s prints nothing", line)
	}
}

// feedSuricata has a real Suricata read: on an interface all that comes there, in
// a pipe all that is sent. It is ended by its own signal or, in the pipe, by that
// of the collector.
func (w *docWorld) feedSuricata(line string) {
	w.t.Helper()
	testnet.RequireTool(w.t, "pkill")
	logs := suricata(w.own("log", "suricata"))
	if strings.HasSuffix(line, " -l .") {
		logs = suricata(w.dir)
	}
	for _, name := range []string{"eve.json", "suricata.log"} { // of one before
		os.Remove(filepath.Join(string(logs), name))
	}
	s := w.start(line)
	if strings.Contains(line, "|") {
		s.until("the collector starts", s.collects)
		w.feed() // with the first frame it starts
		// A collector that is to end waits five seconds for a reader that takes
		// nothing, and Suricata may take longer to start.
		s.until("Suricata reads", logs.engineStarted)
		w.end(s, "ntap")
		if n := logs.stats().Decoder.Packets; n != fedFrames {
			w.t.Errorf("%s: Suricata's last count is of %d frames, want %d", line, n, fedFrames)
		}
		return
	}
	s.until("Suricata reads", logs.engineStarted)
	interfaces := regexp.MustCompile(` -i (\S+)`).FindAllStringSubmatch(w.collector.line, -1)
	var before, n int
	for _, m := range interfaces {
		before += w.received(m[1])
	}
	iface := regexp.MustCompile(` -i (\S+)`).FindStringSubmatch(line)[1]
	mine := w.received(iface)
	w.feed()
	s.until("all frames come to interfaces", func() bool {
		n = -before
		for _, m := range interfaces {
			n += w.received(m[1])
		}
		return n >= fedFrames
	})
	if mine = w.received(iface) - mine; mine == 0 {
		w.t.Fatalf("no frame came to %s", iface)
	}
	s.until("Suricata counts all frames", func() bool { return logs.stats().Decoder.Packets >= mine })
	w.end(s, "suricata")
	if got := logs.stats().Decoder.Packets; got != mine || n != fedFrames {
		w.t.Errorf("%s: Suricata's last count is of %d frames; %d came to %s, to all interfaces %d", line, got, mine, iface, n)
	}
}

// end interrupts one of a line's programs, and waits for the end of all.
func (w *docWorld) end(s *shell, who string) {
	w.t.Helper()
	w.start(fmt.Sprintf("pkill -INT -i -g %d %s", s.cmd.Process.Pid, who)).end()
	s.end()
}

// received returns how many frames an interface has received.
func (w *docWorld) received(iface string) (n int) {
	w.t.Helper()
	text, err := testnet.Command(w.t, "cat", "/proc/net/dev").Output() // of this thread's namespace
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if name, counts, _ := strings.Cut(strings.TrimSpace(line), ":"); name == iface {
			n, _ = strconv.Atoi(strings.Fields(counts)[1])
			return n
		}
	}
	w.t.Fatalf("there is no interface %s", iface)
	return 0
}
