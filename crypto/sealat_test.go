// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"testing"
)

// TestSealerAt: a Sealer that goes on at a counter makes what one makes that
// counted there, also on both sides of an epoch's border, and an Opener takes
// both.
func TestSealerAt(t *testing.T) {
	const epoch = 1 << EpochBits
	stream := Stream{Kind: 2, Shard: 513, Session: 0x6925e2c080004d2b}
	for _, stream.Suite = range suites {
		for _, next := range []uint64{0, 1, 77, epoch - 2, epoch - 1, epoch, epoch + 1, 3*epoch - 1, 3 * epoch, 40*epoch + 5} {
			twin, err := NewSealer(&testKey, stream)
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewSealerAt(&testKey, stream, next)
			if err != nil {
				t.Fatal(err)
			}
			o, err := NewOpener(&testKey, stream)
			if err != nil {
				t.Fatal(err)
			}
			for counter := next; counter < next+4; counter++ {
				if s.Counter() != counter {
					t.Fatalf("%v: at %#x, not at %#x", stream.Suite, s.Counter(), counter)
				}
				want := sealAt(twin, counter, 50)
				got := make([]byte, len(want))
				for i := range got {
					got[i] = byte(counter) + byte(i)
				}
				s.Seal(got, testHeader)
				if !bytes.Equal(got, want) {
					t.Errorf("%v: from %#x on, the datagram of %#x is another one", stream.Suite, next, counter)
				}
				openAt(t, o, got, counter)
			}
			if s.secret != twin.secret || s.epoch != twin.epoch {
				t.Errorf("%v: from %#x on, it came to epoch %d, the twin to %d", stream.Suite, next, s.epoch, twin.epoch)
			}
		}
	}
}
