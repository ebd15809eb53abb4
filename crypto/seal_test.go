// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

const testHeader = 24 // bytes; any number would do

var testKey = Key{1, 2, 3}

var suites = []Suite{Plaintext, AES256GCM, ChaCha20Poly1305}

// secure are the suites that also protect.
var secure = suites[1:]

func newPair(t testing.TB, s Suite) (*Sealer, *Opener) {
	t.Helper()
	stream := Stream{Suite: s, Kind: 1, Shard: 2, Session: 3}
	seal, err := NewSealer(&testKey, stream)
	if err != nil {
		t.Fatal(err)
	}
	open, err := NewOpener(&testKey, stream)
	if err != nil {
		t.Fatal(err)
	}
	return seal, open
}

// sealAt returns a datagram with size bytes of plaintext, all of them those of
// the counter, sealed under it. Counters only go forward.
func sealAt(s *Sealer, counter uint64, size int) []byte {
	for s.next>>EpochBits < counter>>EpochBits { // through each epoch on the way
		s.next = s.next>>EpochBits<<EpochBits + 1<<EpochBits
		if s.next>>EpochBits != s.epoch {
			s.advance()
		}
	}
	s.next = counter
	d := make([]byte, testHeader+size+TagLen)
	for i := range d {
		d[i] = byte(counter) + byte(i)
	}
	s.Seal(d, testHeader)
	return d
}

func openAt(t testing.TB, o *Opener, d []byte, counter uint64) {
	t.Helper()
	got, err := o.Open(bytes.Clone(d), testHeader, counter, counter>>EpochBits)
	if err != nil {
		t.Fatalf("counter %#x: %v", counter, err)
	}
	for i, b := range got {
		if b != byte(counter)+byte(testHeader+i) {
			t.Fatalf("counter %#x: byte %d is %#x", counter, i, b)
		}
	}
	if len(got) != len(d)-testHeader-TagLen {
		t.Fatalf("counter %#x: %d bytes of plaintext", counter, len(got))
	}
}

func refuse(t testing.TB, o *Opener, d []byte, counter uint64, want error) {
	t.Helper()
	if got, err := o.Open(bytes.Clone(d), testHeader, counter, counter>>EpochBits); err != want || got != nil {
		t.Fatalf("counter %#x: %x, %v; want %v", counter, got, err, want)
	}
}

// TestOpenIsInPlace: the plaintext lies where the ciphertext lay, which is not
// longer, and nothing outside the datagram changes.
func TestOpenIsInPlace(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		room := bytes.Repeat([]byte{0xEE}, 300)
		d := room[100:200]
		copy(d, "the header of this one..the records")
		plain := bytes.Clone(d)
		s.Seal(d, testHeader)
		if !bytes.Equal(d[:testHeader], plain[:testHeader]) {
			t.Errorf("%v: Seal changed the header", suite)
		}
		if suite != Plaintext && bytes.Contains(d, []byte("records")) {
			t.Errorf("%v: the plaintext shows", suite)
		}
		got, err := o.Open(d, testHeader, 0, 0)
		if err != nil || !bytes.Equal(got, plain[testHeader:len(plain)-TagLen]) || &got[0] != &d[testHeader] {
			t.Errorf("%v: opened %q, %v", suite, got, err)
		}
		for i, b := range room {
			if b != 0xEE && (i < 100 || i >= 200) {
				t.Fatalf("%v: byte %d outside the datagram changed", suite, i)
			}
		}
	}
}

// TestEverySingleBitCorruptionIsRefused flips each bit of header, ciphertext
// and tag, and of the counter: nothing opens, nothing changes, and the
// datagram as it was still opens afterwards.
func TestEverySingleBitCorruptionIsRefused(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		openAt(t, o, sealAt(s, 5, 10), 5)
		d := sealAt(s, 9, 50)
		before := *o
		for bit := range len(d) * 8 {
			d[bit/8] ^= 1 << (bit % 8)
			refuse(t, o, d, 9, ErrForged)
			d[bit/8] ^= 1 << (bit % 8)
		}
		if suite != Plaintext { // there the counter is protected as part of the header only
			for bit := range EpochBits {
				refuse(t, o, d, 9^1<<bit, ErrForged)
			}
		}
		before.nonce = o.nonce // scratch
		if *o != before {
			t.Errorf("%v: refused datagrams changed the Opener", suite)
		}
		openAt(t, o, d, 9)
		refuse(t, o, d, 9, ErrReplay)
	}
}

