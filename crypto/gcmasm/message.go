// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const noSplit = attr.NOSPLIT

// function writes the function that seals a message, or opens one. Its text is
//
//	associated data ─▶ hash
//	batch of 16 blocks: counters ─▶ 14 rounds ─▶ XOR ─▶ store     as long as more than 16 blocks are to go;
//	                    hash of the ciphertext between the rounds   sealing, that of the batch before
//	tail of 0 to 16 blocks, written out for each number of blocks
//	length ─▶ hash ─▶ tag
//
// The tail has the block that covers the tag in a spare lane of its last
// vector, and hashes the length in the same one.
func (m *machine) function(seal bool) {
	if seal {
		m.Function("gcmSeal" + m.name)
		m.SignatureExpr("func(k *gcmKey, dst, src *byte, n int, nonce *[12]byte, ad *byte, adLen int, tag *[16]byte)")
		m.Doc("gcmSeal" + m.name + " encrypts n bytes from src to dst, the same or none of its bytes, and writes the tag.")
	} else {
		m.Function("gcmOpen" + m.name)
		m.SignatureExpr("func(k *gcmKey, dst, src *byte, n int, nonce *[12]byte, ad *byte, adLen int, tag *[16]byte) (ok bool)")
		m.Doc("gcmOpen"+m.name+" decrypts n bytes from src to dst, the same or none of its bytes, and says whether the tag is right.",
			"If it is not, dst must be cleared before anybody sees it.")
	}
	m.Attributes(noSplit)
	m.Pragma("noescape")
	m.buffer = m.AllocLocal(80)
	m.first = m.buffer.Offset(64)
	m.Load(m.Param("k"), pKey)
	m.Load(m.Param("dst"), pDst)
	m.Load(m.Param("src"), pSrc)
	m.Load(m.Param("n"), nLeft)
	m.prepare()
	m.associated()
	if seal {
		m.sealBatches()
	} else {
		m.openBatches()
	}
	m.tails(seal)

	m.Label("hashed")
	m.VPSHUFB(x(rSwap), x(rHigh), x(rHigh))
	m.VPXOR(x(rCount), x(rHigh), x(rHigh))
	m.Load(m.Param("tag"), gA)
	if seal {
		m.VMOVDQU(x(rHigh), at(gA, 0))
		m.clear()
		m.RET()
		return
	}
	m.VPXOR(at(gA, 0), x(rHigh), x(rHigh))
	m.VPTEST(x(rHigh), x(rHigh))
	m.SETEQ(gB.As8())
	m.Store(gB.As8(), m.Return("ok"))
	m.clear()
	m.VMOVDQU(x(0), m.buffer) // plaintext was in it
	m.VMOVDQU(x(0), m.buffer.Offset(16))
	m.RET()
}

// prepare loads what stays in registers, and makes the counters: the block
// with counter 0, reversed, so that the counter is a little-endian number in
// the lowest word. The one of the tag, with counter 1, goes to the stack.
func (m *machine) prepare() {
	m.Load(m.Param("nonce"), gA)
	m.broadcast(m.swap, m.v(rSwap))
	m.MOVQ(at(gA, 0), gB)
	m.MOVL(at(gA, 8), gC.As32())
	m.BSWAPQ(gB)
	m.BSWAPL(gC.As32())
	m.SHLQ(U8(32), gC)
	m.VMOVQ(gC, x(rCount))
	m.VPINSRQ(U8(1), gB, x(rCount), x(rCount))
	m.VPOR(m.one, x(rCount), x(rTemp))
	m.VPSHUFB(x(rSwap), x(rTemp), x(rTemp))
	m.VMOVDQU(x(rTemp), m.first)
	m.VINSERTI128(U8(1), x(rCount), y(rCount), y(rCount))
	if m.wide {
		m.VINSERTI64X4(U8(1), y(rCount), m.v(rCount), m.v(rCount))
		m.move(m.poly, m.v(rPoly))
		for r := range rounds + 1 {
			m.broadcast(at(pKey, block*r), m.v(rKeys+r))
		}
		m.MOVL(U32(0xf0), gB.As32())
		m.KMOVW(gB.As32(), K3)
	}
}

// associated hashes the associated data. That of a datagram, 24 bytes, is one
// vector of 2 blocks; any other length goes block by block.
func (m *machine) associated() {
	m.Load(m.Param("ad"), gA)
	m.Load(m.Param("adLen"), nData)
	m.CMPQ(nData, Imm(24))
	m.JNE(to("anyLength"))
	m.VMOVDQU(at(gA, 0), x(rData))
	m.VMOVQ(at(gA, 16), x(rTemp))
	m.VINSERTI128(U8(1), x(rTemp), y(rData), y(rData))
	m.VPSHUFB(y(rSwap), y(rData), y(rData))
	m.product(y, rData, 2, true)
	m.reduce(y)
	m.JMP(to("data"))

	m.Label("anyLength")
	m.VPXOR(x(rHigh), x(rHigh), x(rHigh))
	m.MOVQ(nData, gB)
	m.Label("whole")
	m.CMPQ(gB, Imm(block))
	m.JLT(to("rest"))
	m.VMOVDQU(at(gA, 0), x(rData))
	m.hashBlock()
	m.ADDQ(Imm(block), gA)
	m.SUBQ(Imm(block), gB)
	m.JMP(to("whole"))
	m.Label("rest")
	m.TESTQ(gB, gB)
	m.JEQ(to("data"))
	m.copyIn(gA, gB)
	m.VMOVDQU(m.buffer, x(rData))
	m.hashBlock()

	m.Label("data")
	m.MOVQ(nLeft, nText)
	m.SHLQ(U8(3), nText)
	m.SHLQ(U8(3), nData)
}

