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
	"time"
)

// maxSecretFile bounds a file of keys, bytes. Chosen: room for 16 keys and for
// comments, and no way to read /dev/zero to the end.
const maxSecretFile = 16 << 10

// readSecret reads a file of keys; from names it in messages. It refuses one
// that others than its owner can read. A link is followed, since that is how
// Kubernetes mounts secrets: what counts is the file it leads to. The caller
// clears the text.
func readSecret(what, path, remedy string) (text []byte, from string, err error) {
	from = what + " " + path
	if to, err := os.Readlink(path); err == nil {
		from += " (a link to " + to + ")"
	}
	fail := func(err error, remedy string) ([]byte, string, error) {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = fmt.Errorf("%s: %w", p.Op, p.Err) // the path is in from
		}
		return nil, from, fmt.Errorf("crypto: %s: %w; %s", from, err, remedy)
	}
	if path == "" {
		return nil, from, fmt.Errorf("crypto: no %s named; %s", what, remedy)
	}
	info, err := os.Stat(path) // before the open, which waits where a FIFO has no writer
	if errors.Is(err, fs.ErrNotExist) {
		return fail(err, remedy)
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
	text = make([]byte, maxSecretFile+1) // of one size, so that no copies of the key are left behind by growing
	n, err := io.ReadFull(f, text)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		clear(text)
		return fail(err, "see the system's log")
	}
	if n > maxSecretFile {
		clear(text)
		return fail(fmt.Errorf("more than %d bytes: not a key file", maxSecretFile), remedy)
	}
	return text[:n], from, nil
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

// parseLines calls parse with the words of every line; empty lines and lines
// that start with # are comments. The errors do not show the text, which may be
// a key. There must be a line, and at most limit.
func parseLines(text []byte, limit int, parse func(words [][]byte) error) error {
	line, found := 0, 0
	for l := range bytes.Lines(text) {
		line++
		l = bytes.TrimSpace(l)
		if len(l) == 0 || l[0] == '#' {
			continue
		}
		if found == limit {
			return fmt.Errorf("line %d: more than %d keys", line, limit)
		}
		if err := parse(bytes.Fields(l)); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		found++
	}
	if found == 0 {
		return errors.New("empty: no key in it")
	}
	return nil
}

// A term is the ID of a key and when it is good; a zero time is no limit.
type term struct {
	id          uint8
	since, till time.Time
}

// maxKeyID is the highest ID of a key: the wire has 4 bits for it.
const maxKeyID = 15

// parseTerm reads the attributes of a key: id=N, from=TIME and until=TIME.
func parseTerm(words [][]byte) (t term, err error) {
	seen := map[string]bool{}
	for _, w := range words {
		name, value, _ := strings.Cut(string(w), "=")
		if seen[name] {
			return t, fmt.Errorf("%s= comes twice", name)
		}
		seen[name] = true
		switch name {
		case "id":
			n, err := strconv.ParseUint(value, 10, 8)
			if err != nil || n > maxKeyID || strconv.FormatUint(n, 10) != value {
				return t, fmt.Errorf("id=: the ID of a key is a number from 0 to %d", maxKeyID)
			}
			t.id = uint8(n)
		case "from":
			t.since, err = parseTime(value)
		case "until":
			t.till, err = parseTime(value)
		default:
			return t, errors.New("behind the key there is another word than id=, from= or until=")
		}
		if err != nil {
			return t, fmt.Errorf("%s=: want a time as in 2026-12-31T00:00:00Z (RFC 3339)", name)
		}
	}
	if !t.since.IsZero() && !t.till.IsZero() && !t.since.Before(t.till) {
		return t, errors.New("until= is not after from=")
	}
	return t, nil
}

// parseTime reads a time that String can write: whole seconds, of the years 1
// to 9999 also in UTC.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if t = t.UTC().Truncate(time.Second); err == nil && (t.Year() < 1 || t.Year() > 9999) {
		err = errors.New("crypto: no such year")
	}
	return t, err
}

// String returns the attributes as parseTerm reads them.
func (t term) String() string {
	var b strings.Builder
	if t.id != 0 {
		fmt.Fprintf(&b, " id=%d", t.id)
	}
	if !t.since.IsZero() {
		b.WriteString(" from=" + t.since.UTC().Format(time.RFC3339))
	}
	if !t.till.IsZero() {
		b.WriteString(" until=" + t.till.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// begun and ended say where now is.
func (t term) begun(now time.Time) bool { return !now.Before(t.since) }
func (t term) ended(now time.Time) bool { return !t.till.IsZero() && !now.Before(t.till) }

// newest returns the index of the term that what begins now is under: the one
// with the latest start of those that are good, and of equals the last. -1:
// none is.
func newest(terms []term, now time.Time) int {
	best := -1
	for i, t := range terms {
		if t.begun(now) && !t.ended(now) && (best < 0 || !t.since.Before(terms[best].since)) {
			best = i
		}
	}
	return best
}

// decodeKey reads a key of want bytes in base64 into raw, which has 3 bytes
// more: base64 decodes to whole groups.
func decodeKey(raw []byte, word []byte, want int) error {
	if n := base64.StdEncoding.EncodedLen(want); len(word) != n {
		return fmt.Errorf("the key has %d characters; want %d, which is %d bytes in base64", len(word), n, want)
	}
	// Strict refuses what decodes to the same key but is another text.
	n, err := base64.StdEncoding.Strict().Decode(raw, word)
	if err != nil {
		return errors.New("the key is not base64 (RFC 4648, section 4)")
	}
	if n != want {
		return fmt.Errorf("the key has %d bytes; want %d", n, want)
	}
	return nil
}
