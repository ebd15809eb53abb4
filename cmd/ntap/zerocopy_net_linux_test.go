// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// With --io zerocopy every frame comes as it went, to each of two collectors,
// and the account adds up. They are on the same machine, so the kernel copies
// all the same: that is seen, said, and ends it.
func TestZeroCopyEndToEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if ok, why := ring.UringSendsZeroCopy(batch.ZeroCopyMemory); !ok {
		t.Fatal(why)
	}
	files := []string{filepath.Join(w.dir, "a.pcapng"), filepath.Join(w.dir, "b.pcapng")}
	collectors := []*proc{w.startCollector("--no-tap", "-w", files[0]), w.another("5679", files[1])}
	r := w.startRemote("-i", "t0", "--io", "zerocopy", "-c", "10.99.0.2:5679")
	var want [][]byte
	for range 2 {
		var frames [][]byte
		for range 1000 { // 19 flights
			n := len(want)
			f := append(marker(fmt.Sprintf("zero copy %d.", n)), bytes.Repeat([]byte{byte(n)}, 1200+n%200)...)
			frames, want = append(frames, f), append(want, f)
		}
		w.inject(w.peer, "p0", frames...)
		for i, c := range collectors {
			c.until("the last frame is written", func() bool { return fileHas(files[i], want[len(want)-1]) })
		}
		r.until("it is said twice", func() bool { return strings.Count(r.text(), "it goes plainly") == 2 })
	}
	rText := r.stop()
	if account(rText, "not taken by the kernel") != 0 || strings.Count(rText, "flights that went by --io zerocopy") != 2 {
		t.Error(rText)
	}
	for i, c := range collectors {
		text, next := c.stop(), 0
		for _, p := range testnet.ReadCapture(t, files[i]) {
			if !bytes.Contains(p.Data, []byte("zero copy")) {
				continue
			}
			if next == len(want) || !bytes.Equal(p.Data, want[next]) {
				t.Fatalf("frame %d came out otherwise: %x", next, head(p.Data))
			}
			next++
		}
		if next != len(want) || account(text, "frames lost") != 0 {
			t.Errorf("%d frames of %d:\n%s", next, len(want), text)
		}
	}
}
