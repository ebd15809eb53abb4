// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	_, err := exec.LookPath("suricata")
	endless := err == nil && strings.Contains(lines[len(lines)-1], "suricata") // the real one reads until it is told to end
	for _, name := range []string{"suricata", "zeek"} {
		if name == "suricata" && err == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(bin, name), []byte(standIn), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "PATH="+bin+":"+filepath.Dir(ntapBinary)+":"+os.Getenv("PATH"), "STATE_DIRECTORY="+dir)
	start := func(line string) (*exec.Cmd, *bytes.Buffer, string) {
		cmd := exec.Command("bash", "-c", "set -o pipefail; "+line)
		cmd.Dir, cmd.Env = dir, env
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		log, err := os.CreateTemp(dir, "log")
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, log
		if err := cmd.Start(); err != nil { // on this thread, which is in the namespace
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		return cmd, &out, log.Name()
	}
	said := func(log string) string {
		b, _ := os.ReadFile(log)
		return string(b)
	}
	var collector *exec.Cmd
	var collectorLog string
	ready := func(log string) {
		for deadline := time.Now().Add(60 * time.Second); !strings.Contains(said(log), "collector started"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the collector does not start:\n%s", said(log))
			}
		}
	}
	for _, line := range lines[:len(lines)-1] {
		collector, _, collectorLog = start(line)
		ready(collectorLog)
	}
	reader, out, log := start(lines[len(lines)-1])
	if collector == nil {
		ready(log)
	}
	done := make(chan error, 1)
	go func() { done <- reader.Wait() }()
	if endless {
		feedSuricata(t, suricata(dir), file, reader.Process.Pid, collector == nil)
		if err := <-done; err != nil {
			t.Fatalf("%s: %v\n%s\n%s", lines[len(lines)-1], err, out, said(log))
		}
	}
	for deadline := time.Now().Add(60 * time.Second); !endless; {
		remoteOf(dir, file).Run() // its error may be that nobody listens any more
		select {
		case err := <-done:
			if n := strings.Count(out.String(), "\n"); err != nil || n != 20 {
				t.Fatalf("%s: %v, %d lines, want 20\n%s\n%s", lines[len(lines)-1], err, n, out, said(log))
			}
		default:
			if time.Now().After(deadline) {
				t.Fatalf("%s: a minute, and no end:\n%s\n%s", lines[len(lines)-1], said(log), said(collectorLog))
			}
			continue
		}
		break
	}
	if collector == nil {
		if text := said(log); !endless && !strings.Contains(text, "the reader of its output is gone") || !strings.Contains(text, "collector stopped") {
			t.Errorf("the collector does not end in order with its reader:\n%s", text)
		}
		return
	}
	syscall.Kill(-collector.Process.Pid, syscall.SIGINT)
	if err := collector.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", lines[0], err, said(collectorLog))
	}
}

// remoteOf is a remote that sends the frames of a file to port 5678.
func remoteOf(dir, file string) *exec.Cmd {
	return exec.Command(ntapBinary, "remote", "-r", file, "--pace", "real", "-c", "127.0.0.1:5678", "--key-file", filepath.Join(dir, "master.key"), "--tap", "7")
}

// feedSuricata sends the 300 frames of a file to a Suricata, of a process group,
// and ends it: by its own signal or, in a pipe, by that of the collector.
func feedSuricata(t *testing.T, logs suricata, file string, group int, pipe bool) {
	t.Helper()
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				text, _ := os.ReadFile(filepath.Join(string(logs), "suricata.log"))
				t.Fatalf("a minute, and not yet: %s\n%s", what, text)
			}
		}
	}
	if !pipe { // there it starts with the first frame
		until("Suricata reads", logs.engineStarted)
	}
	if out, err := remoteOf(string(logs), file).CombinedOutput(); err != nil {
		t.Fatalf("remote: %v\n%s", err, out)
	}
	who := "suricata"
	if pipe {
		who = "ntap"
	} else {
		until("Suricata counts all frames", func() bool { return logs.stats().Decoder.Packets >= 300 })
	}
	if out, err := exec.Command("pkill", "-INT", "-i", "-g", strconv.Itoa(group), who).CombinedOutput(); err != nil {
		t.Fatalf("pkill %s: %v\n%s", who, err, out)
	}
	until("its last count is of all frames", func() bool { return logs.stats().Decoder.Packets == 300 })
}
