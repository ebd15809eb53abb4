// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// However frames are shared out among two shards, each that any CPU handles is
// delivered exactly once, and the accounts add up.
func TestFanout(t *testing.T) {
	t.Parallel()
	for _, fanout := range []string{"hash", "cpu", "qm"} {
		t.Run(fanout, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			r := w.startRemote("-i", "t0", "--workers", "2", "--fanout", fanout)
			const each = 500
			sent := 0
			var all unix.CPUSet
			if err := unix.SchedGetaffinity(0, &all); err != nil {
				t.Fatal(err)
			}
			for cpu := range 1024 {
				if !all.IsSet(cpu) {
					continue
				}
				w.inside(w.peer, func() error {
					var one unix.CPUSet
					one.Set(cpu)
					if err := unix.SchedSetaffinity(0, &one); err != nil {
						return err
					}
					defer unix.SchedSetaffinity(0, &all)
					wire, err := testnet.OpenWire("p0")
					if err != nil {
						return err
					}
					defer wire.Close()
					for range each {
						if err := wire.Send(testnet.Numbered(sent, 100)); err != nil {
							return err
						}
						sent++
					}
					return nil
				})
			}
			c.until("the last of each CPU is written", func() bool {
				for n := each - 1; n < sent; n += each {
					if !fileHas(file, testnet.Numbered(n, 100)) {
						return false
					}
				}
				return true
			})
			rText := r.stop()
			cText := c.stop()
			times := make([]int, sent)
			for _, p := range testnet.ReadCapture(t, file) {
				if n, ours := testnet.Number(p.Data); ours && n < sent {
					times[n]++
				}
			}
			for n, got := range times {
				if got != 1 {
					t.Fatalf("frame %d came %d times", n, got)
				}
			}
			captured := account(rText, "frames captured")
			if captured < sent || account(rText, "frames dropped by the kernel") != 0 || account(cText, "frames delivered") != captured || account(cText, "frames lost") != 0 {
				t.Errorf("%d sent, %d captured:\n%s%s", sent, captured, rText, cText)
			}
		})
	}
}
