// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
	"github.com/ntap-project/ntap/ring/filter"
)

// A frame of which some is missing is counted, unless that was asked for: by -s
// or by a program that returns a length.
func TestShortFramesAreCounted(t *testing.T) {
	own := Filter{Program: filter.Program{{Op: 6, K: 96}}}
	for _, v := range []struct {
		name             string
		filter           Filter
		snap, block      int
		data, wire, want int
	}{
		{"whole", Filter{}, 0, 1 << 14, 1000, 1000, 0},
		{"cut to its block", Filter{}, 0, 1 << 14, 1<<14 - 134, 1 << 15, 1},
		{"cut to its slot", Filter{}, 0, 1 << 18, 1900, 9000, 1},
		{"cut by an expression to what a record carries", Filter{Text: "tcp"}, 0, 1 << 20, proto.MaxFrame, 1 << 19, 1},
		{"cut by -s", Filter{}, 128, 1 << 14, 128, 1 << 15, 0},
		{"longer than a block, which is less than -s", Filter{}, 1 << 15, 1 << 14, 1<<14 - 134, 1 << 16, 1},
		{"cut by a program", own, 0, 1 << 14, 96, 1 << 15, 0},
		{"cut to its block, with a program", own, 0, 1 << 14, 1<<14 - 134, 1 << 15, 1},
	} {
		tp := &tap{cfg: Config{SnapLen: v.snap, BlockSize: v.block}, log: zerolog.Nop()}
		s := &shard{filter: &choice{Filter: v.filter}}
		s.lane.tap, s.account = tp, &ShardAccount{CaptureAccount: &CaptureAccount{}}
		r := s.record(&ring.Frame{Data: make([]byte, v.data), WireLen: uint32(v.wire)})
		if n := s.account.Clamped.Load(); n != uint64(v.want) || r.OrigLen != uint32(v.wire) {
			t.Errorf("%s: %d counted, want %d", v.name, n, v.want)
		}
	}
}
