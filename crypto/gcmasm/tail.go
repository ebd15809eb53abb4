// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// tails writes what ends a message: nLeft is 0 to 256 bytes, and there is a
// text for each number of blocks, so that lanes and powers of H are constants.
func (m *machine) tails(seal bool) {
	m.LEAQ(at(nLeft, block-1), gA)
	m.SHRQ(U8(4), gA) // blocks
	m.choose(0, batch)
	for k := range batch + 1 {
		m.Label(tailLabel(k))
		m.tail(k, seal)
	}
}

func tailLabel(blocks int) string { return fmt.Sprintf("blocks%d", blocks) }

// choose jumps to the tail of gA blocks, one of low to high.
func (m *machine) choose(low, high int) {
	if low == high {
		m.JMP(to(tailLabel(low)))
		return
	}
	half := (low + high + 1) / 2
	label := m.newLabel("from")
	m.CMPQ(gA, Imm(uint64(half)))
	m.JGE(to(label))
	m.choose(low, half-1)
	m.Label(label)
	m.choose(half, high)
}

// A tail of k blocks is in n vectors; spare is the lane of the last one behind
// the last block, or 0 if that one is full.
//
// The product takes k+1 blocks, the last of which is the length: so the first
// block meets H^(k+1).
func (m *machine) tail(k int, seal bool) {
	n := (k + m.lanes - 1) / m.lanes
	spare := k % m.lanes

	if m.wide && n > 0 {
		m.lastMask(n)
	}
	// Counters. The one of the tag is in the spare lane, or in a register of
	// its own.
	m.counters(n)
	states := make([]Register, 0, n)
	for i := range n {
		states = append(states, m.v(i))
	}
	if spare > 0 {
		m.insert(n-1, spare)
	} else {
		m.VMOVDQU(m.first, x(rCount))
		m.VPXOR(at(pKey, 0), x(rCount), x(rCount))
	}

	// Rounds; opening, the hash between them.
	var between []func()
	if !seal {
		between = m.hashTail(k, n, spare, func(i int) {
			if i < n-1 {
				m.move(at(pSrc, i*m.size), m.v(rData))
			} else {
				m.loadLast(k, n, rData)
			}
			m.reverse(m.v(rData), m.v(rData))
		}, func(int) int { return rData })
	}
	done, all := 0, (rounds-1)*(n+1)
	for r := 1; r < rounds; r++ {
		key := m.roundKey(r)
		for i := range n + 1 {
			if i < n {
				m.VAESENC(key, states[i], states[i])
			} else if spare == 0 {
				m.VAESENC(at(pKey, block*r), x(rCount), x(rCount))
			}
			for at := (r-1)*(n+1) + i + 1; done < at*len(between)/all; done++ {
				between[done]()
			}
		}
	}
	if n > 0 {
		m.loadLast(k, n, rData)
	}
	key := m.roundKey(rounds)
	if n > 0 {
		m.vxor(m.v(rData), key, m.v(rData))
		m.VAESENCLAST(m.v(rData), states[n-1], states[n-1])
	}
	for i := range n - 1 {
		m.vxor(at(pSrc, i*m.size), key, m.v(rTemp))
		m.VAESENCLAST(m.v(rTemp), states[i], states[i])
	}
	if spare == 0 {
		m.VAESENCLAST(at(pKey, block*rounds), x(rCount), x(rCount))
	} else {
		m.extract(n-1, spare)
	}
	for i := range n - 1 {
		m.move(states[i], at(pDst, i*m.size))
	}
	if n > 0 {
		m.storeLast(k, n)
	}
	if seal {
		for _, f := range m.hashTail(k, n, spare, func(i int) { m.reverse(m.v(i), m.v(i)) }, func(i int) int { return i }) {
			f()
		}
	}
	m.JMP(to("hashed"))
}

// hashTail returns the steps that hash the blocks of the tail and the length.
// vector puts vector i of the ciphertext, reversed, into register in(i), which
// may be overwritten; behind the last byte it is zero.
func (m *machine) hashTail(k, n, spare int, vector func(i int), in func(i int) int) (steps []func()) {
	for i := range n {
		d := in(i)
		steps = append(steps, func() {
			vector(i)
			if i == n-1 && spare > 0 {
				m.addLength(d, spare)
			}
			if i == 0 {
				m.vxor(m.v(rHigh), m.v(d), m.v(d))
			}
		})
		steps = append(steps, m.steps(m.v, d, k+1-i*m.lanes, i == 0)...)
	}
	if spare == 0 {
		steps = append(steps, func() {
			m.length(rData)
			if n == 0 {
				m.vxor(m.v(rHigh), m.v(rData), m.v(rData))
			}
			m.mul(rData, 1, n == 0)
		})
	}
	return append(steps, func() { m.reduce(m.v) })
}

// length makes register r the block of the lengths, reversed, in bits.
func (m *machine) length(r int) {
	m.VMOVQ(nText, x(r))
	m.VPINSRQ(U8(1), nData, x(r), x(r))
}

// addLength puts the lengths into the spare lane of register d.
func (m *machine) addLength(d, spare int) {
	m.length(rTemp)
	if m.wide {
		m.VINSERTI32X4(U8(uint8(spare)), x(rTemp), m.v(d), m.v(d))
	} else {
		m.VINSERTI128(U8(1), x(rTemp), y(d), y(d))
	}
}

