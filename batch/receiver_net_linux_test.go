// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// The program picks the socket by bytes of the payload, for whole trains too.
func TestSteering(t *testing.T) {
	raw, err := bpf.Assemble([]bpf.Instruction{bpf.LoadAbsolute{Off: 4, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: 3}, bpf.RetA{}})
	if err != nil {
		t.Fatal(err)
	}
	rs := listen(t, ListenConfig{Addr: "127.0.0.1:0", Workers: 3, Steer: raw})
	for i := range 9 {
		s := sender(t, SenderConfig{To: rs[0].Addr().String(), Datagram: 1000})
		for range 100 {
			fill(s, i, 1000) // byte 4 is i+4
		}
		s.Flush()
	}
	for k, r := range rs {
		n := drain(t, r, func(n int, _ []byte) {
			if (n+4)%3 != k {
				t.Fatalf("worker %d has a datagram of %d", k, n)
			}
		})
		if n != 300 {
			t.Errorf("worker %d has %d datagrams of 300", k, n)
		}
	}
}

// A port that somebody has is an error, also where both would share it by
// SO_REUSEPORT: then each would have had half of the datagrams.
func TestPortTaken(t *testing.T) {
	first := listen(t, ListenConfig{Addr: "127.0.0.1:0", Workers: 2})
	_, err := Listen(ListenConfig{Addr: first[0].Addr().String(), Workers: 2})
	if err == nil || !strings.Contains(err.Error(), "taken by another program") || !strings.Contains(err.Error(), "ss -ulpn") {
		t.Errorf("%v", err)
	}
}

// An address that is nobody's here, and a port that takes a right, are errors that
// say what to do: they were the kernel's words alone.
func TestListenErrorsSayWhatToDo(t *testing.T) {
	testnet.Namespace(t) // whose thread, without rights below, ends with the test
	if _, err := Listen(ListenConfig{Addr: "192.0.2.77:5678"}); err == nil || !strings.Contains(err.Error(), "no interface here has that address") {
		t.Errorf("%v", err)
	}
	const nobody = 65534
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 { // of this thread only
		t.Fatal(e)
	}
	if _, err := Listen(ListenConfig{Addr: "127.0.0.1:78"}); err == nil || !strings.Contains(err.Error(), "takes CAP_NET_BIND_SERVICE") {
		t.Errorf("%v", err)
	}
}

// Nor is a port that the kernel picks one that somebody has: it used to be, one
// time in 28,000 for each that was open, since both had SO_REUSEPORT.
func TestPickedPortIsNobodys(t *testing.T) {
	has := map[uint16]bool{}
	for range 500 { // of 28,232 ports: by chance 4 are the same, and none once in 80 times
		port := listen(t, ListenConfig{Addr: "127.0.0.1:0", Workers: 2})[0].Addr().Port()
		if has[port] {
			t.Fatalf("port %d was given to two, after %d", port, len(has))
		}
		has[port] = true
	}
}

// What the socket's buffer has no room for is counted, a train of datagrams
// once; and it is known at once, not only when another datagram comes.
func TestSocketDrops(t *testing.T) {
	r, err := Listen(ListenConfig{Addr: "127.0.0.1:0", Buffer: 1 << 16, Poll: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r[0].Close()
	s := sender(t, SenderConfig{To: r[0].Addr().String(), Datagram: 1400})
	const trains = 50
	per := s.slots
	for n := range trains * per {
		fill(s, n, 1400)
	}
	s.Flush()
	got := 0
	drain(t, r[0], func(int, []byte) { got++ })
	if told := r[0].Stats().KernelDrops.Load(); told != 0 {
		t.Errorf("%d drops were told by datagrams that came before them", told)
	}
	drops := r[0].Drops()
	if got == trains*per || got%per != 0 || drops != uint64(trains-got/per) {
		t.Errorf("%d of %d datagrams came in trains of %d, %d drops", got, trains*per, per, drops)
	}
	fill(s, 9, 100) // the datagram that tells the same count adds nothing to it
	s.Flush()
	if n := drain(t, r[0], func(int, []byte) {}); n != 1 {
		t.Fatalf("%d datagrams", n)
	}
	if again := r[0].Stats().KernelDrops.Load(); again != drops || r[0].Drops() != drops {
		t.Errorf("then %d drops, and %d", again, r[0].Drops())
	}
	r[0].drops, drops = 1<<32-1, r[0].Stats().KernelDrops.Load()
	r[0].dropped(3) // round
	r[0].dropped(1) // older
	if n := r[0].Stats().KernelDrops.Load() - drops; n != 4 {
		t.Errorf("%d drops from 2^32-1 to 3", n)
	}
}

// Without CAP_NET_ADMIN the kernel's limit holds, and Buffer says so.
func TestBufferIsLimited(t *testing.T) {
	testnet.RequireRoot(t)
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, right := range []bool{true, false} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread ends with what it may not
			if !right {
				head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var caps [2]unix.CapUserData
				if err := unix.Capget(&head, &caps[0]); err != nil {
					t.Error(err)
					return
				}
				caps[0].Effective &^= 1 << unix.CAP_NET_ADMIN
				if err := unix.Capset(&head, &caps[0]); err != nil {
					t.Error(err)
					return
				}
			}
			r, err := Listen(ListenConfig{Addr: "127.0.0.1:0", Buffer: most + 1<<20})
			if err != nil {
				t.Error(err)
				return
			}
			defer r[0].Close()
			if got := r[0].Buffer(); right && got != most+1<<20 || !right && got != most {
				t.Errorf("with the right %v: %d bytes, the limit is %d", right, got, most)
			}
		}()
		testnet.Receive(t, "the end of the thread", done)
	}
}

// With Spin a Recv does not wait, whatever Poll says.
func TestSpin(t *testing.T) {
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0", Poll: time.Hour, Spin: true})[0]
	if n, err := r.Recv(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	s := sender(t, SenderConfig{To: r.Addr().String(), MTU: 1500})
	fill(s, 1, 100)
	for deadline := time.Now().Add(time.Minute); ; {
		if n, err := r.Recv(); err != nil || time.Now().After(deadline) {
			t.Fatal(n, err)
		} else if n == 1 {
			break
		}
	}
	if d, ok := r.Next(); !ok || len(d) != 100 {
		t.Errorf("%d bytes", len(d))
	}
}

func TestFrom(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		r := listen(t, ListenConfig{Addr: ":0"})[0]
		c, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(r.Addr().Port())))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("hello"))
		c.Write(nil)
		if n, err := r.Recv(); n == 0 || err != nil {
			t.Fatal(n, err)
		}
		d, ok := r.Next()
		if !ok || !bytes.Equal(d, []byte("hello")) || r.From().String() != c.LocalAddr().String() {
			t.Errorf("%q from %v, sent from %v", d, r.From(), c.LocalAddr())
		}
	}
}
