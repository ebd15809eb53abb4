// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
)

// protocols writes a pcap file of n IPv4 frames of one flow each of TCP, UDP and
// ICMP in turn, of 60 to 1500 bytes.
func protocols(t *testing.T, n int) string {
	t.Helper()
	whole, err := os.ReadFile(numbered(t, n, 700, 100*time.Microsecond))
	if err != nil {
		t.Fatal(err)
	}
	for at, i := 24, 0; at < len(whole); i++ {
		size := int(whole[at+8]) | int(whole[at+9])<<8
		f := whole[at+16 : at+16+size]
		copy(f[4:], []byte{0, 0, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, byte((size - 14) >> 8), byte(size - 14), 0, 0, 0, 0, 64, []byte{6, 17, 1}[i%3], 0, 0})
		at += 16 + size
	}
	path := filepath.Join(t.TempDir(), "mixed.pcap")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Several outputs at once, each with its own taps, filter and snap length, one
// of them a recording by tap in many files: each has what it should have.
func TestOutputsEachTheirOwn(t *testing.T) {
	t.Parallel()
	keys, dir := masterKey(t), t.TempDir()
	file := protocols(t, 3000)
	var cfg collector.Config
	flags := outputFlags{
		buffer: 8 << 20,
		write:  []string{filepath.Join(dir, "all.pcapng"), filepath.Join(dir, "udp.pcapng"), filepath.Join(dir, "tap%t.pcapng")},
		selects: []string{
			filepath.Join(dir, "udp.pcapng") + " taps=2 snaplen=60 filter=udp",
			filepath.Join(dir, "tap%t.pcapng") + " taps=1,3-9",
		},
	}
	if err := errors.Join(flags.set(&cfg.Outputs), flags.choose(&cfg.Outputs, &configFile{})); err != nil {
		t.Fatal(err)
	}
	cfg.Files[2].Rotate.Size = 1e6
	cfg.Keys, cfg.Once, cfg.Workers = keys, true, 2
	c := listen(t, cfg)
	ended := make(chan bool, 3)
	for tap := range uint32(3) {
		go func() {
			send(t, keys, file, c.addr, func(r *remote.Config) { r.Tap, r.Pace = tap+1, remote.PaceReal })
			ended <- true
		}()
	}
	for range 3 {
		testnet.Receive(t, "a remote's end", ended)
	}
	c.end(t)
	want := testnet.ReadCapture(t, file)
	var udp []testnet.Packet
	for _, p := range want {
		if p.Data[23] == 17 {
			p.Data = p.Data[:60]
			udp = append(udp, p)
		}
	}
	if d := testnet.DiffPackets(testnet.ReadCapture(t, filepath.Join(dir, "udp.pcapng")), udp); d != "" {
		t.Errorf("UDP of tap 2: %s", d)
	}
	if n := len(testnet.ReadCapture(t, filepath.Join(dir, "all.pcapng"))); n != 3*len(want) {
		t.Errorf("%d frames of all taps, want %d", n, 3*len(want))
	}
	for _, tap := range []int{1, 3} {
		var got []testnet.Packet
		files, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf("tap%d-0*.pcapng", tap)))
		for _, f := range files {
			if st, err := os.Stat(f); err != nil || st.Size() > 1e6 {
				t.Errorf("%s: %d bytes, %v", f, st.Size(), err)
			}
			got = append(got, testnet.ReadCapture(t, f)...)
		}
		if d := testnet.DiffPackets(got, want); d != "" || len(files) < 3 {
			t.Errorf("tap %d, %d files: %s", tap, len(files), d)
		}
	}
	for i, left := range []uint64{0, uint64(3*len(want) - len(udp)), uint64(len(want))} {
		if s := c.account.Outputs()[i].Sum(); s.LeftOut != left || s.Delivered != uint64(3*len(want))-left {
			t.Errorf("%s: %+v, want %d left out", s.Name, s, left)
		}
	}
}

// The collector writes to a pipe that tshark reads while the tap runs; when
// tshark has seen enough and goes, the collector ends with status 0.
func TestPipeIntoTshark(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	dir, master, _ := keyFiles(t)
	file := numbered(t, 20000, 100, time.Millisecond)
	shell := testnet.Command(t, "sh", "-c", fmt.Sprintf(
		`{ %s collector -p 127.0.0.1:0 --key-file %s --state none --no-tap -w - 2>%s/log; echo "status $?" >&2; } | tshark -n -c 100 -r - -T fields -e frame.len`,
		ntapBinary, master, dir))
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	shell.Stdout, shell.Stderr = &stdout, &stderr
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	for deadline := time.Now().Add(time.Minute); addr == ""; time.Sleep(10 * time.Millisecond) {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		if _, after, ok := strings.Cut(string(log), "collector started address="); ok {
			addr, _, _ = strings.Cut(after, " ")
		} else if time.Now().After(deadline) {
			t.Fatalf("the collector does not start: %s", log)
		}
	}
	r := testnet.Command(t, ntapBinary, "remote", "-r", file, "--pace", "real", "-c", addr, "--key-file", master, "--tap", "1")
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	err := shell.Wait()
	if lines := strings.Count(stdout.String(), "\n"); err != nil || lines != 100 || !strings.Contains(stderr.String(), "status 0") {
		t.Errorf("%v: tshark printed %d lines; stderr:\n%s", err, lines, &stderr)
	}
	r.Process.Kill()
	r.Wait()
	if log, _ := os.ReadFile(filepath.Join(dir, "log")); !bytes.Contains(log, []byte("the reader of its output is gone")) || t.Failed() {
		t.Errorf("the collector said:\n%s", log)
	}
}
