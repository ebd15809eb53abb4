// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package crypto

import "github.com/klauspost/cpuid/v2"

// kernels of this architecture, the best first. Elsewhere than on ARM the
// standard library says nothing of its instructions; there it is generic.
var kernels = []kernel{
	{"armv8", "AES-256-GCM with the AES and PMULL instructions of ARMv8, crypto/cipher", []cpuid.FeatureID{cpuid.AESARM, cpuid.PMULL}, newStandardGCM},
	{"generic", "AES-256-GCM without AES instructions, crypto/cipher", nil, newStandardGCM},
}
