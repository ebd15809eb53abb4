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
