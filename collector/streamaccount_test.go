// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// What a report says of a stream is read whole, whenever the worker that settles it is
// interrupted. The numbers used to be stored one after the other, and who looked
// between two of them, as metrics and the account each second do, was told of 2^64
// frames lost, or of those as lost that had just come.
func TestAccountIsReadWhole(t *testing.T) {
	const rounds, before, each = 30_000, 1000, 10
	var now atomic.Pointer[streamAccount]
	now.Store(new(streamAccount))
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer over.Store(true)
		for range rounds {
			s := &stream{account: new(streamAccount), late: true}
			now.Store(s.account)
			for n := range uint64(5) {
				s.account.unpacked.Set(n * each)
				s.report = proto.Report{Captured: before + n*each, Sealed: before + n*each}
				s.settle()
			}
		}
	})
	wg.Go(func() {
		for looks := 0; !over.Load() || looks == 0; looks++ {
			var sum TapTotal
			if sum.add(now.Load(), false); sum.Lost != 0 || sum.Captured != sum.Sealed || sum.check() != nil {
				t.Errorf("look %d: %+v", looks, sum)
				return
			}
		}
	})
	testnet.Await(t, "the end of both", wg.Wait)
}
