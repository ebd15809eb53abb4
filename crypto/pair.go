// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Public-key mode (docs/KEYS.md): HPKE of RFC 9180 in base mode, to agree on a
// secret and for nothing else, with the hybrid of ML-KEM-768 and X25519 of
// draft-ietf-hpke-pq, which is also called X-Wing.
var (
	kem  = hpke.MLKEM768X25519()
	kdf  = hpke.HKDFSHA256()
	only = hpke.ExportOnly()
)

// Sizes of public-key mode, bytes.
const (
	PublicKeyLen   = 1216 // of a collector
	pairLen        = 32   // a private key, as the seed that it is derived from
	FingerprintLen = 8
)

// Words that begin the lines of its files, and labels.
const (
	pairWord     = "ntap-key-pair-1"
	publicWord   = "ntap-public-key-1"
	identityWord = "ntap-identity-1"

	labelPublic = "ntap v1 public"
	labelKeying = "ntap v1 keying"
)

// A Fingerprint says which public key: the first bytes of its SHA-256.
type Fingerprint [FingerprintLen]byte

func fingerprint(public []byte) Fingerprint {
	h := sha256.Sum256(public)
	return Fingerprint(h[:FingerprintLen])
}

// A PairFile holds the key pairs of a collector. Printed it shows no key. Its
// methods are for any goroutine.
type PairFile struct {
	from, path string

	mu    sync.RWMutex
	pairs []pair
}

type pair struct {
	seed    [pairLen]byte
	private hpke.PrivateKey
	public  []byte
	term
}

// NewPair returns a PairFile with one new pair.
func NewPair() (*PairFile, error) {
	p := &PairFile{from: "the new key pair"}
	return p, p.add(term{})
}

// add makes a pair.
func (f *PairFile) add(t term) error {
	private, err := kem.GenerateKey()
	if err != nil {
		return fmt.Errorf("crypto: new key pair: %w", err)
	}
	seed, err := private.Bytes()
	if err != nil {
		return fmt.Errorf("crypto: new key pair: %w", err)
	}
	defer clear(seed)
	return f.put(seed, t)
}

// put adds the pair of a seed.
func (f *PairFile) put(seed []byte, t term) error {
	private, err := kem.NewPrivateKey(seed)
	if err != nil {
		return errors.New("the key is no private key of MLKEM768-X25519")
	}
	f.pairs = append(f.pairs, pair{[pairLen]byte(seed), private, private.PublicKey().Bytes(), t})
	return nil
}

// LoadPairFile reads the file of a collector's key pairs, with the care of
// LoadKeyFile.
func LoadPairFile(path string) (*PairFile, error) {
	Burn()
	defer Burn()
	text, from, err := readSecret("key pair file", path, "ntap key pair --out FILE makes one")
	if err != nil {
		return nil, err
	}
	defer clear(text[:cap(text)])
	f := &PairFile{from: from, path: path, pairs: make([]pair, 0, maxKeys)}
	if err := parseLines(text, maxKeys, f.parse); err != nil {
		f.Wipe()
		return nil, fmt.Errorf("crypto: %s: %w; write it anew with: ntap key pair", from, err)
	}
	return f, nil
}

func (f *PairFile) parse(words [][]byte) error {
	if string(words[0]) != pairWord || len(words) < 2 {
		return fmt.Errorf("not a key pair: that is %s and the private key in base64", pairWord)
	}
	t, err := parseTerm(words[2:])
	if err != nil {
		return err
	}
	for i := range f.pairs {
		if f.pairs[i].id == t.id {
			return fmt.Errorf("a second pair with ID %d: each has its own, id=N", t.id)
		}
	}
	var raw [pairLen + 3]byte
	defer clear(raw[:])
	if err := decodeKey(raw[:], words[1], pairLen); err != nil {
		return err
	}
	return f.put(raw[:pairLen], t)
}

