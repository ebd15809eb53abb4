// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// flood sends one frame over and over until the test ends.
func flood(t *testing.T, iface string, frame []byte) {
	t.Helper()
	fd := packetSocket(t, iface)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Write(fd, frame)
			}
		}
	})
	t.Cleanup(func() { close(stop); testnet.Await(t, "the flood's end", wg.Wait) })
}

// packetSocket returns a socket that sends frames on an interface of the
// namespace of the calling thread, from any thread.
func packetSocket(t *testing.T, iface string) int {
	t.Helper()
	i, err := LookUp(iface)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: i.Index}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// until takes blocks until there is an error, and returns the frames that came
// before it.
func until(t *testing.T, r *Ring, want error) (frames int) {
	t.Helper()
	for range 100 {
		b, err := r.Take(50 * time.Millisecond)
		if errors.Is(err, want) {
			return frames
		}
		if err != nil && !errors.Is(err, ErrDown) {
			t.Fatalf("%v, want %v", err, want)
		}
		if b != nil {
			frames += b.Len()
			b.Release()
		}
	}
	t.Fatalf("no %v", want)
	return 0
}

func idle(t *testing.T, r *Ring, times int) {
	t.Helper()
	for range times {
		if b, err := r.Take(20 * time.Millisecond); b != nil || err != nil {
			t.Fatalf("%v, %v: want neither", b, err)
		}
	}
}

// An interface that goes down is told once each time, and capture goes on when
// it is up again.
func TestInterfaceDownUp(t *testing.T) {
	r, iface, peer := testRing(t, nil)
	for n := range 3 {
		testnet.Send(t, peer, 5, 100)
		take(t, r, 5, func(Frame) {})
		testnet.Run(t, "ip link set "+iface+" down")
		if b, err := r.Take(time.Second); b != nil || !errors.Is(err, ErrDown) {
			t.Fatalf("down %d: %v, %v", n, b, err)
		}
		idle(t, r, 3)
		testnet.Run(t, "ip link set "+iface+" up")
		testnet.WaitUp(t, iface)
		testnet.WaitUp(t, peer)
		idle(t, r, 1)
	}
	if s, err := r.Stats(); err != nil || s.Packets != 15 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A ring can be opened on an interface that is down, and waits for it.
func TestOpenWhileDown(t *testing.T) {
	iface, peer := testnet.Veth(t)
	testnet.Run(t, "ip link set "+iface+" down")
	for members := 1; members <= 2; members++ {
		rings, err := OpenFanout(plenty(iface), members)
		if members > 1 && err != nil && strings.Contains(err.Error(), "before Linux 6.13") {
			t.Log(err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if rings[0].Interface().Up {
			t.Error("the interface is said to be up")
		}
		for _, r := range rings {
			if _, err := r.Take(time.Second); !errors.Is(err, ErrDown) {
				t.Fatal(err)
			}
			idle(t, r, 1)
		}
		testnet.Run(t, "ip link set "+iface+" up")
		testnet.WaitUp(t, iface)
		testnet.WaitUp(t, peer)
		testnet.Send(t, peer, 5, 100)
		counted(t, 5, rings...)
		n := 0
		for _, r := range rings {
			n += rest(t, r, ignore)
			r.Close()
		}
		if n != 5 {
			t.Errorf("%d members: %d frames of 5", members, n)
		}
		testnet.Run(t, "ip link set "+iface+" down")
	}
}

// Of an interface that is deleted all frames come before ErrGone, also those in
// a block that was not yet full; then ErrGone stays, and so do the counts.
func TestInterfaceGone(t *testing.T) {
	r, iface, peer := testRing(t, func(c *Config) { c.Retire = 100 * time.Millisecond })
	testnet.Send(t, peer, 777, 100)
	counted(t, 777, r)
	testnet.Run(t, "ip link del "+iface)
	if n := until(t, r, ErrGone); n != 777 {
		t.Errorf("%d frames of 777 before ErrGone", n)
	}
	for range 3 {
		if b, err := r.Take(time.Millisecond); b != nil || !errors.Is(err, ErrGone) {
			t.Fatalf("%v, %v", b, err)
		}
	}
	if err := r.Quiesce(); err != nil {
		t.Error(err)
	}
	if s, err := r.Stats(); err != nil || s.Packets != 777 {
		t.Errorf("%+v, %v", s, err)
	}
}

// The kernel does not tell of the deletion of an interface that is down, and a
// new one of the same name is another one.
func TestInterfaceGoneWhileDown(t *testing.T) {
	r, iface, _ := testRing(t, nil)
	testnet.Run(t, "ip link set "+iface+" down")
	if _, err := r.Take(time.Second); !errors.Is(err, ErrDown) {
		t.Fatal(err)
	}
	idle(t, r, 1)
	testnet.Run(t, "ip link del "+iface)
	testnet.Run(t, fmt.Sprintf("ip link add %s index %d type veth peer name vb", iface, r.Interface().Index))
	until(t, r, ErrGone)
}

// A ring watches its own interface, not one of that name in the namespace of
// the thread that uses it, and not one of a name that it had. It used to be
// called gone when it went down, in these cases.
func TestInterfaceOfItsNamespace(t *testing.T) {
	r, iface, peer := testRing(t, nil)
	for range 2 {
		testnet.Run(t, "ip link set "+iface+" down")
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { // of another thread, and so in another namespace
			runtime.LockOSThread()
			if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
				_, err = r.Take(time.Second)
			}
		})
		testnet.Await(t, "the ring is looked at from there", wg.Wait)
		if !errors.Is(err, ErrDown) {
			t.Fatal(err)
		}
		idle(t, r, 2)
		testnet.Run(t, "ip link set "+iface+" name other")
		testnet.Run(t, "ip link set other up")
		testnet.WaitUp(t, "other")
		testnet.WaitUp(t, peer)
		testnet.Send(t, peer, 3, 100)
		take(t, r, 3, func(Frame) {})
		iface = "other2"
		testnet.Run(t, "ip link set other name "+iface)
	}
}

// A signal does not make a ring idle before its time. It used to: poll ended
// with EINTR, and frames in a block that was not yet full were left behind.
func TestTakeWaitsThroughSignals(t *testing.T) {
	r, _, _ := testRing(t, nil)
	tid, stop := unix.Gettid(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // what Go's scheduler sends
			}
		}
	})
	start := time.Now()
	b, err := r.Take(200 * time.Millisecond)
	if took := time.Since(start); b != nil || err != nil || took < 200*time.Millisecond {
		t.Errorf("%v, %v after %v", b, err, took)
	}
	close(stop)
	testnet.Await(t, "the end of the signals", wg.Wait)
}

