// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
)

// quietTB stands in for a test where there is none, in examples.
type quietTB struct{ testing.TB }

func (quietTB) Helper()                   {}
func (quietTB) Fatal(a ...any)            { panic(fmt.Sprint(a...)) }
func (quietTB) Fatalf(s string, a ...any) { panic(fmt.Sprintf(s, a...)) }

// PlayForExample sends a capture of internal/testnet to a collector, as ntap
// remote -r does.
func PlayForExample(keys *crypto.KeyFile, tap uint32, to netip.AddrPort, name string) {
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	packets, err := testnet.ReadGopacket(filepath.Join("..", "internal", "testnet", "testdata", "captures", name))
	if err != nil {
		panic(err)
	}
	for _, d := range playback(quietTB{}, keys, tap, packets) {
		if _, err := conn.Write(d); err != nil {
			panic(err)
		}
	}
}

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
