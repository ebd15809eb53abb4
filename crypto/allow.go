// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// An AllowList says which remotes a collector takes in public-key mode. Its
// methods are for any goroutine.
type AllowList struct {
	from, path string

	mu   sync.RWMutex
	taps map[uint32][]remoteKey
	own  map[uint32][]remoteKey // see SetTaps
}

// A remoteKey is one line: a public key that may speak for a tap.
type remoteKey struct {
	name    string
	key     ed25519.PublicKey
	revoked bool
	term
}

// Bounds of an allow-list. Chosen: as many taps as the state file has, and
// lines of 100 bytes.
const (
	maxRemotes   = 65536
	maxAllowFile = 16 << 20
)

// ErrRevoked: the remote is on the allow-list no more, or as revoked. It is
// compared, never wrapped.
var ErrRevoked = errors.New("crypto: the remote's key is revoked")

// LoadAllowList reads an allow-list. It refuses one that others than its owner
// can write.
func LoadAllowList(path string) (*AllowList, error) {
	text, from, err := readPublic("allow-list", path, maxAllowFile, "each line has a tap ID, a name and the public key that ntap key identity printed")
	if err != nil {
		return nil, err
	}
	a := &AllowList{from: from, path: path, taps: make(map[uint32][]remoteKey)}
	if err := parseLines(text, maxRemotes, a.parse); err != nil {
		return nil, fmt.Errorf("crypto: %s: %w; a line is that which ntap key identity printed", from, err)
	}
	return a, nil
}

func (a *AllowList) parse(words [][]byte) error {
	if len(words) < 3 {
		return fmt.Errorf("%d words; want tap ID, name and public key", len(words))
	}
	tap, err := parseTapID(string(words[0]))
	if err != nil {
		return err
	}
	r := remoteKey{name: string(words[1])}
	rest := words[3:]
	if n := len(rest); n > 0 && string(rest[n-1]) == "revoked" {
		r.revoked, rest = true, rest[:n-1]
	}
	if r.term, err = parseTerm(rest); err != nil {
		return err
	}
	var raw [ed25519.PublicKeySize + 3]byte
	if err := decodeKey(raw[:], words[2], ed25519.PublicKeySize); err != nil {
		return err
	}
	r.key = ed25519.PublicKey(raw[:ed25519.PublicKeySize])
	for _, other := range a.taps[tap] {
		if other.key.Equal(r.key) {
			return fmt.Errorf("tap %d has this key twice", tap)
		}
	}
	if len(a.taps[tap]) == maxKeys {
		return fmt.Errorf("more than %d keys of tap %d", maxKeys, tap)
	}
	a.taps[tap] = append(a.taps[tap], r)
	return nil
}

// Reload is that of KeyFile.
func (a *AllowList) Reload() error {
	if a.path == "" {
		return nil
	}
	fresh, err := LoadAllowList(a.path)
	if err != nil {
		return fmt.Errorf("%w; the list from before stays in force", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taps = fresh.taps
	return nil
}

// Has says whether a tap is on the list, with whatever keys.
func (a *AllowList) Has(tap uint32) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.of(tap) != nil
}

// Len returns the number of taps.
func (a *AllowList) Len() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n := len(a.taps)
	for tap := range a.own {
		if a.taps[tap] == nil {
			n++
		}
	}
	return n
}

// Check says whether a remote with that fingerprint may speak for a tap now:
// nil, ErrNoKey, ErrRevoked or ErrExpired.
func (a *AllowList) Check(tap uint32, print Fingerprint, now time.Time) error {
	_, err := a.find(tap, print, now)
	return err
}

func (a *AllowList) find(tap uint32, print Fingerprint, now time.Time) (ed25519.PublicKey, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, r := range a.of(tap) {
		switch {
		case fingerprint(r.key) != print:
		case r.revoked:
			return nil, ErrRevoked
		case r.ended(now) || !r.begun(now):
			return nil, ErrExpired
		default:
			return r.key, nil
		}
	}
	return nil, ErrNoKey
}

// readPublic reads a file that is no secret, but that nobody else may change.
func readPublic(what, path string, limit int64, remedy string) (text []byte, from string, err error) {
	from = what + " " + path
	fail := func(err error, remedy string) ([]byte, string, error) {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = fmt.Errorf("%s: %w", p.Op, p.Err)
		}
		return nil, from, fmt.Errorf("crypto: %s: %w; %s", from, err, remedy)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fail(err, remedy)
	}
	if m := info.Mode(); !m.IsRegular() && m&fs.ModeNamedPipe == 0 {
		return fail(errors.New("not a file"), remedy)
	}
	if m := info.Mode(); m.IsRegular() && m.Perm()&0o022 != 0 {
		return fail(fmt.Errorf("mode %04o lets others than its owner write it", m.Perm()), "run: chmod go-w "+path+", and see what is in it")
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err, "it must be readable by the user that ntap runs as")
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return fail(err, "see the system's log")
	}
	if int64(len(text)) > limit {
		return fail(fmt.Errorf("more than %d bytes", limit), remedy)
	}
	return text, from, nil
}
