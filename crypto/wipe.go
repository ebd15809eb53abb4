// SPDX-License-Identifier: Apache-2.0

package crypto

import "errors"

// Wipe overwrites the key.
func (k *Key) Wipe() { clear(k[:]) }

// Lock keeps the keys of the file from being swapped out, as far as this process
// may: for where Protect could not lock all memory. The error says why not.
func (k *KeyFile) Lock() error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var err error
	for i := range k.keys {
		err = errors.Join(err, lockPages(k.keys[i].key[:]))
	}
	for _, f := range k.own {
		err = errors.Join(err, f.Lock())
	}
	return err
}

// stackBurn is how much of the stack Burn overwrites, bytes: more than what
// handles keys here uses.
const stackBurn = 16 << 10

// Burn overwrites what functions that have returned left on the stack of the
// calling goroutine, copies of keys among it, which Go passes by value. A
// goroutine that handles keys calls it first, so that its stack does not grow
// later and leave the old one behind as it is, and at its end:
//
//	crypto.Burn()
//	defer crypto.Burn()
//
//go:noinline
func Burn() {
	var b [stackBurn]byte
	touch(&b)
}

//go:noinline
func touch(b *[stackBurn]byte) { clear(b[:]) }
