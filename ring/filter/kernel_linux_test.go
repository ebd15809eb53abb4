// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A kernelMachine runs programs in the kernel, on datagrams from one local
// socket to another; for that no rights are needed.
type kernelMachine struct {
	from, to int
	buf      []byte
}

func newKernelMachine(t *testing.T) *kernelMachine {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &kernelMachine{from: fds[0], to: fds[1], buf: make([]byte, 1<<17)}
}

func (k *kernelMachine) load(p Program) error {
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: (*unix.SockFilter)(unsafe.Pointer(&p[0]))}
	return unix.SetsockoptSockFprog(k.to, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
}

// run returns how many bytes of a frame the program takes, at most all of them.
func (k *kernelMachine) run(t *testing.T, frame []byte) uint32 {
	t.Helper()
	if _, err := unix.Write(k.from, frame); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Read(k.to, k.buf)
	if errors.Is(err, unix.EAGAIN) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// same compares the machine with the kernel on frames, and returns how many
// match.
func (k *kernelMachine) same(t *testing.T, what string, p Program, frames []*frame) (matched int) {
	t.Helper()
	m, err := NewMachine(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.load(p); err != nil {
		if !errors.Is(err, unix.ENOMEM) { // more than net.core.optmem_max
			t.Errorf("%s: %v\n%v", what, err, p)
		}
		return 0
	}
	for _, f := range frames {
		if len(f.data) == 0 {
			continue // there is no such datagram
		}
		got, want := min(m.Run(f.data, uint32(len(f.data))), uint32(len(f.data))), k.run(t, f.data)
		if got != want {
			t.Errorf("%s: the machine takes %d bytes, the kernel %d, of %s: %x\n%v", what, got, want, f.name, f.data, p)
			break
		}
		if want != 0 {
			matched++
		}
	}
	return matched
}

// The machine does what the kernel does with the same program.
func TestMachineBesideKernel(t *testing.T) {
	k := newKernelMachine(t)
	frames := etherFrames(14, 250, 150, 1)
	programs, matched := 0, 0
	for _, e := range append(written(), newWriter(14).expressions(1000)...) {
		if p, err := Compile(e, Options{LinkType: Ethernet, LookUp: noHosts}); err == nil {
			programs++
			matched += k.same(t, fmt.Sprintf("%q", e), p, frames)
		}
	}
	if programs < 1000 || matched < 20000 {
		t.Errorf("%d programs, %d matches", programs, matched)
	}
	t.Logf("%d programs, %d frames, %d matches", programs, len(frames), matched)
}

// So it does where machines differ: shifts by more than 31 bits, for which
// libpcap's gives 0 and the kernel takes the count modulo 32, loads whose offset
// is more than 32 bits, and division by zero.
func TestMachineBesideKernelAtTheEdges(t *testing.T) {
	k := newKernelMachine(t)
	data := []byte(strings.Repeat("0123456789", 30))
	frames := []*frame{{data: data, name: "digits"}, {data: data[:7], name: "seven digits"}}
	numbers := []uint32{0, 1, 2, 31, 32, 33, 34, 63, 64, 65, 255, 256, 1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 65536, 1<<32 - 256, 1<<32 - 20, 1<<32 - 2, 1<<32 - 1}
	count := 0
	for _, a := range numbers {
		for _, x := range numbers {
			for _, op := range []uint16{aluADD, aluSUB, aluMUL, aluDIV, aluOR, aluAND, aluLSH, aluRSH, aluMOD, aluXOR} {
				for mask := uint32(0xFF); mask != 0; mask <<= 8 { // each byte of the result is taken once
					shift := uint32(0)
					for ; mask>>shift&1 == 0; shift++ {
					}
					k.same(t, fmt.Sprintf("%#x, %#x, operation %#x, mask %#x", a, x, op, mask), Program{
						{Op: classLD | modeIMM, K: a}, {Op: classLDX | modeIMM, K: x}, {Op: classALU | srcX | op},
						{Op: classALU | srcK | aluAND, K: mask}, {Op: classALU | srcK | aluRSH, K: shift},
						{Op: classRET | srcA},
					}, frames[:1])
					count++
				}
			}
			for _, size := range []uint16{sizeB, sizeH, sizeW} {
				if a >= adBase-1<<20 {
					continue // the kernel takes it for a place in the network header
				}
				p := Program{{Op: classLDX | modeIMM, K: x}, {Op: classLD | modeIND | size, K: a}, {Op: classALU | srcK | aluAND, K: 0xFF}, {Op: classRET | srcA}}
				k.same(t, fmt.Sprintf("load of size %#x at %#x + %#x", size, a, x), p, frames)
				count++
			}
		}
	}
	t.Logf("%d programs", count)
}
