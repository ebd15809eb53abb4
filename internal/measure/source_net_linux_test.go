// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// What the source says it offered is what a capture on its device sees: the
// same number of frames and bytes, of the right lengths, probes in order; and
// GSO frames come whole.
func TestSourceOffersWhatItSays(t *testing.T) {
	for i, frame := range []string{"60", "imix", "9000", "gso"} {
		t.Run(frame, func(t *testing.T) {
			testnet.Namespace(t)
			device := fmt.Sprintf("cap%d", i)
			s, err := OpenSource(device, Mixed(frame))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			testnet.Run(t, "ip link set "+device+" addrgenmode none")
			testnet.Run(t, "ip link set "+device+" up")
			r, err := ring.Open(ring.Config{Interface: device, Retire: 50 * time.Millisecond}) // nobody reads it meanwhile
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			offer := Offer{Rate: 5000, For: 300 * time.Millisecond, Probes: 500}
			if frame == "gso" {
				offer = Offer{Rate: 500, For: 300 * time.Millisecond, Probes: 50}
			}
			offered, err := s.Run(t.Context(), offer)
			if err != nil {
				t.Fatal(err)
			}
			var frames, bytes, number, whole uint64
			for frames < offered.Frames {
				b, err := r.Take(time.Minute)
				if err != nil || b == nil {
					t.Fatalf("%d frames of %d, then %v", frames, offered.Frames, err)
				}
				for f, ok := b.Next(); ok; f, ok = b.Next() {
					frames++
					bytes += uint64(f.WireLen)
					if n, ok := probeOf(f.Data); ok {
						if number++; n != number {
							t.Fatalf("probe %d, want %d", n, number)
						}
					} else if f.GSOSize == gsoSegment && len(f.Data) == gsoFrame {
						whole++
					}
				}
				b.Release()
			}
			if offered.Failed > 0 || frames != offered.Frames || bytes != offered.Bytes || number != offered.Probes || number == 0 {
				t.Errorf("%+v; captured %d frames, %d bytes, %d probes", offered, frames, bytes, number)
			}
			if frame == "gso" && whole+number != frames {
				t.Errorf("%d GSO frames whole of %d", whole, frames-number)
			}
		})
	}
}
