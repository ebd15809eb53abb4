// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestKnownExports holds what public-key mode agrees with against vectors from
// outside (testdata/hpke/README.md): the KEM, the KDF, and exports without an
// AEAD.
func TestKnownExports(t *testing.T) {
	text, err := os.ReadFile("testdata/hpke/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		KEM         uint16 `json:"kem_id"`
		KDF         uint16 `json:"kdf_id"`
		AEAD        uint16 `json:"aead_id"`
		Info        string `json:"info"`
		SkRm        string `json:"skRm"`
		PkRm        string `json:"pkRm"`
		Enc         string `json:"enc"`
		Accumulated string `json:"exports_accumulated"`
		Exports     []struct {
			Context string `json:"exporter_context"`
			L       int    `json:"L"`
			Value   string `json:"exported_value"`
		} `json:"exports"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	var ours, exports int
	for _, v := range vectors {
		k, err := hpke.NewKEM(v.KEM)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := hpke.NewAEAD(v.AEAD)
		if err != nil {
			t.Fatal(err)
		}
		if v.KDF != kdf.ID() {
			t.Errorf("KDF %#04x is not the one of public-key mode", v.KDF)
		}
		if v.AEAD == only.ID() {
			aead = only
		}
		private, err := k.NewPrivateKey(unhex(t, v.SkRm))
		if err != nil {
			t.Fatal(err)
		}
		if v.KEM == kem.ID() { // through the pair file
			ours++
			line := fmt.Sprintf("%s %s\n", pairWord, base64.StdEncoding.EncodeToString(unhex(t, v.SkRm)))
			f, err := LoadPairFile(writeFile(t, line, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			private = f.pairs[0].private
			if !bytes.Equal(f.pairs[0].public, unhex(t, v.PkRm)) || len(f.pairs[0].public) != PublicKeyLen {
				t.Error("the public key of the pair is another one")
			}
		}
		r, err := hpke.NewRecipient(unhex(t, v.Enc), private, kdf, aead, unhex(t, v.Info))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range v.Exports {
			got, err := r.Export(string(unhex(t, e.Context)), e.L)
			if err != nil || !bytes.Equal(got, unhex(t, e.Value)) {
				t.Errorf("KEM %#04x: exported %x, %v; want %s", v.KEM, got, err, e.Value)
			}
			exports++
		}
		if v.Accumulated == "" {
			continue
		}
		contexts, sum := sha3.NewSHAKE128(), sha3.NewSHAKE128()
		for l := range 1000 {
			n := make([]byte, 1)
			contexts.Read(n)
			context := make([]byte, n[0])
			contexts.Read(context)
			value, err := r.Export(string(context), l)
			if err != nil {
				t.Fatal(err)
			}
			sum.Write(value)
		}
		got := make([]byte, 16)
		sum.Read(got)
		if hex.EncodeToString(got) != v.Accumulated {
			t.Errorf("KEM %#04x, AEAD %#04x: exports make %x, want %s", v.KEM, v.AEAD, got, v.Accumulated)
		}
		exports += 1000
	}
	if ours != 1 || exports != 1005 {
		t.Errorf("%d cases of our KEM and %d exports: the vectors are not what README.md says", ours, exports)
	}
}

// TestKnownSignatures: an identity file with the seed of each vector
// (testdata/ed25519/README.md) has its public key and makes its signature, and
// an allow-list reads that key.
func TestKnownSignatures(t *testing.T) {
	f, err := os.Open("testdata/ed25519/sign.input.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(z); lines.Scan(); n++ {
		part := strings.Split(lines.Text(), ":")
		seed, public, message := unhex(t, part[0])[:ed25519.SeedSize], unhex(t, part[1]), unhex(t, part[2])
		signature := unhex(t, part[3])[:ed25519.SignatureSize]
		id, err := LoadIdentity(writeFile(t, fmt.Sprintf("%s %d %s\n", identityWord, n, base64.StdEncoding.EncodeToString(seed)), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if got := ed25519.Sign(id.key, message); !bytes.Equal(got, signature) {
			t.Errorf("case %d: signed %x, want %x", n, got, signature)
		}
		if want := base64.StdEncoding.EncodeToString(public); id.Public() != want || id.Tap != uint32(n) {
			t.Errorf("case %d: public key %s of tap %d, want %s", n, id.Public(), id.Tap, want)
		}
		a := allowOf(t, fmt.Sprintf("%d known %s\n", n, id.Public()))
		key, err := a.find(uint32(n), fingerprint(public), time.Now())
		if err != nil || !ed25519.Verify(key, message, signature) {
			t.Errorf("case %d: not verified by the key of the list (%v)", n, err)
		}
	}
	if n != 128 {
		t.Errorf("%d vectors, want 128", n)
	}
}
