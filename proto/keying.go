// SPDX-License-Identifier: Apache-2.0

package proto

// Sizes of a keying, bytes (WIRE.md, section 8).
const (
	fingerprintLen  = 8
	EncapsulatedLen = 1120 // of MLKEM768-X25519
	signatureLen    = 64   // of Ed25519
	keyingLen       = 2*fingerprintLen + EncapsulatedLen + signatureLen

	// KeyingDatagram is the size of the whole datagram: it fits the smallest
	// MTU of IPv6, 1280, less 48 for the headers.
	KeyingDatagram = HeaderLen + keyingLen
)

// A KeyingMessage is what follows the header in a datagram of kind Keying. It is
// signed, not sealed. The slices alias what was parsed.
type KeyingMessage struct {
	Collector    []byte // fingerprint of its public key
	Remote       []byte // fingerprint of its public key
	Encapsulated []byte // the secret, for the collector
	Signature    []byte // of the remote
}

// Append appends the encoding of k to dst. It panics if a part has another
// length than it must have.
func (k *KeyingMessage) Append(dst []byte) []byte {
	if len(k.Collector) != fingerprintLen || len(k.Remote) != fingerprintLen || len(k.Encapsulated) != EncapsulatedLen || len(k.Signature) != signatureLen {
		panic("proto: a keying with a part of a wrong length")
	}
	dst = append(append(dst, k.Collector...), k.Remote...)
	return append(append(dst, k.Encapsulated...), k.Signature...)
}

// ParseKeying reads what follows the header d in a datagram of kind Keying.
func ParseKeying(d []byte) (k KeyingMessage, err error) {
	if len(d) != keyingLen {
		return KeyingMessage{}, ErrMalformed
	}
	next := func(n int) (part []byte) {
		part, d = d[:n:n], d[n:]
		return part
	}
	return KeyingMessage{next(fingerprintLen), next(fingerprintLen), next(EncapsulatedLen), next(signatureLen)}, nil
}
