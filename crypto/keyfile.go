// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
)

// A KeyFile is what a key file holds: master keys, or keys of one tap, each
// with an ID and a term. Printed, it shows which, and where from; never a key.
// Its methods are for any goroutine.
type KeyFile struct {
	from  string // "key file PATH", for messages
	path  string // "": not from a file
	isTap bool
	tap   uint32

	mu   sync.RWMutex
	keys []datedKey
	own  map[uint32]*KeyFile // of taps that have keys of their own, see SetTaps
}

// A datedKey is one key of a file.
type datedKey struct {
	key Key
	term
}

// Why a key is not to be had. They are compared, never wrapped: collectors
// count datagrams by them.
var (
	ErrNoKey   = errors.New("crypto: no key of that ID")
	ErrExpired = errors.New("crypto: the key's time is over")
	ErrWrong   = errors.New("crypto: the key is another tap's")
)

// The words that begin a line with a key (docs/KEYS.md, Key files).
const (
	masterWord = "ntap-master-key-1"
	tapWord    = "ntap-tap-key-1"
	maxKeys    = maxKeyID + 1
)

// LoadKeyFile reads a key file. It refuses one that others than its owner can
// read.
func LoadKeyFile(path string) (*KeyFile, error) {
	Burn()
	defer Burn()
	text, from, err := readSecret("key file", path, "ntap key new --out FILE makes one")
	if err != nil {
		return nil, err
	}
	defer clear(text[:cap(text)])
	k, err := parseKeyFile(text)
	if err != nil {
		return nil, fmt.Errorf("crypto: %s: %w; write it anew with: ntap key new, or ntap key tap", from, err)
	}
	k.from, k.path = from, path
	return k, nil
}

// parseKeyFile reads the text of a key file.
func parseKeyFile(text []byte) (*KeyFile, error) {
	k := new(KeyFile)
	err := parseLines(text, maxKeys, func(words [][]byte) error { return k.parse(words) })
	if err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// parse reads one line.
func (k *KeyFile) parse(words [][]byte) error {
	isTap, id, at := false, uint32(0), 1
	switch string(words[0]) {
	case masterWord:
		if len(words) < 2 {
			return fmt.Errorf("%d words; want %s and the key in base64", len(words), masterWord)
		}
	case tapWord:
		if len(words) < 3 {
			return fmt.Errorf("%d words; want %s, the tap ID and the key in base64", len(words), tapWord)
		}
		n, err := parseTapID(string(words[1]))
		if err != nil {
			return err
		}
		isTap, id, at = true, n, 2
	default:
		return fmt.Errorf("not a key of ntap: that starts with %s or %s", masterWord, tapWord)
	}
	t, err := parseTerm(words[at+1:])
	if err != nil {
		return err
	}
	for _, other := range k.keys {
		switch {
		case k.isTap != isTap || k.tap != id:
			return errors.New("a key of another kind or tap than the first: a file is a collector's, or one tap's")
		case other.id == t.id:
			return fmt.Errorf("a second key with ID %d: each has its own, id=N", t.id)
		}
	}
	var raw [KeyLen + 3]byte
	defer clear(raw[:])
	if err := decodeKey(raw[:], words[at], KeyLen); err != nil {
		return err
	}
	k.isTap, k.tap = isTap, id
	if k.keys == nil {
		k.keys = make([]datedKey, 0, maxKeys) // never copied by growing
	}
	k.keys = append(k.keys, datedKey{Key(raw[:KeyLen]), t})
	return nil
}

// parseTapID reads a tap ID, which has one spelling.
func parseTapID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(id, 10) != s {
		return 0, errors.New("the tap ID is no decimal number from 0 to 4294967295")
	}
	return uint32(id), nil
}

// Reload reads the file again. If it cannot be used, the keys stay what they
// were, and the error says so.
func (k *KeyFile) Reload() error {
	k.mu.RLock()
	own := slices.Collect(maps.Values(k.own))
	k.mu.RUnlock()
	var errs []error
	for _, f := range own {
		errs = append(errs, f.Reload())
	}
	return errors.Join(append(errs, k.reload())...)
}

