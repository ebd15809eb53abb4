// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A viewer is a user's tshark with ntap in its extcap folder. Wireshark takes
// WIRESHARK_EXTCAP_DIR from everybody but root (wsutil/filesystem.c).
type viewer struct {
	t    *testing.T
	dir  string
	keys string
}

const nobody = 65534

func newViewer(t *testing.T) *viewer {
	t.Helper()
	testnet.RequireTool(t, "tshark", "dumpcap")
	dir, err := os.MkdirTemp("", "ntap-extcap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &viewer{t: t, dir: dir, keys: filepath.Join(dir, "master.key")}
	program, err := os.ReadFile(ntapBinary)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "extcap"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "extcap", "ntap"), program, 0o755)
	}
	if err == nil {
		err = exec.Command(ntapBinary, "key", "new", "--out", v.keys).Run()
	}
	if err == nil && os.Geteuid() == 0 {
		for _, name := range []string{dir, v.keys} {
			err = os.Chown(name, nobody, nobody)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// tshark returns a tshark that the user may start.
func (v *viewer) tshark(args ...string) *exec.Cmd {
	cmd := exec.Command("tshark", args...)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = v.dir
	cmd.Env = append(os.Environ(), "HOME="+v.dir, "XDG_CONFIG_HOME=", "WIRESHARK_EXTCAP_DIR="+filepath.Join(v.dir, "extcap"), "NTAP_KEY_FILE="+v.keys, "TMPDIR="+v.dir, "STATE_DIRECTORY=")
	return cmd
}

// see runs tshark to its end while a remote sends file to addr, and returns the
// packets that tshark recorded.
func (v *viewer) see(file, addr string, args ...string) []testnet.Packet {
	v.t.Helper()
	out := filepath.Join(v.dir, "out.pcapng")
	cmd := v.tshark(append([]string{"-n", "-w", out}, args...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	sendFile(v.t, v.keys, addr, file, "7")
	select {
	case err := <-done:
		if err != nil {
			v.t.Fatalf("tshark: %v\n%s", err, &said)
		}
	case <-time.After(2 * time.Minute):
		cmd.Process.Kill()
		v.t.Fatalf("tshark does not end:\n%s", <-done)
	}
	got := testnet.ReadCapture(v.t, out)
	if v.t.Failed() {
		v.t.Logf("tshark said:\n%s", &said)
	}
	return got
}

// gone waits until nobody listens on a UDP address any more.
func gone(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.ListenPacket("udp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after tshark's end ntap still listens: %v", err)
		}
	}
}

// part says whether got is a part of want, in one piece.
func part(got, want []testnet.Packet) string {
	for first := range want {
		if len(got) > 0 && want[first].Time == got[0].Time {
			return testnet.DiffPackets(got, want[first:min(first+len(got), len(want))])
		}
	}
	return fmt.Sprintf("the first of %d packets is not among those sent", len(got))
}

// tshark lists the taps, and captures live from a remote, with and without a
// filter, a snap length and a choice of taps; what it started ends with it.
func TestExtcapTshark(t *testing.T) {
	v := newViewer(t)
	out, err := v.tshark("-D").CombinedOutput()
	if err != nil || !strings.Contains(string(out), " ntap (ntap: remotes send to this host)") || !strings.Contains(string(out), " ntap_collector (") {
		t.Fatalf("tshark -D: %v\n%s", err, out)
	}
	file := protocols(t, 200000)
	sent := testnet.ReadCapture(t, file)

	addr := freePort(t)
	if d := part(v.see(file, addr, "-i", "ntap", "-c", "100", "-o", "extcap.ntap.port:"+addr), sent); d != "" {
		t.Errorf("all: %s", d)
	}
	gone(t, addr)

	var udp []testnet.Packet
	for _, p := range sent {
		if p.Data[23] == 17 {
			p.Data = p.Data[:50]
			udp = append(udp, p)
		}
	}
	addr = freePort(t)
	if d := part(v.see(file, addr, "-i", "ntap", "-f", "udp", "-c", "50", "-o", "extcap.ntap.port:"+addr, "-o", "extcap.ntap.cut:50", "-o", "extcap.ntap.taps:7"), udp); d != "" {
		t.Errorf("UDP: %s", d)
	}
	gone(t, addr)
}

// The same from a collector that runs.
func TestExtcapRunningCollector(t *testing.T) {
	v := newViewer(t)
	c, addr := collect(t, v.keys, "--pcap-over-ip", "0")
	at := c.find(`pcap over IP address=(\S+)`)
	file := protocols(t, 200000)
	var tcp []testnet.Packet
	for _, p := range testnet.ReadCapture(t, file) {
		if p.Data[23] == 6 {
			tcp = append(tcp, p)
		}
	}
	if d := part(v.see(file, addr, "-i", "ntap_collector", "-f", "tcp", "-c", "100", "-o", "extcap.ntap_collector.collector:"+at), tcp); d != "" {
		t.Error(d)
	}
	c.find("client gone")
	c.stop()

	cmd := v.tshark("-i", "ntap_collector", "-c", "1", "-o", "extcap.ntap_collector.collector:"+at)
	if out, err := cmd.CombinedOutput(); err == nil && !strings.Contains(string(out), "0 packets captured") {
		t.Errorf("without a collector: %v\n%s", err, out)
	}
}

// make install-extcap puts ntap where it is told to, or where tshark says.
func TestExtcapInstall(t *testing.T) {
	testnet.RequireTool(t, "make", "tshark")
	dir := filepath.Join(t.TempDir(), "extcap")
	// As for another user with a tshark that has a folder for each user.
	fake := filepath.Join(t.TempDir(), "tshark")
	text := "#!/bin/sh\nprintf 'Extcap path:\\t/nowhere\\nPersonal Extcap path:\\t" + dir + "2\\n'\n"
	if err := os.WriteFile(fake, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir  string
		args []string
	}{{dir, []string{"EXTCAPDIR=" + dir}}, {dir + "2", nil}} {
		cmd := exec.Command("make", append([]string{"-s", "-C", filepath.Join("..", ".."), "install-extcap"}, c.args...)...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(fake)+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c.dir+"/ntap;") {
			t.Fatalf("make: %v\n%s", err, out)
		}
		out, err := exec.Command(filepath.Join(c.dir, "ntap"), "--extcap-interfaces", "--extcap-version=4.0").Output()
		if err != nil || !strings.Contains(string(out), "interface {value=ntap}") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
