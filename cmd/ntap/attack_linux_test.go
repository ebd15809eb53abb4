// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
)

// record returns what a remote sends of a capture file, whole, as somebody on
// the path sees it.
func record(t *testing.T, keys *crypto.KeyFile, file string) (datagrams [][]byte) {
	t.Helper()
	r := newRecorder(t)
	a := send(t, keys, file, r.conn.LocalAddr().(*net.UDPAddr).AddrPort(), nil)
	datagrams = r.take(int(a.Total().Sent))
	if len(datagrams) < 10 {
		t.Fatalf("%d datagrams recorded", len(datagrams))
	}
	return datagrams
}

// play sends datagrams to a collector and waits until it has counted them.
func play(t *testing.T, c *running, datagrams [][]byte) {
	t.Helper()
	out, err := net.Dial("udp", c.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	before := c.account.Received()
	for _, d := range datagrams {
		if _, err := out.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	testnet.Eventually(t, "all datagrams came", func() bool { return c.account.Received()-before >= uint64(len(datagrams)) })
}

// Before its first data each shard says who it is and when that is: a collector
// joins by that, also where the data is of long ago.
func TestTimeComesBeforeData(t *testing.T) {
	kinds := map[proto.Kind]int{}
	for _, d := range record(t, masterKey(t), numbered(t, 3000, 200, time.Microsecond)) {
		h, _, _ := proto.ParseHeader(d)
		if kinds[h.Kind]++; h.Kind == proto.Data && (kinds[proto.Announcing] == 0 || kinds[proto.Reporting] == 0) {
			t.Fatalf("data before announce and report: %v", kinds)
		}
	}
	if kinds[proto.Data] == 0 {
		t.Error("no data")
	}
}

// A session recorded on the way and played to a collector after its restart is
// refused, with a state file and without; where the operator lets any time
// pass, it comes out, which shows that the recording is good.
func TestRecordedSessionAfterRestart(t *testing.T) {
	keys, dir := masterKey(t), t.TempDir()
	const frames = 2000
	datagrams := record(t, keys, numbered(t, frames, 100, time.Microsecond))
	time.Sleep(20 * time.Millisecond) // more than the window below
	state := filepath.Join(dir, "state")
	for _, v := range []struct {
		name   string
		cfg    collector.Config
		out    int
		reason collector.Drop
	}{
		{"heard, with a state file", collector.Config{State: state}, frames, 0},
		{"restarted, with the state file", collector.Config{State: state, ClockWindow: -1}, 0, collector.DropLate},
		{"without state, by time", collector.Config{ClockWindow: time.Millisecond}, 0, collector.DropClock},
		{"without state, any time", collector.Config{ClockWindow: -1}, frames, 0},
	} {
		t.Run(v.name, func(t *testing.T) {
			v.cfg.Keys, v.cfg.Write = keys, filepath.Join(t.TempDir(), "out.pcapng")
			c := listen(t, v.cfg)
			play(t, c, datagrams)
			c.stop()
			c.end(t)
			if n := len(testnet.ReadCapture(t, v.cfg.Write)); n != v.out {
				t.Errorf("%d frames came out, want %d", n, v.out)
			}
			if n := c.account.Drops(v.reason); v.out == 0 && n == 0 {
				t.Errorf("nothing is %v", v.reason)
			}
		})
	}
}

// A train of datagrams goes where its first one's header steers it. Recorded
// ones behind a forged one came to a worker that had not seen their counters,
// which took them once more.
func TestRecordedBehindForged(t *testing.T) {
	keys := masterKey(t)
	const frames = 2000
	datagrams := record(t, keys, numbered(t, frames, 100, time.Microsecond))
	out := filepath.Join(t.TempDir(), "out.pcapng")
	c := listen(t, collector.Config{Keys: keys, Write: out, Workers: 2, ClockWindow: -1}) // or time would tell
	play(t, c, datagrams)
	var equal [][]byte
	for _, d := range datagrams {
		if proto.Kind(d[0]&0xF) == proto.Data && (len(equal) == 0 || len(d) == len(equal[0])) {
			equal = append(equal, d)
		}
	}
	if len(equal) < 10 {
		t.Fatalf("%d datagrams of one size", len(equal))
	}
	before := c.account.Received()
	for shard := range uint16(2) { // one of the two is the other worker's
		forged := bytes.Clone(equal[0])
		binary.BigEndian.PutUint16(forged[2:], shard)
		sendTrain(t, c.addr, append([][]byte{forged}, equal[:9]...))
	}
	testnet.Eventually(t, "both trains came", func() bool { return c.account.Received()-before == 20 })
	c.stop()
	c.end(t)
	if n := len(testnet.ReadCapture(t, out)); n != frames {
		t.Errorf("%d frames came out of %d", n, frames)
	}
	if n := c.account.Drops(collector.DropAstray); n != 9 {
		t.Errorf("%d datagrams astray, want 9", n)
	}
}

// sendTrain sends datagrams of one size in one call, which loopback keeps
// together.
func sendTrain(t *testing.T, to netip.AddrPort, datagrams [][]byte) {
	t.Helper()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, len(datagrams[0])) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(bytes.Join(datagrams, nil)); err != nil {
		t.Fatal(err)
	}
}

// Attackers send all that a collector refuses, as fast as they can, from many
// flows and in trains, while a tap runs on the same worker: its frames all come,
// each attack is counted under its name, and nothing of it is kept.
func TestFlood(t *testing.T) {
	keys := masterKey(t)
	const frames, victim = 3000, 9
	file := numbered(t, frames, 300, time.Millisecond) // 3 s
	old := record(t, keys, numbered(t, 2000, 100, time.Microsecond))
	out := filepath.Join(t.TempDir(), "out.pcapng")
	c := listen(t, collector.Config{Keys: keys, Write: out})
	var taps sync.WaitGroup
	taps.Go(func() { // the tap whose datagrams are forged and played back
		relay := newRelay(t, c.addr, 0, 1, 0, 0) // it doubles
		send(t, keys, file, relay.addr(), func(cfg *remote.Config) { cfg.Tap, cfg.Pace = victim, remote.PaceReal })
	})
	taps.Go(func() {
		send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.Tap, cfg.Pace = 1, remote.PaceReal })
	})
	testnet.Eventually(t, "both are known", func() bool { return c.account.KnownFlows() == 2 })

	before := heap()
	attack, stop := context.WithCancel(context.Background())
	var attackers sync.WaitGroup
	var session uint64
	for _, s := range c.account.Taps() {
		if s.Tap == victim {
			session = s.Session
		}
	}
	for seed := range uint64(2) {
		attackers.Go(func() { flood(t, attack, c.addr, seed, proto.Header{Tap: victim, Session: session, Suite: 1}, old) })
	}
	testnet.Eventually(t, "the flood is a flood", func() bool { return c.account.Received() > 10*frames })
	testnet.Await(t, "the end of the taps", taps.Wait)
	after := heap()
	stop()
	testnet.Await(t, "the end of the attackers", attackers.Wait)
	c.stop()
	c.end(t)

	var text strings.Builder
	c.account.Print(&text)
	t.Log(text.String())
	for _, s := range c.account.Taps() {
		if s.Tap == 1 && (s.Unpacked != frames || s.Lost != 0) || s.Tap != 1 && s.Tap != victim {
			t.Errorf("%+v", s)
		}
	}
	for _, d := range []collector.Drop{collector.DropShort, collector.DropVersion, collector.DropKind, collector.DropSuite, collector.DropSession,
		collector.DropLimited, collector.DropEpoch, collector.DropForged, collector.DropReplay} {
		if c.account.Drops(d) == 0 {
			t.Errorf("nothing is%v", strings.TrimPrefix(d.Error(), "collector: datagram dropped:"))
		}
	}
	if grew := after - before; grew > 32<<20 {
		t.Errorf("the heap grew by %d bytes", grew)
	}
}

