// SPDX-License-Identifier: Apache-2.0

//go:build !giouring

// Command sockets measures the ways to send and to receive flights of UDP
// datagrams: cycles of the thread for a datagram. It makes its own namespaces,
// joined by a veth; root. The ways take turns, round after round.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/benchmarks/cycles"
	"github.com/ntap-project/ntap/ring"
)

const port = 5678

func main() {
	size := flag.Int("size", 1472, "bytes of a datagram's payload")
	rounds := flag.Int("rounds", 11, "of each way")
	flights := flag.Int("flights", 2000, "sent or received in a round")
	only := flag.String("only", "", "send, recv; all if empty")
	flag.Parse()
	if err := run(*size, *rounds, *flights, *only); err != nil {
		fmt.Fprintln(os.Stderr, "sockets:", err)
		os.Exit(1)
	}
}

func run(size, rounds, flights int, only string) error {
	runtime.LockOSThread()
	if err := world(); err != nil {
		return err
	}
	if only != "recv" {
		if err := sends(size, rounds, flights); err != nil {
			return err
		}
	}
	if only != "send" {
		return receives(size, rounds, flights)
	}
	return nil
}

// far is a thread in the other namespace, which runs what it is told.
var far = make(chan func())

// world makes two namespaces: this thread's, with va, and the other with vb.
func world() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		ready <- err
		for f := range far {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return err
	}
	tid := make(chan int)
	far <- func() { tid <- unix.Gettid() }
	id := <-tid
	for _, line := range []string{
		fmt.Sprintf("ip link add va type veth peer name vb netns %d", id),
		"ip addr add 10.90.0.1/24 dev va", "ip link set va up", "ip link set lo up",
	} {
		if err := command(line); err != nil {
			return err
		}
	}
	result := make(chan error)
	far <- func() {
		result <- func() error {
			for _, line := range []string{"ip addr add 10.90.0.2/24 dev vb", "ip link set vb up", "ip link set lo up"} {
				if err := command(line); err != nil {
					return err
				}
			}
			return nil
		}()
	}
	if err := <-result; err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // the links are activated some time after they are up
	return nil
}

func command(line string) error {
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// dial returns a socket to the other side, for flights of datagrams.
func dial(size int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 90, 0, 2}}); err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	return fd, unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, size)
}

// A way is one side of a comparison. do sends or receives about n flights, and
// returns how many datagrams that were.
type way struct {
	name string
	do   func(n int) (datagrams int, err error)
}

// compare runs the ways in turn and prints what they cost.
func compare(what string, ways []way, rounds, flights int, c *cycles.Counter, around func(func() error) error) error {
	ways = slices.DeleteFunc(ways, func(w way) bool { return !strings.Contains(w.name, *match) })
	cyc, ins := make([][]float64, len(ways)), make([][]float64, len(ways))
	for r := range rounds + 1 {
		for i, w := range ways {
			if err := around(func() error {
				before := c.Read()
				n, err := w.do(flights)
				d := c.Read().Sub(before)
				if err != nil || n == 0 {
					return fmt.Errorf("%s: %d datagrams, %w", w.name, n, err)
				}
				if r > 0 { // the first warms up
					cyc[i] = append(cyc[i], d.Cycles/float64(n))
					ins[i] = append(ins[i], d.Instructions/float64(n))
				}
				return nil
			}); err != nil {
				return err
			}
		}
	}
	base, _, _ := cycles.Median(cyc[0])
	for i, w := range ways {
		m, lo, hi := cycles.Median(cyc[i])
		n, _, _ := cycles.Median(ins[i])
		fmt.Printf("%s | %s | %.0f [%.0f to %.0f] | %.0f | %.2f\n", what, w.name, m, lo, hi, n, m/base)
	}
	return nil
}

const mostFlights = 16

