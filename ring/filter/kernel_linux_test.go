// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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

// CheckLive refuses what the kernel refuses, and nothing else: programs of
// expressions with any one instruction changed. Of those the kernel says EINVAL
// and nothing more, which is all that was said of bytecode with a code that is
// none.
func TestCheckLiveBesideKernel(t *testing.T) {
	k := newKernelMachine(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	codes := []uint16{999, 0x38, 0xF4, 0x55, 0x0E, 0xFFFF, 0x17, classLD | modeMEM, classLDX | modeMEM, classST, classSTX, classLD | modeABS, classALU | aluDIV, classALU | aluLSH, classJMP, classMISC}
	taken, refused := 0, map[string]int{}
	for _, e := range append(written(), newWriter(3).expressions(300)...) {
		whole, err := Compile(e, Options{LinkType: Ethernet, Live: true, LookUp: noHosts})
		if err != nil || len(whole) > 200 {
			continue
		}
		for range 20 {
			p := slices.Clone(whole)
			switch in := &p[rnd.IntN(len(p))]; rnd.IntN(6) {
			case 0:
				in.Op = codes[rnd.IntN(len(codes))]
			case 1:
				in.Op = uint16(rnd.IntN(256))
			case 2:
				in.Op, in.K = classLD|uint16(rnd.IntN(3)*8)|modeABS, adBase+uint32(rnd.IntN(80))
			case 3:
				in.Op, in.K = codes[7+rnd.IntN(4)], uint32(rnd.IntN(20))
			case 4:
				in.Jt, in.Jf = uint8(rnd.IntN(256)), uint8(rnd.IntN(len(p)))
			case 5:
				in.K = uint32(rnd.IntN(300))
			}
			mine, its := p.CheckLive(), k.load(p)
			if errors.Is(its, unix.ENOMEM) {
				continue
			}
			if (mine == nil) != (its == nil) {
				t.Fatalf("the kernel says %v, CheckLive %v:\n%v", its, mine, p)
			}
			if mine == nil {
				taken++
			} else {
				_, why, _ := strings.Cut(mine.Error(), "): ")
				refused[why]++
			}
		}
	}
	for _, err := range []error{errJump, errEnd, errCode, errWord, errUnknown, errUnset, errZero, errLong} {
		if refused[err.Error()] == 0 {
			t.Errorf("nothing was refused since %v", err)
		}
	}
	t.Logf("%d taken, refused: %v", taken, refused)
}
