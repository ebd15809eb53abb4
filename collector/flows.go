// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// flows keeps apart, in the kernel, what comes from where a stream is known to
// come from, and what comes from anywhere else. Each worker has two sockets:
// one for the first, and one for strangers. So a flood of strangers, however
// large, fills a buffer in which nothing of a known stream lies, and is looked
// at when there is time.
//
// A flow, which is an address and a UDP port, is known once a datagram from
// there verified as a stream's. The program that picks the socket holds the
// flows as numbers, by a hash with a secret in it: who is not known cannot find
// out which address and port would pass for one that is. Who can forge the
// source address of a known flow does pass, and is met by the cipher.
//
// The program is classic BPF, which takes no rights; it is made anew when flows
// come and go, and then not again for a while.
type flows struct {
	workers int
	secrets [6]uint32
	first   *batch.Receiver // of all that share the port, for its program

	wanted  atomic.Bool   // the program is to be made anew
	begun   atomic.Uint64 // how often that was begun: from then on it may be in force
	made    atomic.Uint64 // how often it was done
	inForce *perf.Counter // flows that it holds
	mu      sync.Mutex
	known   map[netip.AddrPort]int // streams that come from there
	off     bool                   // too many for a program: all are known
	next    time.Time              // when it may be made again
}

// Chosen.
const (
	maxFlows    = 2048                  // what a program of 4096 instructions (BPF_MAXINSNS) holds
	remakeEvery = 20 * time.Millisecond // the program is not made more often
	leafFlows   = 16                    // flows compared one by one, at the end of the search
)

func newFlows(workers int, inForce *perf.Counter) *flows {
	f := &flows{workers: workers, inForce: inForce, known: make(map[netip.AddrPort]int)}
	var b [4 * len(f.secrets)]byte
	rand.Read(b[:]) // never fails, crypto/rand
	for i := range f.secrets {
		f.secrets[i] = binary.NativeEndian.Uint32(b[4*i:]) | 1
	}
	return f
}

// add makes a flow known, one stream's more. Datagrams from there go to the second
// socket until f.begun is what it returns, and to the first one once f.made is.
func (f *flows) add(a netip.AddrPort) (made uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[a]++; f.known[a] == 1 {
		f.wanted.Store(true)
	}
	return f.made.Load() + 1
}

// remove takes one stream back.
func (f *flows) remove(a netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[a]--; f.known[a] <= 0 {
		delete(f.known, a)
		f.wanted.Store(true)
	}
}

// make puts a program with the flows of now in force. It is for any worker, when
// f.wanted says so; the error, once, says that flows are not kept apart.
func (f *flows) remake(now time.Time) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.next) || !f.wanted.Load() {
		return nil
	}
	f.wanted.Store(false)
	keys := make([]uint32, 0, len(f.known))
	for a := range f.known {
		keys = append(keys, f.hash(a))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	begin := time.Now()
	defer func() { f.next = now.Add(max(remakeEvery, 50*time.Since(begin))) }()
	if f.off {
		return nil
	}
	f.begun.Add(1) // before: whoever finds a datagram at its first socket knows by this that there may be older ones at the second
	if len(keys) <= maxFlows {
		err = f.first.Steer(f.program(keys))
	}
	if len(keys) > maxFlows || err != nil {
		f.off = true
		err = fmt.Errorf("collector: %d known flows cannot be kept apart from a flood of strangers (at most %d, and see net.core.optmem_max): "+
			"all share one socket of each worker: %w", len(keys), maxFlows, errors.Join(err, f.first.Steer(steering(f.workers))))
	}
	f.made.Add(1)
	f.inForce.Set(uint64(len(keys)))
	if f.off {
		f.inForce.Set(0)
	}
	return err
}

// hash returns the number that stands for a flow in the program.
func (f *flows) hash(a netip.AddrPort) uint32 {
	k := &f.secrets
	h := uint32(a.Port()) * k[0]
	if a.Addr().Is4() {
		b := a.Addr().As4()
		h = (h ^ binary.BigEndian.Uint32(b[:])) * k[1]
	} else {
		b := a.Addr().As16()
		for i := range 4 {
			h = (h ^ binary.BigEndian.Uint32(b[4*i:])) * k[1+i]
		}
	}
	h ^= h >> 15
	return h * k[5]
}