func sends(size, rounds, flights int) error {
	if err := cycles.Pin(0); err != nil {
		return err
	}
	c, err := cycles.New(cycles.Self())
	if err != nil {
		return err
	}
	defer c.Close()
	drop := make(chan error)
	far <- func() { drop <- drops() }
	if err := <-drop; err != nil {
		return err
	}
	if *offload != "" {
		if err := command("ethtool -K va " + *offload); err != nil {
			return err
		}
	}
	fd, err := dial(size)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	per := min(64, 65507/size)
	mem, err := unix.Mmap(-1, 0, mostFlights<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	iov, msgs := make([]unix.Iovec, mostFlights), make([]unix.Msghdr, mostFlights)
	for i := range msgs {
		iov[i].Base = &mem[i<<16]
		iov[i].SetLen(per * size)
		msgs[i].Iov = &iov[i]
		msgs[i].SetIovlen(1)
	}
	// fill stands for sealing: the flight's memory is in the cache when it goes.
	fill := func(i int) {
		b := mem[i<<16 : i<<16+per*size]
		for at := 0; at < len(b); at += 64 {
			b[at]++
		}
	}
	ways := []way{{"sendmsg, a flight a call", func(n int) (int, error) {
		for range n {
			fill(0)
			if _, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), 0); e != 0 && e != unix.ECONNREFUSED {
				return 0, e
			}
		}
		return n * per, nil
	}}}
	var rings []*ring.Uring
	for _, depth := range []int{1, 2, 4, 8, 16} {
		u, err := ring.SetupUring(uint32(depth))
		if err != nil {
			return err
		}
		rings = append(rings, u)
		if err := u.RegisterFiles([]int32{int32(fd)}); err != nil {
			return err
		}
		ways = append(ways, way{fmt.Sprintf("io_uring sendmsg, %d flights a call", depth), func(n int) (int, error) {
			for done := 0; done < n; done += depth {
				for i := range depth {
					fill(i)
					s := u.GetSQE()
					s.PrepSendMsg(0, &msgs[i], 0)
					s.Flags = ring.SQEFixedFile
				}
				if _, err := u.SubmitAndWait(uint32(depth)); err != nil {
					return 0, err
				}
				for range u.CQReady() {
					if r := u.PeekCQE().Res; r < 0 && unix.Errno(-r) != unix.ECONNREFUSED {
						return 0, unix.Errno(-r)
					}
					u.CQAdvance(1)
				}
			}
			return (n + depth - 1) / depth * depth * per, nil
		}})
	}
	for _, turn := range []int{1, 4, mostFlights} {
		u, err := ring.SetupUring(mostFlights)
		if err != nil {
			return err
		}
		rings = append(rings, u)
		if err := u.RegisterBuffers([][]byte{mem}); err != nil {
			return err
		}
		z := &lender{u: u}
		for i := range turn {
			z.free = append(z.free, i)
		}
		ways = append(ways, way{fmt.Sprintf("io_uring send zero-copy, a flight a call, memory of %d", turn), func(n int) (int, error) {
			for range n {
				i, err := z.take()
				if err != nil {
					return 0, err
				}
				fill(i)
				u.SendZC(fd, mem[i<<16:i<<16+per*size], uint64(i))
				if _, err := u.SubmitAndGetEvents(); err != nil {
					return 0, err
				}
				if err := z.reap(); err != nil {
					return 0, err
				}
			}
			return n * per, nil
		}})
		defer func() { fmt.Printf("memory of %d: the kernel copied %d of %d flights\n", turn, z.copied, z.sent) }()
	}
	defer func() {
		for _, u := range rings {
			u.Close()
		}
	}()
	return compare(fmt.Sprintf("send, %d bytes", size), ways, rounds, flights, c, func(f func() error) error { return f() })
}

// drops has datagrams end in the other namespace, where -drop says.
func drops() error {
	switch *where {
	case "ingress":
		return command("nft add table netdev d; add chain netdev d i { type filter hook ingress device vb priority 0; policy accept; udp dport " + fmt.Sprint(port) + " drop; }")
	case "prerouting":
		return command("nft add table ip d; add chain ip d i { type filter hook prerouting priority -400; policy drop; }")
	case "socket":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	}
	return fmt.Errorf("-drop %s: ingress, prerouting or socket", *where)
}

// A lender has flights whose memory the kernel reads until it says otherwise.
type lender struct {
	u            *ring.Uring
	free         []int // the one that came back last is taken first
	sent, copied int
}

