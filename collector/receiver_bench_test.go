// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// What a worker's work on datagrams costs where nobody takes the frames, and
// where a Receiver's function does that counts them. One
// operation is all the datagrams of one pass, opened, ordered, unpacked and
// given on; the socket is left out, so that the difference shows as large as
// it can be. Passes of both kinds alternate, and the fastest of each counts.
func BenchmarkReceiver(b *testing.B) {
	for _, size := range []int{60, 300, 1300} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			keys := testKeys(b)
			s := newSim(b, keys, 7, startedAgo(0), 0, 1472)
			s.say(b, false)
			s.tell(false)
			const datagrams = 4000
			for len(s.out) < datagrams {
				s.frame(size)
			}
			mem := make([]byte, datagrams*1472)
			pass := func(to *batchSink) float64 {
				d := newDesk(b, keys, "")
				if d.sinks = nil; to != nil {
					d.sinks, d.direct = []sink{to}, to
				}
				rest := mem
				in := make([][]byte, 0, datagrams)
				for _, o := range s.out[:datagrams] { // they are opened in place
					n := copy(rest, o)
					in, rest = append(in, rest[:n:n]), rest[n:]
				}
				start := time.Now()
				for i, datagram := range in {
					st, kind, counter, plaintext, drop := d.open(datagram)
					if drop == nil {
						drop = d.take(st, kind, counter, plaintext)
					}
					if d.count(datagram, drop); drop != nil {
						b.Fatal(drop)
					}
					if i%44 == 43 {
						d.expire()
						d.flush()
					}
				}
				d.flush()
				return float64(time.Since(start).Nanoseconds()) / float64(d.account.Unpacked.Load())
			}
			nobody, function := math.Inf(1), math.Inf(1)
			var ratios []float64
			total := 0
			for b.Loop() {
				n := pass(nil)
				f := pass(&batchSink{take: func(batch *Batch) error {
					total += len(batch.Frames)
					return nil
				}})
				nobody, function = min(nobody, n), min(function, f)
				ratios = append(ratios, f/n)
			}
			slices.Sort(ratios)
			b.ReportMetric(nobody, "ns/frame-nobody")
			b.ReportMetric(function, "ns/frame-function")
			b.ReportMetric(ratios[len(ratios)/2], "ratio-median")
		})
	}
}