// Reload is that of KeyFile.
func (f *PairFile) Reload() error {
	fresh, err := LoadPairFile(f.path)
	if err != nil {
		return fmt.Errorf("%w; the pairs from before stay in force", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wipe()
	f.pairs = fresh.pairs
	return nil
}

// Rotate is that of KeyFile: it adds a pair, and ends the others.
func (f *PairFile) Rotate(now, since, until time.Time) (id uint8, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	terms := make([]term, len(f.pairs))
	for i := range f.pairs {
		terms[i] = f.pairs[i].term
	}
	keep, t, err := rotate(terms, now, since, until)
	if err != nil {
		return 0, fmt.Errorf("crypto: %s: %w", f.from, err)
	}
	before, after := f.pairs, make([]pair, 0, maxKeys) // never copied by growing
	for i, p := range before {
		if keep[i] != nil {
			p.term = *keep[i]
			after = append(after, p)
		}
	}
	f.pairs = after
	if err := f.add(t); err != nil {
		clear(after)
		f.pairs = before
		return 0, err
	}
	for i := range before {
		if keep[i] == nil {
			erase(before[i].private)
		}
	}
	clear(before)
	return t.id, nil
}

// Write writes the text of the file.
func (f *PairFile) Write(w io.Writer) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if _, err := io.WriteString(w, "# ntap key pair of a collector: it opens the traffic of the remotes that hold its public key. Mode 0600.\n"); err != nil {
		return fmt.Errorf("crypto: write key: %w", err)
	}
	for i := range f.pairs {
		if err := writeKey(w, pairWord, f.pairs[i].seed[:], f.pairs[i].term); err != nil {
			return err
		}
	}
	return nil
}

// WritePublic writes the text of the file that remotes hold: the public keys
// that are not over.
func (f *PairFile) WritePublic(w io.Writer) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	now := time.Now()
	if !slices.ContainsFunc(f.pairs, func(p pair) bool { return !p.ended(now) }) {
		return fmt.Errorf("crypto: %s: no key is good any more; make a new one: ntap key rotate", f.from)
	}
	if _, err := io.WriteString(w, "# ntap public key of a collector, for its remotes. It is no secret; that it is the right one is what counts.\n"); err != nil {
		return fmt.Errorf("crypto: write key: %w", err)
	}
	for i := range f.pairs {
		if f.pairs[i].ended(now) {
			continue
		}
		if err := writeKey(w, publicWord, f.pairs[i].public, f.pairs[i].term); err != nil {
			return err
		}
	}
	return nil
}

// find returns the pair with a fingerprint. The caller holds the lock, for as
// long as it uses the pair: Reload and Wipe erase it.
func (f *PairFile) find(print []byte, now time.Time) (hpke.PrivateKey, []byte, error) {
	for i := range f.pairs {
		p := &f.pairs[i]
		if mine := fingerprint(p.public); subtle.ConstantTimeCompare(mine[:], print) == 1 {
			if p.ended(now) {
				return nil, nil, ErrExpired
			}
			return p.private, p.public, nil
		}
	}
	return nil, nil, ErrNoKey
}

// Wipe overwrites the private keys. None is found any more.
func (f *PairFile) Wipe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wipe()
}

func (f *PairFile) wipe() {
	for i := range f.pairs {
		erase(f.pairs[i].private)
	}
	clear(f.pairs)
	f.pairs = nil
}

// Format writes a text that does not show the keys, whatever the verb.
func (f *PairFile) Format(s fmt.State, _ rune) { io.WriteString(s, f.from+" "+redacted) }

// A PublicFile holds the public keys of a collector, as its remotes have them.
type PublicFile struct {
	from, path string

	mu   sync.RWMutex
	keys []publicKey
}

type publicKey struct {
	key   hpke.PublicKey
	bytes []byte
	term
}

// LoadPublicFile reads the file of a collector's public keys. It refuses one
// that others than its owner can write.
func LoadPublicFile(path string) (*PublicFile, error) {
	text, from, err := readPublic("public key file", path, maxPublicFile, "ntap key public on the collector prints it")
	if err != nil {
		return nil, err
	}
	f := &PublicFile{from: from, path: path}
	if err := parseLines(text, maxKeys, f.parse); err != nil {
		return nil, fmt.Errorf("crypto: %s: %w; get it anew from: ntap key public", from, err)
	}
	return f, nil
}

// maxPublicFile bounds the file, bytes: 16 keys of 1,624 characters.
const maxPublicFile = 64 << 10

