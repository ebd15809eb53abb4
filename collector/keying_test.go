// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// A hall is a desk in public-key mode, and what a remote needs for it.
type hall struct {
	*desk
	pairs     *crypto.PairFile
	public    *crypto.PublicFile
	id        *crypto.Identity // of tap 7
	allowPath string
}

func written(t testing.TB, name string, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newHall(t testing.TB) *hall {
	t.Helper()
	h := &hall{desk: newDesk(t, nil, "")}
	var err error
	if h.pairs, err = crypto.NewPair(); err != nil {
		t.Fatal(err)
	}
	if h.public, err = crypto.LoadPublicFile(written(t, "public", h.pairs.WritePublic)); err != nil {
		t.Fatal(err)
	}
	if h.id, err = crypto.NewIdentity(7); err != nil {
		t.Fatal(err)
	}
	h.allowPath = written(t, "allow", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "7 web %s\n", h.id.Public())
		return err
	})
	h.cfg.Pairs = h.pairs
	if h.cfg.Allow, err = crypto.LoadAllowList(h.allowPath); err != nil {
		t.Fatal(err)
	}
	return h
}

// keying makes the datagram that tells the collector what the session of head
// is sealed with, and that secret.
func (h *hall) keying(t testing.TB, who *crypto.Identity, head proto.Header) ([]byte, crypto.Key) {
	t.Helper()
	head.Kind = proto.Keying
	d := head.Append(nil)
	a, secret, err := crypto.Agree(h.public, who, d, h.now)
	if err != nil {
		t.Fatal(err)
	}
	m := proto.KeyingMessage{Collector: a.Collector[:], Remote: a.Remote[:], Encapsulated: a.Encapsulated, Signature: a.Signature}
	return m.Append(d), secret
}

// sim makes a session with its keying.
func (h *hall) sim(t testing.TB, ago time.Duration) (*sim, []byte) {
	t.Helper()
	s := newSim(t, testKeys(t), 7, startedAgo(ago), 0, 1472)
	d, secret := h.keying(t, h.id, s.head)
	s.with(t, secret, 0)
	return s, d
}

// TestKeyed: a session in public-key mode is opened once its keying has come,
// which may come again at no cost; it goes on to another key in the same way.
func TestKeyed(t *testing.T) {
	h := newHall(t)
	s, keying := h.sim(t, 0)
	first := s.one()
	h.must(t, DropUnkeyed, first)
	h.must(t, nil, keying)
	h.must(t, nil, first)
	for range 1000 {
		if err := h.feed(keying); err != nil {
			t.Fatalf("again: %v", err)
		}
	}
	next := s.head
	next.Key = 1
	keying, secret := h.keying(t, h.id, next)
	s.with(t, secret, 1)
	b := s.one()
	h.must(t, DropUnkeyed, b)
	h.must(t, nil, keying)
	h.must(t, nil, b)
	if h.keyOf(7) != 1 {
		t.Errorf("the stream is under key %d", h.keyOf(7))
	}
	h.must(t, DropReplay, first)
	s.tell(true)
	h.must(t, nil, s.out[len(s.out)-1])
	if total := h.finish(t); total.Unpacked != 2 || total.Lost != 0 || total.Sessions != 1 {
		t.Errorf("%+v", total)
	}
}

