// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
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
		err = testnet.Command(t, ntapBinary, "key", "new", "--out", v.keys).Run()
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
	cmd := testnet.Command(v.t, "tshark", args...)
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
	return v.watch(func(<-chan struct{}) {
		testnet.Eventually(v.t, "somebody listens on "+addr, func() bool { return listens(addr) })
		sendFile(v.t, v.keys, addr, file, "7")
	}, args...)
}

// listens says whether somebody listens on a UDP address of 127.0.0.1, which tshark
// may take long to have done: longer than a remote takes to send a file.
func listens(addr string) bool {
	port := 0
	fmt.Sscanf(addr, "127.0.0.1:%d", &port)
	return fileHas("/proc/net/udp", fmt.Appendf(nil, " 0100007F:%04X ", port))
}

// watch runs tshark to its end while there is traffic, which is told when to stop,
// and returns the packets that tshark recorded.
func (v *viewer) watch(traffic func(<-chan struct{}), args ...string) []testnet.Packet {
	v.t.Helper()
	out := filepath.Join(v.dir, "out.pcapng")
	os.Remove(out)
	cmd := v.tshark(append([]string{"-n", "-w", out}, args...)...)
	log, err := os.Create(filepath.Join(v.t.TempDir(), "log"))
	if err != nil {
		v.t.Fatal(err)
	}
	defer log.Close()
	said := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
	cmd.Stdout, cmd.Stderr = log, log // a file: what tshark started may hold it, and hold up nobody
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { err = cmd.Wait(); close(done) }()
	traffic(done)
	<-done // it is killed if it does not end
	if err != nil {
		v.t.Fatalf("tshark: %v\n%s", err, said())
	}
	return testnet.ReadCapture(v.t, out)
}

// gone waits until nobody listens on a UDP address any more.
func gone(t *testing.T, addr string) {
	t.Helper()
	testnet.Eventually(t, "nobody listens on "+addr, func() bool {
		c, err := net.ListenPacket("udp", addr)
		return err == nil && c.Close() == nil
	})
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
	t.Parallel()
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
	t.Parallel()
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
	got := v.watch(func(<-chan struct{}) {
		c.find("client=")
		sendFile(t, v.keys, addr, file, "7")
	}, "-i", "ntap_collector", "-f", "tcp", "-c", "100", "-o", "extcap.ntap_collector.collector:"+at)
	if d := part(got, tcp); d != "" {
		t.Error(d)
	}
	c.find("client gone")
	c.stop()

	cmd := v.tshark("-i", "ntap_collector", "-c", "1", "-o", "extcap.ntap_collector.collector:"+at)
	if out, err := cmd.CombinedOutput(); err == nil && !strings.Contains(string(out), "0 packets captured") {
		t.Errorf("without a collector: %v\n%s", err, out)
	}
}

// The same of a live interface, with the key file of the options: no other is to
// be had. What comes is what was sent, in order.
func TestExtcapLiveInterface(t *testing.T) {
	a, b := testnet.Veth(t)
	v := newViewer(t)
	t.Setenv("NTAP_KEY_FILE", "")
	keys := v.keys
	v.keys = filepath.Join(v.dir, "none.key")
	wire, err := testnet.OpenWire(b)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	addr := freePort(t)
	r := startLocal(t, "remote", "-i", a, "-c", addr, "--key-file", keys, "--tap", "7")
	r.find("remote started")
	frame := make([]byte, 200)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xB5}) // an experimental EtherType
	sent := uint32(0)
	got := v.watch(func(done <-chan struct{}) {
		for every := time.NewTicker(time.Millisecond); ; sent++ {
			select {
			case <-done:
				every.Stop()
				return
			case <-every.C:
				binary.BigEndian.PutUint32(frame[14:], sent)
				if err := wire.Send(frame); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}, "-i", "ntap", "-c", "100", "-o", "extcap.ntap.port:"+addr, "-o", "extcap.ntap.keyfile:"+keys)
	r.stop()
	if len(got) != 100 {
		t.Fatalf("tshark recorded %d packets", len(got))
	}
	first := binary.BigEndian.Uint32(got[0].Data[14:])
	for i, p := range got {
		binary.BigEndian.PutUint32(frame[14:], first+uint32(i))
		if !bytes.Equal(p.Data, frame) || i > 0 && p.Time < got[i-1].Time {
			t.Fatalf("packet %d, after frame %d, is at %d:\n%x", i, first, p.Time, p.Data)
		}
	}
}

// ntap_collector connects by TLS with the certificate of its options, and not
// without.
func TestExtcapTLS(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "openssl")
	v := newViewer(t)
	for _, line := range commands(t, "docs/OUTPUTS.md", "openssl req") {
		startShell(t, v.dir, os.Environ(), line).end()
	}
	name := func(file string) string { return filepath.Join(v.dir, file) }
	if os.Geteuid() == 0 {
		if err := os.Chown(name("analyst.key"), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	c, addr := collect(t, v.keys, "--pcap-over-ip", "0.0.0.0:0", "--tls-cert", name("collector.pem"), "--tls-key", name("collector.key"), "--tls-client-ca", name("ca.pem"))
	_, port, _ := net.SplitHostPort(c.find(`pcap over IP address=(\S+) tls=true`))
	file := protocols(t, 20000)
	collector := []string{"-i", "ntap_collector", "-o", "extcap.ntap_collector.collector:127.0.0.1:" + port}
	got := v.watch(func(<-chan struct{}) {
		if who := c.find(`client="?127.0.0.1:\d+ (CN=[^" ]*)`); who != "CN=analyst" {
			t.Errorf("the client is %q", who)
		}
		sendFile(t, v.keys, addr, file, "7")
	}, append(collector, "-c", "100", "-o", "extcap.ntap_collector.tlscert:"+name("analyst.pem"),
		"-o", "extcap.ntap_collector.tlskey:"+name("analyst.key"), "-o", "extcap.ntap_collector.tlsca:"+name("ca.pem"))...)
	if d := part(got, testnet.ReadCapture(t, file)); d != "" || len(got) != 100 {
		t.Errorf("%d packets: %s", len(got), d)
	}
	clear := v.tshark(append(collector, "-c", "1")...)
	clear.WaitDelay = time.Second
	if out, err := clear.CombinedOutput(); err == nil && !strings.Contains(string(out), "0 packets captured") {
		t.Errorf("without a certificate: %v\n%s", err, out)
	}
	c.stop()
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
		cmd := testnet.Command(t, "make", append([]string{"-s", "-C", filepath.Join("..", ".."), "install-extcap"}, c.args...)...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(fake)+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c.dir+"/ntap;") {
			t.Fatalf("make: %v\n%s", err, out)
		}
		out, err := testnet.Command(t, filepath.Join(c.dir, "ntap"), "--extcap-interfaces", "--extcap-version=4.0").Output()
		if err != nil || !strings.Contains(string(out), "interface {value=ntap}") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
