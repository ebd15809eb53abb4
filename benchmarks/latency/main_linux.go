// SPDX-License-Identifier: Apache-2.0

// Command latency measures how much later a frame is on the collector's virtual
// interface than on the tapped one, at a rate, and the CPU of both sides. It
// makes its own namespace; root.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	program   = flag.String("ntap", "bin/ntap", "the program")
	rate      = flag.Int("rate", 1000, "frames a second")
	size      = flag.Int("size", 300, "bytes of a frame")
	length    = flag.Duration("for", 3*time.Second, "how long")
	remote    = flag.String("remote", "", "flags of the remote")
	collector = flag.String("collector", "", "flags of the collector")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "latency:", err)
		os.Exit(1)
	}
}

func command(line string) error {
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// packetSocket opens a packet socket of one interface.
func packetSocket(name string, protocol uint16) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: i.Index})
}

const ours = 0x88B5 // IEEE 802, local experimental EtherType 1

func run() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "latency")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	key := filepath.Join(dir, "key")
	for _, line := range []string{
		"ip link set lo up", "ip link add va type veth peer name vb", "ip link set va addrgenmode none", "ip link set vb addrgenmode none",
		"ip link set va up", "ip link set vb up", *program + " key new --out " + key,
	} {
		if err := command(line); err != nil {
			return err
		}
	}
	born := map[*exec.Cmd]time.Time{}
	start := func(args string) (*exec.Cmd, error) {
		c := exec.Command(*program, strings.Fields(args)...)
		c.Stderr, _ = os.Create(filepath.Join(dir, strings.Fields(args)[0]))
		born[c] = time.Now()
		return c, c.Start()
	}
	c, err := start("collector -p 127.0.0.1:5678 --key-file " + key + " -i lat0 --state none " + *collector)
	if err != nil {
		return err
	}
	defer c.Process.Kill()
	for range 100 {
		if _, err := net.InterfaceByName("lat0"); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	r, err := start("remote -i va -c 127.0.0.1:5678 --mtu 1500 --key-file " + key + " --tap 1 " + *remote)
	if err != nil {
		return err
	}
	defer r.Process.Kill()
	time.Sleep(1500 * time.Millisecond)
	in, err := packetSocket("lat0", unix.ETH_P_ALL)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	tv := unix.NsecToTimeval(int64(500 * time.Millisecond))
	unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	out, err := packetSocket("vb", 0)
	if err != nil {
		return err
	}
	n := int(length.Seconds() * float64(*rate))
	took := make(chan []time.Duration)
	go func() { took <- receive(in, n) }()
	frame := make([]byte, *size)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, ours >> 8, ours & 0xFF})
	began := time.Now()
	for i := range n {
		if d := time.Duration(i)*time.Second/time.Duration(*rate) - time.Since(began); d > 0 {
			ts := unix.NsecToTimespec(int64(d))
			unix.Nanosleep(&ts, nil)
		}
		var now unix.Timespec
		unix.ClockGettime(unix.CLOCK_REALTIME, &now)
		binary.BigEndian.PutUint64(frame[16:], uint64(now.Nano()))
		if _, err := unix.Write(out, frame); err != nil {
			return err
		}
	}
	all := <-took
	busy := func(c *exec.Cmd) float64 {
		elapsed := time.Since(born[c])
		c.Process.Signal(syscall.SIGINT)
		c.Wait()
		u := c.ProcessState.SysUsage().(*syscall.Rusage)
		return float64(u.Utime.Nano()+u.Stime.Nano()) / float64(elapsed)
	}
	fmt.Printf("remote [%s] collector [%s] rate %d size %d: %d of %d frames", *remote, *collector, *rate, *size, len(all), n)
	if len(all) > 0 {
		slices.Sort(all)
		at := func(p float64) time.Duration { return all[int(p*float64(len(all)-1))].Round(time.Microsecond) }
		fmt.Printf(", p50 %v p90 %v p99 %v p99.9 %v", at(0.5), at(0.9), at(0.99), at(0.999))
	}
	fmt.Printf(", CPUs: remote %.2f collector %.2f\n", busy(r), busy(c))
	return nil
}

// receive returns for each frame how long after it was sent the kernel
// received it on the virtual interface.
func receive(fd, n int) (all []time.Duration) {
	buf, oob := make([]byte, 1<<16), make([]byte, 64)
	for len(all) < n {
		k, o, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return all
		}
		if k < 24 || binary.BigEndian.Uint16(buf[12:]) != ours || o < unix.SizeofCmsghdr+16 {
			continue
		}
		ts := (*unix.Timespec)(unsafe.Pointer(&oob[unix.SizeofCmsghdr]))
		all = append(all, time.Duration(ts.Nano()-int64(binary.BigEndian.Uint64(buf[16:]))))
	}
	return all
}
