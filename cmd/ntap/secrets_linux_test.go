// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
)

// secret is the key file text, and the raw key in it.
func secret(t *testing.T, file string) (raw []byte) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(text))
	raw, err = base64.StdEncoding.DecodeString(words[len(words)-1])
	if err != nil || len(raw) != crypto.KeyLen {
		t.Fatalf("%s: %d bytes, %v", file, len(raw), err)
	}
	return raw
}

// forms returns the ways in which a key could show.
func forms(name string, raw []byte) []pattern {
	return []pattern{
		{name, raw},
		{name + " in base64", []byte(base64.RawStdEncoding.EncodeToString(raw))},
		{name + " in hex", []byte(hex.EncodeToString(raw))},
		{name + " in capital hex", []byte(strings.ToUpper(hex.EncodeToString(raw)))},
		{name + " in numbers", []byte(strings.Trim(fmt.Sprint(raw), "[]"))},
	}
}

// After remote and collector have run, and the keys are wiped, neither the
// master key, nor the tap's, nor a secret or key of the session is anywhere in
// the process's memory. Another process looks for them, which has never seen
// them but by the key file.
func TestKeysAreGoneFromMemory(t *testing.T) {
	_, master, tap7 := keyFiles(t)
	scanKeys(t, scanKey+"="+master, func(session uint64) []pattern {
		suite, _ := crypto.Pick()
		info := append([]byte("ntap v1 shard"), byte(suite), 0, 0, 0)
		secret0, _ := hkdf.Key(sha256.New, secret(t, tap7), binary.BigEndian.AppendUint64(nil, session), string(info), 32)
		key0, _ := hkdf.Expand(sha256.New, secret0, "ntap v1 key", 32)
		return slices.Concat(forms("master key", secret(t, master)), forms("tap key", secret(t, tap7)),
			forms("secret of the stream", secret0), forms("key of the stream", key0))
	})
}

