// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/benchmarks/cycles"
	"github.com/ntap-project/ntap/ring"
)

// scale measures one thread and two on as many CPUs, each with a queue of its
// own of one device: cycles of a thread for a frame, and frames of both in a
// second.
func scale(size int) error {
	const device = "scale0"
	all := pool(size)
	type result struct {
		perFrame, rate float64
		err            error
	}
	one := func(cpu int, start chan struct{}, out chan result) {
		var r result
		defer func() { out <- r }()
		fd, err := tap(device, unix.IFF_MULTI_QUEUE, false)
		if err != nil {
			r.err = err
			return
		}
		defer unix.Close(fd)
		if r.err = cycles.Pin(cpu); r.err != nil {
			return
		}
		u, err := ring.SetupUring(uringBatch)
		if err != nil {
			r.err = err
			return
		}
		defer u.Close()
		if r.err = u.RegisterFiles([]int32{int32(fd)}); r.err != nil {
			return
		}
		c, err := cycles.New(cycles.Self())
		if err != nil {
			r.err = err
			return
		}
		defer c.Close()
		out <- r // ready
		<-start
		const n = 400 * batch
		before, began := c.Read(), time.Now()
		for range n / batch {
			if r.err = submit(u, all); r.err != nil {
				return
			}
		}
		r.rate = n / time.Since(began).Seconds()
		r.perFrame = c.Read().Sub(before).Cycles / n
	}
	// A queue that stays keeps the device.
	fd, err := tap(device, unix.IFF_MULTI_QUEUE, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := isolate(device); err != nil {
		return err
	}
	var cyc, rate [3][]float64
	for range *rounds {
		for threads := 1; threads <= 2; threads++ {
			start, out := make(chan struct{}), make(chan result, 4)
			done := make(chan bool)
			for i := range threads {
				go inside(done, func() { one(*cpu+i, start, out) })
			}
			for range threads {
				if r := <-out; r.err != nil {
					return r.err
				}
			}
			close(start)
			var c, f float64
			for range threads {
				r := <-out
				if r.err != nil {
					return r.err
				}
				c += r.perFrame / float64(threads)
				f += r.rate
			}
			for range threads {
				<-done
			}
			cyc[threads], rate[threads] = append(cyc[threads], c), append(rate[threads], f)
		}
	}
	for threads := 1; threads <= 2; threads++ {
		m, lo, hi := cycles.Median(cyc[threads])
		f, _, _ := cycles.Median(rate[threads])
		base, _, _ := cycles.Median(rate[1])
		fmt.Printf("queues | %d | %d threads, a queue each | %.0f [%.0f to %.0f] | %.2f Mpps | %.2f\n", size, threads, m, lo, hi, f/1e6, f/base)
	}
	return nil
}

// submit writes frames by io_uring, to registered file 0.
func submit(u *ring.Uring, frames [][]byte) error {
	return submitEach(u, len(frames), func(s *ring.SQE, i int) { s.PrepWrite(0, frames[i]) })
}

// submitEach submits n writes to registered file 0, which prep fills in.
func submitEach(u *ring.Uring, n int, prep func(s *ring.SQE, i int)) error {
	for i := range n {
		s := u.GetSQE()
		prep(s, i)
		s.Flags = ring.SQEFixedFile
		if i%uringBatch == uringBatch-1 || i == n-1 {
			if _, err := u.SubmitAndWait(uint32(u.Pending())); err != nil {
				return err
			}
			for range u.CQReady() {
				if r := u.PeekCQE().Res; r < 0 {
					return unix.Errno(-r)
				}
				u.CQAdvance(1)
			}
		}
	}
	return nil
}

// gso measures one GSO frame of 44 segments, with a virtio_net_hdr that says
// so, against its segments one by one.
func gso(count *cycles.Counter) error {
	const segment, segments = 1448, 44
	whole, err := tap("gso0", unix.IFF_VNET_HDR, true)
	if err != nil {
		return err
	}
	defer unix.Close(whole)
	cut, err := tap("gso1", 0, true)
	if err != nil {
		return err
	}
	defer unix.Close(cut)
	for _, d := range []string{"gso0", "gso1"} {
		if err := isolate(d); err != nil {
			return err
		}
	}
	u, err := ring.SetupUring(uringBatch)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := u.RegisterFiles([]int32{int32(cut)}); err != nil {
		return err
	}
	big := make([]byte, 10+54+segment*segments)
	tcpFrame(big[10:], 1, 1)
	big[0], big[1] = 1, 1 // NEEDS_CSUM, GSO_TCPV4
	binary.NativeEndian.PutUint16(big[2:], 54)
	binary.NativeEndian.PutUint16(big[4:], segment)
	binary.NativeEndian.PutUint16(big[6:], 34)
	binary.NativeEndian.PutUint16(big[8:], 16)
	parts := make([][]byte, segments)
	for i := range parts {
		parts[i] = make([]byte, 54+segment)
		tcpFrame(parts[i], 1, uint32(i*segment))
	}
	var a, b []float64
	for range *rounds + 1 {
		before := count.Read()
		for range 2000 {
			if _, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(whole), uintptr(unsafe.Pointer(&big[0])), uintptr(len(big))); e != 0 {
				return e
			}
		}
		middle := count.Read()
		for range 2000 {
			if err := submit(u, parts); err != nil {
				return err
			}
		}
		a = append(a, middle.Sub(before).Cycles/2000)
		b = append(b, count.Read().Sub(middle).Cycles/2000)
	}
	for _, v := range []struct {
		name string
		all  []float64
	}{{"44 segments, io_uring", b[1:]}, {"whole, with vnet_hdr, write(2)", a[1:]}} {
		m, lo, hi := cycles.Median(v.all)
		base, _, _ := cycles.Median(slices.Clone(b[1:]))
		fmt.Printf("a GSO frame | %d | %s | %.0f [%.0f to %.0f] | | %.2f\n", len(big)-10, v.name, m, lo, hi, m/base)
	}
	return nil
}