// reload reads the file itself again.
func (k *KeyFile) reload() error {
	if k.path == "" || k.path == noPath {
		return nil
	}
	fresh, err := LoadKeyFile(k.path)
	if err == nil && (fresh.isTap != k.isTap || fresh.tap != k.tap) {
		fresh.Wipe()
		err = fmt.Errorf("crypto: %s: it was %s, and now is %s; start anew to change that", k.from, k.kind(), fresh.kind())
	}
	if err != nil {
		return fmt.Errorf("%w; the keys from before stay in force", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.keys)
	k.keys = fresh.keys
	return nil
}

// FromMaster returns a KeyFile that holds the master key k, with ID 0 and
// without end.
func FromMaster(k Key) *KeyFile {
	return &KeyFile{from: "the master key", keys: []datedKey{{key: k}}}
}

// Argon2id of RFC 9106, the second recommended option of section 4: 3 passes,
// 64 MiB, 4 lanes. There is nothing that both sides could take a salt from, so
// it is the same for all: a list of guessed passphrases computed once is good
// against everybody. Key files have no such weakness.
const (
	passTime   = 3
	passMemory = 64 << 10 // KiB
	passLanes  = 4
	passSalt   = "ntap v1 passphrase"
)

// FromPassphrase returns a KeyFile that holds the master key made from p by
// Argon2id. It takes some tenths of a second and 64 MiB.
func FromPassphrase(p string) (*KeyFile, error) {
	if p == "" {
		return nil, errors.New("crypto: the passphrase is empty")
	}
	b := argon2.IDKey([]byte(p), []byte(passSalt), passTime, passMemory, passLanes, KeyLen)
	defer clear(b)
	return &KeyFile{from: "the passphrase", keys: []datedKey{{key: Key(b)}}}, nil
}

// IsMaster says whether k holds master keys.
func (k *KeyFile) IsMaster() bool { return !k.isTap }

// Tap returns the one tap whose keys k holds; ok is false for master keys, for
// keys of several taps, and for no KeyFile.
func (k *KeyFile) Tap() (id uint32, ok bool) {
	if k == nil || !k.isTap {
		return 0, false
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.tap, len(k.own) == 0
}

// Check says whether Find would find a key; it derives none.
func (k *KeyFile) Check(tap uint32, id uint8, now time.Time) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if own := k.own[tap]; own != nil {
		return own.Check(tap, id, now)
	}
	if k.isTap && k.tap != tap || k.path == noPath {
		return ErrWrong
	}
	for i := range k.keys {
		if d := &k.keys[i]; d.id == id {
			if d.ended(now) {
				return ErrExpired
			}
			return nil
		}
	}
	return ErrNoKey
}

// Newest returns the ID of the key that what begins now is sealed with: the one
// with the latest from= of those whose time it is. The error says when it was,
// or will be.
func (k *KeyFile) Newest(now time.Time) (id uint8, err error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	terms := make([]term, len(k.keys))
	for i := range k.keys {
		terms[i] = k.keys[i].term
	}
	if i := newest(terms, now); i >= 0 {
		return terms[i].id, nil
	}
	for _, t := range terms {
		if !t.begun(now) {
			return 0, fmt.Errorf("crypto: %s: no key is good now: the next one is from %s; see whether this host's clock is right",
				k.from, t.since.Format(time.RFC3339))
		}
	}
	return 0, fmt.Errorf("crypto: %s: no key is good any more; make a new one: ntap key rotate on the collector, and ntap key tap for each remote", k.from)
}

// TapKey returns the newest key of tap id: derived from the master key, or the
// one that k holds if it is that tap's.
func (k *KeyFile) TapKey(tap uint32) (Key, error) {
	now := time.Now()
	id, err := k.Newest(now)
	if err != nil {
		return Key{}, err
	}
	key, err := k.Find(tap, id, now)
	if err == ErrWrong {
		return key, fmt.Errorf("crypto: %s is for tap %d, not for tap %d", k.from, k.tap, tap)
	}
	return key, err
}

// Find returns the key of a tap by ID. One whose time has not come is good: the
// sender's clock decides when it begins. The errors are ErrWrong, ErrNoKey and
// ErrExpired themselves.
func (k *KeyFile) Find(tap uint32, id uint8, now time.Time) (key Key, err error) {
	err = k.FindInto(&key, tap, id, now)
	return key, err
}

// FindInto is Find that writes the key to out, and leaves no copy of it on the
// stack.
func (k *KeyFile) FindInto(out *Key, tap uint32, id uint8, now time.Time) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if own := k.own[tap]; own != nil {
		return own.FindInto(out, tap, id, now)
	}
	if k.isTap && k.tap != tap || k.path == noPath {
		return ErrWrong
	}
	for i := range k.keys {
		d := &k.keys[i]
		switch {
		case d.id != id:
			continue
		case d.ended(now):
			return ErrExpired
		case k.isTap:
			copy(out[:], d.key[:])
		default:
			deriveTap(out, &d.key, tap)
		}
		return nil
	}
	return ErrNoKey
}

