// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pairLine returns a line with the pair whose seed is n in each byte.
func pairLine(n byte, t term) string {
	var b bytes.Buffer
	writeKey(&b, pairWord, bytes.Repeat([]byte{n}, pairLen), t)
	return b.String()
}

func pairsOf(t testing.TB, text string) *PairFile {
	t.Helper()
	f := new(PairFile)
	if err := parseLines([]byte(text), maxKeys, f.parse); err != nil {
		t.Fatal(err)
	}
	return f
}

// publicOf returns what a remote reads of what WritePublic writes.
func publicOf(t testing.TB, p *PairFile) *PublicFile {
	t.Helper()
	var b bytes.Buffer
	if err := p.WritePublic(&b); err != nil {
		t.Fatal(err)
	}
	f := new(PublicFile)
	if err := parseLines(b.Bytes(), maxKeys, f.parse); err != nil {
		t.Fatal(err)
	}
	return f
}

func newIdentity(t testing.TB, tap uint32) *Identity {
	t.Helper()
	id, err := NewIdentity(tap)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestPairDoesNotShow prints pairs and identities in every way there is.
func TestPairDoesNotShow(t *testing.T) {
	pairs, id := new(PairFile), &Identity{Tap: 7, key: make([]byte, 64)}
	if err := pairs.put(secretKey[:], term{}); err != nil {
		t.Fatal(err)
	}
	copy(id.key, secretKey[:])
	keys := &KeyFile{keys: []datedKey{{secretKey, term{id: 3, till: noon}}}}
	for _, v := range []any{pairs, id, keys, []any{pairs, id}, struct {
		Pairs    *PairFile
		Identity *Identity
	}{pairs, id}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%T %[1]v", "%08.3f"} {
			if text := fmt.Sprintf(verb, v); shows(text) {
				t.Errorf("%s of %T: %s", verb, v, text)
			}
		}
		if text, err := json.Marshal(v); err == nil && shows(string(text)) {
			t.Errorf("JSON of %T: %s", v, text)
		}
	}
}

// TestPairRoundTrip writes a pair, its public key and an identity, and reads
// them.
func TestPairRoundTrip(t *testing.T) {
	p, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Rotate(noon, at(time.Hour), at(100*365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, b.String(), 0o600)
	again, err := LoadPairFile(path)
	if err != nil || len(again.pairs) != 2 {
		t.Fatalf("%v, %v", again, err)
	}
	for i := range p.pairs {
		if a, b := p.pairs[i], again.pairs[i]; a.seed != b.seed || !bytes.Equal(a.public, b.public) || a.term != b.term {
			t.Errorf("pair %d is another one", i)
		}
	}
	b.Reset()
	if err := again.WritePublic(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), base64.StdEncoding.EncodeToString(p.pairs[0].seed[:])) {
		t.Error("the public file has the private key")
	}
	public, err := LoadPublicFile(writeFile(t, b.String(), 0o644))
	if err != nil || len(public.keys) != 2 {
		t.Fatal(err)
	}
	for now, i := range map[time.Duration]int{0: 0, time.Hour - 1: 0, time.Hour: 1} {
		if got, err := public.Newest(at(now)); err != nil || got != fingerprint(p.pairs[i].public) || len(p.pairs[i].public) != PublicKeyLen {
			t.Errorf("%v: another key is in force (%v)", now, err)
		}
	}

	id := newIdentity(t, 4294967295)
	b.Reset()
	if err := id.Write(&b); err != nil {
		t.Fatal(err)
	}
	same, err := LoadIdentity(writeFile(t, b.String(), 0o600))
	if err != nil || same.Tap != id.Tap || !same.key.Equal(id.key) || same.Public() != id.Public() {
		t.Errorf("the identity is another one (%v)", err)
	}
	for what, err := range map[string]error{"pair": p.Write(failing{}), "public": p.WritePublic(failing{}), "identity": id.Write(failing{})} {
		if err == nil || !strings.Contains(err.Error(), "crypto: write key: no space left") {
			t.Errorf("%s to a full disk: %v", what, err)
		}
	}
	id.Wipe()
	if !bytes.Equal(id.key, make([]byte, 64)) {
		t.Error("the identity is not wiped")
	}
	if p.Wipe(); len(p.pairs) != 0 {
		t.Error("the pairs are not wiped")
	}
}

