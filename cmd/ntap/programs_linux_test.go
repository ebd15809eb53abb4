// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// standIn is in the place of Zeek, and of Suricata where it is not installed. It
// opens what the program of its name would, and ends after 20 frames.
const standIn = `#!/bin/sh
case " $* " in
*" -i ntap0 "*) exec tcpdump -n -i ntap0 -c 20 ;;
*" -r /dev/stdin "* | *" -r - "*) exec tcpdump -n -r /dev/stdin -c 20 ;;
esac
echo "$0: what is to be read? $*" >&2
exit 9
`

// The commands of docs/OUTPUTS.md, program by program, as they stand: the
// collector, then what reads it, which gets live frames of a remote and ends;
// and with it, in a pipe, the collector, with status 0.
func TestPrograms(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "tcpdump", "tshark", "dumpcap", "bash", "nc")
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "OUTPUTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(text), "\n## Program by program\n")
	part, _, _ = strings.Cut(part, "\n## ")
	sections := strings.Split(part, "\n### ")[1:]
	ran := 0
	for _, section := range sections {
		name, body, _ := strings.Cut(section, "\n")
		var lines []string
		for _, m := range regexp.MustCompile(`(?m)^    (.*)$`).FindAllStringSubmatch(body, -1) {
			lines = append(lines, m[1])
		}
		if len(lines) == 0 {
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) { runProgram(t, lines) })
	}
	if ran < 9 {
		t.Errorf("docs/OUTPUTS.md has commands of %d programs", ran)
	}
}

func runProgram(t *testing.T, lines []string) {
	testnet.Namespace(t)
	dir, _, _ := keyFiles(t)
	file := protocols(t, 300)
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	reads := lines[len(lines)-1]
	_, err := exec.LookPath("suricata")
	endless := err == nil && strings.Contains(reads, "suricata") // the real one reads until it is told to end
	for _, name := range []string{"suricata", "zeek"} {
		if name == "suricata" && err == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(bin, name), []byte(standIn), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "PATH="+bin+":"+filepath.Dir(ntapBinary)+":"+os.Getenv("PATH"), "STATE_DIRECTORY="+dir)
	var collector *shell
	for _, line := range lines[:len(lines)-1] {
		collector = startShell(t, dir, env, line)
		collector.until("the collector starts", collector.collects)
	}
	reader := startShell(t, dir, env, reads)
	if collector == nil {
		reader.until("the collector starts", reader.collects)
	}
	if endless {
		feedSuricata(t, suricata(dir), file, reader, collector == nil)
		reader.end()
	} else {
		reader.until("it has read enough", func() bool {
			if reader.ended() {
				return true
			}
			remoteOf(t, dir, file).ran() // its error may be that nobody listens any more
			return false
		})
		reader.end()
		if out := reader.printed(); strings.Count(out, "\n") != 20 {
			t.Fatalf("%s: want 20 lines:\n%s", reads, out)
		}
	}
	if collector == nil {
		if text := reader.said(); !endless && !strings.Contains(text, "the reader of its output is gone") || !strings.Contains(text, "collector stopped") {
			t.Errorf("the collector does not end in order with its reader:\n%s", text)
		}
		return
	}
	collector.signal(syscall.SIGINT)
	collector.end()
}

// remoteOf is a remote that sends the frames of a file to port 5678.
func remoteOf(t *testing.T, dir, file string) *shell {
	return startShell(t, dir, os.Environ(), ntapBinary+" remote -r "+file+" --pace real -c 127.0.0.1:5678 --key-file master.key --tap 7")
}

// feedSuricata sends the 300 frames of a file to a Suricata and ends it: by its
// own signal or, in a pipe, by that of the collector.
func feedSuricata(t *testing.T, logs suricata, file string, s *shell, pipe bool) {
	t.Helper()
	testnet.RequireTool(t, "pkill")
	if !pipe { // there it starts with the first frame
		s.until("Suricata reads", logs.engineStarted)
	}
	remoteOf(t, string(logs), file).end()
	who := "suricata"
	if pipe {
		// A collector that is to end waits five seconds for a reader that takes
		// nothing, and Suricata may take longer to start.
		s.until("Suricata reads", logs.engineStarted)
		who = "ntap"
	} else {
		s.until("Suricata counts all frames", func() bool { return logs.stats().Decoder.Packets >= 300 })
	}
	startShell(t, string(logs), os.Environ(), fmt.Sprintf("pkill -INT -i -g %d %s", s.cmd.Process.Pid, who)).end()
	s.end()
	if n := logs.stats().Decoder.Packets; n != 300 {
		t.Fatalf("Suricata's last count is of %d frames, want 300", n)
	}
}
