// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	out := map[proto.Kind]map[int]int{}
	for _, d := range sent(t, append([]string{"-r", file, "--key-file", master}, more...)...) {
		h, _, ok := proto.ParseHeader(d)
		if !ok {
			t.Fatalf("a datagram of %d bytes", len(d))
		}
		if out[h.Kind] == nil {
			out[h.Kind] = map[int]int{}
		}
		out[h.Kind][len(d)]++
	}
	return out
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
