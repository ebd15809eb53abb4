// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// What the source says it offered is what a capture on its device sees: the
// same number of frames and bytes, of the right lengths, probes in order; and
// GSO frames come whole. Its device stays while it takes to other frames.
func TestSourceOffersWhatItSays(t *testing.T) {
	testnet.Namespace(t)
	const device = "cap0"
	s, err := OpenSource(device, Mixed("60"))
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
	var probes uint64
	for _, frame := range []string{"60", "imix", "gso", "9000", "gso"} {
		if err := s.SetTraffic(Mixed(frame)); err != nil {
			t.Fatal(err)
		}
		offer := Offer{Rate: 5000, For: 300 * time.Millisecond, Probes: 500}
		if frame == "gso" {
			offer = Offer{Rate: 500, For: 300 * time.Millisecond, Probes: 50}
		}
		var offered Offered
		for end := time.Now().Add(testnet.Patience); offered.Probes == 0 && time.Now().Before(end); { // none, if it stands still for the whole time
			if offered, err = s.Run(t.Context(), offer); err != nil {
				t.Fatal(err)
			}
		}
		var frames, bytes, number, whole uint64
		for frames < offered.Frames {
			b, err := r.Take(time.Minute)
			if err != nil || b == nil {
				t.Fatalf("%s: %d frames of %d, then %v", frame, frames, offered.Frames, err)
			}
			for f, ok := b.Next(); ok; f, ok = b.Next() {
				frames++
				bytes += uint64(f.WireLen)
				if n, ok := probeOf(f.Data); ok {
					if number++; n != probes+number {
						t.Fatalf("%s: probe %d, want %d", frame, n, probes+number)
					}
				} else if f.GSOSize == gsoSegment && len(f.Data) == gsoFrame {
					whole++
				}
			}
			b.Release()
		}
		if offered.Failed > 0 || frames != offered.Frames || bytes != offered.Bytes || number != offered.Probes || number == 0 {
			t.Errorf("%s: %+v; captured %d frames, %d bytes, %d probes", frame, offered, frames, bytes, number)
		}
		if frame == "gso" && whole+number != frames {
			t.Errorf("%d GSO frames whole of %d", whole, frames-number)
		}
		probes += number
	}
}
