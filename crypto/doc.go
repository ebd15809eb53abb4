// SPDX-License-Identifier: Apache-2.0

// Package crypto seals and opens datagrams: cipher suites, keys and the files
// they live in, the key schedule with its epochs, and the replay window.
// docs/KEYS.md is the normative text.
//
// The package never learns what a datagram's header looks like: it is handed
// bytes, how many of them are the header, and a counter.
package crypto