func (f *PublicFile) parse(words [][]byte) error {
	if string(words[0]) != publicWord || len(words) < 2 {
		return fmt.Errorf("not a public key of a collector: that is %s and the key in base64", publicWord)
	}
	t, err := parseTerm(words[2:])
	if err != nil {
		return err
	}
	for i := range f.keys {
		if f.keys[i].id == t.id {
			return fmt.Errorf("a second key with ID %d: a file is that of one collector", t.id)
		}
	}
	raw := make([]byte, PublicKeyLen+3)
	if err := decodeKey(raw, words[1], PublicKeyLen); err != nil {
		return err
	}
	key, err := kem.NewPublicKey(raw[:PublicKeyLen])
	if err != nil {
		return errors.New("the key is no public key of MLKEM768-X25519")
	}
	f.keys = append(f.keys, publicKey{key, raw[:PublicKeyLen], t})
	return nil
}

// Reload is that of KeyFile.
func (f *PublicFile) Reload() error {
	fresh, err := LoadPublicFile(f.path)
	if err != nil {
		return fmt.Errorf("%w; the keys from before stay in force", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = fresh.keys
	return nil
}

// newest returns the key that what begins now is for.
func (f *PublicFile) newest(now time.Time) (publicKey, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	terms := make([]term, len(f.keys))
	for i := range f.keys {
		terms[i] = f.keys[i].term
	}
	if i := newest(terms, now); i >= 0 {
		return f.keys[i], nil
	}
	return publicKey{}, fmt.Errorf("crypto: %s: no key is good now; get a new one from the collector: ntap key public", f.from)
}

// Newest returns the fingerprint of the key that what begins now is for.
func (f *PublicFile) Newest(now time.Time) (Fingerprint, error) {
	k, err := f.newest(now)
	if err != nil {
		return Fingerprint{}, err
	}
	return fingerprint(k.bytes), nil
}

// An Identity is what a remote proves itself with: an Ed25519 key and the tap
// ID that it is for.
type Identity struct {
	from string
	Tap  uint32
	key  ed25519.PrivateKey
}

// NewIdentity makes one.
func NewIdentity(tap uint32) (*Identity, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("crypto: new identity: %w", err)
	}
	return &Identity{from: "the new identity", Tap: tap, key: key}, nil
}

// LoadIdentity reads an identity file, with the care of LoadKeyFile.
func LoadIdentity(path string) (*Identity, error) {
	Burn()
	defer Burn()
	text, from, err := readSecret("identity file", path, "ntap key identity --out FILE makes one")
	if err != nil {
		return nil, err
	}
	defer clear(text[:cap(text)])
	id, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("crypto: %s: %w; write it anew with: ntap key identity", from, err)
	}
	id.from = from
	return id, nil
}

func parseIdentity(text []byte) (*Identity, error) {
	id := new(Identity)
	err := parseLines(text, 1, func(words [][]byte) error {
		if string(words[0]) != identityWord || len(words) != 3 {
			return fmt.Errorf("not an identity: that is %s, the tap ID and the private key in base64", identityWord)
		}
		tap, err := parseTapID(string(words[1]))
		if err != nil {
			return err
		}
		var raw [ed25519.SeedSize + 3]byte
		defer clear(raw[:])
		if err := decodeKey(raw[:], words[2], ed25519.SeedSize); err != nil {
			return err
		}
		id.Tap, id.key = tap, ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
		return nil
	})
	if err != nil {
		id.Wipe()
		return nil, err
	}
	return id, nil
}

// Write writes the text of an identity file.
func (id *Identity) Write(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "# ntap identity of tap %d: who has it can speak as that tap. Mode 0600.\n", id.Tap); err != nil {
		return fmt.Errorf("crypto: write key: %w", err)
	}
	return writeKey(w, fmt.Sprintf("%s %d", identityWord, id.Tap), id.key.Seed(), term{})
}

// Public returns the public key as the allow-list has it.
func (id *Identity) Public() string {
	return base64.StdEncoding.EncodeToString(id.key.Public().(ed25519.PublicKey))
}

// Wipe overwrites the key.
func (id *Identity) Wipe() { clear(id.key) }

// Format writes a text that does not show the key, whatever the verb.
func (id *Identity) Format(s fmt.State, _ rune) {
	fmt.Fprintf(s, "%s of tap %d %s", id.from, id.Tap, redacted)
}