// TestKeyingsThatAreRefused: each for its own reason, and nothing is kept.
func TestKeyingsThatAreRefused(t *testing.T) {
	h := newHall(t)
	s, keying := h.sim(t, 0)
	for n := range len(keying) {
		want := DropMalformed
		if n < proto.Overhead {
			want = DropShort
		}
		if err := h.feed(keying[:n]); err != want {
			t.Fatalf("%d bytes: %v, want %v", n, err, want)
		}
	}
	h.must(t, DropMalformed, append(bytes.Clone(keying), 0))
	change := func(want error, change func(*proto.Header)) {
		t.Helper()
		head := s.head
		change(&head)
		b, _ := h.keying(t, h.id, head) // signed, as it is
		h.must(t, want, b)
	}
	change(DropMalformed, func(h *proto.Header) { h.Shard = 1 })
	change(DropMalformed, func(h *proto.Header) { h.Counter = 1 })
	change(DropMalformed, func(h *proto.Header) { h.Suite = uint8(crypto.Plaintext) })
	change(DropTap, func(h *proto.Header) { h.Tap = 8 })
	for _, at := range []int{1, 15, 50, len(keying) - 1} { // key ID, session, encapsulation, signature
		b := bytes.Clone(keying)
		b[at] ^= 0x10
		h.must(t, DropForged, b)
	}
	stranger, err := crypto.NewIdentity(7)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := h.keying(t, stranger, s.head)
	h.must(t, DropKey, b)
	if len(h.agreed.taps) > 0 || len(h.streams) > 0 {
		t.Errorf("%d agreements and %d streams are kept", len(h.agreed.taps), len(h.streams))
	}

	none := newDesk(t, testKeys(t), "") // without public-key mode
	none.must(t, DropTap, keying)

	// One of a session before the newest.
	_, old := h.sim(t, time.Hour)
	h.now = h.now.Add(time.Minute) // the gate has forgotten the above
	h.must(t, nil, keying)
	h.must(t, nil, old) // no datagram has said yet which is the newest
	h.must(t, nil, s.one())
	h.must(t, DropSession, old)
	h.must(t, nil, keying)
}

// TestKeyingsAreBounded: forged ones cost work, so there is a limit; and of
// good ones only the last few are kept.
func TestKeyingsAreBounded(t *testing.T) {
	h := newHall(t)
	s, keying := h.sim(t, 0)
	h.must(t, nil, keying)
	h.must(t, nil, s.one())
	h.now = h.now.Add(time.Minute)
	forged := bytes.Clone(keying)
	n := map[error]int{}
	for i := range 500 {
		forged[len(forged)-1-i%8]++
		n[h.feed(forged)]++
	}
	if most := int(pairLimit.burst / keyingCost); n[DropForged] == 0 || n[DropForged] > most || n[DropForged]+n[DropLimited] != 500 {
		t.Errorf("%v; want at most %d looked at", n, most)
	}
	h.must(t, nil, s.one())
	h.must(t, nil, keying)

	head := s.head
	for i := range 40 {
		h.now = h.now.Add(10 * time.Second)
		head.Key = uint8(i+1) & 15
		if i >= 20 {
			head.Session++
		}
		b, _ := h.keying(t, h.id, head)
		h.must(t, nil, b)
		if n := len(h.agreed.taps[7]); n > maxAgreed {
			t.Fatalf("%d agreements are kept", n)
		}
		if _, ok := h.agreed.find(&head, new(crypto.Key)); !ok {
			t.Fatal("the newest is not kept")
		}
	}
	h.agreed.wipe()
	if _, ok := h.agreed.find(&head, new(crypto.Key)); ok {
		t.Error("an agreement is there after wipe")
	}
}

// TestStreamEndsWithItsKey: a remote that is revoked, or off the list, is out,
// its running session too.
func TestStreamEndsWithItsKey(t *testing.T) {
	for name, c := range map[string]struct {
		list string
		data error // what its datagrams are counted under then
		key  error // and its keying
	}{
		"revoked": {"7 web %s revoked\n", DropKey, DropKey},
		"expired": {"7 web %s until=2026-01-01T00:00:00Z\n", DropKey, DropKey},
		"off":     {"8 web %s\n", DropTap, DropTap},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t)
			s, keying := h.sim(t, 0)
			h.must(t, nil, keying)
			h.must(t, nil, s.one())
			if err := os.WriteFile(h.allowPath, fmt.Appendf(nil, c.list, h.id.Public()), 0o600); err != nil {
				t.Fatal(err)
			}
			h.shared.reload()
			h.look()
			if h.keyOf(7) != -1 {
				t.Error("its stream goes on")
			}
			h.must(t, c.data, s.one())
			head := s.head
			head.Key = 1
			b, _ := h.keying(t, h.id, head)
			h.must(t, c.key, b)
			if got := h.all.Drops(DropKey) + h.all.Drops(DropTap); got != 2 {
				t.Errorf("%d counted", got)
			}
		})
	}
}
