// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// initKey writes the function that makes a gcmKey: round keys (FIPS 197,
// section 5.2, with AESKEYGENASSIST, which takes the same time for all keys)
// and powers of H.
func (g *generator) initKey() {
	m := g.avx2()
	m.Function("gcmInit")
	m.Attributes(noSplit)
	m.SignatureExpr("func(k *gcmKey, key *[32]byte)")
	m.Doc("gcmInit makes round keys and powers of H of key, in the same time for all keys.",
		"It needs AVX, AES and PCLMULQDQ.")
	m.Pragma("noescape")
	m.Load(m.Param("k"), pKey)
	m.Load(m.Param("key"), pSrc)

	m.expand()
	// H is the encryption of zero: the first round key, then the rounds.
	m.VMOVDQU(at(pKey, 0), x(0))
	for r := 1; r < rounds; r++ {
		m.VAESENC(at(pKey, block*r), x(0), x(0))
	}
	m.VAESENCLAST(at(pKey, block*rounds), x(0), x(0))
	m.VMOVDQU(m.swap, x(rSwap))
	m.VPSHUFB(x(rSwap), x(0), x(0))

	// Multiplied by x once and for all, it saves a shift of each product.
	m.VPSHUFD(U8(0xff), x(0), x(1))
	m.VPSRAD(U8(31), x(1), x(1)) // all ones if the bit that falls out is set
	m.VPAND(m.twist, x(1), x(1))
	m.VPSRLQ(U8(63), x(0), x(2))
	m.VPSLLDQ(U8(8), x(2), x(2))
	m.VPSLLQ(U8(1), x(0), x(0))
	m.VPOR(x(2), x(0), x(0))
	m.VPXOR(x(1), x(0), x(0))

	store := func(e int) {
		m.VMOVDQU(x(rHigh), power(e))
		m.VPSHUFD(U8(0x4e), x(rHigh), x(1))
		m.VPXOR(x(rHigh), x(1), x(1))
		m.VMOVDQU(x(1), xors(e))
	}
	m.VMOVDQA(x(0), x(rHigh))
	store(1)
	for e := 2; e <= maxPower; e++ {
		m.VMOVDQA(x(rHigh), x(0))
		m.product(x, 0, 1, true)
		m.reduce(x)
		store(e)
	}
	m.VPXOR(x(0), x(0), x(0))
	for i := 1; i <= 3; i++ { // beyond H^1
		m.VMOVDQU(x(0), at(pKey, powersAt+block*(maxPower-1+i)))
	}
	m.clear()
	m.RET()
}

// expand writes the round keys.
func (m *machine) expand() {
	low, high, t, u := x(0), x(1), x(2), x(3)
	m.VMOVDQU(at(pSrc, 0), low)
	m.VMOVDQU(at(pSrc, 16), high)
	m.VMOVDQU(low, at(pKey, 0))
	m.VMOVDQU(high, at(pKey, 16))
	half := func(from, key Register, round, constant, word int) {
		m.VAESKEYGENASSIST(U8(constant), from, t)
		m.VPSHUFD(U8(word), t, t)
		m.VPSLLDQ(U8(4), key, u) // each word gets the XOR of all before it
		m.VPXOR(u, key, key)
		m.VPSLLDQ(U8(8), key, u)
		m.VPXOR(u, key, key)
		m.VPXOR(t, key, key)
		m.VMOVDQU(key, at(pKey, block*round))
	}
	constant := 1
	for r := 2; r <= rounds; r += 2 {
		half(high, low, r, constant, 0xff)
		constant <<= 1
		if r < rounds {
			half(low, high, r+1, 0, 0xaa)
		}
	}
}
