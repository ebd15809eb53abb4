// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A local is an ntap that runs on this machine, as a user starts it.
type local struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string // a file: stdout and stderr
	done chan error
}

func startLocal(t *testing.T, args ...string) *local {
	t.Helper()
	return startProgram(t, ntapBinary, args...)
}

// startProgram is startLocal for a program that becomes ntap.
func startProgram(t *testing.T, name string, args ...string) *local {
	t.Helper()
	l := &local{t: t, cmd: testnet.Daemon(t, name, args...), log: filepath.Join(t.TempDir(), "log"), done: make(chan error, 1)}
	f, err := os.Create(l.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l.cmd.Stdout, l.cmd.Stderr = f, f
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	t.Cleanup(func() {
		l.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("ntap %s said:\n%s", strings.Join(args, " "), l.text())
		}
	})
	return l
}

func (l *local) text() string {
	b, _ := os.ReadFile(l.log)
	return string(b)
}

// find waits until something that matches has been printed, and returns the
// first group.
func (l *local) find(pattern string) string {
	l.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if m := re.FindStringSubmatch(l.text()); m != nil {
			return m[len(m)-1]
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("a minute, and nothing like %q:\n%s", pattern, l.text())
		}
	}
}

// pause has it stand still until SIGCONT.
func (l *local) pause() {
	l.t.Helper()
	l.cmd.Process.Signal(syscall.SIGSTOP)
	testnet.Eventually(l.t, "it stands still", func() bool {
		return !slices.ContainsFunc(tasks(l.t, l.cmd.Process.Pid), func(stat []string) bool { return stat[0] != "T" })
	})
}

// stop sends SIGINT and wants the end with status 0.
func (l *local) stop() string {
	l.t.Helper()
	l.cmd.Process.Signal(syscall.SIGINT)
	select {
	case err := <-l.done:
		if err != nil {
			l.t.Errorf("%v\n%s", err, l.text())
		}
	case <-time.After(testnet.Patience):
		l.t.Fatalf("does not end:\n%s", l.text())
	}
	return l.text()
}

// collect starts a collector without a TAP, and returns where remotes send to.
func collect(t *testing.T, master string, args ...string) (l *local, addr string) {
	t.Helper()
	l = startLocal(t, append([]string{"collector", "-p", "127.0.0.1:0", "--key-file", master, "--state", "none", "--no-tap"}, args...)...)
	return l, l.find(`collector started address=(\S+)`)
}

func sendFile(t *testing.T, master, addr, file, tap string) *exec.Cmd {
	t.Helper()
	r := testnet.Command(t, ntapBinary, "remote", "-r", file, "--pace", "real", "-c", addr, "--key-file", master, "--tap", tap, "--name", "tap-"+tap)
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Process.Kill(); r.Wait() })
	return r
}

// Wireshark's way to read PCAP over IP: tshark and dumpcap with TCP@HOST:PORT,
// live, two at once, each with as many frames as it wants.
func TestServeTshark(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark", "dumpcap")
	_, master, _ := keyFiles(t)
	file := protocols(t, 20000)
	c, addr := collect(t, master, "--pcap-over-ip", "0", "--pcap-over-ip", "0,pcap", "--select", "pcap-over-ip snaplen=80")
	ng := c.find(`pcap over IP address=(\S+) tls=false`)
	pcap := c.find(`(?s)pcap over IP address=\S+ tls=false.*pcap over IP address=(\S+) tls=false`)
	want := testnet.ReadCapture(t, file)
	dir := t.TempDir()
	var all []*exec.Cmd
	for i, at := range []string{ng, pcap} {
		cmd := testnet.Command(t, "tshark", "-n", "-i", "TCP@"+at, "-c", "100", "-w", filepath.Join(dir, fmt.Sprint(i)))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
		c.find(regexp.QuoteMeta(at) + `.* client=`)
	}
	sendFile(t, master, addr, file, "7")
	for i, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("tshark %d: %v", i, err)
		}
		out, err := testnet.Command(t, "tshark", "-r", filepath.Join(dir, fmt.Sprint(i)), "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.cap_len").Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		for n, line := range lines {
			p := want[n]
			if w := fmt.Sprintf("%d.%09d\t%d\t%d", p.Time/1e9, p.Time%1e9, p.OrigLen, min(80, len(p.Data))); line != w {
				t.Fatalf("tshark %d, frame %d: %q, want %q", i, n, line, w)
			}
		}
		if len(lines) != 100 {
			t.Errorf("tshark %d got %d frames", i, len(lines))
		}
	}
	c.stop()
}

