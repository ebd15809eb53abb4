// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// The remote's address changes while it runs: it sends from the new one, the
// session goes on, and each frame is counted as what became of it.
func TestRemoteAddressChanges(t *testing.T) {
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
					w.inject(w.peer, "p0", numberedMark("meanwhile", n))
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
