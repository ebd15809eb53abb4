// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// try runs ntap to its end and returns its exit status and all it printed.
func try(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := testnet.Command(t, ntapBinary, args...)
	cmd.Env = append(os.Environ(), "NTAP_KEY_FILE=", "CREDENTIALS_DIRECTORY=", "STATE_DIRECTORY="+t.TempDir())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "panic:") || strings.Contains(string(out), "goroutine ") {
		t.Errorf("ntap %s panicked:\n%s", strings.Join(args, " "), out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func keyFiles(t *testing.T) (dir, master, tap7 string) {
	t.Helper()
	dir = t.TempDir()
	master, tap7 = filepath.Join(dir, "master.key"), filepath.Join(dir, "tap7.key")
	for _, args := range [][]string{
		{"key", "new", "--out", master}, {"key", "tap", "--id", "7", "--key-file", master, "--out", tap7},
	} {
		if status, out := try(t, args...); status != 0 {
			t.Fatalf("%v: %s", args, out)
		}
	}
	return dir, master, tap7
}

// What users do wrong at the start ends with a message that names the object,
// the cause and the remedy, and with status 1 or 2.
func TestWrongStart(t *testing.T) {
	t.Parallel()
	dir, master, tap7 := keyFiles(t)
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode)
		return path
	}
	open := write("open.key", "", 0o644)
	text, _ := os.ReadFile(master)
	os.WriteFile(open, text, 0o644)
	junk := write("junk.key", "not a key\n", 0o600)
	notCapture := write("text.pcap", "this is no capture file at all", 0o600)
	pcap := numbered(t, 10, 60, time.Microsecond)
	whole, _ := os.ReadFile(pcap)
	cut := write("cut.pcap", string(whole[:len(whole)-10]), 0o600)
	bytecode := write("bytecode", "2\n40 0 0 12\n", 0o600)
	noCode := write("no code", "3\n40 0 0 12\n999 0 1 2048\n6 0 0 65535\n", 0o600) // was refused as: invalid argument
	taken, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	remote := func(more ...string) []string { return append([]string{"remote", "-c", "127.0.0.1:9"}, more...) }
	vxlan := func(to string, more ...string) []string {
		return append([]string{"collector", "-p", "0", "--no-tap", "--key-file", master, "--vxlan", to}, more...)
	}
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{2, "unknown flag: --nosuch", []string{"remote", "--nosuch"}},
		{2, `"nosuch" is not a command`, []string{"nosuch"}},
		{2, `"remot" is not a command or not expected here; is it remote?`, []string{"remot"}},
		{2, `"rotat" is not a command or not expected here; is it rotate?`, []string{"key", "rotat"}},
		{2, "unknown flag: --snaplan; is it --snaplen?", []string{"remote", "--snaplan", "9"}},
		{2, "nothing to capture", remote("--key-file", master)},
		{2, "no collector", []string{"remote", "-i", "lo", "--key-file", master}},
		{2, "exclude each other", remote("-i", "lo", "-r", pcap, "--key-file", master)},
		{2, "no key: give --key-file", remote("-i", "lo")},
		{2, "--pace", remote("-r", pcap, "--pace", "fast", "--key-file", master)},
		{2, "aes-256-gcm", remote("-r", pcap, "--suite", "rot13", "--key-file", master)},
		{2, "tap ID", remote("-r", pcap, "--tap", "99999999999", "--key-file", master)},
		{2, "CPU", remote("-r", pcap, "--cpus", "999", "--key-file", master)},
		{1, "no such file", remote("-i", "lo", "--key-file", filepath.Join(dir, "missing"))},
		{1, "chmod", remote("-i", "lo", "--key-file", open)},
		{1, "junk.key", remote("-i", "lo", "--key-file", junk)},
		{1, "for tap 7, not for tap 9", remote("-r", pcap, "--tap", "9", "--key-file", tap7)},
		{1, "no such file", remote("-r", filepath.Join(dir, "missing.pcap"), "--key-file", master)},
		{1, "not a capture file", remote("-r", notCapture, "--key-file", master)},
		{1, "middle of packet", remote("-r", cut, "--pace", "max", "--mtu", "1500", "--key-file", master)},
		{1, "bytecode", remote("-i", "lo", "--filter-bytecode", bytecode, "--key-file", master)},
		{2, "no code: filter: instruction 1 of the program (code 999, jt 0, jf 1, k 2048): there is no such instruction", remote("-i", "lo", "--filter-bytecode", noCode, "--key-file", master)},
		{2, "instruction 1 of the program (code 999,", remote("-i", "l*", "--filter-bytecode", noCode, "--key-file", master)},
		{2, "instruction 1 of the program (code 999,", remote("-r", pcap, "--filter-bytecode", noCode, "--key-file", master)},
		{2, "--mtu 65536: 576 to 65535", remote("-r", pcap, "--mtu", "65536", "--key-file", master)},
		{2, "HOST:PORT", []string{"remote", "-r", pcap, "-c", "nohost", "--key-file", master}},
		// Beside another it used to be taken, and what was for it was lost.
		{1, "host and port are both needed", remote("-i", "lo", "-c", "0.0.0.0:5678", "--key-file", master)},
		{2, "no port", []string{"collector", "--key-file", master}},
		{2, "-p", []string{"collector", "-p", "70000", "--key-file", master}},
		{2, "no key", []string{"collector", "-p", "0"}},
		{2, "nowhere to give", []string{"collector", "-p", "0", "--no-tap", "--key-file", master}},
		{2, "--vni: two rules", vxlan("127.0.0.1", "--vni", "5,6")},
		{2, `"16777216" is no VNI: 0 to 16777215`, vxlan("127.0.0.1", "--vni", "16777216")},
		{2, "drop, slice, fragment", vxlan("127.0.0.1", "--vxlan-oversize", "cut")},
		{2, "want HOST[:PORT]", vxlan("127.0.0.1:99999")},
		{2, "--vxlan-ports 0: 1 to 256", vxlan("127.0.0.1", "--vxlan-ports", "0")},
		{2, "without --vxlan HOST", []string{"collector", "-p", "0", "--no-tap", "--vni", "5", "--key-file", master}},
		{1, "given twice", vxlan("127.0.0.1", "--vxlan", "127.0.0.1:4789")},
		{1, `VTEP "nosuch.invalid:4789": lookup`, vxlan("nosuch.invalid")},
		{1, "tap 7 has no VNI: it is not in --vni", []string{"collector", "-p", "0", "--no-tap", "--vxlan", "127.0.0.1", "--vni", "8=9", "--key-file", tap7}},
		{2, "exclude each other", []string{"collector", "-p", "0", "--no-tap", "-i", "x", "--key-file", master}},
		{1, "taken by another program", []string{"collector", "-p", taken.LocalAddr().String(), "--no-tap", "-w", filepath.Join(dir, "o"), "--key-file", master}},
		{1, "no such file or directory", []string{"collector", "-p", "0", "--no-tap", "-w", filepath.Join(dir, "no", "dir"), "--key-file", master}},
		{1, "state", []string{"collector", "-p", "0", "--no-tap", "-w", filepath.Join(dir, "o"), "--key-file", master, "--state", junk}},
		{2, "--clock-window -1s: 0s to", []string{"collector", "-p", "0", "--key-file", master, "--clock-window", "-1s"}},
		{2, "exclude each other", remote("-r", pcap, "-k", "hocus pocus", "--key-file", master)},
		{2, "unknown shorthand flag: 'k'", []string{"key", "tap", "--id", "3", "-k", "hocus pocus"}}, // a passphrase never makes a file
		{2, "unknown shorthand flag: 'k'", []string{"key", "new", "-k", "hocus pocus"}},
		{2, "--id", []string{"key", "tap", "--key-file", master}},
		{1, "made from a master key", []string{"key", "tap", "--id", "3", "--key-file", tap7}},
		{1, "never overwritten", []string{"key", "new", "--out", master}},
		{2, "--bridge \"a b\": want 1 to 9 letters", []string{"ovs", "setup", "--bridge", "a b", "--dry-run"}},
		{2, "--bridge \"toolonganame\"", []string{"ovs", "remove", "--bridge", "toolonganame"}},
		{2, "--mirror \"-x\"", []string{"ovs", "setup", "--mirror=-x", "--dry-run"}},
		{2, "cannot be its mirror", []string{"ovs", "setup", "--mirror", "ntap-vxlan", "--dry-run"}},
		{2, "--from \"host\": want an address", []string{"ovs", "setup", "--from", "host", "--dry-run"}},
		{2, "--datapath \"dpdk\": system or netdev", []string{"ovs", "setup", "--datapath", "dpdk", "--dry-run"}},
		{2, "--port 0: 1 to 65535", []string{"ovs", "setup", "--port", "0", "--dry-run"}},
		{2, "text or json", []string{"doctor", "-o", "yaml"}},
	} {
		status, out := try(t, c.args...)
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("ntap %s: status %d, want %d with %q:\n%s", strings.Join(c.args, " "), status, c.status, c.want, out)
		}
	}
}

