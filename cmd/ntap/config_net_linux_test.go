// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// flowFrame returns a UDP frame of a flow of a tap, in one of its directions,
// with a number.
func flowFrame(tap, flow, n int) []byte {
	f := make([]byte, 100)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 86, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, byte(tap), 10, 2, 0, 2})
	binary.BigEndian.PutUint16(f[34:], uint16(20000+flow))
	binary.BigEndian.PutUint16(f[36:], 9753)
	binary.BigEndian.PutUint16(f[38:], 66)
	if n%2 == 1 {
		copy(f[26:], []byte{10, 2, 0, 2, 10, 1, 0, byte(tap)})
		binary.BigEndian.PutUint16(f[34:], 9753)
		binary.BigEndian.PutUint16(f[36:], uint16(20000+flow))
	}
	copy(f[42:], "FLOW")
	binary.BigEndian.PutUint32(f[46:], uint32(tap))
	binary.BigEndian.PutUint32(f[50:], uint32(flow))
	binary.BigEndian.PutUint32(f[54:], uint32(n))
	return f
}

// stream sends frames of 16 flows out of an interface until it is stopped, which
// returns how many there were.
func (w *world) stream(ns, iface string, tap int) (sent *atomic.Int64, stop func() int) {
	return w.pour(ns, iface, func(n int) []byte { return flowFrame(tap, n/2%16, n) })
}

// ours returns the frames of flowFrame in a capture file, by tap.
func ours(t *testing.T, path string) map[int][]testnet.Packet {
	t.Helper()
	return oursAmong(testnet.ReadCapture(t, path))
}

func oursAmong(packets []testnet.Packet) map[int][]testnet.Packet {
	all := map[int][]testnet.Packet{}
	for _, p := range packets {
		if len(p.Data) >= 58 && string(p.Data[42:46]) == "FLOW" {
			tap := int(binary.BigEndian.Uint32(p.Data[46:]))
			all[tap] = append(all[tap], p)
		}
	}
	return all
}

// unbroken wants n frames of a tap with the numbers from the first on.
func unbroken(t *testing.T, what string, packets []testnet.Packet, n int) {
	t.Helper()
	for i, p := range packets {
		if got := int(binary.BigEndian.Uint32(p.Data[54:])); got != i {
			t.Errorf("%s: frame %d comes where %d should", what, got, i)
			return
		}
	}
	if len(packets) != n {
		t.Errorf("%s: %d frames, want %d", what, len(packets), n)
	}
}