// take returns a flight whose memory is free.
func (z *lender) take() (int, error) {
	for tries := 0; len(z.free) == 0; tries++ {
		if tries > 3 {
			return 0, errors.New("no memory came back within 3 s")
		}
		if err := z.u.SubmitAndWaitTimeout(1, time.Second); err != nil {
			return 0, err
		}
		if err := z.reap(); err != nil {
			return 0, err
		}
	}
	i := z.free[len(z.free)-1]
	z.free = z.free[:len(z.free)-1]
	return i, nil
}

// reap takes the completions that are there.
func (z *lender) reap() error {
	for {
		id, res, flags, ok := z.u.Completion()
		switch {
		case !ok:
			return nil
		case flags&ring.CQENotif != 0:
			z.free = append(z.free, int(id))
			z.sent++
			if res&ring.ZCCopied != 0 {
				z.copied++
			}
		case res < 0:
			return unix.Errno(-res)
		}
	}
}

func receives(size, rounds, flights int) error {
	done := make(chan error, 1)
	far <- func() { done <- receive(size, rounds, flights) }
	if err := cycles.Pin(1); err != nil {
		return err
	}
	fd, err := dial(size)
	if err != nil {
		return err
	}
	per := min(64, 65507/size)
	b := make([]byte, per*size)
	for i := 0; ; i++ {
		select {
		case err := <-done:
			return err
		default:
		}
		binary.BigEndian.PutUint32(b, uint32(i))
		_, _ = unix.Write(fd, b)
		if *gap > 0 {
			ts := unix.NsecToTimespec(int64(*gap))
			unix.Nanosleep(&ts, nil)
		}
	}
}

var (
	where   = flag.String("drop", "prerouting", "where sent datagrams end: ingress, prerouting, or socket: one that nobody reads")
	offload = flag.String("offload", "", "of the sending interface, as ethtool -K has it: tx-udp-segmentation off")
	match   = flag.String("way", "", "only ways with this in their name")
	gap     = flag.Duration("gap", 0, "between flights of the source that receiving is measured with")
)

// receive measures in the other namespace.
func receive(size, rounds, flights int) error {
	_ = command("nft flush ruleset")
	if err := cycles.Pin(0); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return err
	}
	c, err := cycles.New(cycles.Self())
	if err != nil {
		return err
	}
	defer c.Close()
	const trains, room = 8, 1<<16 + 256
	mem, err := unix.Mmap(-1, 0, trains*room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	type mmsghdr struct {
		hdr unix.Msghdr
		n   uint32
		_   [4]byte
	}
	msgs, iov, control, names := make([]mmsghdr, trains), make([]unix.Iovec, trains), make([][64]byte, trains), make([]unix.RawSockaddrInet6, trains)
	var use byte
	touch := func(b []byte) { // stands for opening
		for at := 0; at < len(b); at += 64 {
			use += b[at]
		}
	}
	ways := []way{{"recvmmsg, UDP_GRO", func(n int) (int, error) {
		got := 0
		for k := 0; k < n; {
			for i := range msgs {
				h := &msgs[i].hdr
				iov[i].Base = &mem[i*room]
				iov[i].SetLen(1 << 16)
				h.Iov = &iov[i]
				h.SetIovlen(1)
				h.Control = &control[i][0]
				h.SetControllen(64)
				h.Name = (*byte)(unsafe.Pointer(&names[i]))
				h.Namelen = unix.SizeofSockaddrInet6
			}
			m, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), trains, unix.MSG_WAITFORONE, 0, 0)
			if e != 0 {
				return 0, e
			}
			for i := range int(m) {
				touch(mem[i*room : i*room+int(msgs[i].n)])
				got += int(msgs[i].n) / size
			}
			k += int(m)
		}
		return got, nil
	}}}
	inbox, err := ring.NewInbox(fd, 1<<16, trains)
	if err != nil {
		return err
	}
	defer inbox.Close()
	ways = append(ways, way{"io_uring multishot recvmsg, UDP_GRO", func(n int) (int, error) {
		got := 0
		for k := 0; k < n; {
			m, err := inbox.Recv(time.Second)
			if err != nil {
				return 0, err
			}
			for i := range m {
				_, _, payload, _ := inbox.Message(i)
				touch(payload)
				got += len(payload) / size
			}
			k += m
		}
		return got, nil
	}})
	return compare(fmt.Sprintf("receive, %d bytes", size), ways, rounds, flights, c, func(f func() error) error { return f() })
}