// A label is a place in a program that jumps lead to.
type label struct{ at int }

// An assembler collects instructions, and jumps that go any way forward.
type assembler struct {
	ins   []bpf.Instruction
	jumps map[int]*label // by the place of the jump
}

func (b *assembler) add(ins ...bpf.Instruction) { b.ins = append(b.ins, ins...) }

// jump goes to a label, which is placed later.
func (b *assembler) jump(to *label) {
	b.jumps[len(b.ins)] = to
	b.add(bpf.Jump{})
}

func (b *assembler) place(l *label) { l.at = len(b.ins) }

func (b *assembler) assemble() []bpf.RawInstruction {
	for at, to := range b.jumps {
		b.ins[at] = bpf.Jump{Skip: uint32(to.at - at - 1)}
	}
	raw, err := bpf.Assemble(b.ins)
	if err != nil {
		panic("collector: flows: " + err.Error())
	}
	return raw
}

// Where the headers before the UDP payload lie, seen from the IP header:
// RFC 791, RFC 8200, RFC 768. SKF_NET_OFF (linux/filter.h) makes an offset one
// from there; to the program itself the payload is at 0.
const (
	netOff     = 1<<32 - 0x100000
	v4Source   = netOff + 12
	v4Port     = netOff + 20
	v6Source   = netOff + 8
	v6Port     = netOff + 40
	v4NoOption = 0x45 // version 4, a header of 20 bytes
)

// program returns the program that picks a socket: that of the worker to whom
// the header steers; the first one if the flow is among keys, which are
// sorted, and the second one if not. What is too short for a header goes to
// the second socket of the first worker.
func (f *flows) program(keys []uint32) []bpf.RawInstruction {
	b := &assembler{jumps: make(map[int]*label)}
	var stranger, found, v6, search label
	k := &f.secrets
	mul := func(n uint32) { b.add(bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: n}) }
	// mix: X = (X XOR word) * n
	mix := func(off uint32, n uint32) {
		b.add(bpf.LoadAbsolute{Off: off, Size: 4}, bpf.ALUOpX{Op: bpf.ALUOpXor})
		mul(n)
		b.add(bpf.TAX{})
	}

	b.add(bpf.LoadExtension{Num: bpf.ExtLen}, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: proto.Overhead, SkipTrue: 1}, bpf.RetConstant{Val: uint32(f.workers)})
	b.add(chooseWorker(f.workers)...)
	b.add(bpf.StoreScratch{Src: bpf.RegA, N: 0}) // the worker

	b.add(bpf.LoadAbsolute{Off: netOff, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v4NoOption, SkipTrue: 1})
	b.jump(&v6)
	b.add(bpf.LoadAbsolute{Off: v4Port, Size: 2})
	mul(k[0])
	b.add(bpf.TAX{})
	mix(v4Source, k[1])
	b.jump(&search)

	b.place(&v6)
	b.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xF0}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 1})
	b.jump(&stranger)
	b.add(bpf.LoadAbsolute{Off: v6Port, Size: 2})
	mul(k[0])
	b.add(bpf.TAX{})
	for i := range uint32(4) {
		mix(v6Source+4*i, k[1+i])
	}

	b.place(&search)
	b.add(bpf.TXA{}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 15}, bpf.ALUOpX{Op: bpf.ALUOpXor})
	mul(k[5])
	b.find(keys, &found, &stranger)

	b.place(&found)
	b.add(bpf.LoadScratch{Dst: bpf.RegA, N: 0}, bpf.RetA{})
	b.place(&stranger)
	b.add(bpf.LoadScratch{Dst: bpf.RegA, N: 0}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: uint32(f.workers)}, bpf.RetA{})
	return b.assemble()
}

// find goes to found if the accumulator is among keys, and to lost if not: by
// halves, and in the end one by one.
func (b *assembler) find(keys []uint32, found, lost *label) {
	if len(keys) <= leafFlows {
		for i, k := range keys {
			b.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: k, SkipTrue: uint8(len(keys) - i)})
		}
		b.jump(lost)
		b.jump(found)
		return
	}
	var high label
	half := len(keys) / 2
	b.add(bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: keys[half], SkipFalse: 1})
	b.jump(&high)
	b.find(keys[:half], found, lost)
	b.place(&high)
	b.find(keys[half:], found, lost)
}
