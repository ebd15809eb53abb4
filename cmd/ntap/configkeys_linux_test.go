// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A collector without a master key takes the taps of its configuration, one by
// the key file of that tap, one by the public key of its remote, and refuses a
// tap that is not known there; until the file, read again, has it. A key file
// of another tap is an error with its line, and the old ones stay in force.
func TestConfigTapKeys(t *testing.T) {
	t.Parallel()
	dir, master, tap7 := keyFiles(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) string {
		t.Helper()
		status, out := try(t, args...)
		if status != 0 {
			t.Fatalf("%v: %s", args, out)
		}
		return out
	}
	run("key", "tap", "--id", "9", "--key-file", master, "--out", path("tap9.key"))
	run("key", "pair", "--out", path("pair"))
	public := run("key", "public", "--key-pair", path("pair"))
	if err := os.WriteFile(path("public"), []byte(public), 0o600); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(run("key", "identity", "--id", "8", "--name", "paris", "--out", path("identity")))
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf("port: 127.0.0.1:0\nstate: none\nkey-pair: %s\noutputs: [{write: %s}]\ntaps:\n- {id: 7, key-file: %s}\n- {id: 8, public-key: %q}\n%s",
			path("pair"), path("out.pcapng"), tap7, words[len(words)-1], more)
		if err := os.WriteFile(path("c.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	c := startLocal(t, "collector", "--config", path("c.yaml"))
	addr := c.find(`collector started address=(\S+)`)
	file := numbered(t, 100, 60, time.Microsecond)
	send := func(keys ...string) {
		t.Helper()
		if out, err := testnet.Command(t, ntapBinary, append([]string{"remote", "-r", file, "-c", addr}, keys...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	hup := func(want string) {
		t.Helper()
		c.cmd.Process.Signal(syscall.SIGHUP)
		c.find(want)
	}
	send("--key-file", tap7)
	send("--collector-key", path("public"), "--identity", path("identity"))
	send("--key-file", path("tap9.key")) // which nobody knows yet
	write(fmt.Sprintf("- {id: 10, key-file: %s}\n- {id: 11, key-file: %s}", tap7, path("none")))
	hup(`that from before stays in force`)
	write(fmt.Sprintf("- {id: 9, key-file: %s}", path("tap9.key")))
	hup(`the new configuration is in force`)
	send("--key-file", path("tap9.key"))
	out := c.stop()
	if n := len(testnet.ReadCapture(t, path("out.pcapng"))); n != 300 {
		t.Errorf("%d frames, want those of three taps", n)
	}
	for _, want := range []string{
		`tap 7 "`, `tap 8 "`, `tap 9 "`, " of a tap without a key", "c.yaml:8: taps: tap 10: ", "is not the key file of tap 10; make that with: ntap key tap --id 10", "c.yaml:9: taps: tap 11: ", "no such file",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the collector does not say %q:\n%s", want, out)
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"give --key-pair", []string{"--tap", "8 public-key=" + words[len(words)-1]}},
		{"want \"ID name=NAME key-file=FILE\"", []string{"--tap", "x"}},
		{"begins with a letter", []string{"--tap", "8 name=9"}},
		{"at most one of", []string{"--tap", "8 key-file=x public-key=" + words[len(words)-1]}},
		{"is not the key file of tap 8", []string{"--tap", "8 key-file=" + tap7}},
		{"no key: give --key-file", []string{"--tap", "8 name=x"}},
		{"pcap-over-ip 127.0.0.1:1: TLS: certificate", []string{"--pcap-over-ip", "1,tls", "--tls-cert", "none", "--tls-key", "none", "--tls-client-ca", "none", "--check-config", path("c.yaml")}},
	} {
		if status, out := try(t, append([]string{"collector", "-p", "127.0.0.1:0", "--state", "none", "--no-tap", "-w", path("x")}, c.args...)...); status != exitUsage || !strings.Contains(out, c.want) {
			t.Errorf("%q: status %d, %s", c.args, status, out)
		}
	}
}

// A remote's file sets flags by their names, lists among them, and what the
// command line says in whichever way wins.
func TestRemoteConfig(t *testing.T) {
	t.Parallel()
	dir, _, tap7 := keyFiles(t)
	path := filepath.Join(dir, "r.yaml")
	example := filepath.Join("..", "..", "docs", "remote.yaml")
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("outputs: []\ninterfaec: eth0\nmtu: x\nworkers: [1]\ninterface: [a, [b]]\nretire: 1h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(fmt.Sprintf("key-file: %s\ncollector: 192.0.2.1:9\ninterface: [nosuch0, nosuch1]\nfilter: wrong words\n", tap7)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		want   []string
		args   []string
	}{
		{exitUsage, []string{`bad.yaml:1: configuration: unknown field "outputs"`, "bad.yaml:2: configuration: unknown field \"interfaec\"; is it interface?", `bad.yaml:3: mtu: "x": want a number`,
			"bad.yaml:4: workers: want one value, not a list", "bad.yaml:5: interface: want one value", `bad.yaml:6: retire: "1h": want a time from 1ms to 1m0s`}, []string{"--config", bad}},
		{exitFailed, []string{"nosuch0"}, []string{"--config", path}},
		{exitFailed, []string{"nosuch0"}, []string{"--config", path, "not", "port", "22"}},
		{exitFailed, []string{"nosuch2"}, []string{"--config", path, "-f", "udp", "-i", "nosuch2"}},
		{exitFailed, []string{"no such file"}, []string{"--config", path, "-r", filepath.Join(dir, "none"), "udp"}}, // -r in the place of interfaces
		{exitFailed, []string{"tap7.key"}, []string{"--config", example}},
	} {
		if status, out := try(t, append([]string{"remote"}, c.args...)...); status != c.status {
			t.Errorf("%q: status %d, want %d: %s", c.args, status, c.status, out)
		} else {
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q: want %q, got %s", c.args, want, out)
				}
			}
		}
	}
}
