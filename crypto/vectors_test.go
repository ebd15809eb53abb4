// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// unhex decodes hex with spaces.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectors is testdata/vectors.json, written by testdata/vectors.mjs.
type vectors struct {
	Master string
	Taps   []struct {
		ID  uint32
		Key string
	}
	Streams []struct {
		Tap     uint32
		Suite   string
		Kind    uint8
		Shard   uint16
		Session uint64 `json:",string"`
		Epochs  []struct {
			Secret, Key, IV string
			Sealed          []struct {
				Counter             uint64 `json:",string"`
				Header              int
				Plaintext, Datagram string
			}
		}
	}
}

func loadVectors(t *testing.T) (v vectors, tapKeys map[uint32]Key) {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Taps) == 0 || len(v.Streams) == 0 {
		t.Fatal("testdata/vectors.json holds no vectors")
	}
	tapKeys = make(map[uint32]Key)
	for _, tap := range v.Taps {
		tapKeys[tap.ID] = Key(unhex(t, tap.Key))
	}
	return v, tapKeys
}

// TestTapKeysAreThoseOfOpenSSL checks the derivation of tap keys.
func TestTapKeysAreThoseOfOpenSSL(t *testing.T) {
	v, want := loadVectors(t)
	master := FromMaster(Key(unhex(t, v.Master)))
	for id, key := range want {
		got, err := master.TapKey(id)
		if err != nil || got != key {
			t.Errorf("tap %d: %x, want %x (%v)", id, [KeyLen]byte(got), [KeyLen]byte(key), err)
		}
	}
}

// TestDatagramsAreThoseOfOpenSSL walks Sealers and Openers through the epochs
// of every vector: secrets, keys, IVs and sealed bytes are equal.
func TestDatagramsAreThoseOfOpenSSL(t *testing.T) {
	v, tapKeys := loadVectors(t)
	seen := make(map[string]int)
	for _, st := range v.Streams {
		suite, err := ParseSuite(st.Suite)
		if err != nil {
			t.Fatal(err)
		}
		stream := Stream{Suite: suite, Kind: st.Kind, Shard: st.Shard, Session: st.Session}
		tap := tapKeys[st.Tap]
		s, err := NewSealer(&tap, stream)
		if err != nil {
			t.Fatal(err)
		}
		o, err := NewOpener(&tap, stream)
		if err != nil {
			t.Fatal(err)
		}
		for e, epoch := range st.Epochs {
			for _, want := range epoch.Sealed {
				sealed, plaintext := unhex(t, want.Datagram), unhex(t, want.Plaintext)
				d := bytes.Clone(sealed[:want.Header])
				d = append(append(d, plaintext...), make([]byte, TagLen)...)
				s.next = want.Counter // what lies between is not sealed
				s.Seal(d, want.Header)
				if !bytes.Equal(d, sealed) {
					t.Fatalf("%+v, counter %d:\n sealed %x\n want   %x", stream, want.Counter, d, sealed)
				}
				if s.Counter() != want.Counter+1 {
					t.Fatalf("Counter is %d after sealing %d", s.Counter(), want.Counter)
				}
				got, err := o.Open(sealed, want.Header, want.Counter, uint64(e))
				if err != nil || !bytes.Equal(got, plaintext) {
					t.Fatalf("%+v, counter %d: opened %x, %v; want %x", stream, want.Counter, got, err, plaintext)
				}
				seen[st.Suite]++
			}
			if got := s.secret; !bytes.Equal(got[:], unhex(t, epoch.Secret)) || o.secret != got {
				t.Fatalf("%+v, epoch %d: secret %x and %x, want %s", stream, e, got, o.secret, epoch.Secret)
			}
			if !bytes.Equal(s.key.iv[:], unhex(t, epoch.IV)) {
				t.Fatalf("%+v, epoch %d: IV %x, want %s", stream, e, s.key.iv, epoch.IV)
			}
			var key [KeyLen]byte
			if expand(&key, &s.secret, labelKey); !bytes.Equal(key[:], unhex(t, epoch.Key)) {
				t.Fatalf("%+v, epoch %d: not key %s", stream, e, epoch.Key)
			}
		}
	}
	if len(seen) != numSuites {
		t.Fatalf("vectors of %v only", seen)
	}
}