// hashBlock hashes the block in rData.
func (m *machine) hashBlock() {
	m.VPSHUFB(x(rSwap), x(rData), x(rData))
	m.VPXOR(x(rHigh), x(rData), x(rData))
	m.product(x, rData, 1, true)
	m.reduce(x)
}

// sealBatches encrypts all but the last 1 to 16 blocks and hashes them.
func (m *machine) sealBatches() {
	m.CMPQ(nLeft, U32(batchSize))
	m.JLE(to("tail"))
	m.encrypt(nil)
	m.CMPQ(nLeft, U32(batchSize))
	m.JLE(to("last"))
	m.Label("batches")
	m.encrypt(m.hash(pDst, -batchSize))
	m.CMPQ(nLeft, U32(batchSize))
	m.JGT(to("batches"))
	m.Label("last")
	for _, f := range m.hash(pDst, -batchSize) {
		f()
	}
	m.Label("tail")
}

// openBatches hashes all but the last 1 to 16 blocks and decrypts them.
func (m *machine) openBatches() {
	m.CMPQ(nLeft, U32(batchSize))
	m.JLE(to("tail"))
	m.Label("batches")
	m.encrypt(m.hash(pSrc, 0))
	m.CMPQ(nLeft, U32(batchSize))
	m.JGT(to("batches"))
	m.Label("tail")
}

// counters makes the first n states of a batch, XORed with round key 0. The
// first block of a message has counter 2. A batch has those from c+2 to c+17,
// where c is a multiple of 16: they are c XOR 2 … c XOR 15, and then the first
// two of c+16. So one XOR makes a state, where counting takes an addition and a
// shuffle more.
func (m *machine) counters(n int) {
	k := m.roundKey(0)
	m.reverse(m.v(rCount), m.v(rData))
	m.vxor(k, m.v(rData), m.v(rData))
	for i := range min(n, m.states-1) {
		m.vxor(m.count.Offset(i*m.size), m.v(rData), m.v(i))
	}
	if n < m.states {
		return
	}
	last := m.states - 1
	m.VPADDD(m.step, m.v(rCount), m.v(rCount))
	m.reverse(m.v(rCount), m.v(rTemp))
	m.vxor(k, m.v(rTemp), m.v(rTemp))
	if m.wide { // its first two blocks are of c, the last two of c+16
		m.VMOVDQA64(m.v(rTemp), K3, m.v(rData))
		m.vxor(m.count.Offset(last*m.size), m.v(rData), m.v(last))
	} else {
		m.vxor(m.count.Offset(last*m.size), m.v(rTemp), m.v(last))
	}
}

// encrypt encrypts a batch; between the rounds it does what else is to be done.
func (m *machine) encrypt(between []func()) {
	m.counters(m.states)
	// A step behind every third instruction or so: Zen 3 is 3 % slower with all
	// those of a vector in one place.
	done, all := 0, (rounds-1)*m.states
	for r := 1; r < rounds; r++ {
		k := m.roundKey(r)
		for i := range m.states {
			m.VAESENC(k, m.v(i), m.v(i))
			for at := (r-1)*m.states + i + 1; done < at*len(between)/all; done++ {
				between[done]()
			}
		}
	}
	// The text is XORed to the last round key: one step less to wait for.
	k := m.roundKey(rounds)
	for i := range m.states {
		m.vxor(at(pSrc, i*m.size), k, m.v(rData))
		m.VAESENCLAST(m.v(rData), m.v(i), m.v(i))
		m.move(m.v(i), at(pDst, i*m.size))
	}
	m.ADDQ(U32(batchSize), pSrc)
	m.ADDQ(U32(batchSize), pDst)
	m.SUBQ(U32(batchSize), nLeft)
}

// hash returns the steps that hash the batch of ciphertext at base.
func (m *machine) hash(base Register, offset int) (steps []func()) {
	for i := range m.states {
		steps = append(steps, func() {
			m.move(at(base, offset+i*m.size), m.v(rData))
			m.reverse(m.v(rData), m.v(rData))
			if i == 0 {
				m.vxor(m.v(rHigh), m.v(rData), m.v(rData))
			}
		})
		steps = append(steps, m.steps(m.v, rData, batch-i*m.lanes, i == 0)...)
	}
	return append(steps, func() { m.reduce(m.v) })
}

// clear clears what held keys and text, and leaves the upper halves clean.
func (m *machine) clear() {
	if m.wide {
		for n := 16; n < 32; n++ {
			m.VPXORQ(x(n), x(n), x(n))
		}
	}
	for n := range 16 {
		m.VPXOR(x(n), x(n), x(n))
	}
	m.VZEROUPPER()
}
