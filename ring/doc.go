// SPDX-License-Identifier: Apache-2.0

// Package ring holds the two rings that ntap shares with the kernel.
//
// A Ring is a TPACKET_V3 ring: the kernel writes the frames of one interface
// into blocks of memory and lends them one at a time. Take borrows a Block,
// Next reads its frames where they lie, Release hands the memory back:
//
//	for {
//		b, err := r.Take(100 * time.Millisecond)
//		if err != nil { … } // ErrDown, ErrGone, or the end
//		if b == nil { continue } // idle
//		for f, ok := b.Next(); ok; f, ok = b.Next() { … } // f.Data is good until Release
//		b.Release()
//	}
//
// The counts are the kernel's, and they add up: once a quiesced ring is empty,
// the frames of all its blocks are exactly Packets - Drops.
//
// A Uring is an io_uring, by which many frames are written in one system call.
package ring
