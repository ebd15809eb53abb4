// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// With --merge standard output, a file and a client of PCAP over IP have the
// frames of two taps in the order of their times, though one tap sends all of
// its own before the other does; without it they do not.
func TestMergeTaps(t *testing.T) {
	t.Parallel()
	_, master, _ := keyFiles(t)
	file := protocols(t, 500)
	for _, merge := range []string{"30s", "0s"} {
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name) }
		log, err := os.Create(path("log"))
		if err != nil {
			t.Fatal(err)
		}
		stdout, pipe, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := testnet.Daemon(t, ntapBinary, "collector", "-p", "127.0.0.1:0", "--key-file", master, "--state", "none", "--no-tap",
			"--workers", "2", "--merge", merge, "-w", path("file"), "-w", "-", "--pcap-over-ip", "0")
		c.Stdout, c.Stderr = pipe, log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		pipe.Close()
		t.Cleanup(func() { c.Process.Kill() })
		l := &local{t: t, cmd: c, log: path("log"), done: make(chan error, 1)}
		go func() { l.done <- c.Wait() }()
		read := make(chan error, 2)
		keep := func(name string, from io.Reader) {
			f, err := os.Create(path(name))
			if err == nil {
				_, err = io.Copy(f, from)
			}
			read <- err
		}
		go keep("stdout", stdout)
		addr, at := l.find(`collector started address=(\S+)`), l.find(`pcap over IP address=(\S+)`)
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		testnet.Bound(t, conn)
		l.find("client=")
		go keep("client", conn)
		for _, tap := range []string{"1", "2"} {
			if err := sendFile(t, master, addr, file, tap).Wait(); err != nil {
				t.Fatal(err)
			}
		}
		if text := l.stop(); strings.Contains(text, " late for the merge") {
			t.Errorf("merge %s:\n%s", merge, text)
		}
		for range 2 {
			if err := testnet.Receive(t, "the readers' end", read); err != nil {
				t.Error(err)
			}
		}
		for _, name := range []string{"file", "stdout", "client"} {
			packets := testnet.ReadCapture(t, path(name))
			sorted := true
			for i := range packets[1:] {
				sorted = sorted && packets[i].Time <= packets[i+1].Time
			}
			if len(packets) != 1000 || sorted != (merge == "30s") {
				t.Errorf("merge %s, %s: %d frames, in order: %v", merge, name, len(packets), sorted)
			}
		}
	}
}
