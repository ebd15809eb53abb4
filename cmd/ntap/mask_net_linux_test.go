// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// TCP transfers over a veth with all offloads on, both ways, that are masked or
// cut behind their headers where they are captured, come out as the frames of
// the wire, with their lengths, every segment there, and none of their payload;
// masked, with right checksums (see judge). Both sides counted what they did.
func TestMaskAndSliceOffloads(t *testing.T) {
	testnet.RequireTool(t, "tshark")
	for _, c := range []struct {
		what        int
		flag, value string
		counted     string
	}{
		{masked, "--mask", "payload", "frames without their payload"},
		{headers, "--slice", "headers", "frames cut behind their headers"},
	} {
		t.Run(c.value, func(t *testing.T) {
			w := newOffloadedWorld(t)
			w.bigTCP()
			file, tapped := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "t0.pcap")
			collector := w.startCollector("--no-tap", "-w", file)
			dump := w.startTcpdump(w.sender, "t0", tapped, "-s", "200", tcpOrBig)
			r := w.startRemote("-i", "t0", "--ring", "268435456", c.flag, c.value, tcpOrBig)
			streams := w.bothWays(1 << 20)
			says := r.stop()
			w.recorded(dump, tapped, account(says, "frames captured on"))
			text := collector.stop()
			if account(text, "frames lost") != 0 {
				t.Fatalf("frames were lost:\n%s%s", says, text)
			}
			frames, loaded := offloaded(t, tapped, func(stream) int { return 1514 }, streams...)
			if n, want := w.judge(file, c.what, streams...), frames+account(text, "frames more"); n != want {
				t.Errorf("%d frames of TCP, not %d", n, want)
			}
			if n := account(says, c.counted); n != loaded || account(says, "of those with a checksum of 0") != 0 {
				t.Errorf("%d frames had a payload; the remote says:\n%s", loaded, says)
			}
			if n := account(text, "of those left whole"); n != 0 {
				t.Errorf("not cut:\n%s", text)
			}
		})
	}
}
