// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// What a frame costs, CPU of the worker and of the merge with the files' writers, where
// each tap has a recording and frames of a number of them come in turn.
func BenchmarkMergeRecordings(b *testing.B) {
	for _, taps := range []int{1, 4, 16, 64} {
		for _, size := range []int{60, 1514} {
			b.Run(fmt.Sprintf("taps=%d/frame=%d", taps, size), func(b *testing.B) {
				out, err := openFile(b.Context(), File{Path: filepath.Join(b.TempDir(), "%t.pcapng"), Rotate: Rotation{Size: 4 << 20, Keep: 1}}, false, nil, func(error) {})
				if err != nil {
					b.Fatal(err)
				}
				out = merged(out, &Config{Merge: time.Millisecond})
				account := new(OutputAccount)
				s, err := out.sink(0, account)
				if err != nil {
					b.Fatal(err)
				}
				all := make([]*Origin, taps)
				for i := range all {
					all[i] = origin(uint32(i), nil)
				}
				r := &proto.Record{Data: make([]byte, size), LinkType: 1}
				n := mergeCost(b, s, out, all, r)
				b.ReportMetric(100*float64(account.Sum().Full)/float64(n), "dropped-%")
			})
		}
	}
}