// tcpdump reads what comes over a TCP connection; a client may ask for taps and
// a filter, as text or compiled by tcpdump.
func TestServeTcpdump(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tcpdump")
	_, master, _ := keyFiles(t)
	file := protocols(t, 600)
	c, addr := collect(t, master, "--pcap-over-ip", "0,pcap")
	at := c.find(`pcap over IP address=(\S+)`)
	bytecode, err := testnet.Command(t, "tcpdump", "-y", "EN10MB", "-ddd", "udp").Output()
	if err != nil {
		t.Fatal(err)
	}
	type client struct {
		cmd    *exec.Cmd
		stdout bytes.Buffer
		lines  int
	}
	clients := []*client{{lines: 1200}, {lines: 200}, {lines: 200}}
	// The collector waits a tenth of a second for a line, which this process may
	// stand still between a connection and its line.
	c.pause()
	for i, line := range []string{"", "taps=2 filter=" + strings.ReplaceAll(strings.TrimSpace(string(bytecode)), "\n", ",") + "\n", "taps=2 filter=udp\n"} {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, line); err != nil {
			t.Fatal(err)
		}
		f, err := conn.(*net.TCPConn).File()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if err := syscall.SetNonblock(int(f.Fd()), false); err != nil {
			t.Fatal(err)
		}
		k := clients[i]
		k.cmd = testnet.Command(t, "tcpdump", "-nn", "-r", "-")
		k.cmd.Stdin, k.cmd.Stdout = f, &k.stdout
		if err := k.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	c.cmd.Process.Signal(syscall.SIGCONT)
	c.find(`(?s)client=.*client=.*client=`)
	for _, tap := range []string{"1", "2"} {
		if err := sendFile(t, master, addr, file, tap).Wait(); err != nil {
			t.Fatal(err)
		}
	}
	text := c.stop()
	for i, k := range clients {
		if err := k.cmd.Wait(); err != nil {
			t.Errorf("tcpdump %d: %v", i, err)
		}
		if n := strings.Count(k.stdout.String(), "IP "); n != k.lines {
			t.Errorf("tcpdump %d printed %d frames, want %d:\n%.500s", i, n, k.lines, k.stdout.String())
		}
	}
	if account(text, "frames written to pcap over IP") != 1600 || account(text, "not selected") != 2000 {
		t.Errorf("the account:\n%s", text)
	}
}

// With TLS and certificates made by openssl, as the README has it, read through
// openssl s_client.
func TestServeOpenSSL(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "openssl", "tshark")
	dir, master, _ := keyFiles(t)
	sh := func(line string) {
		t.Helper()
		cmd := testnet.Command(t, "sh", "-ec", line)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	for _, line := range commands(t, "docs/OUTPUTS.md", "openssl req", "openssl x509") {
		sh(line)
	}
	c, addr := collect(t, master, "--pcap-over-ip", "0.0.0.0:0",
		"--tls-cert", filepath.Join(dir, "collector.pem"), "--tls-key", filepath.Join(dir, "collector.key"), "--tls-client-ca", filepath.Join(dir, "ca.pem"))
	_, port, _ := net.SplitHostPort(c.find(`pcap over IP address=(\S+) tls=true`))
	file := protocols(t, 20000)
	shell := testnet.Command(t, "sh", "-c", fmt.Sprintf(
		`openssl s_client -quiet -no_ign_eof -verify_return_error -connect 127.0.0.1:%s -CAfile ca.pem -cert analyst.pem -key analyst.key 2>s_client.log | tshark -n -c 50 -r - -T fields -e frame.len`, port))
	shell.Dir, shell.SysProcAttr = dir, &syscall.SysProcAttr{Setpgid: true}
	var stdout bytes.Buffer
	shell.Stdout = &stdout
	stdin, err := shell.StdinPipe() // s_client ends with its input
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	if who := c.find(`client="?127.0.0.1:\d+ (CN=[^" ]*)`); who != "CN=analyst" {
		t.Errorf("the client is %q", who)
	}
	sendFile(t, master, addr, file, "7")
	shell.Wait() // it is killed if tshark does not get 50 frames
	if n := strings.Count(stdout.String(), "\n"); n != 50 {
		log, _ := os.ReadFile(filepath.Join(dir, "s_client.log"))
		t.Errorf("%d frames; openssl said %s", n, log)
	}
	c.stop()
}

// commands returns the commands of a document, its indented lines and those that
// they go on in, that begin with one of the texts.
func commands(t *testing.T, document string, begin ...string) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), "\\\n", " ")
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(strings.TrimSpace(line), "")
		if ok && slices.ContainsFunc(begin, func(s string) bool { return strings.HasPrefix(line, s) }) {
			lines = append(lines, line)
		}
	}
	if len(lines) < len(begin) {
		t.Fatalf("%s has the commands %q, and should have some that begin with each of %q", document, lines, begin)
	}
	return lines
}
