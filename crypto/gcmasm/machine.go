// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// What each vector register is for, in both kernels. The states of AES are in
// 0 to 7, or with vectors of 4 blocks in 0 to 3.
const (
	rKey   = 8  // a round key; AVX-512 keeps them all in 16 to 30
	rData  = 9  // a vector that GHASH takes
	rTemp  = 10 // of GHASH
	rLow   = 11 // sums of products: low,
	rMid   = 12 // middle
	rHigh  = 13 // and high halves; in between, the hash so far
	rCount = 14 // counters; in the tail, what covers the tag
	rSwap  = 15 // mask that reverses the bytes of a block
	rTemp2 = 7  // these are AVX-512's only
	rTemp3 = 6
	rLast  = 5
	rKeys  = 16
	rPoly  = 31
)

// Layout of gcmKey (crypto/gcm_amd64.go), bytes: 15 round keys, the powers of
// H from H^17 down to H^1, 3 blocks of zeros, and the XOR of the two halves of
// each power, in the same order. H^16 and its XOR are at multiples of 64.
const (
	rounds    = 14
	block     = 16
	batch     = 16 // blocks that the main loop takes at a time
	batchSize = batch * block
	maxPower  = batch + 1
	powersAt  = (rounds + 1) * block
	xorsAt    = powersAt + (maxPower+3)*block
)

// General registers.
var (
	pKey  = RAX // *gcmKey
	pDst  = RDI
	pSrc  = RSI
	nLeft = RCX // bytes of the message to go
	nText = R12 // bits of the whole message
	nData = R13 // bits of the associated data
	gA    = RBX // scratch
	gB    = RDX
	gC    = R8
)

// A generator is what both kernels share.
type generator struct {
	*build.Context
	swap, count, step, shift, keep, poly, twist, ones, one Mem
}

// A machine is one kernel.
type machine struct {
	*generator
	name   string
	wide   bool // AVX-512
	lanes  int  // blocks in a vector
	size   int  // bytes of a vector
	states int  // vectors in a batch
	labels int
	buffer Mem // 64 bytes on the stack
	first  Mem // the counter block of the tag, on the stack
}

func (g *generator) avx2() *machine {
	return &machine{generator: g, name: "AVX2", lanes: 2, size: 32, states: 8}
}

func (g *generator) avx512() *machine {
	return &machine{generator: g, name: "AVX512", wide: true, lanes: 4, size: 64, states: 4}
}

var vectors = []VecPhysical{
	Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
	Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
}

// v returns vector register n as wide as the machine, y as 2 blocks, x as one.
func (m *machine) v(n int) Register {
	if m.wide {
		return vectors[n].AsZ()
	}
	return y(n)
}

func y(n int) Register { return vectors[n].AsY() }
func x(n int) Register { return vectors[n].AsX() }

// at returns the memory offset bytes behind base.
func at(base Register, offset int) Mem { return Mem{Base: base, Disp: offset} }

// behind returns the memory offset bytes behind base plus index.
func behind(base, index Register, offset int) Mem {
	return Mem{Base: base, Index: index, Scale: 1, Disp: offset}
}

// power returns the powers of H from H^e downward, xors the XORs of their
// halves.
func power(e int) Mem { return at(pKey, powersAt+block*(maxPower-e)) }
func xors(e int) Mem  { return at(pKey, xorsAt+block*(maxPower-e)) }

func (m *machine) newLabel(what string) string {
	m.labels++
	return fmt.Sprintf("%s%d", what, m.labels)
}

func to(label string) LabelRef { return LabelRef(label) }

// move copies a whole vector.
func (m *machine) move(from, into Op) {
	if m.wide {
		m.VMOVDQU64(from, into)
	} else {
		m.VMOVDQU(from, into)
	}
}

// vxor is XOR of whole vectors.
func (m *machine) vxor(a, b, into Op) {
	if m.wide {
		m.VPXORQ(a, b, into)
	} else {
		m.VPXOR(a, b, into)
	}
}

// broadcast copies the block at from to all blocks of a vector.
func (m *machine) broadcast(from Mem, into Op) {
	if m.wide {
		m.VBROADCASTI32X4(from, into)
	} else {
		m.VBROADCASTI128(from, into)
	}
}

// constants writes the tables.
func (g *generator) constants() {
	table := func(name string, words ...uint64) Mem {
		mem := g.StaticGlobal("gcm" + name)
		g.DataAttributes(attr.RODATA | attr.NOPTR)
		for i, w := range words {
			g.AddDatum(8*i, U64(w))
		}
		return mem
	}
	const all = 1<<64 - 1
	g.swap = table("Swap", 0x08090a0b0c0d0e0f, 0x0001020304050607)
	// What the counters of a batch are XORed with: 2 … 15, 0, 1 in the last byte.
	var counts []uint64
	for c := range uint64(batch) {
		counts = append(counts, 0, (c+2)%batch<<56)
	}
	g.count = table("Count", counts...)
	g.step = table("Step", batch, 0, batch, 0, batch, 0, batch, 0)
	// From byte s on: VPSHUFB moves a block s bytes down, and fills with zeros.
	g.shift = table("Shift", 0x0706050403020100, 0x0f0e0d0c0b0a0908, 0x8080808080808080, 0x8080808080808080)
	// From byte s on: a mask of the first 16-s bytes.
	g.keep = table("Keep", all, all, 0, 0)
	// x^121 + x^126 + x^127 over x^64, in the low half of each block.
	const p = 0xc200000000000000
	g.poly = table("Poly", p, 0, p, 0, p, 0, p, 0)
	g.twist = table("Twist", 1, p)
	g.ones = table("Ones", all, all)
	g.one = table("One", 1, 0)
}