// insert makes lane spare of register r the first state of the tag's block.
func (m *machine) insert(r, spare int) {
	if m.wide {
		m.MOVL(U32(0x3<<(2*spare)), gB.As32())
		m.KMOVW(gB.As32(), K2)
		m.broadcast(m.first, m.v(rTemp))
		m.VPXORQ(m.v(rKeys), m.v(rTemp), K2, m.v(r))
	} else {
		m.VBROADCASTI128(m.first, y(rTemp))
		m.VPXOR(y(rKey), y(rTemp), y(rTemp))
		m.VPBLENDD(U8(0xf0), y(rTemp), y(r), y(r))
	}
}

// extract copies lane spare of register r to rCount.
func (m *machine) extract(r, spare int) {
	if m.wide {
		m.VEXTRACTI32X4(U8(uint8(spare)), m.v(r), x(rCount))
	} else {
		m.VEXTRACTI128(U8(1), y(r), x(rCount))
	}
}

// loadLast loads the last of n vectors of k blocks, its 1 to size bytes and
// zeros behind them, and nothing beyond the end of the message.
func (m *machine) loadLast(k, n, into int) {
	offset := (n - 1) * m.size
	if m.wide {
		m.VMOVDQU8_Z(at(pSrc, offset), K1, m.v(into))
		return
	}
	if k == 1 {
		m.copyIn(pSrc, nLeft)
		m.VMOVDQU(m.buffer, x(into))
		return
	}
	last := into
	if k%2 == 0 {
		last = rTemp
	}
	m.missing(k)
	m.LEAQ(m.shift, gB)
	m.VMOVDQU(behind(pSrc, nLeft, -block), x(last))
	m.VPSHUFB(behind(gB, gA, 0), x(last), x(last))
	if k%2 == 0 {
		m.VMOVDQU(at(pSrc, offset), x(into))
		m.VINSERTI128(U8(1), x(last), y(into), y(into))
	}
}

// missing makes gA what the last of k blocks lacks, 0 to 15 bytes.
func (m *machine) missing(k int) {
	m.MOVQ(I32(int32(k*block)), gA)
	m.SUBQ(nLeft, gA)
}

// storeLast stores what loadLast loaded, from state n-1, where it clears what
// is behind the message.
func (m *machine) storeLast(k, n int) {
	s, offset := n-1, (n-1)*m.size
	if m.wide {
		m.VMOVDQU8(m.v(s), K1, at(pDst, offset))
		m.VMOVDQU8_Z(m.v(s), K1, m.v(s))
		return
	}
	switch {
	case k == 1:
		m.VMOVDQU(x(s), m.buffer)
		m.copyOut(pDst, nLeft)
	case k%2 == 1: // the bytes before are those of the vector before
		m.VMOVDQU(y(s-1), m.buffer)
		m.VMOVDQU(x(s), m.buffer.Offset(32))
		m.VMOVDQU(m.buffer.Offset(16-offset).Idx(nLeft, 1), x(rTemp))
		m.VMOVDQU(x(rTemp), behind(pDst, nLeft, -block))
	default:
		m.VMOVDQU(y(s), m.buffer)
		m.VMOVDQU(x(s), at(pDst, offset))
		m.VMOVDQU(m.buffer.Offset(-block-offset).Idx(nLeft, 1), x(rTemp))
		m.VMOVDQU(x(rTemp), behind(pDst, nLeft, -block))
	}
	m.missing(k)
	m.LEAQ(m.keep, gB)
	if k%2 == 1 {
		m.VPAND(behind(gB, gA, 0), x(s), x(s))
		return
	}
	m.VMOVDQU(m.ones, x(rTemp))
	m.VINSERTI128(U8(1), behind(gB, gA, 0), y(rTemp), y(rTemp))
	m.VPAND(y(rTemp), y(s), y(s))
}

// lastMask makes K1 the mask of the bytes of the last of n vectors.
func (m *machine) lastMask(n int) {
	m.MOVQ(I32(int32(n*m.size)), gA)
	m.SUBQ(nLeft, gA)
	m.MOVQ(I32(-1), gB)
	m.SHRXQ(gA, gB, gB)
	m.KMOVQ(gB, K1)
}

// copyIn copies the count bytes at p, 1 to 16, to the buffer, with zeros
// behind them.
func (m *machine) copyIn(p, count Register) {
	m.VPXOR(x(rTemp), x(rTemp), x(rTemp))
	m.VMOVDQU(x(rTemp), m.buffer)
	m.copy(count, func(size int, move func(from, into Op), r Register) {
		m.bothEnds(size, move, r, count, at(p, 0), m.buffer)
	})
}

// copyOut copies count bytes, 1 to 16, from the buffer to p.
func (m *machine) copyOut(p, count Register) {
	m.copy(count, func(size int, move func(from, into Op), r Register) {
		m.bothEnds(size, move, r, count, m.buffer, at(p, 0))
	})
}

// bothEnds copies size bytes from both ends of the count bytes at from.
func (m *machine) bothEnds(size int, move func(from, into Op), r, count Register, from, into Mem) {
	move(from, r)
	move(r, into)
	move(from.Offset(-size).Idx(count, 1), r)
	move(r, into.Offset(-size).Idx(count, 1))
}

// copy writes the branches by the largest power of two that is not above
// count.
func (m *machine) copy(count Register, ends func(size int, move func(from, into Op), r Register)) {
	done := m.newLabel("copied")
	for _, c := range []struct {
		size int
		move func(from, into Op)
		r    Register
	}{{8, m.MOVQ, gC}, {4, m.MOVL, gC.As32()}, {2, m.MOVW, gC.As16()}} {
		next := m.newLabel("shorter")
		m.CMPQ(count, Imm(uint64(c.size)))
		m.JLT(to(next))
		ends(c.size, c.move, c.r)
		m.JMP(to(done))
		m.Label(next)
	}
	ends(1, m.MOVB, gC.As8())
	m.Label(done)
}