// The same where it needs a network namespace of its own.
func TestWrongStartLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.in(w.collector, "ip", "link", "add", "br7", "type", "bridge")
	for _, c := range []struct {
		want, ns string
		args     []string
	}{
		{"no interface \"nosuch0\" here; there are: lo, t0, up0", w.sender, []string{"remote", "-i", "nosuch0", "-c", "10.99.0.2:1", "--key-file", w.key}},
		{"named twice", w.sender, []string{"remote", "-i", "t0", "-i", "t0", "-c", "10.99.0.2:1", "--key-file", w.key}},
		{"br7", w.collector, []string{"collector", "-p", "1", "-i", "br7", "--key-file", w.key, "--state", "none"}},
		{"at most 15", w.collector, []string{"collector", "-p", "1", "-i", "aratherlongnamefor%t", "--key-file", w.key, "--state", "none"}},
		{"another word that begins a condition, not \"a\"", w.sender, []string{"remote", "-i", "t0", "-c", "10.99.0.2:1", "--key-file", w.key, "not", "a", "filter"}},
	} {
		out, err := testnet.Command(t, "ip", append([]string{"netns", "exec", c.ns, ntapBinary}, c.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("ntap %s: %v, want %q:\n%s", strings.Join(c.args, " "), err, c.want, out)
		}
	}
	// A TAP name that is in use.
	c := w.startCollector("-i", "ntap0")
	out, err := testnet.Command(t, "ip", "netns", "exec", w.collector, ntapBinary, "collector", "-p", "5679", "-i", "ntap0", "--key-file", w.key, "--state", "none").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ntap0") {
		t.Errorf("TAP name taken: %v\n%s", err, out)
	}
	c.stop()
	if out, err := testnet.Command(t, "ip", "-n", w.collector, "link", "show", "ntap0").CombinedOutput(); err == nil {
		t.Errorf("after the collector's end there is still\n%s", out)
	}
}