// TestTruncationAtEveryLength: every shorter form of a datagram is forged, and
// so is one that is too short for header and tag.
func TestTruncationAtEveryLength(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		d := sealAt(s, 0, 64)
		for n := range len(d) {
			refuse(t, o, d[:n], 0, ErrForged)
		}
		refuse(t, o, append(bytes.Clone(d), 0), 0, ErrForged)
		if o.Next() != 0 {
			t.Errorf("%v: Next is %d", suite, o.Next())
		}
		openAt(t, o, d, 0)
		if got, err := o.Open(sealAt(s, 1, 0), testHeader, 1, 0); err != nil || len(got) != 0 {
			t.Errorf("%v: an empty plaintext: %x, %v", suite, got, err)
		}
	}
}

// TestEachStreamHasItsOwnKey: a datagram opens under no other key, suite,
// kind, shard or session.
func TestEachStreamHasItsOwnKey(t *testing.T) {
	for _, suite := range secure {
		s, _ := newPair(t, suite)
		d := sealAt(s, 0, 10)
		base := Stream{Suite: suite, Kind: 1, Shard: 2, Session: 3}
		other := func(key Key, change func(*Stream)) {
			t.Helper()
			stream := base
			change(&stream)
			o, err := NewOpener(&key, stream)
			if err != nil {
				t.Fatal(err)
			}
			if stream == base && key == testKey {
				openAt(t, o, d, 0)
				return
			}
			refuse(t, o, d, 0, ErrForged)
		}
		other(testKey, func(*Stream) {})
		other(Key{9}, func(*Stream) {})
		other(testKey, func(s *Stream) { s.Suite = 3 - suite })
		other(testKey, func(s *Stream) { s.Kind = 0 })
		other(testKey, func(s *Stream) { s.Shard = 0x200 })
		other(testKey, func(s *Stream) { s.Session = 3 << 32 })
	}
	if _, err := NewOpener(&testKey, Stream{Suite: 3}); err == nil {
		t.Error("suite 3 is accepted")
	}
	if _, err := NewSealer(&testKey, Stream{Suite: 255}); err == nil {
		t.Error("suite 255 is accepted")
	}
}

// TestEpochBorder opens datagrams on both sides of the border between epochs,
// in any order that the window allows; keys go when they are not needed.
func TestEpochBorder(t *testing.T) {
	const border = 1 << EpochBits
	for _, suite := range suites {
		s, o := newPair(t, suite)
		var d [2*windowSize + 2][]byte
		at := func(i int) uint64 { return uint64(border - windowSize - 1 + i) }
		for i := range d {
			d[i] = sealAt(s, at(i), 3)
		}
		open := func(c uint64) { t.Helper(); openAt(t, o, d[c-at(0)], c) }
		again := func(c uint64, want error) { t.Helper(); refuse(t, o, d[c-at(0)], c, want) }

		open(border - 10)
		if suite != Plaintext {
			for i := range 3 { // forged, of the next epoch: its key is derived once, and nothing else happens
				forged := bytes.Clone(d[border+5-at(0)])
				forged[30] ^= 1
				next := o.next.aead
				refuse(t, o, forged, border+5, ErrForged)
				if o.epoch != 0 || o.next.aead == nil || i > 0 && o.next.aead != next {
					t.Fatalf("%v: epoch %d, next key %v", suite, o.epoch, o.next.aead)
				}
			}
		}
		open(border - 9)
		open(border + 5) // on to epoch 1
		if o.epoch != 1 || o.prev.aead == nil || o.next.aead != nil {
			t.Fatalf("%v: epoch %d after counter %#x", suite, o.epoch, border+5)
		}
		open(border - 1) // late ones of epoch 0
		open(border)
		open(border - 5)
		again(border-1, ErrReplay)
		again(border-10, ErrReplay)
		open(border + 4094) // the window begins at the last of epoch 0
		again(border-1, ErrReplay)
		again(border-2, ErrOld)
		if o.prev.aead == nil {
			t.Fatalf("%v: the key of epoch 0 went too early", suite)
		}
		open(border + 4095)
		if o.prev.aead != nil {
			t.Fatalf("%v: the key of epoch 0 is still there", suite)
		}
		again(border-1, ErrOld)
		open(border + 17)
		if s.epoch != 1 || s.secret != o.secret {
			t.Errorf("%v: sealer in epoch %d, opener in %d", suite, s.epoch, o.epoch)
		}
	}
}

