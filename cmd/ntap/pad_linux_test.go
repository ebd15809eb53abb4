// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
)

// sizes runs a remote on a capture file and returns the sizes of what it sends,
// by kind, with how many of each there were.
func sizes(t *testing.T, file string, more ...string) map[proto.Kind]map[int]int {
	t.Helper()
	_, master, _ := keyFiles(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadBuffer(16 << 20)
	if status, out := try(t, append([]string{"remote", "-r", file, "-c", conn.LocalAddr().String(), "--key-file", master, "--mtu", "1500"}, more...)...); status != 0 {
		t.Fatal(out)
	}
	out := map[proto.Kind]map[int]int{}
	buf := make([]byte, 1<<16)
	for {
		conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // all was sent, and is in the buffer
		n, err := conn.Read(buf)
		if err != nil {
			return out
		}
		h, _, ok := proto.ParseHeader(buf[:n])
		if !ok {
			t.Fatalf("a datagram of %d bytes", n)
		}
		if out[h.Kind] == nil {
			out[h.Kind] = map[int]int{}
		}
		out[h.Kind][n]++
	}
}

// With --pad all datagrams of a kind have one size, whatever was captured, and
// when; without it they have not.
func TestPadHidesSizes(t *testing.T) {
	t.Parallel()
	file := numbered(t, 300, 60, 3*time.Millisecond) // each frame a flight of its own
	padded, plain := sizes(t, file, "--pad"), sizes(t, file)
	t.Logf("300 frames of 60 to 660 bytes, each alone: %d bytes on the wire, padded %d", onWire(plain), onWire(padded))
	for kind, n := range padded {
		if len(n) != 1 || kind != proto.Reporting && n[1472] == 0 {
			t.Errorf("kind %d: datagrams of sizes %v", kind, n)
		}
	}
	if len(plain[proto.Data]) < 7 || len(plain[proto.Announcing]) < 2 {
		t.Errorf("without --pad: %v", plain)
	}
}

// onWire returns the bytes that datagrams of these sizes take on an IPv4 network,
// Ethernet's header counted.
func onWire(all map[proto.Kind]map[int]int) (n int) {
	for _, of := range all {
		for size, count := range of {
			n += count * (14 + 20 + 8 + size)
		}
	}
	return n
}

// What is padded comes out as it went in.
func TestPaddedCaptures(t *testing.T) {
	t.Parallel()
	keys := masterKey(t)
	for i, file := range testnet.Captures(t) {
		if i%20 != 0 {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out.pcapng")
			c := listen(t, collector.Config{Keys: keys, Write: out, Once: true})
			send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.Pad = true })
			c.end(t)
			if d := testnet.DiffPackets(testnet.ReadCapture(t, out), testnet.ReadCapture(t, file)); d != "" {
				t.Error(d)
			}
		})
	}
}
