// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// byUring returns a Sender that uses an io_uring of the test's own thread.
func byUring(t *testing.T, cfg batch.SenderConfig) *batch.Sender {
	t.Helper()
	if ok, why := ring.UringSends(); !ok {
		testnet.Missing(t, why)
	}
	runtime.LockOSThread()
	out, err := batch.NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	u, err := ring.SetupUring(batch.RingFlights)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.UseRing(u); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.UseRing(nil)
		u.Close()
		out.Close()
		runtime.UnlockOSThread()
	})
	return out
}

func queue(s *batch.Sender, n, size int) {
	d := s.Slot()
	binary.BigEndian.PutUint32(d, uint32(n))
	for i := 4; i < size; i++ {
		d[i] = byte(n + i)
	}
	s.Queue(size)
}

// Flights that go by io_uring arrive whole and in order, several in a call,
// whatever the sizes and wherever they are flushed; and nothing is allocated.
func TestSendByUring(t *testing.T) {
	in, err := batch.Listen(batch.ListenConfig{Addr: "127.0.0.1:0", Buffer: 32 << 20, Poll: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer in[0].Close()
	for _, size := range []int{508, 1472, 8972, 65507} {
		s := byUring(t, batch.SenderConfig{To: in[0].Addr().String(), Datagram: size})
		sizes := map[int]int{}
		for n := range 1000 {
			sizes[n] = size
			if n%170 == 169 || n == 999 {
				sizes[n] = 4 + n%400
			}
			queue(s, n, sizes[n])
			if n%211 == 0 {
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		next := 0
		for next < 1000 {
			if n, err := in[0].Recv(); n == 0 || err != nil {
				t.Fatalf("size %d: %d datagrams of 1000, %v", size, next, err)
			}
			for d, ok := in[0].Next(); ok; d, ok = in[0].Next() {
				if int(binary.BigEndian.Uint32(d)) != next || len(d) != sizes[next] {
					t.Fatalf("size %d: datagram %d of %d bytes, want %d of %d", size, binary.BigEndian.Uint32(d), len(d), next, sizes[next])
				}
				for i := 4; i < len(d); i++ {
					if d[i] != byte(next+i) {
						t.Fatalf("datagram %d, byte %d", next, i)
					}
				}
				next++
			}
		}
		if st := s.Stats(); st.Datagrams.Load() != 1000 || st.Unsent.Load() != 0 {
			t.Errorf("size %d: %d sent, %d unsent", size, st.Datagrams.Load(), st.Unsent.Load())
		}
		if n := testing.AllocsPerRun(20, func() {
			for range 300 {
				s.Queue(size)
			}
			s.Flush()
		}); n != 0 {
			t.Errorf("size %d: %v allocations", size, n)
		}
		for n := 1; n > 0; {
			n, _ = in[0].Recv()
		}
	}
}

// What io_uring is refused goes as it does without: nobody listens, the path's
// MTU falls, the device cannot segment.
func TestSendByUringInTrouble(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	testnet.Veth(t)
	s := byUring(t, batch.SenderConfig{To: "127.0.0.1:9", MTU: 1500})
	for n := range 1000 {
		queue(s, n, 1472)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Refused.Load() == 0 || st.Datagrams.Load() != 1000 || st.Unsent.Load() != 0 {
		t.Errorf("nobody listens: %d refused, %d sent, %d unsent", st.Refused.Load(), st.Datagrams.Load(), st.Unsent.Load())
	}
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	s = byUring(t, batch.SenderConfig{To: "10.90.0.2:5678"})
	testnet.Run(t, "ip link set va mtu 1300")
	for n := range 1000 {
		queue(s, n, s.Size())
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if s.Size() != 1272 || st.TooBig.Load() != 1 || st.Unsent.Load() == 0 || st.Datagrams.Load()+st.Unsent.Load() != 1000 {
		t.Errorf("the MTU fell: size %d, %d times too big, %d sent, %d unsent", s.Size(), st.TooBig.Load(), st.Datagrams.Load(), st.Unsent.Load())
	}
	testnet.Run(t, "ethtool -K va tx off")
	before, unsent := st.Datagrams.Load(), st.Unsent.Load()
	for n := range 1000 {
		queue(s, n, s.Size())
	}
	if err := s.Flush(); err != nil || st.Datagrams.Load() != before+1000 || st.Unsent.Load() != unsent {
		t.Errorf("no checksums: %v, segmented %v, %d of 1000 sent", err, s.Segmented(), st.Datagrams.Load()-before)
	}
}

// A way to send that is not to be had is an error before anything starts, with
// the one that is.
func TestNoSuchIO(t *testing.T) {
	key, err := crypto.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_, err = newTap(Config{Interfaces: []string{"lo"}, Keys: crypto.FromMaster(key), IO: "carrier pigeon"})
	if err == nil || !strings.Contains(err.Error(), "auto, uring, mmsg") {
		t.Error(err)
	}
}