// TestEpochJump: an Opener that joins late, or misses whole epochs, opens what
// comes next, and the late ones of the epoch before; forgeries do not move it.
func TestEpochJump(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		const third, ninth = 3 << EpochBits, 9 << EpochBits
		var (
			early  = sealAt(s, 7, 3)
			late   = sealAt(s, third-1, 3)
			first  = sealAt(s, third+2, 3)
			far    = sealAt(s, ninth-1, 3)
			remote = sealAt(s, ninth+windowSize, 3)
		)
		forged := bytes.Clone(first)
		forged[0] ^= 1
		before := *o
		refuse(t, o, forged, third+2, ErrForged)
		if before.nonce = o.nonce; *o != before {
			t.Fatalf("%v: a forged jump changed the Opener", suite)
		}
		if _, err := o.Open(bytes.Clone(first), testHeader, third+2, 2); err != ErrEpoch {
			t.Fatalf("%v: an epoch beyond the highest possible: %v", suite, err)
		}
		openAt(t, o, first, third+2)
		openAt(t, o, late, third-1)
		refuse(t, o, late, third-1, ErrReplay)
		refuse(t, o, early, 7, ErrOld)
		openAt(t, o, remote, ninth+windowSize)
		refuse(t, o, far, ninth-1, ErrOld)
		if o.prev.aead != nil || o.Next() != ninth+windowSize+1 {
			t.Errorf("%v: next %#x", suite, o.Next())
		}
	}
}

// TestOpenerIsTheWindowAndTheKeys sends datagrams around epoch borders in a
// random order, some corrupt, and compares each answer with the plain window.
func TestOpenerIsTheWindowAndTheKeys(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		suite := rapid.SampledFrom(secure).Draw(rt, "suite")
		s, o := newPair(t, suite)
		sealed := make(map[uint64][]byte)
		var counters []uint64
		for _, border := range []uint64{0, 1 << EpochBits, 2 << EpochBits, 5 << EpochBits} {
			for _, i := range []int64{-windowSize - 1, -windowSize, -70, -2, -1, 0, 1, 2, 70, windowSize - 2, windowSize - 1, windowSize} {
				if c := border + uint64(i); c < 6<<EpochBits {
					counters = append(counters, c)
					sealed[c] = sealAt(s, c, 4)
				}
			}
		}
		plain := plainWindow{seen: make(map[uint64]bool)}
		for _, c := range rapid.SliceOfN(rapid.SampledFrom(counters), 1, 100).Draw(rt, "counters") {
			d := bytes.Clone(sealed[c])
			bad := rapid.IntRange(0, 3).Draw(rt, "corrupt") == 0
			if bad {
				d[int(c)%len(d)] ^= 0x10
			}
			_, err := o.Open(d, testHeader, c, 6)
			var want error
			switch {
			case plain.next > windowSize && c < plain.next-windowSize:
				want = ErrOld
			case plain.seen[c]:
				want = ErrReplay
			case bad:
				want = ErrForged
			default:
				want = plain.take(c)
			}
			if err != want {
				rt.Fatalf("counter %#x, corrupt %v, highest %#x: %v, want %v", c, bad, plain.next-1, err, want)
			}
			if o.Next() != plain.next {
				rt.Fatalf("next %#x, want %#x", o.Next(), plain.next)
			}
		}
	})
}

// TestSkip: counters below are refused, as ErrOld, and those above open, also
// in a later epoch.
func TestSkip(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		const from = 2<<EpochBits + 100
		old := sealAt(s, 5, 3)
		below, at := sealAt(s, from-1, 3), sealAt(s, from, 3)
		o.Skip(from)
		o.Skip(3) // never back
		refuse(t, o, old, 5, ErrOld)
		refuse(t, o, below, from-1, ErrOld)
		if o.Next() != 0 {
			t.Errorf("%v: Next is %d before anything was accepted", suite, o.Next())
		}
		openAt(t, o, at, from)
		refuse(t, o, at, from, ErrReplay)
		if o.prev.aead != nil {
			t.Errorf("%v: a key is kept that opens nothing", suite)
		}
	}
}

// TestReach: after it what is of that epoch, and later, opens without a jump;
// what is earlier is refused; and it never goes back.
func TestReach(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		early, before := sealAt(s, 7, 3), sealAt(s, 5<<EpochBits-1, 3)
		at, after := sealAt(s, 5<<EpochBits, 3), sealAt(s, 6<<EpochBits, 3)
		openAt(t, o, early, 7)
		old := o.cur.aead
		o.Reach(5)
		o.Reach(2)
		if o.Epoch() != 5 || old != nil && o.cur.aead == old || o.Next() != 8 {
			t.Errorf("%v: epoch %d, next %d", suite, o.Epoch(), o.Next())
		}
		refuse(t, o, early, 7, ErrReplay)
		refuse(t, o, before, 5<<EpochBits-1, ErrOld)
		openAt(t, o, at, 5<<EpochBits)
		openAt(t, o, after, 6<<EpochBits)
		if o.Wipe(); o.Epoch() != 0 {
			t.Errorf("%v: wiped, but of epoch %d", suite, o.Epoch())
		}
		o.Reach(3)
		if o.secret != [KeyLen]byte{} {
			t.Errorf("%v: a wiped Opener made a secret", suite)
		}
	}
}