// TestPublishedVectors checks the AEADs as this package makes them.
func TestPublishedVectors(t *testing.T) {
	const (
		gcmKey       = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
		gcmIV        = "cafebabefacedbaddecaf888"
		gcmPlaintext = `d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
			1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39`
		gcmCiphertext = `522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
			8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662`
	)
	zero := strings.Repeat("00", KeyLen)
	for _, v := range []struct {
		name, key, nonce, header, plaintext, ciphertext, tag string
		suite                                                Suite
	}{
		// McGrew and Viega, The Galois/Counter Mode of Operation, appendix B,
		// the cases with 256-bit keys and 96-bit IVs; NIST's examples too.
		{"GCM 13", zero, zero[:24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b", AES256GCM},
		{"GCM 14", zero, zero[:24], "", zero[:32], "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919", AES256GCM},
		{"GCM 15", gcmKey, gcmIV, "", gcmPlaintext + "1aafd255", gcmCiphertext + "898015ad", "b094dac5d93471bdec1a502270e3cc6c", AES256GCM},
		{"GCM 16", gcmKey, gcmIV, "feedfacedeadbeeffeedfacedeadbeefabaddad2", gcmPlaintext, gcmCiphertext, "76fc6ece0f4e1768cddf8853bb2d551b", AES256GCM},
		{"RFC 8439, section 2.8.2", "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
			"070000004041424344454647", "50515253c0c1c2c3c4c5c6c7",
			hex.EncodeToString([]byte("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.")),
			`d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6
			3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
			92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
			3ff4def08e4b7a9de576d26586cec64b6116`, "1ae10b594f09e26a7e902ecbd0600691", ChaCha20Poly1305},
		// RFC 3720, appendix B.4: CRC-32C of 32 bytes of zeros is AA 36 91 8A, least significant byte first.
		{"CRC-32C", zero, zero[:24], zero[:20], zero[:44], zero[:44], zero[:24] + "8a9136aa", Plaintext},
	} {
		aead, err := newAEAD(v.suite, (*[KeyLen]byte)(unhex(t, v.key)))
		if err != nil {
			t.Fatal(err)
		}
		want := unhex(t, v.ciphertext+v.tag)
		if got := aead.Seal(nil, unhex(t, v.nonce), unhex(t, v.plaintext), unhex(t, v.header)); !bytes.Equal(got, want) {
			t.Errorf("%s: sealed %x, want %x", v.name, got, want)
		}
		if got, err := aead.Open(nil, unhex(t, v.nonce), want, unhex(t, v.header)); err != nil || !bytes.Equal(got, unhex(t, v.plaintext)) {
			t.Errorf("%s: opened %x, %v", v.name, got, err)
		}
	}
}

// TestPublishedHKDF checks the two forms in which this package uses HKDF, with
// RFC 5869, appendix A: test case 1, and 3, which has no salt.
func TestPublishedHKDF(t *testing.T) {
	ikm := bytes.Repeat([]byte{0x0b}, 22)
	for _, v := range []struct {
		name, salt, info, prk, okm string
	}{
		{"A.1", "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9",
			"077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
			"3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"},
		{"A.3", "", "",
			"19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
			"8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"},
	} {
		info, okm := string(unhex(t, v.info)), unhex(t, v.okm)
		var got [KeyLen]byte
		if derive(&got, ikm, unhex(t, v.salt), info); !bytes.Equal(got[:], okm[:KeyLen]) {
			t.Errorf("%s: derive gives %x, want %x", v.name, got, okm[:KeyLen])
		}
		prk, err := hkdf.Extract(sha256.New, ikm, unhex(t, v.salt))
		if err != nil || !bytes.Equal(prk, unhex(t, v.prk)) {
			t.Errorf("%s: extract gives %x, want %s (%v)", v.name, prk, v.prk, err)
		}
		if expand(&got, (*[KeyLen]byte)(prk), info); !bytes.Equal(got[:], okm[:KeyLen]) {
			t.Errorf("%s: expand gives %x, want %x", v.name, got, okm[:KeyLen])
		}
	}
}

// HKDF here is that of the standard library, for every length.
func TestHKDFIsTheStandardOne(t *testing.T) {
	random := func(n int) []byte {
		b := make([]byte, n)
		rand.Read(b)
		return b
	}
	for n := range maxMessage {
		ikm, salt, info := random(n+1), random(n), string(random(n))
		want, err := hkdf.Key(sha256.New, ikm, salt, info, KeyLen)
		if err != nil {
			t.Fatal(err)
		}
		var got [KeyLen]byte
		if derive(&got, ikm, salt, info); !bytes.Equal(got[:], want) {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

// TestPassphraseIsArgon2id compares with the reference implementation:
//
//	printf %s PASSPHRASE | argon2 "ntap v1 passphrase" -id -t 3 -m 16 -p 4 -l 32 -r
func TestPassphraseIsArgon2id(t *testing.T) {
	for passphrase, want := range map[string]string{
		"correct horse battery staple": "ded51d54d861d7084387f2280dbd49b96771c319f869de6303189ba87fdc21be",
		"pässword":                     "718fbf9b9d8c188cb308bdfa1c194f401f3b14fb73da3b5427d230d88d375357",
	} {
		k, err := FromPassphrase(passphrase)
		if err != nil || !bytes.Equal(k.keys[0].key[:], unhex(t, want)) || !k.IsMaster() {
			t.Errorf("%q: %x, want %s (%v)", passphrase, k.keys[0].key[:], want, err)
		}
	}
	if k, err := FromPassphrase(""); err == nil {
		t.Errorf("no passphrase gives %v", k)
	}
}

// TestSelfTestsNotice shows that a suite whose self test differs is refused.
func TestSelfTestsNotice(t *testing.T) {
	for s := range Suite(numSuites) {
		if err := checkSuite(s); err != nil {
			t.Error(err)
		}
		if err := selfTest(s, strings.Repeat("00", 32))(); err == nil {
			t.Errorf("%v: nothing noticed", s)
		}
	}
}
