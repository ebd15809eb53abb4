// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/ed25519"
	"fmt"
	"maps"
)

// noPath marks a KeyFile without keys but for those of SetTaps. No file has it.
const noPath = "\x00"

// NoKeys returns a KeyFile that holds no keys but those that SetTaps gives it.
func NoKeys() *KeyFile { return &KeyFile{from: "the keys of single taps", path: noPath} }

// SetTaps gives taps keys of their own, each from the key file of that tap, in
// place of what k has for them; and takes back those that it gave before. The
// files are k's from then on; Reload reads them again, too.
func (k *KeyFile) SetTaps(files []*KeyFile) error {
	own := make(map[uint32]*KeyFile, len(files))
	for _, f := range files {
		tap, ok := f.Tap()
		if !ok {
			return fmt.Errorf("crypto: %s is %s; want the key file of one tap, as ntap key tap makes it", f.from, f.kind())
		}
		if own[tap] != nil {
			return fmt.Errorf("crypto: %s: there is another key file of tap %d", f.from, tap)
		}
		own[tap] = f
	}
	k.mu.Lock()
	before := k.own
	k.own = own
	k.mu.Unlock()
	for _, f := range before {
		f.Wipe()
	}
	return nil
}

// Has says whether there are keys of a tap, whichever and good or not.
func (k *KeyFile) Has(tap uint32) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.own[tap] != nil || k.path != noPath && (!k.isTap || k.tap == tap)
}

// NewAllowList returns a list with nothing on it but what SetTaps puts there.
func NewAllowList() *AllowList {
	return &AllowList{from: "the public keys of single taps", taps: make(map[uint32][]remoteKey)}
}

// ParsePublicKey reads the public key of a remote, as ntap key identity prints
// it: base64.
func ParsePublicKey(text string) (ed25519.PublicKey, error) {
	var raw [ed25519.PublicKeySize + 3]byte
	if err := decodeKey(raw[:], []byte(text), ed25519.PublicKeySize); err != nil {
		return nil, err
	}
	return ed25519.PublicKey(raw[:ed25519.PublicKeySize]), nil
}

// SetTaps puts taps on the list, each with the one public key that may speak for
// it, in place of what the file has for them; and takes back those that it put
// there before.
func (a *AllowList) SetTaps(keys map[uint32]ed25519.PublicKey) {
	own := make(map[uint32][]remoteKey, len(keys))
	for tap, key := range maps.All(keys) {
		own[tap] = []remoteKey{{key: key}}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.own = own
}

// of returns the keys of a tap. The lock is held.
func (a *AllowList) of(tap uint32) []remoteKey {
	if own := a.own[tap]; own != nil {
		return own
	}
	return a.taps[tap]
}
