// SPDX-License-Identifier: Apache-2.0

// Command gen is the traffic source of the benchmarks: it writes UDP frames of
// many flows into a TAP device, at a rate, and prints what it offered.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// burst is how many frames are written between looks at the clock.
const burst = 32

func main() {
	device := flag.String("dev", "cap0", "TAP device, which exists")
	size := flag.Int("size", 300, "bytes of a frame, from the Ethernet header on")
	rate := flag.Float64("rate", 0, "frames a second; 0: as many as go")
	length := flag.Duration("for", 3*time.Second, "how long")
	flows := flag.Int("flows", 64, "number of UDP flows")
	cpu := flag.Int("cpu", -1, "CPU to run on; -1: any")
	flag.Parse()
	if err := run(*device, *size, *rate, *length, *flows, *cpu); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(device string, size int, rate float64, length time.Duration, flows, cpu int) error {
	if size < 42 || size > 65535 || flows < 1 || flows > 250 {
		return fmt.Errorf("frames of %d bytes in %d flows: 42 to 65535 bytes, 1 to 250 flows", size, flows)
	}
	runtime.LockOSThread()
	if cpu >= 0 {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("cpu %d: %w", cpu, err)
		}
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("%s: TUNSETIFF: %w", device, err)
	}
	frames := make([][]byte, flows)
	for i := range frames {
		frames[i] = udpFrame(size, byte(i))
	}
	time.Sleep(200 * time.Millisecond) // the carrier came up just now

	var used0, used1 unix.Rusage
	unix.Getrusage(unix.RUSAGE_THREAD, &used0)
	start := time.Now()
	var sent, failed int
	for {
		gone := time.Since(start)
		if gone >= length {
			break
		}
		if rate > 0 {
			// Sleeping, not spinning: idle time has to be idle.
			if ahead := time.Duration(float64(sent)/rate*1e9) - gone; ahead > 100*time.Microsecond {
				ts := unix.NsecToTimespec(int64(ahead))
				unix.Nanosleep(&ts, nil)
			}
		}
		for range burst {
			if _, err := unix.Write(fd, frames[sent%flows]); err != nil {
				failed++
			}
			sent++
		}
	}
	took := time.Since(start)
	unix.Getrusage(unix.RUSAGE_THREAD, &used1)
	busy := used1.Utime.Nano() + used1.Stime.Nano() - used0.Utime.Nano() - used0.Stime.Nano()
	fmt.Printf("offered %d failed %d seconds %.3f mpps %.3f gbps %.3f cpu_ns %.0f\n", sent, failed, took.Seconds(),
		float64(sent)/took.Seconds()/1e6, float64(sent)*float64(size)*8/took.Seconds()/1e9, float64(busy)/float64(sent))
	return nil
}

// udpFrame returns an Ethernet, IPv4 and UDP frame of flow n (RFC 894, 791, 768).
func udpFrame(size int, n byte) []byte {
	b := make([]byte, size)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00})
	ip := b[14:]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, n, 10, 2, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(size-14))
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp[0:], 1000+uint16(n))
	binary.BigEndian.PutUint16(udp[2:], 53)
	binary.BigEndian.PutUint16(udp[4:], uint16(size-34))
	return b
}