// TestRotatedPairsAreErased: nothing of a pair that is over stays behind.
func TestRotatedPairsAreErased(t *testing.T) {
	p := pairsOf(t, pairLine(1, term{till: at(-time.Hour)})+pairLine(2, term{id: 1}))
	before := p.pairs
	over := before[0].private
	if _, err := p.Rotate(noon, noon, at(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if before[i].seed != [pairLen]byte{} {
			t.Errorf("the seed of pair %d is still where it was", i)
		}
	}
	if seed, err := over.Bytes(); err == nil && bytes.Equal(seed, bytes.Repeat([]byte{1}, pairLen)) {
		t.Error("the private key that is over was not erased")
	}
	if seed, err := p.pairs[0].private.Bytes(); err != nil || !bytes.Equal(seed, bytes.Repeat([]byte{2}, pairLen)) {
		t.Errorf("the one that stays was (%v)", err)
	}
}

// A loader reads a file of public-key mode.
type loader struct {
	load   func(path string) error
	good   string
	what   string // in messages
	remedy string
	secret bool
}

func loaders(t testing.TB) []loader {
	p := pairsOf(t, pairLine(0xA7, term{}))
	var public, identity bytes.Buffer
	if err := p.WritePublic(&public); err != nil {
		t.Fatal(err)
	}
	id := newIdentity(t, 7)
	if err := id.Write(&identity); err != nil {
		t.Fatal(err)
	}
	return []loader{
		{func(f string) error { _, err := LoadPairFile(f); return err }, pairLine(0xA7, term{}), "key pair file", "ntap key pair", true},
		{func(f string) error { _, err := LoadIdentity(f); return err }, identity.String(), "identity file", "ntap key identity", true},
		{func(f string) error { _, err := LoadPublicFile(f); return err }, public.String(), "public key file", "ntap key public", false},
		{func(f string) error { _, err := LoadAllowList(f); return err }, "7 x " + id.Public() + "\n", "allow-list", "ntap key identity", false},
	}
}

// TestModes: a secret is for its owner only; what is public may be read by all,
// and written by its owner only.
func TestModes(t *testing.T) {
	for _, l := range loaders(t) {
		for _, mode := range []os.FileMode{0o600, 0o400, 0o700, 0o640, 0o604, 0o644, 0o444, 0o755, 0o620, 0o602, 0o666, 0o777, 0o601} {
			bad, run := mode&0o022 != 0, "run: chmod go-w "
			if l.secret {
				bad, run = mode&0o077 != 0, "run: chmod 600 "
			}
			path := writeFile(t, l.good, mode)
			err := l.load(path)
			if (err != nil) != bad {
				t.Errorf("%s, mode %04o: %v", l.what, mode, err)
			}
			if err == nil {
				continue
			}
			for _, want := range []string{"crypto: " + l.what + " " + path + ": ", fmt.Sprintf("mode %04o", mode), run + path} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q in it", err, want)
				}
			}
		}
		dir := t.TempDir()
		none := filepath.Join(dir, "none")
		for path, want := range map[string]string{none: "no such file or directory", dir: "not a file", "/dev/zero": "not a file"} {
			if err := l.load(path); err == nil || !strings.Contains(err.Error(), "crypto: "+l.what+" "+path+": ") || !strings.Contains(err.Error(), want+"; ") {
				t.Errorf("%v; want %q in it", err, want)
			}
		}
		if err := l.load(none); err == nil || !strings.Contains(err.Error(), l.remedy) {
			t.Errorf("%v; want %q in it", err, l.remedy)
		}
	}
}

// TestBadFiles: each has its own error, which names file, line and remedy, and
// shows no key.
func TestBadFiles(t *testing.T) {
	for _, l := range loaders(t) {
		words := strings.Fields(l.good[strings.LastIndex(strings.TrimSpace(l.good), "\n")+1:])
		at := len(words) - 1 // of the key
		key := words[at]
		change := func(to string) string {
			w := append([]string(nil), words...)
			w[at] = to
			return strings.Join(w, " ")
		}
		lines := map[string]string{
			"":                            "empty",
			"# nothing\n\n":               "empty",
			"hello":                       "line 1: ",
			"\n#\n" + key:                 "line 3: ",
			change(key[1:]):               "line 1: the key has",
			change(key[:len(key)/2]):      "line 1: the key has",
			change("!" + key[1:]):         "line 1: the key is not base64",
			strings.Join(words[:at], " "): "line 1: ",
			change(key + " id=16"):        "line 1: ",
			change(key + " " + key):       "line 1: ",
			l.good + l.good:               "line ",
		}
		if l.what != "identity file" {
			lines[change(key+" from=x")] = "from=: want a time as in"
			lines[change(key+" until=2026-01-01T00:00:00Z until=2026-01-01T00:00:00Z")] = "until= comes twice"
			lines[change(key+" from=2026-01-02T00:00:00Z until=2026-01-02T00:00:00Z")] = "until= is not after from="
		}
		for text, want := range lines {
			path := writeFile(t, text, 0o600)
			err := l.load(path)
			if err == nil {
				t.Errorf("%s: %.60q is accepted", l.what, text)
				continue
			}
			for _, want := range []string{"crypto: " + l.what + " " + path + ": ", want, "; ", l.remedy} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s, %.60q: %v; want %q in it", l.what, text, err, want)
				}
			}
			if strings.Contains(err.Error(), key[1:20]) {
				t.Errorf("%s: shows the key: %v", l.what, err)
			}
		}
	}
	bad := bytes.Repeat([]byte{0xFF}, PublicKeyLen) // coefficients above q: FIPS 203, section 7.2
	if err := new(PublicFile).parse([][]byte{[]byte(publicWord), []byte(base64.StdEncoding.EncodeToString(bad))}); err == nil || !strings.Contains(err.Error(), "no public key of MLKEM768-X25519") {
		t.Errorf("what is no public key: %v", err)
	}
	if _, err := LoadPairFile(writeFile(t, pairLine(1, term{})+pairLine(2, term{}), 0o600)); err == nil || !strings.Contains(err.Error(), "line 2: a second pair with ID 0") {
		t.Errorf("two pairs with one ID: %v", err)
	}
	big := strings.Repeat("#\n", maxPublicFile/2+1)
	if _, err := LoadPublicFile(writeFile(t, big, 0o600)); err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Errorf("a long file: %v", err)
	}
}

