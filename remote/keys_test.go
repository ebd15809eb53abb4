// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Until shards seal under a new secret, the collector is told of the one that
// they seal under as well: one that comes in between used to wait for it.
func TestTellsOfBothKeys(t *testing.T) {
	pairs, err := crypto.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := pairs.WritePublic(&text); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "public")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	public, err := crypto.LoadPublicFile(file)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := crypto.NewIdentity(7)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKeyring(&Config{Public: public, Identity: identity}, proto.Header{Suite: uint8(crypto.AES256GCM), Tap: 7, Session: 5})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	first := k.telling(now)
	if len(first) != 1 || len(first[0]) != proto.KeyingDatagram {
		t.Fatalf("%d datagrams at first", len(first))
	}
	for n := range 2 { // the second comes before the first is in force
		if err := k.agree(now, now.Add(keyAhead)); err != nil {
			t.Fatal(err)
		}
		both := k.telling(now)
		if len(both) != 2 || !bytes.Equal(both[0], first[0]) {
			t.Errorf("after agreement %d: %d datagrams, the first of them that in force: %v", n, len(both), bytes.Equal(both[0], first[0]))
		}
		h, _, _ := proto.ParseHeader(both[1])
		if int(h.Key) != n+1 || h.Kind != proto.Keying || h.Tap != 7 || h.Session != 5 {
			t.Errorf("agreement %d: header %+v", n, h)
		}
	}
	if last := k.telling(now.Add(keyAhead)); len(last) != 1 || bytes.Equal(last[0], first[0]) {
		t.Errorf("%d datagrams once the new key is in force", len(last))
	}
	var key crypto.Key
	if _, _, ok := k.due(&key, 1, now); ok || key != (crypto.Key{}) {
		t.Error("a shard may go on to a key that the collector was not told of for long")
	}
	if id, turn, ok := k.due(&key, 1, now.Add(keyAhead)); !ok || id != 2 || turn != 3 || key == (crypto.Key{}) {
		t.Errorf("key %d, turn %d, %v", id, turn, ok)
	}
}