// TestWipe: keys are gone, also the cipher's own; what is wiped does no work.
func TestWipe(t *testing.T) {
	for _, suite := range secure {
		s, o := newPair(t, suite)
		d := sealAt(s, 1<<EpochBits, 3)
		sealCipher := s.key.aead
		openAt(t, o, d, 1<<EpochBits)
		cur, prev := o.cur.aead, o.prev.aead
		s.Wipe()
		o.Wipe()
		for _, aead := range []any{sealCipher, cur, prev} {
			if text := fmt.Sprintf("%d", aead); bytes.ContainsAny([]byte(text), "3456789") {
				t.Errorf("%v: the wiped cipher holds %.200s", suite, text) // sizes of nonce and tag are zero too
			}
		}
		if s.secret != [KeyLen]byte{} || o.secret != [KeyLen]byte{} {
			t.Errorf("%v: the secret is still there", suite)
		}
		refuse(t, o, d, 1<<EpochBits+1, ErrForged)
		mustPanic(t, func() { s.Seal(d, testHeader) })
	}
}

// TestSealerErasesOldKeys: crossing into an epoch overwrites what the epoch
// before was sealed with.
func TestSealerErasesOldKeys(t *testing.T) {
	for _, suite := range secure {
		s, _ := newPair(t, suite)
		sealAt(s, 1<<EpochBits-1, 3)
		old, secret := s.key.aead, s.secret
		s.Seal(make([]byte, 100), testHeader)
		if text := fmt.Sprintf("%d", old); bytes.ContainsAny([]byte(text), "3456789") {
			t.Errorf("%v: the old cipher holds %.200s", suite, text)
		}
		if s.secret == secret || s.epoch != 1 {
			t.Errorf("%v: still the secret of epoch 0", suite)
		}
	}
}

func TestTheLastCounters(t *testing.T) {
	s, o := newPair(t, AES256GCM)
	s.next, s.epoch = math.MaxUint64-1, math.MaxUint64>>EpochBits
	o.epoch = s.epoch
	for c := s.next; c != 0; c++ {
		d := make([]byte, 100)
		s.Seal(d, testHeader)
		_, err := o.Open(d, testHeader, c, math.MaxUint64)
		if c == math.MaxUint64 && err != ErrEpoch || c != math.MaxUint64 && err != nil {
			t.Errorf("counter %#x: %v", c, err)
		}
	}
	mustPanic(t, func() { s.Seal(make([]byte, 100), testHeader) })
	mustPanic(t, func() { s.Seal(make([]byte, testHeader+TagLen-1), testHeader) })
}

func mustPanic(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f()
}

// TestErrorsAreValues: what Open returns is compared, not unwrapped.
func TestErrorsAreValues(t *testing.T) {
	for _, err := range []error{ErrForged, ErrReplay, ErrOld, ErrEpoch} {
		if errors.Unwrap(err) != nil {
			t.Errorf("%v wraps", err)
		}
	}
}

// TestNothingIsAllocatedPerDatagram covers opening, and every refusal within
// the epochs at hand.
func TestNothingIsAllocatedPerDatagram(t *testing.T) {
	for _, suite := range suites {
		s, o := newPair(t, suite)
		d := make([]byte, testHeader+1440+TagLen)
		check := func(what string, f func()) {
			t.Helper()
			f() // the first makes the key
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%v, %s: %v allocations", suite, what, n)
			}
		}
		check("seal", func() { s.Seal(d, testHeader) })
		check("seal and open", func() {
			c := s.Counter()
			s.Seal(d, testHeader)
			if _, err := o.Open(d, testHeader, c, 0); err != nil {
				t.Fatal(err)
			}
		})
		top := o.Next()
		for want, counter := range map[error]uint64{ErrReplay: top - 1, ErrForged: top + 5, ErrEpoch: 1 << 40} {
			check(want.Error(), func() {
				d[len(d)-TagLen] = 1 // in the plaintext suite this byte is 0
				if _, err := o.Open(d, testHeader, counter, 1); err != want {
					t.Fatalf("%v, want %v", err, want)
				}
			})
		}
		check("forged, of the next epoch", func() {
			d[len(d)-TagLen] = 1
			if _, err := o.Open(d, testHeader, top+1<<EpochBits, 1); err != ErrForged {
				t.Fatal(err)
			}
		})
	}
}

// TestOpenerIsSmall: a thousand taps with three kinds each cost a few MB.
func TestOpenerIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Opener{}); n > 704 { // the allocator's next size
		t.Errorf("an Opener takes %d bytes; its comment says 704", n)
	}
}
