// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// capinfos says how many packets a file has, their bytes, and the seconds from
// the first to the last.
func (w *world) capinfos(file string) (packets, bytes int, seconds float64) {
	w.t.Helper()
	text := w.must("capinfos", "-M", "-c", "-d", "-u", file)
	number := func(what string) string {
		m := regexp.MustCompile(what + `:\s+([\d.]+)`).FindStringSubmatch(text)
		if m == nil {
			w.t.Fatalf("capinfos says nothing of %s:\n%s", what, text)
		}
		return m[1]
	}
	packets, _ = strconv.Atoi(number("Number of packets"))
	bytes, _ = strconv.Atoi(number("Data size"))
	seconds, _ = strconv.ParseFloat(number("Capture duration"), 64)
	return packets, bytes, seconds
}

// Live, no more comes out than the limit and the burst that it lets pass, and not
// much less: capinfos counts what came out, tcpdump at the peer what was there,
// and the difference is what the remote says it left out.
func TestRateLimitLive(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "capinfos")
	for name, v := range map[string]struct {
		frames, bits float64 // a second
		burst        float64 // of the same
	}{"400pps": {400, 0, 64}, "2M": {0, 2e6, 8 * 256 << 10}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			out, wire := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "wire.pcap")
			const what = "ether proto 0x88b5"
			c := w.startCollector("--no-tap", "-w", out)
			dump := w.startTcpdump(w.peer, "p0", wire, "-s", "1600", what)
			start := time.Now()
			r := w.startRemote("-i", "t0", "--workers", "2", "--rate-limit", name, what)
			sent, stop := w.flood(w.peer, "p0", 1000)
			r.until("enough was offered", func() bool { return sent.Load() > 6000 && time.Since(start) > 3*time.Second })
			offered := stop()
			w.inject(w.peer, "p0", marker("end"))
			dump.until("all were recorded", func() bool { return fileHas(wire, marker("end")) })
			rText := r.stop()
			took := time.Since(start).Seconds()
			dump.stop()
			cText := c.stop()

			judge, _, _ := w.capinfos(wire)
			packets, bytes, seconds := w.capinfos(out)
			left := account(rText, "frames beyond the rate limit")
			if judge != offered+1 || packets+left != judge || account(rText, "frames dropped by the kernel") != 0 || account(cText, "frames delivered") != packets {
				t.Errorf("%d frames sent, tcpdump has %d, %d came out, %d left out\n%s", offered, judge, packets, left, rText)
			}
			got, limit := float64(packets), v.frames
			if v.bits > 0 {
				got, limit = float64(bytes)*8, v.bits
			}
			if got > limit*took+v.burst || got < limit*seconds/2 {
				t.Errorf("%.0f came out in %.2f s (the first to the last: %.2f s), with a limit of %.0f a second\n%s", got, took, seconds, limit, rText)
			}
			if judge < 2*packets {
				t.Errorf("%d frames of %d came out: the limit had nothing to do", packets, judge)
			}
		})
	}
}

// arrives sends a frame to the tapped interface until it comes out, for a minute
// at most: until a remote has forwarded it, nobody can tell.
func (w *world) arrives(c *proc, out, text string) {
	w.t.Helper()
	c.until(text+" comes out", func() bool {
		w.inject(w.peer, "p0", marker(text))
		return fileHas(out, marker(text))
	})
}