// In public-key mode it is the same with the collector's private key and the
// remote's identity, but for one copy of each that the standard library makes
// and gives no way to erase.
func TestPrivateKeysAreGoneFromMemory(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	run := func(to string, args ...string) {
		status, out := try(t, args...)
		if status != 0 {
			t.Fatalf("%v: %s", args, out)
		}
		if err := os.WriteFile(file(to), []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("nothing", "key", "pair", "--out", file("pair"))
	run("public", "key", "public", "--key-pair", file("pair"))
	run("allow", "key", "identity", "--id", "7", "--out", file("identity"))
	scanKeys(t, scanDir+"="+dir, func(uint64) []pattern {
		return append(forms("private key", secret(t, file("pair"))), forms("identity", secret(t, file("identity")))...)
	})
}

// scanKeys runs scanMain in another process, and tells it what to look for.
func scanKeys(t *testing.T, keys string, patterns func(session uint64) []pattern) {
	t.Helper()
	cmd := testnet.Command(t, os.Args[0])
	cmd.Env = append(os.Environ(), scanFile+"="+numbered(t, 500, 300, 0), keys)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var session uint64
	var text bytes.Buffer
	for line := ""; ; {
		b := make([]byte, 1)
		if _, err := out.Read(b); err != nil {
			t.Fatalf("the child ended: %v\n%s", err, text.String())
		}
		text.Write(b)
		if line += string(b); b[0] != '\n' {
			continue
		}
		if _, err := fmt.Sscanf(line, "session %x", &session); err == nil {
			break
		}
		line = ""
	}
	for _, p := range patterns(session) {
		fmt.Fprintf(in, "%s %x\n", strings.ReplaceAll(p.name, " ", "-"), mask(p.masked))
	}
	in.Close()
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s%s", err, text.String(), rest)
	}
}

// Variables by which TestMain knows that it is the process that scanKeys
// starts.
const (
	scanFile = "NTAP_SCAN_FILE" // the capture file that is sent
	scanKey  = "NTAP_SCAN_KEY"  // the key file, or
	scanDir  = "NTAP_SCAN_DIR"  // a folder with those of public-key mode
)

// scanMain runs a remote and a collector in this process, reads what to look
// for, and fails unless the keys are in memory before they are wiped, and
// nowhere after.
func scanMain() error {
	dir, err := os.MkdirTemp("", "ntap-scan")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	suite, _ := crypto.Pick()
	c := collector.Config{Listen: "127.0.0.1:0", Write: filepath.Join(dir, "out"), Once: true, Log: zerolog.Nop()}
	r := remote.Config{File: os.Getenv(scanFile), Pace: remote.PaceMax, Tap: 7, Suite: suite, MTU: 1500, Log: zerolog.Nop()}
	wipe, err := scanLoad(&c, &r)
	if err != nil {
		return err
	}
	ready, ended := make(chan netip.AddrPort), make(chan error)
	go func() {
		c.Ready = func(a netip.AddrPort, _ *collector.Account) { ready <- a }
		_, err := collector.Run(context.Background(), c)
		ended <- err
	}()
	select {
	case at := <-ready:
		r.Collector = at.String()
	case err := <-ended:
		return err
	}
	a, err := remote.Run(context.Background(), r)
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	fmt.Printf("session %x\n", a.Session)
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	patterns, err := readPatterns(string(text))
	if err != nil || len(patterns) < 10 {
		return fmt.Errorf("%d patterns: %v", len(patterns), err)
	}
	found, err := scan(patterns)
	if err != nil || !strings.Contains(strings.Join(found, "\n"), patterns[0].name+" at") {
		return fmt.Errorf("before it is wiped the %s is not found: %v, %v", patterns[0].name, found, err)
	}
	wipe()
	runtime.GC()
	found, err = scan(patterns)
	if err == nil && c.Pairs != nil && onlyLibraryCopies(found) {
		found = nil
	}
	if err != nil || len(found) > 0 {
		return fmt.Errorf("after it is wiped: %v\n%s", err, strings.Join(found, "\n"))
	}
	return nil
}

// scanLoad gives both sides the keys, and returns what wipes them.
func scanLoad(c *collector.Config, r *remote.Config) (wipe func(), err error) {
	if file := os.Getenv(scanKey); file != "" {
		c.Keys, err = crypto.LoadKeyFile(file)
		r.Keys = c.Keys
		return c.Keys.Wipe, err
	}
	dir := os.Getenv(scanDir)
	var errs [4]error
	c.Pairs, errs[0] = crypto.LoadPairFile(filepath.Join(dir, "pair"))
	c.Allow, errs[1] = crypto.LoadAllowList(filepath.Join(dir, "allow"))
	r.Public, errs[2] = crypto.LoadPublicFile(filepath.Join(dir, "public"))
	r.Identity, errs[3] = crypto.LoadIdentity(filepath.Join(dir, "identity"))
	return func() { c.Pairs.Wipe(); r.Identity.Wipe() }, errors.Join(errs[:]...)
}

// onlyLibraryCopies says that no more was found than one copy of each key: the
// one of crypto/hpke and the one of crypto/ed25519, which give no way to erase
// it.
func onlyLibraryCopies(found []string) bool {
	counts := map[string]int{}
	for _, f := range found {
		name, _, _ := strings.Cut(f, " at ")
		counts[name]++
	}
	return counts["private-key"] <= 1 && counts["identity"] <= 1 && counts["private-key"]+counts["identity"] == len(found)
}

// A background is a program that runs until it is told to stop, with what it
// prints.
type background struct {
	cmd *exec.Cmd
	out syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// begin starts a program and waits until it has printed text.
func begin(t *testing.T, text string, args ...string) *background {
	t.Helper()
	b := &background{cmd: testnet.Daemon(t, args[0], args[1:]...)}
	b.cmd.Env = append(os.Environ(), "NTAP_KEY_FILE=", "CREDENTIALS_DIRECTORY=")
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.cmd.Process.Kill(); b.cmd.Wait() })
	for deadline := time.Now().Add(time.Minute); !strings.Contains(b.out.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute, and no %q from %v:\n%s", text, args, b.out.String())
		}
	}
	return b
}

