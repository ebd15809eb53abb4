// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"crypto/ed25519"
	"sync"
	"testing"
	"time"
)

// A keyed is an agreement with all that it was made with.
type keyed struct {
	pairs  *PairFile
	allow  *AllowList
	id     *Identity
	header []byte
	sent   Agreement
	secret Key
}

func agreed(t testing.TB) *keyed {
	t.Helper()
	pairs, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	k := &keyed{pairs: pairs, id: newIdentity(t, 7), header: bytes.Repeat([]byte{0x5A}, testHeader)}
	k.allow = allowOf(t, "7 web "+k.id.Public()+"\n8 also "+k.id.Public())
	if k.sent, k.secret, err = Agree(publicOf(t, pairs), k.id, k.header, noon); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keyed) accept(tap uint32, now time.Time) (Key, error) {
	return Accept(k.pairs, k.allow, k.sent, tap, k.header, now)
}

// TestAgree: both sides have the same secret, it is another one each time, and
// nobody else has it.
func TestAgree(t *testing.T) {
	k := agreed(t)
	for range 2 {
		if got, err := k.accept(7, noon); err != nil || got != k.secret || got == (Key{}) {
			t.Fatalf("another secret (%v)", err)
		}
	}
	again, secret, err := Agree(publicOf(t, k.pairs), k.id, k.header, noon)
	if err != nil || secret == k.secret || bytes.Equal(again.Encapsulated, k.sent.Encapsulated) {
		t.Errorf("the same secret twice (%v)", err)
	}
	if n := len(k.sent.Collector) + len(k.sent.Remote) + len(k.sent.Encapsulated) + len(k.sent.Signature); n != 1200 {
		t.Errorf("%d bytes of keying, want 1200", n)
	}
	if bytes.Contains(k.sent.Encapsulated, k.secret[:8]) || bytes.Contains(k.sent.Signature, k.secret[:8]) {
		t.Error("the secret shows")
	}
}

// TestEveryByteOfAKeyingIsBound flips a bit of each byte of header and
// agreement: all are refused.
func TestEveryByteOfAKeyingIsBound(t *testing.T) {
	k := agreed(t)
	print, remote := k.sent.Collector, k.sent.Remote
	for part, p := range map[string]struct {
		b    []byte
		want error
	}{
		"header":       {k.header, ErrForged},
		"collector":    {k.sent.Collector[:], ErrNoKey},
		"remote":       {k.sent.Remote[:], ErrNoKey},
		"encapsulated": {k.sent.Encapsulated, ErrForged},
		"signature":    {k.sent.Signature, ErrForged},
	} {
		for i := range p.b {
			for bit := range 8 {
				if len(p.b) > 100 && bit != i%8 {
					continue
				}
				p.b[i] ^= 1 << bit
				if got, err := k.accept(7, noon); err != p.want || got != (Key{}) {
					t.Errorf("%s, byte %d, bit %d: %v, want %v", part, i, bit, err, p.want)
				}
				p.b[i] ^= 1 << bit
			}
		}
	}
	if print != k.sent.Collector || remote != k.sent.Remote {
		t.Fatal("the test flips copies")
	}
	for _, cut := range []*[]byte{&k.sent.Encapsulated, &k.sent.Signature, &k.header} {
		whole := *cut
		for _, b := range [][]byte{nil, whole[:len(whole)-1], append(bytes.Clone(whole), 0)} {
			*cut = b
			if _, err := k.accept(7, noon); err != ErrForged {
				t.Errorf("%d bytes for %d: %v", len(b), len(whole), err)
			}
		}
		*cut = whole
	}
	if got, err := k.accept(7, noon); err != nil || got != k.secret {
		t.Errorf("as it was: %v", err)
	}
}

// TestTranscript: who has the remote's key, and so can sign what he likes, gets
// another secret than the collector for another header, remote or collector.
// So each of them is bound to the secret, and not only to the signature.
func TestTranscript(t *testing.T) {
	k := agreed(t)
	// Of the header: kind, key ID and suite, shard, tap, session, counter.
	for _, at := range []int{0, 1, 2, 3, 4, 7, 8, 15, 16, 23} {
		header := bytes.Clone(k.header)
		header[at] ^= 1
		sent := k.sent
		mine := k.id.key.Public().(ed25519.PublicKey)
		sent.Signature = ed25519.Sign(k.id.key, transcript(labelKeying, header, k.pairs.pairs[0].public, mine, sent.Encapsulated))
		if got, err := Accept(k.pairs, k.allow, sent, 7, header, noon); err != nil || got == k.secret {
			t.Errorf("byte %d of the header is not bound to the secret (%v)", at, err)
		}
	}
	other := newIdentity(t, 7)
	sent := k.sent
	theirs := other.key.Public().(ed25519.PublicKey)
	sent.Remote = fingerprint(theirs)
	sent.Signature = ed25519.Sign(other.key, transcript(labelKeying, k.header, k.pairs.pairs[0].public, theirs, sent.Encapsulated))
	if got, err := Accept(k.pairs, allowOf(t, "7 other "+other.Public()), sent, 7, k.header, noon); err != nil || got == k.secret {
		t.Errorf("the remote's key is not bound to the secret (%v)", err)
	}
}

