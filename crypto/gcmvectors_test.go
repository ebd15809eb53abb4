// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// A vector is one case of data from outside.
type vector struct {
	name                     string
	key, nonce, header, text []byte
	sealed                   []byte // ciphertext and tag
	valid                    bool   // sealed is what text becomes; else it must be refused
}

// gunzip returns the text of testdata/name.gz.
func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// nist reads a response file of NIST's CAVP: groups of "Name = value" lines,
// one a case, and a line FAIL in those that must be refused.
func nist(t testing.TB, name string, wantCases, wantForged int) (out []vector) {
	t.Helper()
	fields := map[string][]byte{}
	end := func() {
		if fields["Count"] == nil {
			return
		}
		for _, f := range []string{"Key", "IV", "AAD", "CT", "Tag"} {
			if fields[f] == nil {
				t.Fatalf("%s: case %d has no %s", name, len(out), f)
			}
		}
		out = append(out, vector{
			name: fmt.Sprintf("%s, case %d", name, len(out)),
			key:  fields["Key"], nonce: fields["IV"], header: fields["AAD"], text: fields["PT"],
			sealed: append(fields["CT"][:len(fields["CT"]):len(fields["CT"])], fields["Tag"]...), valid: fields["PT"] != nil,
		})
		clear(fields)
	}
	forged := 0
	lines := bufio.NewScanner(bytes.NewReader(gunzip(t, name)))
	for lines.Scan() {
		line := lines.Text()
		key, value, ok := strings.Cut(line, " =")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' || key == "Count":
			end()
			if key == "Count" {
				fields["Count"] = []byte{}
			}
		case line == "FAIL":
			forged++
		case ok:
			b, err := hex.DecodeString(strings.TrimSpace(value))
			if err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			fields[key] = append([]byte{}, b...) // not nil
		default:
			t.Fatalf("%s: %q", name, line)
		}
	}
	end()
	if len(out) != wantCases || forged != wantForged {
		t.Fatalf("%s: %d cases, %d to be refused; want %d and %d", name, len(out), forged, wantCases, wantForged)
	}
	return out
}

// wycheproof reads those vectors of a file that this package's suites can
// take: 256-bit keys, 96-bit nonces, 128-bit tags.
func wycheproof(t testing.TB, name string, wantCases, wantForged int) (out []vector) {
	t.Helper()
	var file struct {
		TestGroups []struct {
			KeySize, IVSize, TagSize int
			Tests                    []struct {
				TcID                               int
				Comment, Result                    string
				Key, IV, AAD, Msg, CT, Tag, Unused string
			}
		}
	}
	if err := json.Unmarshal(gunzip(t, name), &file); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	forged := 0
	for _, g := range file.TestGroups {
		if g.KeySize != 256 || g.IVSize != 96 || g.TagSize != 128 {
			continue
		}
		for _, v := range g.Tests {
			if v.Result != "valid" && v.Result != "invalid" {
				t.Fatalf("%s: test %d is %q", name, v.TcID, v.Result)
			}
			if v.Result == "invalid" {
				forged++
			}
			out = append(out, vector{
				name: fmt.Sprintf("%s, test %d (%s)", name, v.TcID, v.Comment),
				key:  unhex(t, v.Key), nonce: unhex(t, v.IV), header: unhex(t, v.AAD), text: unhex(t, v.Msg),
				sealed: unhex(t, v.CT+v.Tag), valid: v.Result == "valid",
			})
		}
	}
	if len(out) != wantCases || forged != wantForged {
		t.Fatalf("%s: %d cases, %d to be refused; want %d and %d", name, len(out), forged, wantCases, wantForged)
	}
	return out
}

// check seals and opens v, in place and not.
func (v *vector) check(t *testing.T, makeAEAD func(*[KeyLen]byte) (cipher.AEAD, error)) {
	t.Helper()
	aead, err := makeAEAD((*[KeyLen]byte)(v.key))
	if err != nil {
		t.Fatal(err)
	}
	for _, inPlace := range []bool{false, true} {
		if v.valid {
			var dst []byte
			text := append(make([]byte, 0, len(v.text)+TagLen), v.text...)
			if inPlace {
				dst = text[:0]
			}
			if got := aead.Seal(dst, v.nonce, text, v.header); !bytes.Equal(got, v.sealed) {
				t.Errorf("%s: in place %t: sealed %x, want %x", v.name, inPlace, got, v.sealed)
			}
		}
		var dst []byte
		sealed := bytes.Clone(v.sealed)
		if inPlace {
			dst = sealed[:0]
		}
		got, err := aead.Open(dst, v.nonce, sealed, v.header)
		switch {
		case !v.valid && (err == nil || got != nil):
			t.Errorf("%s: in place %t: opened %x, %v; must be refused", v.name, inPlace, got, err)
		case v.valid && (err != nil || !bytes.Equal(got, v.text)):
			t.Errorf("%s: in place %t: opened %x, %v; want %x", v.name, inPlace, got, err, v.text)
		}
	}
}

// TestKernelNIST: every kernel agrees with NIST's vectors (testdata/nist).
func TestKernelNIST(t *testing.T) {
	vectors := append(nist(t, "nist/gcmEncryptExtIV256.rsp", 375, 0), nist(t, "nist/gcmDecrypt256.rsp", 375, 191)...)
	eachKernel(t, func(t *testing.T, k *kernel) {
		for i := range vectors {
			vectors[i].check(t, k.new)
		}
	})
}

// TestKernelWycheproof: and with Project Wycheproof's (testdata/wycheproof).
func TestKernelWycheproof(t *testing.T) {
	vectors := wycheproof(t, "wycheproof/aes_gcm_test.json", 66, 27)
	eachKernel(t, func(t *testing.T, k *kernel) {
		for i := range vectors {
			vectors[i].check(t, k.new)
		}
	})
}

// TestSuitesOutsideVectors: the suites as this package makes them agree with
// the same vectors, with the kernel of this process.
func TestSuitesOutsideVectors(t *testing.T) {
	for suite, vectors := range map[Suite][]vector{
		AES256GCM: append(append(wycheproof(t, "wycheproof/aes_gcm_test.json", 66, 27),
			nist(t, "nist/gcmEncryptExtIV256.rsp", 375, 0)...), nist(t, "nist/gcmDecrypt256.rsp", 375, 191)...),
		ChaCha20Poly1305: wycheproof(t, "wycheproof/chacha20_poly1305_test.json", 316, 60),
	} {
		for i := range vectors {
			vectors[i].check(t, func(key *[KeyLen]byte) (cipher.AEAD, error) { return newAEAD(suite, key) })
		}
	}
}
