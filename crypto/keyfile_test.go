// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/cpuid/v2"
)

var secretKey = Key(bytes.Repeat([]byte{0xC5, 0x5C, 0xA3, 0x3A}, 8))

// shows says whether text holds the secret key in a form that a print of it
// could have.
func shows(text string) bool {
	for _, form := range []string{"c55ca33a", "C55CA33A", "197 92 163 58", "197,92,163,58", "0xc5", "xVyjO", string(secretKey[:4])} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// TestKeysDoNotShow prints keys, and what holds keys, in every way there is.
func TestKeysDoNotShow(t *testing.T) {
	stream := Stream{Suite: AES256GCM}
	s, _ := NewSealer(&secretKey, stream)
	o, _ := NewOpener(&secretKey, stream)
	s.secret, o.secret = secretKey, secretKey
	type config struct {
		Key  Key
		Keys *KeyFile
	}
	c := config{secretKey, FromMaster(secretKey)}
	for _, v := range []any{secretKey, &secretKey, []Key{secretKey}, c.Keys, &KeyFile{keys: []datedKey{{key: secretKey}}, isTap: true}, s, o, c, &c} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%T %[1]v", "%08.3f"} {
			if text := fmt.Sprintf(verb, v); shows(text) {
				t.Errorf("%s of %T: %s", verb, v, text)
			}
		}
		if text, err := json.Marshal(v); err == nil && shows(string(text)) {
			t.Errorf("JSON of %T: %s", v, text)
		}
	}
	if text := secretKey.String() + secretKey.GoString() + fmt.Sprint(errors.New(c.Keys.String())); shows(text) {
		t.Error(text)
	}
	if !shows(fmt.Sprintf("%x", [KeyLen]byte(secretKey))) || !shows(fmt.Sprintf("%v", [KeyLen]byte(secretKey))) {
		t.Error("the test would not notice")
	}
}

func writeFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// TestKeyFileRoundTrip writes key files and loads them.
func TestKeyFileRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMaster(&b, secretKey); err != nil {
		t.Fatal(err)
	}
	k, err := LoadKeyFile(writeFile(t, b.String(), 0o600))
	if err != nil || !k.IsMaster() || k.keys[0].key != secretKey {
		t.Fatalf("%v, %v", k, err)
	}
	if id, ok := k.Tap(); ok {
		t.Errorf("a master key is for tap %d", id)
	}
	tap9, err := k.TapKey(9)
	if err != nil {
		t.Fatal(err)
	}

	b.Reset()
	if err := WriteTap(&b, 9, tap9); err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, b.String(), 0o400)
	k, err = LoadKeyFile(path)
	if err != nil || k.IsMaster() {
		t.Fatalf("%v, %v", k, err)
	}
	if id, ok := k.Tap(); !ok || id != 9 {
		t.Errorf("for tap %d, %v", id, ok)
	}
	if got, err := k.TapKey(9); err != nil || got != tap9 {
		t.Errorf("not the key it was derived as (%v)", err)
	}
	_, err = k.TapKey(7)
	if want := "crypto: key file " + path + " is for tap 9, not for tap 7"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}

	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err = LoadKeyFile(link); err != nil {
		t.Errorf("a link: %v", err)
	}
	if err := WriteMaster(failing{}, secretKey); err == nil || shows(err.Error()) {
		t.Errorf("writing to a full disk: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

const goodLine = "ntap-master-key-1 xVyjOsVcozrFXKM6xVyjOsVcozrFXKM6xVyjOsVcozo="

// TestBadKeyFiles: each has its own error, which says what to do and does not
// show the key.
func TestBadKeyFiles(t *testing.T) {
	if _, err := parseKeyFile([]byte(goodLine)); err != nil {
		t.Fatal(err)
	}
	key := strings.Fields(goodLine)[1]
	for text, want := range map[string]string{
		"":                              "empty",
		"\n# only this\n\n":             "empty",
		"hello":                         "line 1: not a key of ntap",
		"# c\n\nxVyjOsVcozrFXKM6":       "line 3: not a key of ntap",
		"ntap-master-key-2 " + key:      "not a key of ntap",
		"ntap-master-key-1":             "1 words",
		goodLine + " x":                 "another word than id=",
		goodLine + "\n" + goodLine:      "line 2: a second key with ID 0",
		"ntap-master-key-1 xVyjOg==":    "8 characters; want 44",
		"ntap-master-key-1 " + key[:43]: "43 characters",
		"ntap-master-key-1 " + strings.Replace(key, "O", "!", 1):                                       "not base64",
		"ntap-master-key-1 " + strings.Replace(key, "zo=", "zp=", 1):                                   "not base64",
		"ntap-master-key-1 " + base64.StdEncoding.EncodeToString(secretKey[:31]):                       "the key has 31 bytes",
		"ntap-master-key-1 " + base64.StdEncoding.EncodeToString(append(bytes.Clone(secretKey[:]), 1)): "the key has 33 bytes",
		"ntap-tap-key-1 " + key:                                            "2 words",
		"ntap-tap-key-1 7 " + key + " # mine":                              "another word than id=",
		"ntap-tap-key-1 -1 " + key:                                         "tap ID",
		"ntap-tap-key-1 +1 " + key:                                         "tap ID",
		"ntap-tap-key-1 07 " + key:                                         "tap ID",
		"ntap-tap-key-1 4294967296 " + key:                                 "tap ID",
		"#" + strings.Repeat("x", maxSecretFile):                           "more than 16384 bytes",
		goodLine + " id=16":                                                "0 to 15",
		goodLine + " id=01":                                                "0 to 15",
		goodLine + " id=1 id=2":                                            "id= comes twice",
		goodLine + " from=yesterday":                                       "want a time as in",
		goodLine + " from=2026-01-02T00:00:00Z until=2026-01-01T00:00:00Z": "not after",
		goodLine + "\nntap-tap-key-1 7 " + key + " id=1":                   "another kind or tap",
		"ntap-tap-key-1 7 " + key + "\nntap-tap-key-1 8 " + key + " id=1":  "another kind or tap",
		"\x00\x01\xff":                                                     "not a key of ntap",
		strings.Repeat("\n", 50) + "ntap-tap-key-1 4294967295 x":           "line 51: the key has 1 characters",
	} {
		path := writeFile(t, text, 0o600)
		_, err := LoadKeyFile(path)
		if err == nil {
			t.Errorf("%q is accepted", text)
			continue
		}
		if e := err.Error(); !strings.Contains(e, want) || !strings.HasPrefix(e, "crypto: key file "+path+": ") || shows(e) || strings.Contains(e, key[:8]) {
			t.Errorf("%q: %s; want %s", text, e, want)
		}
	}
}

// TestKeyFilesThatAreNotToBeRead: modes, links, and what is no file.
func TestKeyFilesThatAreNotToBeRead(t *testing.T) {
	refused := func(path string, wants ...string) {
		t.Helper()
		_, err := LoadKeyFile(path)
		if err == nil {
			t.Errorf("%s is accepted", path)
			return
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q in it", err, want)
			}
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644, 0o620, 0o601, 0o777} {
		path := writeFile(t, goodLine, mode)
		refused(path, fmt.Sprintf("mode %04o", mode), "run: chmod 600 "+path)
	}
	for _, mode := range []os.FileMode{0o600, 0o400, 0o700} {
		if _, err := LoadKeyFile(writeFile(t, goodLine+"\r\n", mode)); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	dir := t.TempDir()
	refused("", "no key file named")
	refused(dir, "not a file")
	refused("/dev/zero", "not a file")
	refused(filepath.Join(dir, "none"), "no such file", "ntap key new")
	dangling, loose := filepath.Join(dir, "dangling"), filepath.Join(dir, "loose")
	open := writeFile(t, goodLine, 0o644)
	for link, to := range map[string]string{dangling: "/none", loose: open} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	refused(dangling, "a link to /none", "no such file")
	refused(loose, "a link to "+open, "mode 0644")
}

// TestSystemdCredential: with User= and LoadCredential=, systemd grants the
// file by an ACL, which stat shows as a group read bit.
func TestSystemdCredential(t *testing.T) {
	path := writeFile(t, goodLine, 0o440)
	if _, err := LoadKeyFile(path); err == nil {
		t.Error("mode 0440 is accepted anywhere")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(path))
	if _, err := LoadKeyFile(path); err != nil {
		t.Error(err)
	}
	for _, mode := range []os.FileMode{0o444, 0o460} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKeyFile(path); err == nil {
			t.Errorf("mode %04o is accepted", mode)
		}
	}
}

// FuzzParseKeyFile: refuse, or be one line that is written back to the same
// key; an error never shows text of the file.
func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(goodLine))
	f.Add([]byte("# comment\n\n\tntap-tap-key-1  7 xVyjOsVcozrFXKM6xVyjOsVcozrFXKM6xVyjOsVcozo= \r\n"))
	f.Add([]byte("ntap-tap-key-1 4294967295 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n#"))
	f.Add([]byte("ntap-master-key-1 \xff\n"))
	f.Add([]byte(goodLine + " id=3 from=2026-01-02T03:04:05Z until=2027-01-02T03:04:05+01:00\n" + goodLine))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKeyFile(text)
		if err != nil {
			for _, word := range bytes.Fields(text) {
				if len(word) > 20 && strings.Contains(err.Error(), string(word)) {
					t.Fatalf("%v shows %q", err, word)
				}
			}
			return
		}
		var b bytes.Buffer
		if err := k.Write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := parseKeyFile(b.Bytes())
		if err != nil || again.isTap != k.isTap || again.tap != k.tap || len(again.keys) != len(k.keys) {
			t.Fatalf("written back as %q: %v", b.String(), err)
		}
		for i, d := range k.keys {
			if e := again.keys[i]; e.key != d.key || e.id != d.id || !e.since.Equal(d.since) || !e.till.Equal(d.till) {
				t.Fatalf("key %d is written back as %q", i, b.String())
			}
			if !bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString(d.key[:]))) {
				t.Fatalf("%q gave another key", text)
			}
		}
	})
}

