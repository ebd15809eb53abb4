// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// loopback returns two connected UDP sockets.
func loopback(t *testing.T) (from, to int) {
	t.Helper()
	fd := [2]int{}
	for i := range fd {
		var err error
		if fd[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd[i]) })
		if err := unix.Bind(fd[i], &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
	}
	at, err := unix.Getsockname(fd[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Connect(fd[0], at), unix.SetsockoptInt(fd[1], unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return fd[0], fd[1]
}

// Messages go out in the order in which they were queued, each whole; a
// failure is told at its own.
func TestUringSendMsg(t *testing.T) {
	u := openUring(t, 4)
	from, to := loopback(t)
	const n = 4
	var hdr [n]unix.Msghdr
	var iov [n]unix.Iovec
	for round := range 20 {
		for i := range n {
			b := fmt.Appendf(nil, "%d/%d", round, i)
			if i == 2 && round%2 == 1 {
				b = make([]byte, 65508) // longer than UDP allows
			}
			iov[i].Base = &b[0]
			iov[i].SetLen(len(b))
			hdr[i].Iov = &iov[i]
			hdr[i].SetIovlen(1)
			if !u.SendMsg(from, &hdr[i], uint64(i)) {
				t.Fatal("no room")
			}
		}
		if u.SendMsg(from, &hdr[0], 9) {
			t.Fatal("room for a fifth of four")
		}
		if k, err := u.SubmitAndWait(n); k != n || err != nil {
			t.Fatal(k, err)
		}
		for range n {
			id, res, _, ok := u.Completion()
			bad := id == 2 && round%2 == 1
			if !ok || !bad && res != int32(iov[id].Len) || bad && unix.Errno(-res) != unix.EMSGSIZE {
				t.Errorf("round %d: message %d: %d, %v", round, id, res, ok)
			}
		}
		if _, _, _, ok := u.Completion(); ok {
			t.Error("a fifth completion")
		}
		for i := range n {
			if i == 2 && round%2 == 1 {
				continue
			}
			var b [100]byte
			k, _, err := unix.Recvfrom(to, b[:], unix.MSG_DONTWAIT)
			if want := fmt.Sprintf("%d/%d", round, i); err != nil || string(b[:k]) != want {
				t.Errorf("%q, %v; want %s", b[:max(k, 0)], err, want)
			}
		}
	}
}

// openInbox returns an Inbox of the test's own thread, or skips.
func openInbox(t testing.TB, fd, payload, n int) *Inbox {
	t.Helper()
	openUring(t, 1)
	if ok, why := UringReceives(); !ok {
		testnet.Missing(t, why.String())
	}
	b, err := NewInbox(fd, payload, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Every message comes once, in order, with its sender and control messages;
// more than there are buffers for wait in the socket.
func TestInbox(t *testing.T) {
	from, to := loopback(t)
	b := openInbox(t, to, 2000, 8)
	if err := unix.SetsockoptInt(to, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		t.Fatal(err)
	}
	want, err := unix.Getsockname(from)
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	receive := func(end int) {
		t.Helper()
		for next < end {
			n, err := b.Recv(time.Minute)
			if err != nil || n == 0 || n > 8 {
				t.Fatalf("%d messages, %v, after %d of %d", n, err, next, end)
			}
			for i := range n {
				name, control, payload, flags := b.Message(i)
				if len(payload) != 4+next%1500 || int(binary.BigEndian.Uint32(payload)) != next || flags != 0 ||
					!bytes.Equal(payload[4:], bytes.Repeat([]byte{byte(next)}, len(payload)-4)) {
					t.Fatalf("message %d: %d bytes, flags %x", next, len(payload), flags)
				}
				sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&name[0]))
				if len(name) != unix.SizeofSockaddrInet4 || int(sa.Port>>8|sa.Port<<8) != want.(*unix.SockaddrInet4).Port {
					t.Fatalf("from %x", name)
				}
				if next == 0 && len(control) != 0 {
					t.Errorf("control messages though nothing was dropped: %x", control)
				}
				next++
			}
		}
	}
	sent := 0
	send := func(n int) {
		for range n {
			p := append(binary.BigEndian.AppendUint32(nil, uint32(sent)), bytes.Repeat([]byte{byte(sent)}, sent%1500)...)
			if _, err := unix.Write(from, p); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	for _, n := range []int{1, 3, 8, 9, 40, 100, 1, 300} {
		send(n)
		receive(sent)
	}
	start := time.Now()
	if n, err := b.Recv(30 * time.Millisecond); n != 0 || err != nil {
		t.Errorf("%d messages more, %v", n, err)
	}
	if d := time.Since(start); d < 25*time.Millisecond {
		t.Errorf("waited %v of 30 ms", d)
	}
	// One that does not fit is cut, and says so.
	if _, err := unix.Write(from, make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Recv(time.Minute); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, _, payload, flags := b.Message(0); flags&unix.MSG_TRUNC == 0 || len(payload) < 2000 || len(payload) >= 5000 {
		t.Errorf("%d bytes, flags %x", len(payload), flags)
	}
}

// Once closed, the socket is nobody's: its port is free at once.
func TestInboxLetsGo(t *testing.T) {
	_, to := loopback(t)
	b := openInbox(t, to, 2000, 4)
	if n, err := b.Recv(time.Millisecond); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	at, err := unix.Getsockname(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), unix.Close(to)); err != nil {
		t.Fatal(err)
	}
	again, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	if err := unix.Bind(again, at); err != nil {
		t.Errorf("the port is still taken: %v", err)
	}
}

// Neither receiving allocates, nor waiting in vain: with both backends. With
// giouring nothing used to be looked at, without a word.
func TestInboxDoesNotAllocate(t *testing.T) {
	from, to := loopback(t)
	b := openInbox(t, to, 2000, 8)
	msg := make([]byte, 100)
	if n := testing.AllocsPerRun(50, func() {
		for range 4 {
			if _, err := unix.Write(from, msg); err != nil {
				t.Fatal(err)
			}
		}
		for got := 0; got < 4; {
			n, err := b.Recv(time.Minute)
			if n == 0 || err != nil {
				t.Fatal(n, err)
			}
			got += n
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(20, func() {
		if n, err := b.Recv(time.Millisecond); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations in waiting", n)
	}
}

// Where io_uring is denied, each use of it says why.
func TestUringSocketsDenied(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := testnet.Deny(unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_SETUP, unix.EPERM); err != nil {
			t.Error(err)
			return
		}
		for name, ask := range map[string]func() (bool, Refusal){"send": UringSends, "zero copy": func() (bool, Refusal) { return UringSendsZeroCopy(1 << 20) }, "receive": UringReceives, "TAP": UringSupported} {
			if ok, why := ask(); ok || !bytes.Contains([]byte(why.String()), []byte("seccomp")) {
				t.Errorf("%s: %v, %q", name, ok, why)
			}
		}
	}()
	testnet.Receive(t, "the end of the thread without io_uring", done)
}

// Where less memory may be pinned than a sender without a copy needs, that is
// said, with the cure.
func TestUringZeroCopyWantsMemory(t *testing.T) {
	if ok, why := UringSendsZeroCopy(1 << 20); !ok {
		testnet.Missing(t, why.String())
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 16, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit)
	done := make(chan string, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: what was given up ends with the thread
		why := "no capability could be given up"
		defer func() { done <- why }()
		if dropCapability(unix.CAP_IPC_LOCK) != nil {
			return
		}
		ok, refusal := UringSendsZeroCopy(1 << 20)
		if why = refusal.String(); ok {
			why = "1 MiB is pinned though 64 KiB may be"
		}
	}()
	if why := testnet.Receive(t, "the end of the thread without the right", done); !strings.Contains(why, "RLIMIT_MEMLOCK") || !strings.Contains(why, "ulimit -l") {
		t.Error(why)
	}
}

// dropCapability gives up a capability of the calling thread.
func dropCapability(n uint) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return err
	}
	data[n/32].Effective &^= 1 << (n % 32)
	return unix.Capset(&h, &data[0])
}
