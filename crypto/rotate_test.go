// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// noon is when these tests happen.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return noon.Add(d) }

// line returns a line with key number n of a master key file.
func line(n byte, t term) string {
	var b bytes.Buffer
	writeKey(&b, masterWord, bytes.Repeat([]byte{n}, KeyLen), t)
	return b.String()
}

func keysOf(t testing.TB, text string) *KeyFile {
	t.Helper()
	k, err := parseKeyFile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestTerms asks for keys before, at and after each border of their terms.
func TestTerms(t *testing.T) {
	k := keysOf(t, line(1, term{id: 3, till: at(2 * time.Hour)})+
		line(2, term{id: 7, since: at(time.Hour), till: at(4 * time.Hour)})+
		line(3, term{id: 1, since: at(3 * time.Hour)}))
	for _, c := range []struct {
		at     time.Duration
		newest uint8
		over   string // IDs
	}{
		{-24 * time.Hour, 3, ""},
		{time.Hour - time.Nanosecond, 3, ""},
		{time.Hour, 7, ""},
		{2*time.Hour - time.Nanosecond, 7, ""},
		{2 * time.Hour, 7, "\x03"},
		{3*time.Hour - time.Nanosecond, 7, "\x03"},
		{3 * time.Hour, 1, "\x03"},
		{4 * time.Hour, 1, "\x03\x07"},
		{1 << 62, 1, "\x03\x07"},
	} {
		now := at(c.at)
		if id, err := k.Newest(now); err != nil || id != c.newest {
			t.Errorf("%v: the newest key is %d, %v; want %d", c.at, id, err, c.newest)
		}
		for id := range uint8(20) {
			want := ErrNoKey
			switch n := bytes.IndexByte([]byte{3, 7, 1}, id); {
			case strings.ContainsRune(c.over, rune(id)):
				want = ErrExpired
			case n >= 0:
				want = nil
				master := Key(bytes.Repeat([]byte{byte(n + 1)}, KeyLen))
				if key, _ := k.Find(9, id, now); key != mustDerive(t, master, 9) {
					t.Errorf("%v: key %d is another one", c.at, id)
				}
			}
			_, found := k.Find(9, id, now)
			if check := k.Check(9, id, now); check != want || found != want {
				t.Errorf("%v, key %d: Check %v, Find %v; want %v", c.at, id, check, found, want)
			}
		}
	}
	k = keysOf(t, line(1, term{since: at(time.Hour), till: at(2 * time.Hour)}))
	k.from = "key file x"
	if _, err := k.Newest(noon); err == nil || !strings.Contains(err.Error(), "crypto: key file x: no key is good now: the next one is from 2026-06-01T13:00:00Z; see whether this host's clock is right") {
		t.Errorf("before the begin: %v", err)
	}
	if _, err := k.Newest(at(2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "crypto: key file x: no key is good any more; make a new one: ntap key rotate") {
		t.Errorf("after the end: %v", err)
	}
	// Of keys that begin together, the last in the file.
	if id, err := keysOf(t, line(1, term{id: 2})+line(2, term{id: 1})).Newest(noon); id != 1 || err != nil {
		t.Errorf("of equals, key %d is taken (%v)", id, err)
	}
}

func mustDerive(t testing.TB, master Key, tap uint32) Key {
	t.Helper()
	k, err := DeriveTap(master, tap)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKeysOfAnotherTap: a tap's key file has no key of another tap, whatever
// its ID and term.
func TestKeysOfAnotherTap(t *testing.T) {
	k := keysOf(t, strings.Replace(line(1, term{id: 4})+line(2, term{id: 5, till: noon}), masterWord, tapWord+" 7", 2))
	for id := range uint8(16) {
		_, found := k.Find(8, id, noon)
		if check := k.Check(8, id, noon); check != ErrWrong || found != ErrWrong {
			t.Errorf("key %d: Check %v, Find %v", id, check, found)
		}
	}
	if err := k.Check(7, 5, noon); err != ErrExpired {
		t.Error(err)
	}
	if key, err := k.Find(7, 4, noon); err != nil || key != Key(bytes.Repeat([]byte{1}, KeyLen)) {
		t.Errorf("the tap's own key: %v", err)
	}
}

// TestRotate rotates both kinds of file 40 times, an hour apart, with half an
// hour of overlap: IDs go round, what is over goes, and at each moment the key
// in force is found under its ID.
func TestRotate(t *testing.T) {
	pairs, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	first := line(1, term{})
	master := keysOf(t, first)
	tap := keysOf(t, strings.Replace(first, masterWord, tapWord+" 9", 1))
	for n := 1; n <= 40; n++ {
		now := at(time.Duration(n) * time.Hour)
		since, until := now.Add(10*time.Minute), now.Add(40*time.Minute)
		for _, k := range []*KeyFile{master, tap} {
			id, err := k.Rotate(now, since, until)
			if want := uint8(n % maxKeys); err != nil || id != want {
				t.Fatalf("rotation %d: key %d, %v; want %d", n, id, err, want)
			}
			if len(k.keys) != 2 {
				t.Fatalf("rotation %d: %d keys are kept", n, len(k.keys))
			}
			before := uint8((n - 1) % maxKeys)
			for d, want := range map[time.Duration][3]any{ // newest, the one before, the new one
				0:                            {before, error(nil), error(nil)},
				10*time.Minute - time.Second: {before, error(nil), error(nil)},
				10 * time.Minute:             {id, error(nil), error(nil)},
				40*time.Minute - time.Second: {id, error(nil), error(nil)},
				40 * time.Minute:             {id, ErrExpired, error(nil)},
				100 * 365 * 24 * time.Hour:   {id, ErrExpired, error(nil)},
				-10 * 365 * 24 * time.Hour:   {before, error(nil), error(nil)},
			} {
				then := now.Add(d)
				newest, err := k.Newest(then)
				if n > 1 && d < -time.Hour {
					if err == nil {
						t.Errorf("rotation %d: years before, key %d is in force", n, newest)
					}
					continue
				}
				_, old := k.Find(9, before, then)
				_, fresh := k.Find(9, id, then)
				if err != nil || newest != want[0] || old != want[1] || fresh != want[2] {
					t.Errorf("rotation %d, %v later: newest %d (%v), the one before %v, the new one %v; want %v", n, d, newest, err, old, fresh, want)
				}
			}
		}
		id, err := pairs.Rotate(now, since, until)
		if want := uint8(n % maxKeys); err != nil || id != want || len(pairs.pairs) != 2 {
			t.Fatalf("rotation %d: pair %d of %d, %v; want %d", n, id, len(pairs.pairs), err, want)
		}
	}
	var b bytes.Buffer
	if err := master.Write(&b); err != nil {
		t.Fatal(err)
	}
	again := keysOf(t, b.String())
	if len(again.keys) != 2 || again.keys[0].key != master.keys[0].key || again.keys[1] != master.keys[1] {
		t.Errorf("written as\n%s", strings.ReplaceAll(b.String(), "A", "."))
	}
}

// TestRotateEndsWhatIsThere: the keys before end at until, or earlier if they
// did so before; nothing else of them changes.
func TestRotateEndsWhatIsThere(t *testing.T) {
	k := keysOf(t, line(1, term{id: 5, since: at(-9 * time.Hour), till: at(time.Hour)})+
		line(2, term{id: 6, since: at(-8 * time.Hour), till: at(99 * time.Hour)})+
		line(3, term{id: 7, since: at(-7 * time.Hour), till: at(-time.Hour)})+
		line(4, term{id: 15, since: at(-6 * time.Hour)}))
	id, err := k.Rotate(noon, at(time.Hour), at(2*time.Hour))
	if err != nil || id != 0 {
		t.Fatalf("key %d, %v", id, err)
	}
	want := []term{
		{5, at(-9 * time.Hour), at(time.Hour)},
		{6, at(-8 * time.Hour), at(2 * time.Hour)},
		{15, at(-6 * time.Hour), at(2 * time.Hour)},
		{0, at(time.Hour), time.Time{}},
	}
	for i, d := range k.keys {
		if i >= len(want) || d.term != want[i] {
			t.Errorf("key %d: %+v", i, d.term)
		}
		if n := []byte{1, 2, 4}; i < 3 && d.key != Key(bytes.Repeat(n[i:i+1], KeyLen)) {
			t.Errorf("key %d is another key", i)
		}
	}
	if len(k.keys) != len(want) {
		t.Errorf("%d keys", len(k.keys))
	}
}

// TestRotateRefuses: no second rotation before the first is in force, and no
// 17th key; then the file is what it was.
func TestRotateRefuses(t *testing.T) {
	k := keysOf(t, line(1, term{}))
	k.from = "key file x"
	if _, err := k.Rotate(noon, at(10*time.Minute), at(time.Hour)); err != nil {
		t.Fatal(err)
	}
	var before bytes.Buffer
	k.Write(&before)
	refused := func(now, since time.Duration, wants ...string) {
		t.Helper()
		_, err := k.Rotate(at(now), at(since), at(since+time.Hour))
		for _, want := range append(wants, "crypto: key file x: ", "; wait until") {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q in it", err, want)
			}
		}
		var after bytes.Buffer
		if k.Write(&after); !bytes.Equal(before.Bytes(), after.Bytes()) {
			t.Error("a rotation that was refused changed the keys")
		}
	}
	begins := "begins at 2026-06-01T12:10:00Z"
	refused(0, 0, begins)
	refused(0, 10*time.Minute, begins)
	refused(time.Minute, 11*time.Minute, begins) // later than that one, but that one is not in force
	refused(10*time.Minute-time.Second, time.Hour, begins)
	if id, err := k.Rotate(at(10*time.Minute), at(20*time.Minute), at(time.Hour)); err != nil || id != 2 {
		t.Errorf("once it is in force: %d, %v", id, err)
	}

	text := ""
	for id := range uint8(maxKeys) {
		text += line(id, term{id: id, since: at(-time.Duration(99-id) * time.Hour)})
	}
	k = keysOf(t, text)
	k.from = "key file x"
	before.Reset()
	k.Write(&before)
	refused(0, time.Minute, "16 keys are good still")
	if _, err := parseKeyFile([]byte(text + line(1, term{}))); err == nil || !strings.Contains(err.Error(), "line 17: more than 16 keys") {
		t.Errorf("17 keys: %v", err)
	}
	// IDs that are in use are passed over.
	k = keysOf(t, line(1, term{id: 0})+line(2, term{id: 1})+line(3, term{id: 15}))
	if id, err := k.Rotate(noon, noon, at(time.Hour)); err != nil || id != 2 {
		t.Errorf("key %d, %v; want 2", id, err)
	}
}

// TestReload: a file that is not good leaves the keys as they were, and the
// error says which file, why, and that; a good one takes their place.
func TestReload(t *testing.T) {
	path := writeFile(t, line(1, term{}), 0o600)
	k, err := LoadKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	one := mustDerive(t, Key(bytes.Repeat([]byte{1}, KeyLen)), 9)
	bad := func(want string) {
		t.Helper()
		err := k.Reload()
		for _, want := range []string{"crypto: key file " + path + ": ", want, "; the keys from before stay in force"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q in it", err, want)
			}
		}
		if key, err := k.Find(9, 0, noon); err != nil || key != one {
			t.Errorf("the key from before: %v", err)
		}
	}
	put("", 0o600)
	bad("empty")
	put(line(2, term{})+"what\n", 0o600)
	bad("line 2: not a key of ntap")
	put(line(2, term{}), 0o644)
	bad("mode 0644")
	put(strings.Replace(line(2, term{}), masterWord, tapWord+" 9", 1), 0o600)
	bad("it was a master key file, and now is the key file of tap 9; start anew")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	bad("no such file")

	put(line(1, term{till: at(time.Hour)})+line(2, term{id: 1, since: at(time.Minute)}), 0o600)
	if err := k.Reload(); err != nil {
		t.Fatal(err)
	}
	if id, err := k.Newest(at(time.Minute)); id != 1 || err != nil {
		t.Errorf("after a good one key %d is the newest (%v)", id, err)
	}
	if err := k.Check(9, 0, at(time.Hour)); err != ErrExpired {
		t.Errorf("the term of the old key is not that of the new file: %v", err)
	}
	if err := FromMaster(secretKey).Reload(); err != nil {
		t.Errorf("what is from no file: %v", err)
	}
}

// TestNoFileWithoutKeys: where every key is over, nothing is written that would
// be refused when it is read.
func TestNoFileWithoutKeys(t *testing.T) {
	over := term{till: at(-100 * 365 * 24 * time.Hour)}
	var b bytes.Buffer
	if err := keysOf(t, line(1, over)).WriteTap(&b, 9); err == nil || !strings.Contains(err.Error(), "no key is good any more") {
		t.Errorf("a tap's key: %v, %q", err, b.String())
	}
	p := pairsOf(t, pairLine(1, over))
	if err := p.WritePublic(&b); err == nil || !strings.Contains(err.Error(), "no key is good any more") {
		t.Errorf("a public key: %v, %q", err, b.String())
	}
	if b.Len() > 0 {
		t.Errorf("wrote %q", b.String())
	}
}

// TestTimesOfKeys: every time that is read can be written back.
func TestTimesOfKeys(t *testing.T) {
	for text, want := range map[string]string{
		" from=2026-01-02T03:04:05.999Z until=2026-01-02T03:04:06.001Z":   " from=2026-01-02T03:04:05Z until=2026-01-02T03:04:06Z",
		" from=2026-01-02T03:04:05+02:00 id=9":                            " id=9 from=2026-01-02T01:04:05Z",
		" from=2026-01-02T03:04:05.1Z until=2026-01-02T03:04:05.9Z":       "not after",
		" until=9999-12-31T23:59:59-01:00":                                "RFC 3339",
		" from=0000-01-01T00:00:00+01:00":                                 "RFC 3339",
		" from=2026-01-02T03:04:05Z until=2026-01-02T05:04:05+02:00":      "not after",
		" from=2026-01-02T03:04:05Z id=0 until=2027-01-02T03:04:05Z id=0": "id= comes twice",
	} {
		k, err := parseKeyFile([]byte(goodLine + text))
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %s", text, err, want)
			}
			continue
		}
		if got := k.keys[0].term.String(); got != want {
			t.Errorf("%s is written back as %s, want %s", text, got, want)
		}
	}
}