// A remote with the wrong key is counted as forged, one in clear as refused, the
// log tells both as they come, and the good one beside them is not touched. A file that is cut is sent up
// to the cut.
func TestBadRemotesBesideAGoodOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", out)
	other := filepath.Join(w.dir, "other.key")
	w.must(ntapBinary, "key", "new", "--out", other)
	file := numbered(t, 50, 60, time.Microsecond)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(w.dir, "cut.pcap")
	if err := os.WriteFile(cut, whole[:len(whole)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	send := func(file, key string, more ...string) error {
		args := append([]string{"netns", "exec", w.sender, ntapBinary, "remote", "-r", file, "--pace", "max", "-c", "10.99.0.2:5678", "--key-file", key}, more...)
		return testnet.Command(t, "ip", args...).Run()
	}
	if err := errors.Join(send(file, other, "--tap", "1"), send(file, w.key, "--tap", "2", "--suite", "plaintext"), send(file, w.key, "--tap", "3")); err != nil {
		t.Fatal(err)
	}
	if send(cut, w.key, "--tap", "4") == nil {
		t.Error("a file that is cut ended with status 0")
	}
	c.wait(`reason=forged`)
	c.wait(`reason="of a refused suite"`)
	text := c.stop()
	if n := account(text, "frames delivered"); n != 50+49 {
		t.Errorf("%d frames delivered, want 99", n)
	}
	for _, want := range []string{"forged", "of a refused suite"} {
		if account(text, want) == 0 {
			t.Errorf("nothing is %s", want)
		}
	}
	if got := len(testnet.ReadCapture(t, out)); got != 99 {
		t.Errorf("%d frames in the file", got)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// nTap's names and short flags: links, a passphrase, and -K.
func TestNTapsNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	links := filepath.Join(w.dir, "bin")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ntap_remote", "ntap_collector"} {
		if err := os.Symlink(ntapBinary, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []struct {
		name string
		args []string
	}{{"passphrase", []string{"-k", "hocus pocus"}}, {"clear", []string{"-k", "x", "-K"}}} {
		t.Run(v.name, func(t *testing.T) {
			c := w.start(w.collector, filepath.Join(links, "ntap_collector"), append([]string{"-i", "nt0", "-p", "6000", "--state", "none"}, v.args...)...)
			c.wait("collector started")
			r := w.start(w.sender, filepath.Join(links, "ntap_remote"), append([]string{"-i", "t0", "-c", "10.99.0.2:6000", "-f", "icmp"}, v.args...)...)
			r.wait("remote started")
			w.in(w.peer, "ping", "-q", "-c", "3", "-i", "0.02", "10.98.0.1")
			text := r.stop()
			if n := account(c.stop(), "frames written to TAP nt0"); n != 6 || !strings.Contains(text, "--key-file") {
				t.Errorf("%d frames written, want 6:\n%s", n, text)
			}
		})
	}
}

// TAP and pcapng at the same time, an interface for each tap, several shards,
// interfaces and workers; the account of each output adds up.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.in(w.sender, "ip", "link", "add", "t1", "type", "veth", "peer", "name", "p1")
	w.in(w.sender, "ip", "link", "set", "t1", "up")
	w.in(w.sender, "ip", "link", "set", "p1", "up")
	w.waitUp(w.sender, "p1")
	out := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("-i", "nt%t", "-w", out, "--workers", "2", "--stats")
	r1 := w.startRemote("-i", "t0", "-i", "t1", "--workers", "2", "--stats", "--name", "one")
	r2 := w.start(w.sender, ntapBinary, "remote", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "2", "--name", "two", "-i", "t1")
	r2.wait("remote started")
	frames := make([][]byte, 100)
	for i := range frames {
		frames[i] = testnet.Numbered(i, 60+i*10)
	}
	w.inject(w.peer, "p0", frames...)
	w.inject(w.sender, "p1", frames...)
	c.until("frames of both taps came", func() bool { return bytes.Contains([]byte(c.text()), []byte(" 2 taps ")) })
	one, two := r1.stop(), r2.stop()
	text := c.stop()
	sent := account(one, "frames captured") + account(two, "frames captured")
	if sent < 300 || account(text, "frames delivered") != sent || account(text, "frames written to TAP nt%t") != sent || account(text, "frames written to pcapng") != sent {
		t.Errorf("%d captured:\n%s%s%s", sent, one, two, text)
	}
	got := testnet.ReadCapture(t, out)
	byName := map[string]int{}
	for _, p := range got {
		if _, ours := testnet.Number(p.Data); ours {
			byName[p.InterfaceName]++
		}
	}
	if len(got) != sent || byName["t0"] != 100 || byName["t1"] != 200 {
		t.Errorf("%d packets in the file, %d captured, by interface %v", len(got), sent, byName)
	}
}

// An interface that goes down, comes back, is deleted and made again: the tap
// goes on, and its account adds up.
func TestInterfaceComesAndGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.startCollector("-i", "ntap0")
	r := w.startRemote("-i", "t0")
	came := 0
	send := func() {
		w.inject(w.peer, "p0", testnet.Numbered(1, 60), testnet.Numbered(2, 60))
		came += 2
		c.until("frames came", func() bool { return w.counter(w.collector, "ntap0", "rx_packets") >= came })
	}
	promiscuity := func() string { // one of each ring that captures
		return regexp.MustCompile(`promiscuity \d+`).FindString(w.in(w.sender, "ip", "-d", "link", "show", "t0"))
	}
	rings := promiscuity()
	send()
	w.in(w.sender, "ip", "link", "set", "t0", "down")
	r.wait("the interface is down")
	w.in(w.sender, "ip", "link", "set", "t0", "up")
	w.waitUp(w.peer, "p0")
	send()
	w.in(w.sender, "ip", "link", "del", "t0")
	r.wait("the interface is gone")
	w.link(w.sender, "t0", w.peer, "p0", "98")
	r.until("it captures again", func() bool { return promiscuity() == rings })
	send()
	rText := r.stop()
	cText := c.stop()
	if n := account(rText, "frames captured"); n < 6 || account(cText, "frames written to TAP") != n || account(cText, "frames lost") != 0 {
		t.Errorf("%s%s", rText, cText)
	}
}