// TestAcceptOnlyWhomItShould: revoked, expired, unknown, for another tap, for
// another collector.
func TestAcceptOnlyWhomItShould(t *testing.T) {
	k := agreed(t)
	for text, want := range map[string]error{
		"7 web " + k.id.Public() + " revoked":                    ErrRevoked,
		"7 web " + k.id.Public() + " until=2026-06-01T12:00:00Z": ErrExpired,
		"7 web " + k.id.Public() + " from=2026-06-01T12:00:01Z":  ErrExpired,
		"7 web " + newIdentity(t, 7).Public():                    ErrNoKey,
		"8 web " + k.id.Public():                                 ErrNoKey,
	} {
		if _, err := Accept(k.pairs, allowOf(t, text), k.sent, 7, k.header, noon); err != want {
			t.Errorf("%.5s: %v, want %v", text, err, want)
		}
	}
	k = agreed(t)
	other, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(other, k.allow, k.sent, 7, k.header, noon); err != ErrNoKey {
		t.Errorf("for another collector: %v", err)
	}
	// The other collector cannot pass for the one that was meant either.
	sent := k.sent
	sent.Collector = fingerprint(other.pairs[0].public)
	if _, err := Accept(other, k.allow, sent, 7, k.header, noon); err != ErrForged {
		t.Errorf("for another collector, with its fingerprint: %v", err)
	}
	wrong := newIdentity(t, 7)
	sent = k.sent
	sent.Signature = ed25519.Sign(wrong.key, transcript(labelKeying, k.header, k.pairs.pairs[0].public, k.id.key.Public().(ed25519.PublicKey), sent.Encapsulated))
	if _, err := Accept(k.pairs, k.allow, sent, 7, k.header, noon); err != ErrForged {
		t.Errorf("signed by another identity: %v", err)
	}
}

// TestAgreeOverRotation: with an old public file a remote is taken until the
// old pair ends; with a new one it agrees with the new pair from its begin.
func TestAgreeOverRotation(t *testing.T) {
	k := agreed(t)
	old := publicOf(t, k.pairs)
	if _, err := k.pairs.Rotate(noon, at(time.Hour), at(100*365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	fresh := publicOf(t, k.pairs)
	k.pairs.pairs[0].till = at(2 * time.Hour)
	fresh.keys[0].till = at(2 * time.Hour)
	for _, c := range []struct {
		name   string
		public *PublicFile
		now    time.Duration
		pair   int
		want   error
	}{
		{"old", old, 0, 0, nil},
		{"old", old, 2*time.Hour - 1, 0, nil},
		{"old", old, 2 * time.Hour, 0, ErrExpired},
		{"new", fresh, time.Hour - 1, 0, nil},
		{"new", fresh, time.Hour, 1, nil},
		{"new", fresh, 3 * time.Hour, 1, nil},
	} {
		sent, secret, err := Agree(c.public, k.id, k.header, at(c.now))
		if err != nil {
			t.Fatal(err)
		}
		if sent.Collector != fingerprint(k.pairs.pairs[c.pair].public) {
			t.Errorf("%s file, %v: agreed with another pair", c.name, c.now)
		}
		got, err := Accept(k.pairs, k.allow, sent, 7, k.header, at(c.now))
		if err != c.want || err == nil && got != secret {
			t.Errorf("%s file, %v: %v, want %v", c.name, c.now, err, c.want)
		}
	}
	fresh.keys = fresh.keys[:1]
	if _, _, err := Agree(fresh, k.id, k.header, at(2*time.Hour)); err == nil {
		t.Error("agreed with a key that is over")
	}
}

// TestReloadWhileAccepting: the files are read anew while workers accept; none
// of them meets a pair that is half erased.
func TestReloadWhileAccepting(t *testing.T) {
	k := agreed(t)
	var b bytes.Buffer
	if err := k.pairs.Write(&b); err != nil {
		t.Fatal(err)
	}
	k.pairs.path = writeFile(t, b.String(), 0o600)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got, err := k.accept(7, noon); err != nil || got != k.secret {
					t.Errorf("while the pairs are read anew: %v", err)
					return
				}
			}
		})
	}
	for range 200 {
		if err := k.pairs.Reload(); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	wg.Wait()
}
