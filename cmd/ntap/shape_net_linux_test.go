// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
)

// shaped sends all real captures with a Shape and calls f with what came out of
// each, beside what went in.
func shaped(t *testing.T, s remote.Shape, f func(t *testing.T, file, out string, a *remote.Account, c *running)) {
	keys := masterKey(t)
	for _, file := range testnet.Captures(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out.pcapng")
			c := listen(t, collector.Config{Keys: keys, Write: out, Once: true})
			a := send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.Shape = s })
			c.end(t)
			f(t, file, out, a, c)
		})
	}
}

// Of every frame of the captures the headers come out, with its time and its
// length on the wire, and nothing else.
func TestSliceHeaders(t *testing.T) {
	t.Parallel()
	shaped(t, remote.Shape{Headers: true}, func(t *testing.T, file, out string, a *remote.Account, _ *running) {
		want, got := testnet.ReadCapture(t, file), testnet.ReadCapture(t, out)
		if len(want) != len(got) {
			t.Fatalf("%d frames of %d", len(got), len(want))
		}
		cut := uint64(0)
		for i := range want {
			p := &want[i]
			if end := proto.Headers(proto.LinkType(p.LinkType), p.Data).End; end < len(p.Data) {
				p.Data = p.Data[:end]
				cut++
			}
		}
		if d := testnet.DiffPackets(got, want); d != "" {
			t.Error(d)
		}
		if n := a.Total().Sliced; n != cut {
			t.Errorf("%d frames counted as cut, not %d", n, cut)
		}
	})
}

// Masked, frames have their length, their headers and, as tshark sees it, no bad
// checksum that they had not before; and none of their payload.
func TestMaskPayload(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	shaped(t, remote.Shape{Mask: true}, func(t *testing.T, file, out string, a *remote.Account, _ *running) {
		want, got := testnet.ReadCapture(t, file), testnet.ReadCapture(t, out)
		if len(want) != len(got) {
			t.Fatalf("%d frames of %d", len(got), len(want))
		}
		for i := range want {
			end := proto.Headers(proto.LinkType(want[i].LinkType), want[i].Data).End
			if len(got[i].Data) != len(want[i].Data) || got[i].OrigLen != want[i].OrigLen || len(bytes.Trim(got[i].Data[end:], "\x00")) > 0 {
				t.Errorf("frame %d: %x behind the headers", i+1, got[i].Data[end:])
			}
		}
		masked := uint64(0)
		for _, p := range want {
			if proto.Headers(proto.LinkType(p.LinkType), p.Data).End < len(p.Data) {
				masked++
			}
		}
		if n := a.Total(); n.Masked != masked {
			t.Errorf("%d frames are counted as masked, not %d", n.Masked, masked)
		}
	})
	// tshark is asked about those of which it verifies many checksums, TCP's and
	// UDP's over IPv4 and IPv6. Some are bad, of hosts that left them to their cards;
	// those of frames without a payload, which stay as they are, stay bad.
	for file, want := range map[string]struct{ verified, bad, badMasked int }{
		"bgp-4byte-asn.pcap": {79, 0, 0}, "of10_pf5240.pcap": {48, 23, 13}, "edns-opts.pcap": {42, 21, 0}, "sflow-print-v6.pcap": {25, 0, 0},
	} {
		all := testnet.Captures(t)
		i := slices.IndexFunc(all, func(path string) bool { return filepath.Base(path) == file })
		if i < 0 {
			t.Fatalf("there is no %s", file)
		}
		keys := masterKey(t)
		out := filepath.Join(t.TempDir(), "out.pcapng")
		c := listen(t, collector.Config{Keys: keys, Write: out, Once: true})
		a := send(t, keys, all[i], c.addr, func(cfg *remote.Config) { cfg.Shape.Mask = true })
		c.end(t)
		if good, bad := verifiedChecksums(t, all[i]); good+bad != want.verified || bad != want.bad {
			t.Errorf("%s: %d checksums are good, %d bad; want %+v", file, good, bad, want)
		}
		if good, bad := verifiedChecksums(t, out); good+bad != want.verified || bad != want.badMasked {
			t.Errorf("%s, masked: %d checksums are good, %d bad; want %+v", file, good, bad, want)
		}
		if n := a.Total(); n.Masked == 0 || n.Unsummed != 0 {
			t.Errorf("%s: %d frames were masked, %d of them without a checksum", file, n.Masked, n.Unsummed)
		}
	}
}

// verifiedChecksums returns how many checksums of TCP and UDP tshark finds good,
// and bad.
func verifiedChecksums(t *testing.T, file string) (good, bad int) {
	t.Helper()
	text, err := testnet.Command(t, "tshark", "-r", file, "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
		"-T", "fields", "-e", "tcp.checksum.status", "-e", "udp.checksum.status").Output()
	if err != nil {
		t.Fatalf("tshark -r %s: %v", file, err)
	}
	return strings.Count(string(text), "1"), strings.Count(string(text), "0")
}

// A capture file sent as fast as it goes stays below the rate limit, and what is
// beyond is counted.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	keys := masterKey(t)
	file := numbered(t, 30000, 100, time.Microsecond)
	c := listen(t, collector.Config{Keys: keys, Write: filepath.Join(t.TempDir(), "out.pcapng"), Once: true})
	start := time.Now()
	a := send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.Shape.Rate.Frames = 1000 })
	took := time.Since(start)
	c.end(t)
	n := a.Total()
	if most := uint64(1000*took.Seconds()) + 101; n.Sealed > most || n.Sealed < 100 || n.Sealed+n.OverRate != 30000 {
		t.Errorf("%d frames sealed in %v, %d beyond the limit", n.Sealed, took, n.OverRate)
	}
}

// Frames that two interfaces see come out once with --dedup, twice without; the
// same frame sent twice comes out twice.
func TestDedup(t *testing.T) {
	t.Parallel()
	for _, dedup := range []bool{false, true} {
		t.Run(fmt.Sprint(dedup), func(t *testing.T) {
			w := newWorld(t)
			// v0 and v1 are two ends of one wire on the remote's own host.
			w.in(w.sender, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
			for _, name := range []string{"v0", "v1"} {
				w.in(w.sender, "ip", "link", "set", name, "up")
			}
			w.waitUp(w.sender, "v0")
			out := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("-w", out)
			args := []string{"-i", "v0", "-i", "v1", "ether proto 0x88b5"}
			if dedup {
				args = append(args[:4:4], "--dedup", "500ms", "ether proto 0x88b5")
			}
			r := w.startRemote(args...)
			const n = 300
			var frames [][]byte
			for i := range n {
				f := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xB5}, make([]byte, 80)...)
				binary.BigEndian.PutUint32(f[14:], uint32(i/2)) // each twice
				frames = append(frames, f)
			}
			w.inject(w.sender, "v0", frames...)
			want := 2 * n
			if dedup {
				want = n
			}
			last := frames[n-1]
			r.until("both ends saw all", func() bool { return fileHas(out, last) })
			text := r.stop()
			c.stop()
			got := testnet.ReadCapture(t, out)
			seen := map[string]int{}
			for _, p := range got {
				seen[string(p.Data)]++
			}
			if len(got) != want || len(seen) != n/2 || seen[string(last)] != want/(n/2) {
				t.Errorf("%d frames came out, %d of them different, not %d\n%s", len(got), len(seen), want, text)
			}
			if d := account(text, "frames seen before on another interface"); d != 2*n-want {
				t.Errorf("%d counted as seen before, not %d", d, 2*n-want)
			}
		})
	}
}
