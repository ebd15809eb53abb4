// SPDX-License-Identifier: Apache-2.0

package crypto

// An Opener opens the datagrams of one stream, each once. It belongs to the
// goroutine that opens with it.
//
// It takes 704 bytes of memory, 520 of them the replay window, and once it has
// opened something 768 for the expanded key of AES-256-GCM, or 32 for that of
// ChaCha20-Poly1305: 1,000 taps with 3 streams each, 4.5 MB. A second key is
// there only around a change of epoch.
type Opener struct {
	window window
	floor  uint64 // counters below are refused: Skip
	epoch  uint64 // that secret and cur are of; prev is of the one before, next of the one after
	secret [KeyLen]byte
	cur    epochKey // made when first needed, as are the others
	prev   epochKey // until the window has left its epoch
	next   epochKey // once a datagram claimed to be of its epoch
	nonce  [nonceLen]byte
	suite  Suite
	wiped  bool
}

// NewOpener returns the Opener of stream s under the key of the tap.
func NewOpener(tap *Key, s Stream) (*Opener, error) {
	o := &Opener{suite: s.Suite}
	if err := s.secret(&o.secret, tap); err != nil {
		return nil, err
	}
	return o, nil
}

// Open verifies and decrypts the datagram d in place and returns its
// plaintext, which aliases d. d[:header] is authenticated; counter is what the
// header says; maxEpoch is the highest epoch that the stream can have reached
// by now.
//
// The errors are ErrEpoch, ErrOld, ErrReplay and ErrForged themselves, in the
// order of the checks. After ErrForged the bytes behind the header are
// undefined. A datagram that is refused changes neither the window nor what
// later ones are opened with. It allocates nothing, but where the epoch is a
// new one: further ahead than the next, each attempt costs a derivation per
// epoch skipped, so keep maxEpoch tight.
func (o *Opener) Open(d []byte, header int, counter, maxEpoch uint64) ([]byte, error) {
	if len(d) < header+TagLen || o.wiped {
		return nil, ErrForged
	}
	epoch := counter >> EpochBits
	if epoch > maxEpoch {
		return nil, ErrEpoch
	}
	if counter < o.floor {
		return nil, ErrOld
	}
	if err := o.window.check(counter); err != nil {
		return nil, err
	}
	if epoch > o.epoch {
		return o.openAhead(d, header, counter)
	}
	k := &o.cur
	if epoch < o.epoch {
		k = &o.prev // the window is far shorter than an epoch
		if k.aead == nil {
			return nil, ErrOld // cannot be: keep keeps it as long as the window needs it
		}
	} else if k.aead == nil {
		*k = newEpochKey(o.suite, &o.secret)
	}
	plaintext, err := o.open(k, d, header, counter)
	if err != nil {
		return nil, ErrForged
	}
	o.window.accept(counter)
	o.keep()
	return plaintext, nil
}

func (o *Opener) open(k *epochKey, d []byte, header int, counter uint64) ([]byte, error) {
	k.nonce(&o.nonce, counter)
	return k.aead.Open(d[header:header], o.nonce[:], d[header:], d[:header:header])
}

// openAhead opens a datagram of a later epoch. Only if it verifies does the
// Opener move on to that epoch.
func (o *Opener) openAhead(d []byte, header int, counter uint64) ([]byte, error) {
	epoch := counter >> EpochBits
	before := o.secret // of epoch-1
	defer func() { clear(before[:]) }()
	for range epoch - 1 - o.epoch {
		ratchet(&before)
	}
	var jump epochKey
	k := &jump
	if epoch == o.epoch+1 {
		k = &o.next
	}
	if k.aead == nil {
		var after [KeyLen]byte
		expand(&after, &before, labelNext)
		*k = newEpochKey(o.suite, &after)
		clear(after[:])
	}
	plaintext, err := o.open(k, d, header, counter)
	if err != nil {
		jump.wipe()
		return nil, ErrForged
	}

	// It verified. Datagrams of the epoch before may still be under way.
	o.prev.wipe()
	if epoch == o.epoch+1 && o.cur.aead != nil {
		o.prev, o.cur = o.cur, epochKey{}
	} else {
		o.prev = newEpochKey(o.suite, &before)
	}
	o.cur.wipe()
	o.cur, *k = *k, epochKey{}
	o.next.wipe()
	o.epoch = epoch
	expand(&o.secret, &before, labelNext)
	o.window.accept(counter)
	o.keep()
	return plaintext, nil
}

// keep erases the previous epoch's key once no datagram of it can be accepted
// any more.
func (o *Opener) keep() {
	if o.prev.aead == nil {
		return
	}
	start := o.epoch << EpochBits
	if o.floor >= start || o.window.next >= start+windowSize {
		o.prev.wipe()
	}
}

// Skip refuses every counter below counter from now on: after a restart, those
// that an earlier run may have accepted.
func (o *Opener) Skip(counter uint64) {
	o.floor = max(o.floor, counter)
	o.keep()
}

// Epoch returns the epoch that the Opener has come to.
func (o *Opener) Epoch() uint64 { return o.epoch }

// Reach goes on to a later epoch, which the caller knows the stream to have
// come to, from something that verified. What is of earlier ones is refused
// from then on. It costs a derivation per epoch, once: claims of that epoch
// are no jump any more.
func (o *Opener) Reach(epoch uint64) {
	if epoch <= o.epoch || o.wiped {
		return
	}
	for range epoch - o.epoch {
		ratchet(&o.secret)
	}
	o.cur.wipe()
	o.prev.wipe()
	o.next.wipe()
	o.epoch = epoch
}

// Next returns the highest counter accepted + 1, or 0 if none was.
func (o *Opener) Next() uint64 { return o.window.next }

// Wipe erases the keys. Open then refuses everything with ErrForged.
func (o *Opener) Wipe() {
	o.cur.wipe()
	o.prev.wipe()
	o.next.wipe()
	*o = Opener{wiped: true, window: o.window}
}