// A breaker on the card: while other traffic fills that, nothing is sent, but
// counted; three seconds after the other traffic has ended, and not before,
// frames are sent again. Where the route to the collector moves to another card,
// that one counts. It used to be the first, so that the tap sent nothing while,
// or for ever if that card was gone.
func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link(w.sender, "other0", w.collector, "other1", "96")
	out := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", out)
	r := w.startRemote("-i", "t0", "--breaker", "nic=1M", "ether proto 0x88b5")
	says := func(n int, text string) {
		t.Helper()
		r.until(text, func() bool { return strings.Count(r.text(), text) == n })
	}
	const opened, closed, moved = "the host is too busy", "frames are sent again", "the breaker looks at another network card"

	w.arrives(c, out, "before")
	_, stop := w.flood(w.sender, "up0", 1400) // some 50 Mbit/s
	says(1, opened)
	for range 20 {
		w.inject(w.peer, "p0", marker("while it is busy"))
	}
	// The traffic may have stood still before its end: that of the last load is
	// known, more than two looks let pass.
	stop()
	var burst [][]byte
	for i := range 60 {
		burst = append(burst, testnet.Numbered(i, 1400))
	}
	ended := time.Now()
	w.inject(w.sender, "up0", burst...)
	says(1, closed)
	if d := time.Since(ended); d < 2500*time.Millisecond { // eleven looks at least, and what the tickers of a busy machine make up for
		t.Errorf("it closed %v after the load ended", d)
	}
	w.arrives(c, out, "after")

	_, stop = w.flood(w.sender, "up0", 1400)
	says(2, opened)
	w.in(w.sender, "ip", "route", "add", "10.99.0.2/32", "via", "10.96.0.2", "dev", "other0")
	says(1, moved)
	says(2, closed) // with up0 as busy as before
	w.arrives(c, out, "by the other card")
	w.in(w.sender, "ip", "link", "del", "other0")
	says(2, moved)
	says(3, opened)
	stop()
	says(3, closed)
	w.arrives(c, out, "by the first card again")

	rText, cText := r.stop(), c.stop()
	if fileHas(out, marker("while it is busy")) {
		t.Error("a frame was sent while the breaker was open")
	}
	broken, captured := account(rText, "frames not sent while the host was too busy"), account(rText, "frames captured on t0")
	if broken < 20 || captured != broken+account(rText, "frames,") || account(cText, "of those left out by the remote's rate limit, sampling, dedup or breaker") != broken {
		t.Errorf("%d captured, %d not sent:\n%s%s", captured, broken, rText, cText)
	}
}

// A breaker on the CPUs: it opens while all of them work, and closes when they do
// not any more, but not at once. Its /proc/stat is the test's: what else the
// machine does is not the matter.
func TestBreakerOnCPUs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out, stat := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "stat")
	var mu sync.Mutex
	busy := false
	f, err := os.Create(stat)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var used, idle int
	tick := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		if busy {
			used += n
		} else {
			idle += n
		}
		fmt.Fprintf(io.NewOffsetWriter(f, 0), "cpu  %010d 0 0 %010d 0 0 0 0 0 0\n", used, idle)
	}
	tick(1)
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for clock := time.NewTicker(10 * time.Millisecond); ; tick(1) {
			select {
			case <-end:
				return
			case <-clock.C:
			}
		}
	}()
	defer func() { close(end); testnet.Receive(t, "the clock's end", done) }()

	c := w.startCollector("--no-tap", "-w", out)
	r := w.start(w.sender, "sh", "-c", // in a mount namespace of its own, ip-netns(8)
		"mount --bind "+stat+" /proc/stat && exec "+ntapBinary+" remote -c 10.99.0.2:5678 --tap 1 -i t0 --breaker cpu=90% --key-file "+w.key+" ether proto 0x88b5")
	r.wait("remote started")
	w.arrives(c, out, "before")
	load := func(is bool) {
		mu.Lock()
		busy = is
		mu.Unlock()
	}
	load(true)
	r.wait("the host is too busy")
	for range 20 {
		w.inject(w.peer, "p0", marker("while it is busy"))
	}
	ended := time.Now()
	tick(1000) // the clock may have stood still before
	load(false)
	r.wait("frames are sent again")
	if d := time.Since(ended); d < 2500*time.Millisecond {
		t.Errorf("it closed %v after the load ended", d)
	}
	w.arrives(c, out, "after")
	text := r.stop()
	c.stop()
	if n := account(text, "frames not sent while the host was too busy"); n < 20 || account(text, "frames captured on t0") != n+account(text, "frames,") {
		t.Error(text)
	}
}
