// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tapFile writes the key file of a tap, and reads it.
func tapFile(t *testing.T, tap uint32) (*KeyFile, Key) {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tap.key")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(FromMaster(k).WriteTap(f, tap), f.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := LoadKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := file.TapKey(tap)
	if err != nil {
		t.Fatal(err)
	}
	return file, key
}

// Taps have keys of their own beside a master key or without one, until they
// are taken back; others have what they had.
func TestKeysOfSingleTaps(t *testing.T) {
	now := time.Now()
	m, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*KeyFile{"master": FromMaster(m), "none": NoKeys()} {
		before, errBefore := k.Find(7, 0, now)
		if want := error(nil); name == "none" && errBefore != ErrWrong || name != "none" && errBefore != want {
			t.Errorf("%s: %v", name, errBefore)
		}
		seven, key7 := tapFile(t, 7)
		eight, _ := tapFile(t, 8)
		if err := k.SetTaps([]*KeyFile{seven, eight}); err != nil {
			t.Fatal(err)
		}
		got, err := k.Find(7, 0, now)
		if err != nil || got != key7 || !k.Has(7) || k.Check(7, 0, now) != nil {
			t.Errorf("%s: tap 7: %v", name, err)
		}
		if _, err := k.Find(7, 1, now); err != ErrNoKey {
			t.Errorf("%s: key 1 of tap 7: %v", name, err)
		}
		if _, err := k.Find(9, 0, now); (err == nil) != (name == "master") || k.Has(9) != (name == "master") || (k.Check(9, 0, now) == nil) != (name == "master") {
			t.Errorf("%s: tap 9: %v", name, err)
		}
		if err := errors.Join(k.Reload(), k.Lock()); err != nil {
			t.Error(err)
		}
		other, _ := tapFile(t, 8)
		if err := k.SetTaps([]*KeyFile{other, eight}); err == nil || !strings.Contains(err.Error(), "another key file of tap 8") {
			t.Errorf("%v", err)
		}
		if err := k.SetTaps([]*KeyFile{FromMaster(m)}); err == nil || !strings.Contains(err.Error(), "want the key file of one tap") {
			t.Errorf("%v", err)
		}
		if err := k.SetTaps(nil); err != nil {
			t.Fatal(err)
		}
		if after, err := k.Find(7, 0, now); after != before || err != errBefore {
			t.Errorf("%s: tap 7 afterwards: %v", name, err)
		}
		if _, err := seven.Find(7, 0, now); err == nil {
			t.Errorf("%s: keys that were taken back are still there", name)
		}
	}
	seven, _ := tapFile(t, 7)
	if _, one := seven.Tap(); !one {
		t.Error("a tap's file is not one tap's")
	}
	eight, _ := tapFile(t, 8)
	seven.SetTaps([]*KeyFile{eight})
	if _, one := seven.Tap(); one || !seven.Has(7) || !seven.Has(8) || seven.Has(9) {
		t.Error("a file with another tap's keys besides is one tap's, still")
	}
}

// Taps are on an allow-list with a public key of their own, in place of what the
// file says, until they are taken off; reading the file again changes nothing.
func TestAllowSingleTaps(t *testing.T) {
	now := time.Now()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := NewAllowList()
	a.SetTaps(map[uint32]ed25519.PublicKey{7: public})
	if err := a.Reload(); err != nil || !a.Has(7) || a.Has(8) || a.Len() != 1 || a.Check(7, fingerprint(public), now) != nil || a.Check(8, fingerprint(public), now) != ErrNoKey {
		t.Errorf("%v, %d taps", err, a.Len())
	}
	a.SetTaps(nil)
	if a.Has(7) || a.Check(7, fingerprint(public), now) != ErrNoKey {
		t.Error("a tap that was taken off is still on the list")
	}
}