// proc reads a file of the process in /proc.
func (b *background) proc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(b.cmd.Process.Pid) + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A process that holds keys leaves no core dump, lets no other process of its
// user at its memory, and has it locked: all of it with the right to do so, and
// without it the page with the key.
func TestKeyMemoryIsProtected(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "prlimit", "setpriv")
	_, master, _ := keyFiles(t)
	public := filepath.Join(t.TempDir(), "ntap") // where nobody gets to
	for path := filepath.Dir(public); path != "/tmp" && path != "/"; path = filepath.Dir(path) {
		os.Chmod(path, 0o755)
	}
	binary, err := os.ReadFile(ntapBinary)
	if err == nil {
		err = os.WriteFile(public, binary, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(filepath.Dir(public), "key")
	text, _ := os.ReadFile(master)
	if err := errors.Join(os.WriteFile(theirs, text, 0o600), os.Chown(theirs, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	vmLck := regexp.MustCompile(`(?m)^VmLck:\s+(\d+) kB$`)
	page := os.Getpagesize() / 1024
	collector := []string{"collector", "-p", "127.0.0.1:0", "--no-tap", "-w", "/dev/null", "--state", "none"}
	for _, v := range []struct {
		name        string
		least, most int // locked, kB
		before      []string
		key         string
		program     []string
	}{
		{"root", 10_000, 1 << 40, nil, master, collector},
		{"Wireshark", 10_000, 1 << 40, nil, master, []string{"extcap", "--capture", "--extcap-interface", "ntap", "--fifo", "/dev/null", "--port", "127.0.0.1:0", "--debug"}},
		{"nobody", page, 2 * page, []string{"prlimit", "--memlock=65536:65536", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, theirs, collector},
		{"nobody with CAP_IPC_LOCK", 10_000, 1 << 40, []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+ipc_lock", "--ambient-caps=+ipc_lock"}, theirs, collector},
	} {
		t.Run(v.name, func(t *testing.T) {
			b := begin(t, "collector started", slices.Concat(v.before, []string{public}, v.program, []string{"--key-file", v.key})...)
			if limits := b.proc(t, "limits"); !regexp.MustCompile(`(?m)^Max core file size\s+0\s+0\s`).MatchString(limits) {
				t.Errorf("core dumps are allowed:\n%s", limits)
			}
			m := vmLck.FindStringSubmatch(b.proc(t, "status"))
			if n, _ := strconv.Atoi(append(m, "", "-1")[1]); n < v.least || n > v.most {
				t.Errorf("%d kB are locked, want %d to %d", n, v.least, v.most)
			}
			// Files of a process in /proc are its user's if others of that user
			// may look into it, and else root's (proc(5)).
			st, err := os.Stat("/proc/" + strconv.Itoa(b.cmd.Process.Pid) + "/environ")
			if err != nil {
				t.Fatal(err)
			}
			if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 0 {
				t.Errorf("user %d may look into its memory", uid)
			}
		})
	}
}

// Whatever ntap does, and says at its most talkative, in order or not, no key
// shows; only ntap key prints one, which is what it is for.
func TestKeysNeverShow(t *testing.T) {
	t.Parallel()
	dir, master, tap7 := keyFiles(t)
	const passphrase = "a passphrase that nobody guesses"
	fromPass, err := crypto.FromPassphrase(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	passKey, err := fromPass.TapKey(7)
	if err != nil {
		t.Fatal(err)
	}
	patterns := append(forms("master key", secret(t, master)), forms("tap key", secret(t, tap7))...)
	patterns = append(patterns, forms("key of the passphrase", passKey[:])...)
	patterns = append(patterns, pattern{"passphrase", []byte(passphrase)})
	said := 0
	check := func(what, text string) {
		t.Helper()
		said += len(text)
		for _, p := range patterns {
			if strings.Contains(text, string(p.masked)) {
				t.Errorf("%s shows the %s:\n%s", what, p.name, text)
			}
		}
	}
	key, err := os.ReadFile(master)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(strings.Split(string(key), "\n")[1])
	spoilt := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := numbered(t, 20, 60, 0)
	for _, args := range [][]string{
		{"remote", "-v", "-r", file, "-c", "127.0.0.1:9", "--key-file", spoilt("two", line+"\n"+line+"\n", 0o600)},
		{"remote", "-v", "-r", file, "-c", "127.0.0.1:9", "--key-file", spoilt("open", line+"\n", 0o644)},
		{"remote", "-v", "-r", file, "-c", "127.0.0.1:9", "--key-file", spoilt("word", "ntap-key "+strings.Fields(line)[1]+"\n", 0o600)},
		{"remote", "-v", "-r", file, "-c", "127.0.0.1:9", "--key-file", spoilt("bare", strings.Fields(line)[1]+"\n", 0o600)},
		{"remote", "-v", "-r", file, "-c", "127.0.0.1:9", "--key-file", spoilt("long", line+"AAAA\n", 0o600)},
		{"remote", "-v", "-r", file, "-c", "127.0.0.1:9", "--key-file", tap7, "--tap", "9"},
		{"collector", "-v", "-p", "0", "--no-tap", "-w", filepath.Join(dir, "no", "dir"), "--key-file", master},
		{"key", "tap", "--id", "9", "--key-file", tap7},
		{"key", "new", "--out", master},
		{"doctor"}, {"doctor", "-o", "json"}, {"version"},
	} {
		_, out := try(t, args...)
		check("ntap "+strings.Join(args, " "), out)
	}
	for _, v := range []struct{ collector, remote []string }{
		{[]string{"--key-file", master}, []string{"--key-file", tap7}},
		{[]string{"-k", passphrase, "--log-json"}, []string{"-k", passphrase, "--log-json", "--tap", "7"}},
	} {
		port := freePort(t)
		c := begin(t, "collector started", append([]string{ntapBinary, "collector", "-v", "-p", port, "--no-tap", "-w", "/dev/null", "--stats", "--state", "none"}, v.collector...)...)
		_, out := try(t, append([]string{"remote", "-v", "-r", file, "-c", port, "--mtu", "1500", "--stats"}, v.remote...)...)
		check("a remote", out)
		testnet.Eventually(t, "the collector has heard it", func() bool { return strings.Contains(c.out.String(), "stream") })
		for _, s := range []syscall.Signal{syscall.SIGQUIT} { // it dies with a dump of its stacks
			c.cmd.Process.Signal(s)
		}
		c.cmd.Wait()
		if text := c.out.String(); !strings.Contains(text, "goroutine ") || !strings.Contains(text, "stream") {
			t.Errorf("no dump, or no stream:\n%s", text)
		}
		check("a collector", c.out.String())
	}
	if said < 10_000 {
		t.Errorf("only %d bytes were said", said)
	}
}

// freePort returns a loopback address with a port of UDP and TCP that nobody has,
// nor gets without asking for it: it is below those that the kernel gives to port 0
// (net.ipv4.ip_local_port_range), which tests beside this one are given.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		at := fmt.Sprint("127.0.0.1:", 20000+ports.Add(1)%10000)
		udp, err := net.ListenPacket("udp4", at)
		if err != nil {
			continue
		}
		tcp, err := net.Listen("tcp4", at)
		udp.Close()
		if err == nil {
			tcp.Close()
			return at
		}
	}
	t.Fatal("of 1000 ports from 20000 on none is free")
	return ""
}

var ports atomic.Uint32