// TestReloadPairs: what cannot be used leaves pairs, public keys and list as
// they were, and the error says so.
func TestReloadPairs(t *testing.T) {
	all := loaders(t)
	pairs, err := LoadPairFile(writeFile(t, all[0].good, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	public, err := LoadPublicFile(writeFile(t, all[2].good, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	allow, err := LoadAllowList(writeFile(t, all[3].good, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	print := fingerprint(pairs.pairs[0].public)
	same := func() {
		t.Helper()
		if got, err := public.Newest(noon); got != print || err != nil {
			t.Errorf("the public key is another one (%v)", err)
		}
		if _, _, err := pairs.find(print[:], noon); err != nil {
			t.Errorf("the pair is not found: %v", err)
		}
		if !allow.Has(7) || allow.Len() != 1 {
			t.Error("the tap is not on the list")
		}
	}
	same()
	for path, f := range map[string]interface{ Reload() error }{pairs.path: pairs, public.path: public, allow.path: allow} {
		good, _ := os.ReadFile(path)
		os.WriteFile(path, append(good, "what\n"...), 0o600)
		err := f.Reload()
		for _, want := range []string{path + ": line ", "from before stay"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q in it", err, want)
			}
		}
		same()
		os.WriteFile(path, good, 0o600)
		if err := f.Reload(); err != nil {
			t.Error(err)
		}
		same()
	}
	os.WriteFile(pairs.path, []byte(pairLine(9, term{})), 0o600)
	if err := pairs.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pairs.find(print[:], noon); err != ErrNoKey {
		t.Errorf("a pair that was taken out: %v", err)
	}
}

func FuzzPairFile(f *testing.F) {
	f.Add([]byte(pairLine(1, term{}) + pairLine(2, term{1, noon, at(time.Hour)})))
	f.Add([]byte("# c\n\n" + pairLine(0xFF, term{id: 15, till: noon})))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := new(PairFile)
		if err := parseLines(text, maxKeys, p.parse); err != nil {
			showsWord(t, err, text)
			return
		}
		var b bytes.Buffer
		if err := p.Write(&b); err != nil {
			t.Fatal(err)
		}
		again := pairsOf(t, b.String())
		for i := range p.pairs {
			if a, b := p.pairs[i], again.pairs[i]; a.seed != b.seed || a.term != b.term {
				t.Fatalf("pair %d is written back as another", i)
			}
		}
	})
}

func FuzzPublicFile(f *testing.F) {
	for _, text := range []string{pairLine(1, term{}), pairLine(2, term{id: 2, since: noon}) + pairLine(3, term{})} {
		var b bytes.Buffer
		if err := pairsOf(f, text).WritePublic(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p := new(PublicFile)
		if err := parseLines(text, maxKeys, p.parse); err != nil {
			showsWord(t, err, text)
			return
		}
		for _, k := range p.keys {
			if len(k.bytes) != PublicKeyLen || !bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString(k.bytes))) {
				t.Fatal("a key that the text does not have")
			}
		}
	})
}

func FuzzIdentity(f *testing.F) {
	for _, tap := range []uint32{0, 7, 4294967295} {
		var b bytes.Buffer
		if err := newIdentity(f, tap).Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		id, err := parseIdentity(text)
		if err != nil {
			showsWord(t, err, text)
			return
		}
		var b bytes.Buffer
		if err := id.Write(&b); err != nil {
			t.Fatal(err)
		}
		if again, err := parseIdentity(b.Bytes()); err != nil || again.Tap != id.Tap || !again.key.Equal(id.key) {
			t.Fatalf("written back as another: %v", err)
		}
	})
}

// showsWord fails if an error shows a word of the text that may be a key.
func showsWord(t *testing.T, err error, text []byte) {
	t.Helper()
	for _, word := range bytes.Fields(text) {
		if len(word) > 20 && strings.Contains(err.Error(), string(word)) {
			t.Fatalf("%v shows %q", err, word)
		}
	}
}