// roundKey returns a register with round key r in all blocks. With AVX2 it is
// good until the next call.
func (m *machine) roundKey(r int) Register {
	if m.wide {
		return m.v(rKeys + r)
	}
	m.broadcast(at(pKey, block*r), m.v(rKey))
	return m.v(rKey)
}

// mul adds the product of the blocks in register d, which is overwritten, and
// as many powers of H from H^e downward to the sums; or makes it the sums, if
// it is the first. width is that of the registers.
//
// With 2 blocks it is Karatsuba's: 3 multiplications, which are the bottleneck
// on AMD's Zen 3 (one each 2 cycles). With 4 it is the school's: there the
// shuffle would compete with the multiplications for the same port on Intel.
func (m *machine) mul(d, e int, first bool) { m.product(m.v, d, e, first) }

// product is mul of registers as wide as those of v.
func (m *machine) product(v func(int) Register, d, e int, first bool) {
	for _, step := range m.steps(v, d, e, first) {
		step()
	}
}

// steps is product in parts, to be put between other instructions.
func (m *machine) steps(v func(int) Register, d, e int, first bool) []func() {
	h, t, u := power(e), v(rTemp), v(rTemp2)
	switch {
	case m.wide && first:
		return []func(){func() {
			m.VMOVDQU64(h, t)
			m.VPCLMULQDQ(U8(0x00), t, v(d), v(rLow))
			m.VPCLMULQDQ(U8(0x01), t, v(d), v(rMid))
			m.VPCLMULQDQ(U8(0x10), t, v(d), u)
			m.VPXORQ(u, v(rMid), v(rMid))
			m.VPCLMULQDQ(U8(0x11), t, v(d), v(rHigh))
		}}
	case m.wide:
		return []func(){func() {
			m.VMOVDQU64(h, t)
			m.VPCLMULQDQ(U8(0x01), t, v(d), u)
			m.VPCLMULQDQ(U8(0x10), t, v(d), v(rTemp3))
			m.VPTERNLOGQ(U8(0x96), u, v(rTemp3), v(rMid))
			m.VPCLMULQDQ(U8(0x00), t, v(d), u)
			m.VPXORQ(u, v(rLow), v(rLow))
			m.VPCLMULQDQ(U8(0x11), t, v(d), v(d))
			m.VPXORQ(v(d), v(rHigh), v(rHigh))
		}}
	case first:
		return []func(){func() {
			m.VPSHUFD(U8(0x4e), v(d), t)
			m.VPXOR(v(d), t, t)
			m.VPCLMULQDQ(U8(0x00), xors(e), t, v(rMid))
		}, func() {
			m.VPCLMULQDQ(U8(0x00), h, v(d), v(rLow))
		}, func() {
			m.VPCLMULQDQ(U8(0x11), h, v(d), v(rHigh))
		}}
	}
	return []func(){func() {
		m.VPSHUFD(U8(0x4e), v(d), t)
		m.VPXOR(v(d), t, t)
		m.VPCLMULQDQ(U8(0x00), xors(e), t, t)
		m.VPXOR(t, v(rMid), v(rMid))
	}, func() {
		m.VPCLMULQDQ(U8(0x00), h, v(d), t)
		m.VPXOR(t, v(rLow), v(rLow))
	}, func() {
		m.VPCLMULQDQ(U8(0x11), h, v(d), v(d))
		m.VPXOR(v(d), v(rHigh), v(rHigh))
	}}
}

// reduce makes the hash so far of the sums, which are of as many blocks as the
// registers of v hold: one block, the rest of the register is zero. Two steps
// of Montgomery's reduction, 64 bits each (S. Gueron, M. Kounavis: Intel
// Carry-Less Multiplication Instruction and its Usage for Computing the GCM
// Mode, 2014, has the bit-reflected form).
func (m *machine) reduce(v func(int) Register) {
	low, mid, high, t := v(rLow), v(rMid), v(rHigh), v(rTemp)
	if m.wide {
		m.VPCLMULQDQ(U8(0x00), v(rPoly), low, t)
		m.VPSHUFD(U8(0x4e), low, low)
		m.VPTERNLOGQ(U8(0x96), t, low, mid)
		m.VPCLMULQDQ(U8(0x00), v(rPoly), mid, t)
		m.VPSHUFD(U8(0x4e), mid, mid)
		m.VPTERNLOGQ(U8(0x96), t, mid, high)
	} else {
		m.VPXOR(low, mid, mid)
		m.VPXOR(high, mid, mid)
		m.VPCLMULQDQ(U8(0x00), m.poly, low, t)
		m.VPSHUFD(U8(0x4e), low, low)
		m.VPXOR(low, mid, mid)
		m.VPXOR(t, mid, mid)
		m.VPCLMULQDQ(U8(0x00), m.poly, mid, t)
		m.VPSHUFD(U8(0x4e), mid, mid)
		m.VPXOR(mid, high, high)
		m.VPXOR(t, high, high)
	}
	switch v(rHigh) {
	case vectors[rHigh].AsZ():
		m.VEXTRACTI64X4(U8(1), vectors[rHigh].AsZ(), y(rTemp))
		m.VPXOR(y(rTemp), y(rHigh), y(rHigh))
		fallthrough
	case y(rHigh):
		m.VEXTRACTI128(U8(1), y(rHigh), x(rTemp))
		m.VPXOR(x(rTemp), x(rHigh), x(rHigh))
	}
}

// reverse reverses the bytes of each block.
func (m *machine) reverse(from Op, into Register) { m.VPSHUFB(m.v(rSwap), from, into) }
