// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"testing"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
)

// playback returns the datagrams in which a tap sends packets.
func playback(t testing.TB, keys *crypto.KeyFile, tap uint32, packets []testnet.Packet) [][]byte {
	t.Helper()
	s := newSim(t, keys, tap, startedAgo(0), 0, 1472)
	s.say(t, false)
	s.tell(false)
	for i := range packets {
		r := record(&packets[i])
		r.Time = time.Now().UnixNano() // live, as it seems
		for rest := s.pack.Add(r); rest != nil; rest = s.pack.Continue(rest) {
			s.flush()
		}
		s.frames++
	}
	s.tell(true)
	s.say(t, true)
	return s.out
}
