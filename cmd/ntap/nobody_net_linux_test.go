// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Where nobody listens, what ICMP says of the tap's own datagrams is not
// captured. It was, and each such frame made the next datagram: on lo 830 a
// second, without end, after one frame of anybody's.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	const asked = "icmp or (icmp6 and ip6[40] < 128)"
	for _, v := range []struct {
		name, iface, ping string
		to                []string
	}{
		{"lo", "lo", "127.0.0.1", []string{"-c", "127.0.0.1:5678"}},
		{"lo, IPv6", "lo", "127.0.0.1", []string{"-c", "[::1]:5678"}},
		{"a host", "up0", "10.99.0.2", []string{"-c", "10.99.0.2:5678", "--mark", "0"}},
		{"a host, IPv6", "up0", "10.99.0.2", []string{"-c", "[fd99::2]:5678"}},
		{"any", "any", "10.99.0.2", []string{"-c", "10.99.0.2:5678"}},
		{"two collectors", "up0", "10.99.0.2", []string{"-c", "10.99.0.2:5678", "-c", "[fd99::2]:5679"}},
		{"a VTEP", "up0", "10.99.0.2", []string{"--to-vxlan", "10.99.0.2"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			w.in(w.collector, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit") // else it says so once a second
			args := append([]string{"remote", "-i", v.iface, "--tap", "1"}, v.to...)
			if v.to[0] == "-c" {
				args = append(args, "--key-file", w.key)
			}
			r := w.start(w.sender, ntapBinary, append(args, asked)...)
			r.wait("remote started")
			w.in(w.sender, "ping", "-q", "-c", "10", "-i", "0.1", v.ping)
			r.until("nobody got what was sent", func() bool { return w.unreachables(w.sender) >= 10 })
			if n := account(r.stop(), "frames captured"); n != 20 {
				t.Errorf("%d frames captured, of 20", n)
			}
		})
	}
}

// Two taps on one interface, whose collector is down, do not have each other's
// errors come: a few frames went round between them without end.
func TestNobodyListensToTwo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.in(w.collector, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit")
	var taps []*proc
	for _, id := range []string{"1", "2"} {
		r := w.start(w.sender, ntapBinary, "remote", "-i", "up0", "--tap", id, "-c", "10.99.0.2:5678", "--key-file", w.key, "icmp")
		r.wait("remote started")
		taps = append(taps, r)
	}
	w.in(w.sender, "ping", "-q", "-c", "10", "-i", "0.1", "10.99.0.2")
	taps[0].until("nobody got what was sent", func() bool { return w.unreachables(w.sender) >= 20 })
	for _, r := range taps {
		if n := account(r.stop(), "frames captured"); n != 20 {
			t.Errorf("%d frames captured, of 20", n)
		}
	}
}

// A remote says when nobody listens at its collector, when its kernel does not take
// what it sends, and when that is over. It said nothing before its account at the
// end.
func TestCollectorNotReached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.startRemote("-i", "t0")
	const again = "the collector is reached again"
	r.wait("nobody listens at the collector, its host says: sending goes on")
	c := w.startCollector("--no-tap", "-w", filepath.Join(w.dir, "out.pcapng"))
	r.wait(again)
	w.in(w.sender, "ip", "link", "set", "up0", "down")
	r.wait("the kernel does not take what is for the collector: that is counted, and sending goes on")
	w.in(w.sender, "ip", "link", "set", "up0", "up")
	r.until("it is over", func() bool { return strings.Count(r.text(), again) == 2 })
	if text := r.stop(); strings.Count(text, "sending goes on") != 2 {
		t.Errorf("not once each:\n%s", text)
	}
	c.stop()
}

// unreachables returns how often a namespace was told by ICMP that a datagram
// did not arrive.
func (w *world) unreachables(ns string) (n int) {
	w.t.Helper()
	var names []string
	for line := range strings.Lines(w.in(ns, "cat", "/proc/net/snmp", "/proc/net/snmp6")) {
		switch f := strings.Fields(line); {
		case f[0] == "Icmp:" && names == nil:
			names = f
		case f[0] == "Icmp:":
			for i, name := range names {
				if name == "InDestUnreachs" {
					n += w.number(f[i])
				}
			}
		case f[0] == "Icmp6InDestUnreachs":
			n += w.number(f[1])
		}
	}
	return n
}

func (w *world) number(s string) int {
	w.t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}
