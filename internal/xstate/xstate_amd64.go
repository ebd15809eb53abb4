// SPDX-License-Identifier: Apache-2.0

// Package xstate looks at vector registers as they are at the call, for tests
// of assembly: has it left keys in them, and their upper halves clean? It is a
// package because Go assembles no _test.s files.
package xstate

// Bits of InUse: Intel SDM, volume 1, section 13.1.
const (
	UpperYMM = 1 << 2 // bits 128 to 255 of YMM0 to YMM15
	UpperZMM = 1 << 6 // bits 256 to 511 of ZMM0 to ZMM15
)

// InUse returns the state components that are not in their initial state:
// XGETBV with ECX = 1. The CPU must have that (cpuid.XGETBV1).
func InUse() uint64

// Fill sets both halves of YMM0 to YMM15 to b. It needs AVX.
//
//go:noescape
func Fill(b *[16]byte)

// Registers stores YMM0 to YMM15. It needs AVX.
//
//go:noescape
func Registers(to *[16][32]byte)

// FillWide is Fill for the four quarters of ZMM0 to ZMM31. It needs AVX-512F.
//
//go:noescape
func FillWide(b *[16]byte)

// RegistersWide stores ZMM0 to ZMM31. It needs AVX-512F.
//
//go:noescape
func RegistersWide(to *[32][64]byte)