// Two remotes, two taps, outputs that a file selects. While frames come, it is
// read again and again: outputs that stay are untouched and get every frame, a bad
// file changes nothing and says why with its lines, others come and go; keys are
// read anew at the same time. A group keeps both directions of a flow together.
func TestConfigReloadUnderTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link(w.sender, "t1", w.peer, "p1", "97")
	path := func(name string) string { return filepath.Join(w.dir, name) }
	config := path("c.yaml")
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf(`port: 5678
key-file: %s
state: %s
taps:
  - {id: 1, name: berlin}
  - {id: 2, name: paris}
outputs:
  - interface: all0
  - write: %s
    rotate-seconds: 86400
  - pcap-over-ip: 57012
%s`, w.key, path("state"), path("rec-%n.pcapng"), more)
		if err := os.WriteFile(path("new"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path("new"), config); err != nil {
			t.Fatal(err)
		}
	}
	one := func(name, taps string) string { return fmt.Sprintf("  - write: %s\n    taps: %s\n", path(name), taps) }
	write(one("berlin.pcapng", "berlin"))
	c := w.start(w.collector, ntapBinary, "collector", "--config", config)
	c.wait("collector started")
	index := w.in(w.collector, "cat", "/sys/class/net/all0/ifindex")
	dump := w.startTcpdump(w.collector, "all0", path("all0.pcap"), "-s", "1600", "udp port 9753")
	var client net.Conn
	w.inside(w.collector, func() (err error) { client, err = net.Dial("tcp", "127.0.0.1:57012"); return })
	served, _ := os.Create(path("client.pcapng"))
	testnet.Bound(t, client)
	read := make(chan error, 1)
	go func() { _, err := io.Copy(served, client); read <- err }()
	c.wait("client of pcapng")
	remotes := []*proc{w.startRemote("-i", "t0", "udp", "port", "9753"), w.startRemote("-i", "t1", "--tap", "2", "udp", "port", "9753")}
	sent1, stop1 := w.stream(w.peer, "p0", 1)
	_, stop2 := w.stream(w.peer, "p1", 2)
	goOn := func() { // so that each configuration sees frames
		n := sent1.Load()
		c.until("frames are sent", func() bool { return sent1.Load() > n+100 })
	}
	hup := func(times int, text string) {
		t.Helper()
		c.cmd.Process.Signal(syscall.SIGHUP)
		c.until(fmt.Sprintf("%d times: %s", times, text), func() bool { return strings.Count(c.text(), text) >= times })
		goOn()
	}
	goOn()
	write(one("berlin.pcapng", "berlin") + one("paris.pcapng", "[paris]"))
	hup(1, "the new configuration is in force")
	write("  - write: x\n    taps: rome\n  - wriet: y\n")
	hup(1, "that from before stays in force")
	group := "  - balance: sensors\n    filter: udp\n    over:\n"
	for i := range 3 {
		group += fmt.Sprintf("      - write: %s\n", path(fmt.Sprintf("s%d.pcapng", i)))
	}
	write(one("paris.pcapng", "2") + group)
	hup(2, "the new configuration is in force")
	n1, n2 := stop1(), stop2()
	for _, r := range remotes {
		if out := r.stop(); account(out, "dropped by the kernel") != 0 {
			t.Errorf("the remote lost frames, which the test cannot tell from others:\n%s", out)
		}
	}
	if now := w.in(w.collector, "cat", "/sys/class/net/all0/ifindex"); now != index {
		t.Errorf("all0 was number %s, and is %s now", index, now)
	}
	dump.until("tcpdump has all", func() bool {
		all := oursAmong(soFar(path("all0.pcap")))
		return len(all[2]) >= n2 && len(all[1]) >= n1
	})
	dump.stop()
	out := c.stop()
	if err := testnet.Receive(t, "the client's end", read); err != nil {
		t.Error(err)
	}
	for _, what := range []string{"all0.pcap", "rec-00001.pcapng", "client.pcapng"} {
		all := ours(t, path(what))
		unbroken(t, what+", tap 1", all[1], n1)
		unbroken(t, what+", tap 2", all[2], n2)
	}
	if more, _ := filepath.Glob(path("rec-*")); len(more) != 1 {
		t.Errorf("the recording went on in %v", more)
	}
	berlin, paris := ours(t, path("berlin.pcapng")), ours(t, path("paris.pcapng"))
	if len(berlin[1]) == 0 || len(berlin[1]) >= n1 || len(berlin[2]) != 0 || len(paris[2]) == 0 || len(paris[2]) >= n2 || len(paris[1]) != 0 {
		t.Errorf("berlin has %d and %d frames, paris %d and %d, of %d and %d", len(berlin[1]), len(berlin[2]), len(paris[1]), len(paris[2]), n1, n2)
	}
	unbroken(t, "berlin, to its end", berlin[1], len(berlin[1]))
	at, shared := map[string]int{}, 0
	for i := range 3 {
		all := ours(t, path(fmt.Sprintf("s%d.pcapng", i)))
		if len(all[1])+len(all[2]) == 0 {
			t.Errorf("s%d has no frames", i)
		}
		for tap, packets := range all {
			shared += len(packets)
			for _, p := range packets {
				flow := fmt.Sprintf("tap %d, flow %d", tap, binary.BigEndian.Uint32(p.Data[50:]))
				if was, seen := at[flow]; seen && was != i {
					t.Errorf("%s is in s%d and s%d", flow, was, i)
				}
				at[flow] = i
			}
		}
	}
	if given := account(out, "frames written to balance sensors"); shared != given || shared == 0 || len(at) != 32 {
		t.Errorf("%d frames of %d flows in the group's files, which was given %d", shared, len(at), given)
	}
	for _, want := range []string{
		"keys read anew", config + ":13: outputs: write: taps: unknown tap \\\"rome\\\"", config + ":14: outputs: want an output",
		"2 times another configuration came into force; 1 could not be used",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the collector does not say %q:\n%s", want, out)
		}
	}
}

// Where the file names a port that is taken, the others go on.
func TestConfigOutputTaken(t *testing.T) {
	dir, master, _ := keyFiles(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	out, config := filepath.Join(dir, "out.pcapng"), filepath.Join(dir, "c.yaml")
	text := fmt.Sprintf("port: 127.0.0.1:0\nkey-file: %s\nstate: none\nonce: true\noutputs:\n- pcap-over-ip: %q\n- write: %s\n", master, taken.Addr(), out)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l := startLocal(t, "collector", "--config", config)
	addr := l.find(`collector started address=(\S+)`)
	file := numbered(t, 500, 60, time.Microsecond)
	if out, err := testnet.Command(t, ntapBinary, "remote", "-r", file, "-c", addr, "--key-file", master).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := testnet.Receive(t, "the collector's end", l.done); err != nil {
		t.Error(err)
	}
	if n := len(testnet.ReadCapture(t, out)); n != 500 {
		t.Errorf("%d frames", n)
	}
	for _, want := range []string{"taken by another program", "0 frames written to pcap over IP " + taken.Addr().String() + ", 500 refused"} {
		if !strings.Contains(l.text(), want) {
			t.Errorf("it does not say %q:\n%s", want, l.text())
		}
	}
}