// A block that is not given back is a mistake of the program's.
func TestTakeTwice(t *testing.T) {
	r, _, peer := testRing(t, nil)
	testnet.Send(t, peer, 1, 100)
	if b, err := r.Take(time.Minute); b == nil || err != nil {
		t.Fatal(b, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a second block was taken")
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if _, err := r.Stats(); err == nil {
			t.Error("counts of a closed ring")
		}
	}()
	r.Take(time.Second)
}

func TestPromiscuous(t *testing.T) {
	r, iface, _ := testRing(t, func(c *Config) { c.Promiscuous = true })
	if on := testnet.Run(t, "ip -d link show "+iface); !strings.Contains(on, "promiscuity 1") {
		t.Errorf("while it captures: %s", on)
	}
	r.Close()
	if off := testnet.Run(t, "ip -d link show "+iface); !strings.Contains(off, "promiscuity 0") {
		t.Errorf("after it: %s", off)
	}
}

func TestOpenErrors(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for _, c := range []struct {
		n      int
		change func(*Config)
		want   string
	}{
		{1, func(c *Config) { c.Interface = "nosuch0" }, `no interface "nosuch0" here; there are: lo, va, vb: no such device`},
		{1, func(c *Config) { c.Interface = "vaa" }, `no interface "vaa" here; did you mean: va: no such device`},
		{1, func(c *Config) { c.Interface = "" }, `no interface "" here`},
		{1, func(c *Config) { c.Interface = "va:1" }, `va:1 is no interface: "1" can only be a label of addresses of va, whose frames are those of va; capture on va`}, // was taken for va
		{1, func(c *Config) { c.Interface = "vaa:1" }, `no interface "vaa:1" here`},
		{1, func(c *Config) { c.Interface = strings.Repeat("v", 300) }, `here; there are: lo, va, vb`},
		{1, func(c *Config) { c.Interface = "v\x00a" }, `no interface "v\x00a" here`},
		{1, func(c *Config) { c.BlockSize = 1000 }, "4 blocks of 1000 bytes: the block size has to be a multiple of the page size"},
		{1, func(c *Config) { c.BlockSize = -1 << 18 }, "multiple of the page size"},
		{1, func(c *Config) { c.Blocks = 1 }, "at least 2 blocks"},
		{1, func(c *Config) { c.Blocks = 1 << 20 }, "less than 4 GiB"},
		{1, func(c *Config) { c.BlockSize = 1 << 40 }, "at most 1 GiB"},
		{256, func(c *Config) { c.BlockSize, c.Blocks = 1<<20, 4000 }, "1024000 MiB for 256 rings, but this machine has only "},
		{0, func(c *Config) {}, "0 rings on one interface"},
		{257, func(c *Config) {}, "257 rings on one interface"},
		{1, func(c *Config) { c.Retire = -1 }, "frames wait for at most -1ns"},
		{1, func(c *Config) { c.Retire = time.Hour }, "1ms to 1m5.535s"},
		{1, func(c *Config) { c.SnapLen = -1 }, "snap length -1"},
		{1, func(c *Config) { c.Filter = []bpf.RawInstruction{{Op: 0xFFFF}} }, "filter of 1 instructions: setsockopt SO_ATTACH_FILTER: invalid argument"},
		{1, func(c *Config) { c.Filter = make([]bpf.RawInstruction, 5000) }, "a filter of 5000 instructions; the kernel takes 4096"},
	} {
		cfg := Config{Interface: iface, Blocks: 4, BlockSize: 1 << 18, Retire: time.Millisecond}
		c.change(&cfg)
		rings, err := OpenFanout(cfg, c.n)
		for _, r := range rings {
			r.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "ring: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
}

// A Config with nothing but a name is enough.
func TestOpenDefaults(t *testing.T) {
	iface, peer := testnet.Veth(t)
	r, err := Open(Config{Interface: iface})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	testnet.Send(t, peer, 1, 1000)
	take(t, r, 1, func(Frame) {})
}

// Without the right to capture the error names it, and how it is given. What
// needs no right works.
func TestNoRight(t *testing.T) {
	testnet.RequireRoot(t)
	runtime.LockOSThread() // never unlocked: the thread that has no rights ends with the test
	const nobody = 65534
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 { // of this thread only
		t.Fatal(e)
	}
	_, err := Open(Config{Interface: "lo", Blocks: 4})
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "ring: lo: capture needs the capability CAP_NET_RAW") || !strings.Contains(err.Error(), "setcap cap_net_raw+ep /") {
		t.Errorf("%v", err)
	}
	if i, err := LookUp("lo"); err != nil || !i.Loopback {
		t.Errorf("%+v, %v", i, err)
	}
}

// Own datagrams are left out by their mark, and by what they hold; others to
// the same port are not, and the user's filter has the last word.
func TestExcludeLive(t *testing.T) {
	own := Own{Mark: 0x6e746170, Collector: netip.MustParseAddrPort("192.0.2.9:5678"), Tap: 7, Session: 1 << 40, LinkType: linkEthernet}
	filter, err := Exclude(nil, own)
	if err != nil {
		t.Fatal(err)
	}
	iface, peer := testnet.Veth(t)
	cfg := plenty(iface)
	cfg.Filter = filter
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := packetSocket(t, iface)
	send := func(mark int, f []byte) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, f); err != nil {
			t.Fatal(err)
		}
	}
	send(0x6e746170, testnet.Numbered(1, 100))
	send(0x6e746171, testnet.Numbered(2, 100))
	send(0, testnet.Numbered(3, 100))
	forms := ownForms(own)
	testnet.SendFrames(t, peer, forms...)
	for i, f := range forms {
		f[len(f)-3] ^= 1 // of the session, or of what is behind it
		if isOwn(f, own) {
			forms[i] = testnet.Numbered(5, 100)
		}
	}
	testnet.SendFrames(t, peer, forms...)
	testnet.SendFrames(t, peer, testnet.Numbered(4, 100))
	var numbers []int
	others := 0
	take(t, r, 3+len(forms), func(f Frame) {
		if isOwn(f.Data, own) {
			t.Errorf("own: %x", f.Data)
		}
		if n, ours := testnet.Number(f.Data); ours && n != 5 {
			numbers = append(numbers, n)
		} else {
			others++
		}
	})
	if fmt.Sprint(numbers) != "[2 3 4]" || others != len(forms) {
		t.Errorf("frames %v, and %d others of %d", numbers, others, len(forms))
	}
}