// Rotate adds a new random key, good from since on, and ends the others at
// until; keys that are over by now go. It returns the ID of the new one. Write
// makes it last.
func (k *KeyFile) Rotate(now, since, until time.Time) (id uint8, err error) {
	fresh, err := NewKey()
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	terms := make([]term, len(k.keys))
	for i := range k.keys {
		terms[i] = k.keys[i].term
	}
	keep, t, err := rotate(terms, now, since, until)
	if err != nil {
		return 0, fmt.Errorf("crypto: %s: %w", k.from, err)
	}
	keys := make([]datedKey, 0, maxKeys)
	for i, d := range k.keys {
		if keep[i] != nil {
			keys = append(keys, datedKey{d.key, *keep[i]})
		}
	}
	clear(k.keys)
	k.keys = append(keys, datedKey{fresh, t})
	return t.id, nil
}

// Write writes the text of a key file with the keys of k.
func (k *KeyFile) Write(w io.Writer) error {
	if k.isTap {
		return k.writeTap(w, k.tap, time.Time{})
	}
	return k.write(w, masterComment, masterWord, time.Time{}, func(key Key) (Key, error) { return key, nil })
}

// WriteTap writes the text of a key file with the keys of one tap, but for
// those that are over.
func (k *KeyFile) WriteTap(w io.Writer, tap uint32) error { return k.writeTap(w, tap, time.Now()) }

func (k *KeyFile) writeTap(w io.Writer, tap uint32, now time.Time) error {
	id := strconv.FormatUint(uint64(tap), 10)
	return k.write(w, fmt.Sprintf(tapComment, tap), tapWord+" "+id, now, func(key Key) (Key, error) {
		if k.isTap {
			return key, nil
		}
		return DeriveTap(key, tap)
	})
}

// write writes the comment, and a line for each key that is not over by now.
func (k *KeyFile) write(w io.Writer, comment, words string, now time.Time, of func(Key) (Key, error)) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if !slices.ContainsFunc(k.keys, func(d datedKey) bool { return !d.ended(now) }) {
		return fmt.Errorf("crypto: %s: no key is good any more; make a new one: ntap key rotate", k.from)
	}
	if _, err := io.WriteString(w, comment); err != nil {
		return fmt.Errorf("crypto: write key: %w", err)
	}
	for _, d := range k.keys {
		if d.ended(now) {
			continue
		}
		key, err := of(d.key)
		if err != nil {
			return err
		}
		if err := writeKey(w, words, key[:], d.term); err != nil {
			return err
		}
	}
	return nil
}

// Wipe overwrites the keys. None is found any more.
func (k *KeyFile) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.own {
		f.Wipe()
	}
	clear(k.keys)
	k.keys = nil
}

// kind says what k holds.
func (k *KeyFile) kind() string {
	if k.isTap {
		return fmt.Sprintf("the key file of tap %d", k.tap)
	}
	return "a master key file"
}

// String says what k holds and where from, without showing a key.
func (k *KeyFile) String() string {
	if k.isTap {
		return fmt.Sprintf("%s for tap %d %s", k.from, k.tap, redacted)
	}
	return k.from + " (master) " + redacted
}

// Format writes what String returns, whatever the verb.
func (k *KeyFile) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

const (
	masterComment = "# ntap master key: it opens the traffic of every tap. Keep it on the collector, mode 0600.\n"
	tapComment    = "# ntap key of tap %d: it opens and makes the traffic of that tap only. Mode 0600.\n"
)

// WriteMaster writes the text of a key file with the master key k.
func WriteMaster(w io.Writer, k Key) error { return FromMaster(k).Write(w) }

// WriteTap writes the text of a key file with k, the key of tap id.
func WriteTap(w io.Writer, id uint32, k Key) error {
	return (&KeyFile{isTap: true, tap: id, keys: []datedKey{{key: k}}}).WriteTap(w, id)
}

// writeKey writes a line with a key.
func writeKey(w io.Writer, words string, key []byte, t term) error {
	b := make([]byte, 0, len(words)+2*len(key)+100) // of one size, so that no copies are left behind by growing
	defer clear(b[:cap(b)])
	b = append(b, words+" "...)
	b = append(base64.StdEncoding.AppendEncode(b, key), t.String()+"\n"...)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("crypto: write key: %w", err)
	}
	return nil
}
