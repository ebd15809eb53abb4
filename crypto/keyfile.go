// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// A KeyFile is what a key file holds: the master key, or the key of one tap.
// Printed, it shows which, and where from; never the key.
type KeyFile struct {
	from  string // "key file PATH", for messages
	key   Key
	isTap bool
	tap   uint32
}

// The lines that hold a key (docs/KEYS.md, Key files).
const (
	masterWord = "ntap-master-key-1"
	tapWord    = "ntap-tap-key-1"
	maxKeyFile = 4096 // bytes. Chosen: room for comments, and no way to read /dev/zero to the end
)

// LoadKeyFile reads a key file. It refuses one that others than its owner can
// read. A link is followed, since that is how Kubernetes mounts secrets: what
// counts is the file it leads to.
func LoadKeyFile(path string) (*KeyFile, error) {
	from := "key file " + path
	if to, err := os.Readlink(path); err == nil {
		from += " (a link to " + to + ")"
	}
	fail := func(err error, remedy string) (*KeyFile, error) {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = fmt.Errorf("%s: %w", p.Op, p.Err) // the path is in from
		}
		return nil, fmt.Errorf("crypto: %s: %w; %s", from, err, remedy)
	}
	if path == "" {
		return nil, errors.New("crypto: no key file named; ntap key new --out FILE makes one")
	}
	info, err := os.Stat(path) // before the open, which waits where a FIFO has no writer
	if errors.Is(err, fs.ErrNotExist) {
		return fail(err, "ntap key new --out FILE makes one")
	}
	if err != nil {
		return fail(err, "see whether its directories may be entered")
	}
	if m := info.Mode(); !m.IsRegular() && m&fs.ModeNamedPipe == 0 {
		return fail(errors.New("not a file"), "name the file that holds the key")
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err, "it must be readable by the user that ntap runs as")
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return fail(err, "see the system's log")
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&loose(path) != 0 {
		return fail(fmt.Errorf("mode %04o lets others than its owner at it", info.Mode().Perm()),
			"run: chmod 600 "+path+"; if others may have read it, make a new key")
	}
	text := make([]byte, maxKeyFile+1) // of one size, so that no copies of the key are left behind by growing
	defer clear(text)
	n, err := io.ReadFull(f, text)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return fail(err, "see the system's log")
	}
	k, err := parseKeyFile(text[:n])
	if err != nil {
		return fail(err, "write it anew with: ntap key new, or ntap key tap")
	}
	k.from = from
	return k, nil
}

// loose returns the permission bits that the key file at path must not have:
// all of group and others. Where systemd passes a credential by an ACL, the
// group bits show the ACL's mask, so there the group may have its read bit:
// the directory is closed to others (systemd.exec(5), LoadCredential=).
func loose(path string) fs.FileMode {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && filepath.Dir(filepath.Clean(path)) == filepath.Clean(dir) {
		return 0o037
	}
	return 0o077
}

// parseKeyFile reads the text of a key file: one line with a key; empty lines
// and lines that start with # are comments. The errors do not show the text,
// which may be a key.
func parseKeyFile(text []byte) (*KeyFile, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("more than %d bytes: not a key file", maxKeyFile)
	}
	var found *KeyFile
	line := 0
	for l := range bytes.Lines(text) {
		line++
		l = bytes.TrimSpace(l)
		if len(l) == 0 || l[0] == '#' {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("line %d: a second key; there must be one", line)
		}
		k, err := parseKeyLine(bytes.Fields(l))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		found = k
	}
	if found == nil {
		return nil, errors.New("empty: no key in it")
	}
	return found, nil
}

func parseKeyLine(words [][]byte) (*KeyFile, error) {
	k := new(KeyFile)
	switch string(words[0]) {
	case masterWord:
		if len(words) != 2 {
			return nil, fmt.Errorf("%d words; want %s and the key in base64", len(words), masterWord)
		}
	case tapWord:
		if len(words) != 3 {
			return nil, fmt.Errorf("%d words; want %s, the tap ID and the key in base64", len(words), tapWord)
		}
		id, err := strconv.ParseUint(string(words[1]), 10, 32)
		if err != nil || strconv.FormatUint(id, 10) != string(words[1]) {
			return nil, errors.New("the tap ID is no decimal number from 0 to 4294967295")
		}
		k.isTap, k.tap = true, uint32(id)
	default:
		return nil, fmt.Errorf("not a key of ntap: that starts with %s or %s", masterWord, tapWord)
	}
	// Strict refuses what decodes to the same key but is another text.
	var raw [KeyLen + 3]byte // base64 decodes to whole groups
	defer clear(raw[:])
	word := words[len(words)-1]
	if n := base64.StdEncoding.EncodedLen(KeyLen); len(word) != n {
		return nil, fmt.Errorf("the key has %d characters; want %d, which is %d bytes in base64", len(word), n, KeyLen)
	}
	n, err := base64.StdEncoding.Strict().Decode(raw[:], word)
	if err != nil {
		return nil, errors.New("the key is not base64 (RFC 4648, section 4)")
	}
	if n != KeyLen {
		return nil, fmt.Errorf("the key has %d bytes; want %d", n, KeyLen)
	}
	copy(k.key[:], raw[:])
	return k, nil
}

// FromMaster returns a KeyFile that holds the master key k.
func FromMaster(k Key) *KeyFile { return &KeyFile{from: "the master key", key: k} }

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
	k := &KeyFile{from: "the passphrase"}
	copy(k.key[:], b)
	clear(b)
	return k, nil
}

// IsMaster says whether k holds the master key.
func (k *KeyFile) IsMaster() bool { return !k.isTap }

// Tap returns the tap whose key k holds; ok is false for the master key.
func (k *KeyFile) Tap() (id uint32, ok bool) { return k.tap, k.isTap }

// TapKey returns the key of tap id: derived from the master key, or the one
// that k holds if it is that tap's.
func (k *KeyFile) TapKey(id uint32) (Key, error) {
	if !k.isTap {
		return DeriveTap(k.key, id)
	}
	if k.tap != id {
		return Key{}, fmt.Errorf("crypto: %s is for tap %d, not for tap %d", k.from, k.tap, id)
	}
	return k.key, nil
}

// String says what k holds and where from, without showing the key.
func (k KeyFile) String() string {
	if k.isTap {
		return fmt.Sprintf("%s for tap %d %s", k.from, k.tap, redacted)
	}
	return k.from + " (master) " + redacted
}

// Format writes what String returns, whatever the verb.
func (k KeyFile) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// WriteMaster writes the text of a key file with the master key k.
func WriteMaster(w io.Writer, k Key) error {
	return writeKey(w, "# ntap master key: it opens the traffic of every tap. Keep it on the collector, mode 0600.", masterWord, k)
}

// WriteTap writes the text of a key file with k, the key of tap id.
func WriteTap(w io.Writer, id uint32, k Key) error {
	return writeKey(w, fmt.Sprintf("# ntap key of tap %d: it opens and makes the traffic of that tap only. Mode 0600.", id),
		tapWord+" "+strconv.FormatUint(uint64(id), 10), k)
}

// writeKey writes the comment and the line with the key.
func writeKey(w io.Writer, comment, words string, k Key) error {
	var b strings.Builder
	b.WriteString(comment + "\n" + words + " " + base64.StdEncoding.EncodeToString(k[:]) + "\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("crypto: write key: %w", err)
	}
	return nil
}
