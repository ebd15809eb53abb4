// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// byUring returns a Sender that uses an io_uring of the test's own thread, as
// the lane of a shard does with this Config.IO.
func byUring(t *testing.T, io string, cfg batch.SenderConfig) *batch.Sender {
	t.Helper()
	ok, why := ring.UringSends()
	if io == ioZeroCopy {
		ok, why = ring.UringSendsZeroCopy(batch.ZeroCopyMemory)
	}
	if !ok {
		testnet.Missing(t, why.String())
	}
	runtime.LockOSThread()
	out, err := batch.NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &lane{tap: &tap{cfg: Config{IO: io}, log: zerolog.Nop()}, out: out}
	leave, err := l.enter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		leave()
		out.Close()
		runtime.UnlockOSThread()
	})
	return out
}

// bothUring runs a test for both ways of sending by io_uring.
func bothUring(t *testing.T, test func(t *testing.T, io string)) {
	for _, io := range []string{ioUring, ioZeroCopy} {
		t.Run(io, func(t *testing.T) { test(t, io) })
	}
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
func TestSendByUring(t *testing.T) { bothUring(t, testSendByUring) }

func testSendByUring(t *testing.T, io string) {
	in, err := batch.Listen(batch.ListenConfig{Addr: "127.0.0.1:0", Buffer: 32 << 20, Poll: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer in[0].Close()
	for _, size := range []int{508, 1472, 8972, 65507} {
		s := byUring(t, io, batch.SenderConfig{To: in[0].Addr().String(), Datagram: size})
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
func TestSendByUringInTrouble(t *testing.T) { bothUring(t, testSendByUringInTrouble) }

func testSendByUringInTrouble(t *testing.T, io string) {
	testnet.RequireTool(t, "ethtool", "nft")
	testnet.Veth(t)
	s := byUring(t, io, batch.SenderConfig{To: "127.0.0.1:9", MTU: 1500})
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
	s = byUring(t, io, batch.SenderConfig{To: "10.90.0.2:5678"})
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
	// A firewall refuses: counted, until it no longer does.
	before, unsent := st.Datagrams.Load(), st.Unsent.Load()
	testnet.Run(t, "nft add table ip f")
	testnet.Run(t, "nft add chain ip f o { type filter hook output priority 0; policy drop; }")
	for n := range 1000 {
		queue(s, n, s.Size())
	}
	if err := s.Flush(); err != nil || st.Datagrams.Load() != before || st.Unsent.Load() != unsent+1000 {
		t.Errorf("a firewall: %v, %d sent, %d unsent of 1000", err, st.Datagrams.Load()-before, st.Unsent.Load()-unsent)
	}
	testnet.Run(t, "nft delete table ip f")
	testnet.Run(t, "ethtool -K va tx off")
	before, unsent = st.Datagrams.Load(), st.Unsent.Load()
	for n := range 1000 {
		queue(s, n, s.Size())
	}
	if err := s.Flush(); err != nil || st.Datagrams.Load() != before+1000 || st.Unsent.Load() != unsent {
		t.Errorf("no checksums: %v, segmented %v, %d of 1000 sent", err, s.Segmented(), st.Datagrams.Load()-before)
	}
	s = byUring(t, io, batch.SenderConfig{To: "10.90.0.2:5678"})
	testnet.Run(t, "ip link del va")
	for n := range 1000 {
		queue(s, n, s.Size())
	}
	if err := s.Flush(); err != nil || s.Stats().Datagrams.Load() != 0 || s.Stats().Unsent.Load() != 1000 {
		t.Errorf("the interface is gone: %v, %d sent, %d unsent of 1000", err, s.Stats().Datagrams.Load(), s.Stats().Unsent.Load())
	}
}

// What goes without a copy is what was queued, though it is read later: memory
// comes back only when it was. Datagrams wait here for the other host's address,
// which a kernel that has none asks for; those for which no memory is left are
// copied. The socket at the other end makes the kernel copy all the same: it
// says so, and what comes then goes plainly.
func TestSendByUringMemoryStays(t *testing.T) {
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	for name, value := range map[string]string{"unres_qlen_bytes": "33554432", "mcast_solicit": "1000"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/neigh/va/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	vb, err := net.InterfaceByName("vb")
	if err != nil {
		t.Fatal(err)
	}
	const ip = 0x0008 // ETH_P_IP as the network has it
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ip)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: vb.Index}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})); err != nil {
		t.Fatal(err)
	}
	s := byUring(t, ioZeroCopy, batch.SenderConfig{To: "10.90.0.2:5678", SendBuffer: 8 << 20})
	const flights, each, head = 40, 65507 / 1472, 14 + 20 + 8
	next := 0
	send := func(n int) {
		t.Helper()
		for range n * each {
			queue(s, next, s.Size())
			next++
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(from int) {
		t.Helper()
		want := make([]byte, 1472)
		b := make([]byte, 1<<17)
		for from < next {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n <= head {
				t.Fatalf("%d bytes, %v, after %d datagrams of %d", n, err, from, next)
			}
			for d := b[head:n]; len(d) > 0; d = d[1472:] {
				binary.BigEndian.PutUint32(want, uint32(from))
				for i := 4; i < len(want); i++ {
					want[i] = byte(from + i)
				}
				if len(d) < 1472 || !bytes.Equal(d[:1472], want) {
					t.Fatalf("datagram %d: number %d, or other bytes", from, binary.BigEndian.Uint32(d))
				}
				from++
			}
		}
	}
	send(flights)
	st := s.Stats()
	if st.Lent.Load() != batch.ZeroCopyFlights || st.NoneFree.Load() != flights-batch.ZeroCopyFlights+1 || st.Copied.Load() != 0 || st.Datagrams.Load() != flights*each {
		t.Errorf("waiting: %d flights lent, %d times none was free, %d copied, %d datagrams of %d sent",
			st.Lent.Load(), st.NoneFree.Load(), st.Copied.Load(), st.Datagrams.Load(), flights*each)
	}
	testnet.Run(t, "ip neigh replace 10.90.0.2 lladdr "+vb.HardwareAddr.String()+" dev va nud permanent")
	receive(0)
	before := next
	send(flights)
	receive(before)
	if st.Lent.Load() != batch.ZeroCopyFlights || st.Copied.Load() != batch.ZeroCopyFlights || !s.Copying() || st.Unsent.Load() != 0 {
		t.Errorf("copied all the same: %d flights lent, %d copied, %v, %d unsent", st.Lent.Load(), st.Copied.Load(), s.Copying(), st.Unsent.Load())
	}
}

// Where nobody copies, as with a card that reads the memory itself, no flight
// is: here a firewall drops them at the other end.
func TestSendByUringWithoutACopy(t *testing.T) {
	testnet.RequireTool(t, "nft")
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	testnet.Run(t, "nft add table netdev d")
	testnet.Run(t, "nft add chain netdev d i { type filter hook ingress device vb priority 0; policy drop; }")
	s := byUring(t, ioZeroCopy, batch.SenderConfig{To: "10.90.0.2:5678", SendBuffer: 8 << 20})
	const flights, each = 100, 65507 / 1472
	for n := range flights * each {
		queue(s, n, s.Size())
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Lent.Load() == 0 || st.Lent.Load()+st.NoneFree.Load() < flights || st.Copied.Load() != 0 || s.Copying() || st.Datagrams.Load() != flights*each {
		t.Errorf("%d flights of %d lent, %d times none was free, %d copied, %d datagrams", st.Lent.Load(), flights, st.NoneFree.Load(), st.Copied.Load(), st.Datagrams.Load())
	}
	send := func() {
		for range 4 * each {
			s.Queue(s.Size())
		}
		s.Flush()
	}
	if n := testing.AllocsPerRun(20, send); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// Somebody captures all that the interface sends, as tcpdump does, and a
	// remote of that interface itself: the kernel makes a copy for that.
	const all = 0x0300 // ETH_P_ALL as the network has it
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range 10 {
		send()
	}
	if !s.Copying() {
		t.Errorf("captured, and not said to be copied; %d of %d", s.Stats().Copied.Load(), s.Stats().Lent.Load())
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
	if err == nil || !strings.Contains(err.Error(), "auto, uring, mmsg, zerocopy") {
		t.Error(err)
	}
}