func TestNewKeysDiffer(t *testing.T) {
	a, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := NewKey(); err != nil || a == b || a == (Key{}) {
		t.Error("two keys are the same")
	}
}

func TestParseSuite(t *testing.T) {
	for _, s := range suites {
		if got, err := ParseSuite(s.String()); err != nil || got != s {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	_, err := ParseSuite("rot13")
	for _, s := range suites {
		if err == nil || !strings.Contains(err.Error(), s.String()) {
			t.Errorf("%v does not name %v", err, s)
		}
	}
	if got := Suite(77).String(); got != "suite 77" {
		t.Error(got)
	}
}

// TestPick takes each way of the choice, whatever CPU the test runs on.
func TestPick(t *testing.T) {
	with := func(features ...cpuid.FeatureID) func(...cpuid.FeatureID) bool {
		return func(asked ...cpuid.FeatureID) bool {
			for _, a := range asked {
				found := false
				for _, f := range features {
					found = found || a == f
				}
				if !found {
					return false
				}
			}
			return true
		}
	}
	type cpu struct {
		has  func(...cpuid.FeatureID) bool
		want Suite
	}
	cpus := map[string][]cpu{
		"amd64": {
			{with(), ChaCha20Poly1305},
			{with(cpuid.AESNI, cpuid.SSE4, cpuid.SSSE3), ChaCha20Poly1305},
			{with(cpuid.AESNI, cpuid.SSE4, cpuid.SSSE3, cpuid.CLMUL), AES256GCM},
		},
		"arm64": {
			{with(cpuid.AESARM), ChaCha20Poly1305},
			{with(cpuid.AESARM, cpuid.PMULL), AES256GCM},
		},
	}
	for _, c := range cpus[runtime.GOARCH] {
		if got, why := pick("", c.has); got != c.want || why == "" {
			t.Errorf("picked %v, %q; want %v", got, why, c.want)
		}
	}
	if s, why := Pick(); s == Plaintext || why == "" {
		t.Errorf("picked %v, %q", s, why)
	}
}
