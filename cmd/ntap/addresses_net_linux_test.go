// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// The remote's address changes while it runs: it sends from the new one, the
// session goes on, and each frame is counted as what became of it.
func TestRemoteAddressChanges(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ name, to, old, new string }{
		{"IPv4", "10.99.0.2:5678", "10.99.0.1/24", "10.99.0.3/24"},
		{"IPv6", "[fd99::2]:5678", "fd99::1/64", "fd99::3/64"},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			r := w.start(w.sender, ntapBinary, "remote", "-c", v.to, "--key-file", w.key, "--tap", "1", "-i", "t0")
			r.wait("remote started")
			w.inject(w.peer, "p0", numberedMark("before", 0))
			c.until("the first frame is written", func() bool { return fileHas(file, numberedMark("before", 0)) })
			for n, change := range [][2]string{{v.old, v.new}, {v.new, v.old}} { // and back
				w.in(w.sender, "ip", "addr", "del", change[0], "dev", "up0")
				if n == 0 { // without an address for a while
					sent := 0
					r.until("frames are not taken", func() bool { // they wait for the end of a block
						w.inject(w.peer, "p0", numberedMark("meanwhile", n))
						sent++
						return sent >= 20 && strings.Contains(r.text(), "the kernel does not take what is for the collector")
					})
				}
				w.in(w.sender, "ip", "addr", "add", change[1], "dev", "up0", "nodad")
				r.until("frames come from the new address", func() bool {
					w.inject(w.peer, "p0", numberedMark("after", n))
					return fileHas(file, numberedMark("after", n))
				})
			}
			rText := r.stop()
			cText := c.stop()
			captured, written, lost := account(rText, "frames captured"), account(cText, "frames written to"), account(cText, "frames lost")
			if captured == 0 || written+lost != captured || account(cText, "frames sealed") != captured || len(testnet.ReadCapture(t, file)) != written {
				t.Errorf("%d captured, %d written, %d lost:\n%s%s", captured, written, lost, rText, cText)
			}
			if (lost > 0) != (account(rText, "not taken by the kernel") > 0) {
				t.Errorf("%d frames lost, %d datagrams not taken by the kernel", lost, account(rText, "not taken by the kernel"))
			}
		})
	}
}

// A collector that has moved to another address, as its name says, is followed
// though nothing tells of it: where it was, datagrams vanish, and each send went
// well. They used to go there until the remote was started anew.
func TestCollectorNameMoves(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "nft")
	w := newWorld(t)
	etc := filepath.Join("/etc/netns", w.sender) // ip-netns(8): what is there is in /etc for programs in that namespace
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(etc) })
	name := func(addr string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(addr+" collector.test\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name("10.99.0.2")
	w.in(w.collector, "ip", "addr", "add", "10.99.0.9/24", "dev", "up1")
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file)
	r := w.start(w.sender, ntapBinary, "remote", "-c", "collector.test:5678", "--key-file", w.key, "--tap", "1", "-i", "t0", "--resolve", "1s", "--workers", "2")
	r.wait("remote started")
	w.inject(w.peer, "p0", numberedMark("before", 0))
	c.until("the first frame is written", func() bool { return fileHas(file, numberedMark("before", 0)) })
	w.in(w.collector, "nft", "add", "table", "inet", "gone")
	w.in(w.collector, "nft", "add", "chain", "inet", "gone", "in", "{ type filter hook prerouting priority -300 ; }")
	w.in(w.collector, "nft", "add", "rule", "inet", "gone", "in", "ip", "daddr", "10.99.0.2", "udp", "dport", "5678", "drop")
	name("10.99.0.9")
	r.until("both shards send to the new address", func() bool {
		return strings.Count(r.text(), "the collector has another address now") == 2
	})
	r.until("frames come there", func() bool {
		w.inject(w.peer, "p0", numberedMark("after", 0))
		return fileHas(file, numberedMark("after", 0))
	})
	rText := r.stop()
	cText := c.stop()
	captured, written, lost := account(rText, "frames captured"), account(cText, "frames written to"), account(cText, "frames lost")
	if captured == 0 || written+lost != captured || account(rText, "not taken by the kernel") != 0 || len(testnet.ReadCapture(t, file)) != written {
		t.Errorf("%d captured, %d written, %d lost:\n%s%s", captured, written, lost, rText, cText)
	}
}

// A collector whose name nobody knows at the start, as while a host starts before its
// name server answers, is told at once, with what to look at, and is found later. The
// remote used to end with status 1 if it was the only one, and not if there were others.
// A capture file, which would go nowhere, is an error.
func TestCollectorNameComesLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	etc := filepath.Join("/etc/netns", w.sender)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(etc) })
	hosts := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hosts("")
	file, pcap := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "in.pcap")
	c := w.startCollector("--no-tap", "-w", file)
	args := []string{"remote", "-c", "later.invalid:5678", "--key-file", w.key, "--tap", "1"}
	r := w.start(w.sender, ntapBinary, append(args, "-i", "t0", "--workers", "2", "--mtu", "1400")...)
	r.wait("remote started")
	if text := r.text(); !strings.Contains(text, "WRN it cannot be reached now") || !strings.Contains(text, "getent hosts later.invalid") {
		t.Errorf("the log does not say what to look at:\n%s", text)
	}
	if err := os.WriteFile(pcap, proto.AppendPcapHeader(nil, proto.LinkTypeEthernet, proto.MaxFrame), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := testnet.Command(t, "ip", append([]string{"netns", "exec", w.sender, ntapBinary}, append(args, "-r", pcap)...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "getent hosts later.invalid") {
		t.Errorf("a capture file towards a name that is not known: %v\n%s", err, out)
	}
	hosts("10.99.0.2 later.invalid\n")
	r.until("frames come there", func() bool {
		w.inject(w.peer, "p0", numberedMark("after", 0))
		return fileHas(file, numberedMark("after", 0))
	})
	rText := r.stop()
	cText := c.stop()
	captured, written, lost := account(rText, "frames captured"), account(cText, "frames written to"), account(cText, "frames lost")
	if m := regexp.MustCompile(`frames sealed, (\d+) of them before`).FindStringSubmatch(cText); m != nil {
		before, _ := strconv.Atoi(m[1])
		lost += before
	}
	if captured == 0 || written == 0 || written+lost != captured || account(rText, "not taken by the kernel") == 0 || len(testnet.ReadCapture(t, file)) != written {
		t.Errorf("%d captured, %d written, %d lost:\n%s%s", captured, written, lost, rText, cText)
	}
}