// heap returns the bytes of live objects.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// flood sends datagrams made of a header that is in force, in trains and one by
// one, until ctx ends.
func flood(t *testing.T, ctx context.Context, to netip.AddrPort, seed uint64, h proto.Header, recorded [][]byte) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	with := func(change func(h *proto.Header)) []byte {
		g := h
		change(&g)
		return append(g.Append(nil), random(rnd.IntN(1400)+proto.TagLen)...)
	}
	var all [][]byte
	for n := range uint64(64) {
		all = append(all, random(int(n)%proto.Overhead), random(100),
			with(func(h *proto.Header) { h.Tap = rnd.Uint32() }),
			with(func(h *proto.Header) { h.Session += n + 1 }),
			with(func(h *proto.Header) { h.Session -= 1 << 40 }),
			with(func(h *proto.Header) { h.Suite = uint8(n) << 1 }),
			with(func(h *proto.Header) { h.Shard = uint16(n) + 1 }),
			with(func(h *proto.Header) { h.Kind = proto.Kind(n % 16) }),
			with(func(h *proto.Header) { h.Counter = 1<<20 + n }),
			with(func(h *proto.Header) { h.Counter = n << crypto.EpochBits }),
			recorded[n%uint64(len(recorded))])
	}
	for ctx.Err() == nil {
		d := all[rnd.IntN(len(all))]
		switch train := slices.Repeat([][]byte{d}, max(min(60, 60000/(len(d)+1)), 1)); {
		case len(d) > 0 && rnd.IntN(2) == 0:
			sendTrain(t, to, train)
		default:
			conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
			if err != nil {
				t.Error(err)
				return
			}
			for _, d := range train {
				conn.Write(d)
			}
			conn.Close()
		}
	}
}
