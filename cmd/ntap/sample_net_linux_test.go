// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
)

// flowOf returns the flow of an Ethernet frame as gopacket tells it, the same for
// both directions; false: it is none that has ports of its own.
func flowOf(data []byte) (string, bool) {
	packet := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
	all := packet.Layers()
	for i, l := range all[:max(len(all)-1, 0)] {
		network, ok := l.(gopacket.NetworkLayer)
		if !ok {
			continue
		}
		transport, ok := all[i+1].(gopacket.TransportLayer)
		if ip, is4 := l.(*layers.IPv4); is4 && (ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0) || !ok {
			return "", false
		}
		a, b := network.NetworkFlow(), transport.TransportFlow()
		here, there := fmt.Sprint(a.Src(), b.Src()), fmt.Sprint(a.Dst(), b.Dst())
		return fmt.Sprint(transport.LayerType(), min(here, there), max(here, there)), true
	}
	return "", false
}

// likely says whether so many of n, each kept with the chance of one in of, are
// what chance explains: five standard deviations, which it exceeds once in 1.7 million.
func likely(kept, n, of int) bool {
	p := 1 / float64(of)
	return math.Abs(float64(kept)-float64(n)*p) <= 5*math.Sqrt(float64(n)*p*(1-p))
}

// Sampling keeps whole flows of the captures, as gopacket knows them, about as
// many as it was told, and what is left out is in the accounts of both sides.
func TestSampleWholeFlows(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	flows, kept := map[string]bool{}, map[string]bool{}
	count := func(t *testing.T, file string, seen map[string]bool) map[string]int {
		out := map[string]int{}
		for _, p := range testnet.ReadCapture(t, file) {
			if f, ok := flowOf(p.Data); ok && p.LinkType == 1 {
				out[f]++
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for f := range out {
			seen[f] = true
		}
		return out
	}
	t.Run("captures", func(t *testing.T) {
		shaped(t, remote.Shape{Sample: 2}, func(t *testing.T, file, out string, a *remote.Account, c *running) {
			all := count(t, file, flows)
			for f, n := range count(t, out, kept) {
				if all[f] != n {
					t.Errorf("of %s, %d frames, %d are left", f, all[f], n)
				}
			}
			n := a.Total()
			if taps := c.account.Taps(); n.Captured != n.Sealed+n.Sampled || len(taps) != 1 || taps[0].Shed != n.Sampled {
				t.Errorf("%+v, %+v", n, taps)
			}
		})
	})
	if len(flows) < 100 || !likely(len(kept), len(flows), 2) {
		t.Errorf("%d flows of %d are left", len(kept), len(flows))
	}
}

// conversations returns the frames of each conversation in a file as tshark tells
// them.
func (w *world) conversations(file string, kinds ...string) map[string]int {
	w.t.Helper()
	line := regexp.MustCompile(`(?m)^(\S+)\s+<->\s+(\S+)\s+(\d+)\s+[\d,.]+ \S+\s+(\d+)\s`)
	out := map[string]int{}
	for _, kind := range kinds {
		for _, m := range line.FindAllStringSubmatch(w.must("tshark", "-r", file, "-q", "-z", "conv,"+kind), -1) {
			back, err1 := strconv.Atoi(m[3])
			there, err2 := strconv.Atoi(m[4])
			if err1 != nil || err2 != nil {
				w.t.Fatal(m[0])
			}
			out[fmt.Sprint(kind, " ", min(m[1], m[2]), " ", max(m[1], m[2]))] += back + there
		}
	}
	return out
}

// Live, on two interfaces with two shards each, a flow is kept or left out as a
// whole: both directions, also where one comes on one interface and the other
// goes out by the other. tshark says which conversations there are, in what
// tcpdump recorded at the peer and in what came out.
func TestSampleLive(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	w := newWorld(t)
	w.link(w.sender, "t1", w.peer, "p1", "97")
	out := filepath.Join(w.dir, "out.pcapng")
	wires := map[string]string{"p0": filepath.Join(w.dir, "p0.pcap"), "p1": filepath.Join(w.dir, "p1.pcap")}
	const of = 4
	c := w.startCollector("--no-tap", "-w", out)
	dumps := map[string]*proc{}
	for iface, file := range wires {
		dumps[iface] = w.startTcpdump(w.peer, iface, file, "-s", "1600", "ip and (tcp or udp)")
	}
	r := w.startRemote("-i", "t0", "-i", "t1", "--workers", "2", "--sample", fmt.Sprint("1/", of), "ip and (tcp or udp)")
	frames := flowFrames(1200)
	type place struct{ ns, iface string }
	p0, p1, t0, t1 := place{w.peer, "p0"}, place{w.peer, "p1"}, place{w.sender, "t0"}, place{w.sender, "t1"}
	send := map[place][][]byte{}
	for i := 0; i < len(frames); i += 2 {
		way := [][2]place{{p0, t0}, {p1, t1}, {p0, t1}}[i/2%3] // there by one, back by the other
		send[way[0]] = append(send[way[0]], frames[i], frames[i])
		send[way[1]] = append(send[way[1]], frames[i+1])
	}
	for at, frames := range send {
		w.inject(at.ns, at.iface, frames...)
	}
	for range 60 {
		w.exchange(w.peer, w.sender, "10.98.0.1", 100)
		w.exchange(w.sender, w.peer, "10.97.0.2", 100)
	}
	for iface, d := range dumps {
		end := append(frames[0][:42:42], "the end on "+iface+", 24 in all"...)
		w.inject(w.peer, iface, end)
		d.until("the end was captured", func() bool { return fileHas(wires[iface], end) })
	}
	rText := r.stop() // in order: what was captured is sent
	want := map[string]int{}
	for _, d := range dumps {
		d.stop()
	}
	cText := c.stop()
	for _, file := range wires {
		for f, n := range w.conversations(file, "tcp", "udp") {
			want[f] += n
		}
	}
	got := w.conversations(out, "tcp", "udp")
	for f, n := range got {
		if want[f] != n {
			t.Errorf("%s: %d frames of %d", f, n, want[f])
		}
	}
	if len(want) < 1300 || !likely(len(got), len(want), of) {
		t.Errorf("%d flows of %d came out, with --sample 1/%d\n%s", len(got), len(want), of, rText)
	}
	captured, left, delivered := account(rText, "frames captured on"), account(rText, "frames of flows left out by sampling"), account(cText, "frames delivered")
	if account(rText, "frames dropped by the kernel") != 0 || captured != left+delivered || strings.Count(rText, "frames captured on") != 4 {
		t.Errorf("%d captured, %d left out, %d delivered\n%s%s", captured, left, delivered, rText, cText)
	}
}
