// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"
)

func allowOf(t testing.TB, text string) *AllowList {
	t.Helper()
	a := &AllowList{taps: make(map[uint32][]remoteKey)}
	if err := parseLines([]byte(text), maxRemotes, a.parse); err != nil {
		t.Fatal(err)
	}
	return a
}

func printOf(id *Identity) Fingerprint {
	return fingerprint(id.key.Public().(ed25519.PublicKey))
}

// TestAllowList asks for keys before, at and after the borders of their terms,
// for revoked ones, and for those of another tap.
func TestAllowList(t *testing.T) {
	var ids [6]*Identity
	for i := range ids {
		ids[i] = newIdentity(t, 7)
	}
	a := allowOf(t, "# taps\n\n"+
		"7 web "+ids[0].Public()+"\n"+
		"7 old "+ids[1].Public()+" until=2026-06-01T12:00:00Z\r\n"+
		"\t7  new  "+ids[2].Public()+" from=2026-06-01T12:00:00Z until=2026-06-01T13:00:00Z \n"+
		"7 stolen "+ids[3].Public()+" revoked\n"+
		"7 both "+ids[4].Public()+" from=2026-06-01T12:00:00Z revoked\n"+
		"8 revoked "+ids[0].Public()+"\n"+
		"4294967295 last "+ids[3].Public()+" revoked")
	hour := time.Hour
	for _, c := range []struct {
		tap  uint32
		id   int
		now  time.Duration
		want error
	}{
		{7, 0, 0, nil}, {7, 0, -1e6 * hour, nil}, {7, 0, 1e6 * hour, nil},
		{7, 1, -1, nil}, {7, 1, 0, ErrExpired},
		{7, 2, -1, ErrExpired}, {7, 2, 0, nil}, {7, 2, hour - 1, nil}, {7, 2, hour, ErrExpired},
		{7, 3, 0, ErrRevoked}, {7, 4, -1, ErrRevoked}, {7, 4, hour, ErrRevoked},
		{7, 5, 0, ErrNoKey}, {8, 0, 0, nil}, {8, 1, -1, ErrNoKey}, {8, 3, 0, ErrNoKey},
		{9, 0, 0, ErrNoKey}, {4294967295, 3, 0, ErrRevoked},
	} {
		if err := a.Check(c.tap, printOf(ids[c.id]), at(c.now)); err != c.want {
			t.Errorf("tap %d, key %d, %v: %v, want %v", c.tap, c.id, c.now, err, c.want)
		}
	}
	for tap, want := range map[uint32]bool{7: true, 8: true, 4294967295: true, 0: false, 9: false} {
		if a.Has(tap) != want {
			t.Errorf("tap %d: %v", tap, !want)
		}
	}
	if a.Len() != 3 {
		t.Errorf("%d taps", a.Len())
	}
}

// TestBadAllowLists: each has its own error, with the line.
func TestBadAllowLists(t *testing.T) {
	key := newIdentity(t, 7).Public()
	many := ""
	for range maxKeys + 1 {
		many += "7 x " + newIdentity(t, 7).Public() + "\n"
	}
	for text, want := range map[string]string{
		"7 web\n":                             "line 1: 2 words; want tap ID, name and public key",
		"web 7 " + key:                        "line 1: the tap ID is no decimal number",
		"7 two words " + key:                  "line 1: behind the key there is another word",
		"07 web " + key:                       "tap ID",
		"7 web " + key + " revoked from=x":    "line 1: ",
		"7 web " + key + " Revoked":           "another word",
		"7 web " + key + "\n\n7 again " + key: "line 3: tap 7 has this key twice",
		many:                                  "line 17: more than 16 keys of tap 7",
		"7 web " + key + "\n8 web " + key[:20] + "\n": "line 2: the key has 20 characters; want 44",
	} {
		path := writeFile(t, text, 0o644)
		_, err := LoadAllowList(path)
		for _, want := range []string{"crypto: allow-list " + path + ": ", want, "ntap key identity"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.60q: %v; want %q in it", text, err, want)
			}
		}
	}
}

func FuzzAllowList(f *testing.F) {
	a, b := newIdentity(f, 7), newIdentity(f, 8)
	f.Add(fmt.Appendf(nil, "%d %s %s\n", a.Tap, "web", a.Public()))
	f.Add(fmt.Appendf(nil, "# c\n%d x %s%v revoked\n%d x %s\n", a.Tap, a.Public(), term{id: 3, since: noon, till: at(time.Hour)}, b.Tap, b.Public()))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := &AllowList{taps: make(map[uint32][]remoteKey)}
		if err := parseLines(text, maxRemotes, a.parse); err != nil {
			if len(err.Error()) > 200 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		n := 0
		for tap, keys := range a.taps {
			n += len(keys)
			for _, k := range keys {
				if len(k.key) != ed25519.PublicKeySize {
					t.Fatalf("a key of %d bytes", len(k.key))
				}
				err := a.Check(tap, fingerprint(k.key), noon)
				if k.revoked != (err == ErrRevoked) || !k.revoked && (err == nil) != (k.begun(noon) && !k.ended(noon)) {
					t.Fatalf("%+v: %v", k, err)
				}
			}
		}
		if lines := bytes.Count(text, []byte("\n")) + 1; n == 0 || n > lines {
			t.Fatalf("%d keys in %d lines", n, lines)
		}
	})
}
