// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/internal/testnet"
)

func mustOpenState(t testing.TB, path string) *state {
	t.Helper()
	s, err := openState(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStateSurvivesRestart: after Save and a new start, sessions and counters
// are those of before, and older ones are refused.
func TestStateSurvivesRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := mustOpenState(t, path)
	if s.Newest(7) != 0 || s.Counter(7, 1, 0, 0) != 0 {
		t.Error("a new state knows something")
	}
	for i, session := range []uint64{100, 100, 99} {
		if got := s.Advance(7, session); got != (session == 100) {
			t.Errorf("step %d: Advance to %d is %v", i, session, got)
		}
	}
	s.Note(7, 100, 2, 1, 50)
	s.Note(7, 100, 2, 1, 40)                  // never back
	s.Note(7, 99, 2, 1, 60)                   // of another session
	s.Note(8, 100, 2, 1, 60)                  // of a tap that is not known
	s.Note(7, 100, 65535, 255, 1<<64-1)       // the highest of everything
	s.Advance(4294967295, 0xFEDCBA9876543210) // also
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}

	s = mustOpenState(t, path)
	if s.Newest(7) != 100 || s.Newest(8) != 0 || s.Newest(4294967295) != 0xFEDCBA9876543210 {
		t.Errorf("newest: %d, %d, %x", s.Newest(7), s.Newest(8), s.Newest(4294967295))
	}
	if s.Counter(7, 100, 2, 1) != 50 || s.Counter(7, 100, 2, 0) != 0 || s.Counter(7, 99, 2, 1) != 0 || s.Counter(7, 100, 65535, 255) != 1<<64-1 {
		t.Error("counters differ")
	}
	if s.Advance(7, 99) {
		t.Error("an old session is accepted after a restart")
	}
	if !s.Advance(7, 101) || s.Newest(7) != 101 || s.Counter(7, 100, 2, 1) != 0 || s.Counter(7, 101, 2, 1) != 0 {
		t.Error("session 101 did not supersede 100")
	}
}

const goodState = `ntap-state-1
tap 7 session 68c1f2a31b2c3d4e
stream 7 shard 0 kind 0 next 123456
stream 7 shard 0 kind 1 next 17
tap 9 session 00000000000000ff
end
`

// TestStateFileText: the text is the documented one, only its owner can read
// it, and Save leaves an unchanged file alone.
func TestStateFileText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte(goodState), 0o644); err != nil {
		t.Fatal(err)
	}
	s := mustOpenState(t, path)
	if s.Counter(7, 0x68c1f2a31b2c3d4e, 0, 0) != 123456 || s.Newest(9) != 255 {
		t.Errorf("%+v", s.taps)
	}
	before, _ := os.Stat(path)
	s.Advance(9, 255)
	s.Note(7, 0x68c1f2a31b2c3d4e, 0, 1, 17)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("Save wrote an unchanged state")
	}
	s.Note(7, 0x68c1f2a31b2c3d4e, 0, 1, 18)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if want := strings.Replace(goodState, "next 17", "next 18", 1); err != nil || string(text) != want {
		t.Errorf("wrote\n%s%v\nwant\n%s", text, err, want)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o", info.Mode().Perm())
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDamagedState: each kind of damage is an error that names file, line and
// remedy, and so is a file cut off anywhere.
func TestDamagedState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	refused := func(text, want string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openState(path)
		if err == nil {
			t.Errorf("%q is accepted", text)
			return
		}
		for _, part := range []string{"collector: state file " + path + ": line ", want, "remove it"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v; want %q in it", text, err, part)
			}
		}
	}
	const head, tap = "ntap-state-1\n", "tap 7 session 68c1f2a31b2c3d4e\n"
	refused("", "line 1: cut off")
	refused("\x00\x00\x00\x00", "line 1: not")
	refused("ntap-state-2\nend\n", "line 1: not")
	refused(head+"tap 7\nend\n", "line 2: damaged")
	refused(head+"tap 4294967296 session 68c1f2a31b2c3d4e\nend\n", "line 2: damaged")
	refused(head+"tap -7 session 68c1f2a31b2c3d4e\nend\n", "line 2: damaged")
	refused(head+"tap 7 session 68c1f2a31b2c3d\nend\n", "line 2: damaged")
	refused(head+"tap 7 session 68c1f2a31b2c3d4g\nend\n", "line 2: damaged")
	refused(head+tap+tap+"end\n", "line 3: tap 7 comes twice")
	refused(head+"stream 7 shard 0 kind 0 next 1\n"+tap+"end\n", "line 2: a stream of tap 7")
	refused(head+tap+"stream 7 shard 65536 kind 0 next 1\nend\n", "line 3: damaged")
	refused(head+tap+"stream 7 shard 0 kind 256 next 1\nend\n", "line 3: damaged")
	refused(head+tap+"stream 7 shard 0 kind 0 next 18446744073709551616\nend\n", "line 3: damaged")
	refused(head+tap+"stream 7 shard 0 kind 0 next 1\nstream 7 shard 0 kind 0 next 2\nend\n", "line 4: tap 7, shard 0, kind 0 comes twice")
	refused(head+"\nend\n", "line 2: damaged")
	refused(head+"end\n"+tap, "line 3: text after the end")
	refused(head+strings.Repeat("x", 1000), "line 2: ")
	for n := range len(goodState) - 1 {
		if err := os.WriteFile(path, []byte(goodState[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openState(path); err == nil {
			t.Fatalf("accepted when cut off after %d bytes", n)
		}
	}
	if s, err := openState(filepath.Dir(path)); err == nil {
		t.Errorf("a directory is accepted: %v", s)
	}
	if _, err := openState(filepath.Join(path, "none", "state")); err == nil {
		t.Error("a path that cannot be written is accepted")
	}
	if s, err := openState(filepath.Join(filepath.Dir(path), "none", "state")); err == nil {
		t.Errorf("a directory that is not there is accepted: %v", s)
	}
}

// TestStateFollowsLinks: Save replaces the file that a link leads to, not the
// link.
func TestStateFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte(goodState), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	s := mustOpenState(t, link)
	s.Advance(9, 256)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != file || mustOpenState(t, file).Newest(9) != 256 {
		t.Errorf("link leads to %s, %v", to, err)
	}
}

// TestStateSaveFails: what cannot be written leaves the old file, and the next
// Save tries again.
func TestStateSaveFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := mustOpenState(t, path)
	s.Advance(1, 1)
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	s.Advance(1, 2)
	if err := os.MkdirAll(path+".new/x", 0o700); err != nil { // in the way
		t.Fatal(err)
	}
	if err := s.Save(); err == nil || !strings.HasPrefix(err.Error(), "collector: state file: ") {
		t.Fatalf("Save: %v", err)
	}
	if got := mustOpenState(t, path).Newest(1); got != 1 {
		t.Errorf("the old file says %d", got)
	}
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if got := mustOpenState(t, path).Newest(1); got != 2 {
		t.Errorf("the new file says %d", got)
	}
}

// TestStateIsBounded: beyond 65,536 taps others are refused, and Save says so;
// beyond 4096 streams of a tap others are not remembered. A full state is read
// back.
func TestStateIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := mustOpenState(t, path)
	for tap := range uint32(maxStateTaps) {
		if !s.Advance(tap, 5) {
			t.Fatalf("tap %d is refused", tap)
		}
	}
	if s.Advance(maxStateTaps, 5) || s.Newest(maxStateTaps) != 0 {
		t.Error("one tap more is accepted")
	}
	if !s.Advance(17, 6) {
		t.Error("a tap that is known is refused")
	}
	for i := range maxStateStreams + 1 {
		s.Note(17, 6, uint16(i), uint8(i>>16), 3)
	}
	s.Note(17, 6, 0, 0, 4)
	if s.Counter(17, 6, maxStateStreams, 0) != 0 || s.Counter(17, 6, maxStateStreams-1, 0) != 3 || s.Counter(17, 6, 0, 0) != 4 {
		t.Error("not the first 4096 streams are remembered")
	}
	if err := s.Save(); err == nil || !strings.Contains(err.Error(), "65536 taps") {
		t.Errorf("Save: %v", err)
	}
	if err := s.Save(); err != nil {
		t.Errorf("Save again, nothing refused since: %v", err)
	}
	again := mustOpenState(t, path)
	if len(again.taps) != maxStateTaps || len(again.taps[17].next) != maxStateStreams || again.Counter(17, 6, 0, 0) != 4 {
		t.Errorf("read back %d taps, %d streams", len(again.taps), len(again.taps[17].next))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(string(text), "end\n", "tap 65536 session 0000000000000000\nend\n", 1)
	if line, err := (&state{taps: make(map[uint32]*stateTap)}).read(strings.NewReader(more)); err == nil {
		t.Errorf("line %d: a file with one tap more is accepted", line)
	}
}

// TestStateInMemory: without a path nothing is written.
func TestStateInMemory(t *testing.T) {
	t.Chdir(t.TempDir())
	s := mustOpenState(t, "")
	if !s.Advance(1, 2) || s.Advance(1, 1) {
		t.Error("session 2 is not the newest")
	}
	if err := s.Save(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob("*"); len(left) != 0 {
		t.Errorf("wrote %v", left)
	}
}

// TestStateWorkersTogether: of all sessions that workers bring at once the
// highest is the newest, every Advance after it refuses lower ones, and every
// file saved meanwhile is whole. Run it with -race.
func TestStateWorkersTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := mustOpenState(t, path)
	const workers, sessions, taps = 4, 200, 5
	var wg sync.WaitGroup
	for w := range uint16(workers) {
		wg.Go(func() {
			for session := range uint64(sessions) {
				for tap := range uint32(taps) {
					if newest := s.Newest(tap); s.Advance(tap, session) && session < newest {
						t.Errorf("tap %d: session %d accepted after %d", tap, session, newest)
					}
					s.Note(tap, session, w, 0, session+1)
				}
			}
		})
	}
	for range 20 {
		if err := s.Save(); err != nil {
			t.Error(err)
		}
		mustOpenState(t, path)
	}
	testnet.Await(t, "the workers' end", wg.Wait)
	if err := s.Save(); err != nil {
		t.Error(err)
	}
	s = mustOpenState(t, path)
	for tap := range uint32(taps) {
		if s.Newest(tap) != sessions-1 {
			t.Errorf("tap %d: newest %d", tap, s.Newest(tap))
		}
		for w := range uint16(workers) {
			if n := s.Counter(tap, sessions-1, w, 0); n != sessions {
				t.Errorf("tap %d, shard %d: counter %d", tap, w, n)
			}
		}
	}
}

// TestStateIsThePlainOne holds the state against a plain twin, with restarts
// in between.
func TestStateIsThePlainOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	rapid.Check(t, func(t *rapid.T) {
		os.Remove(path)
		s, err := openState(path)
		if err != nil {
			t.Fatal(err)
		}
		newest := make(map[uint32]uint64)
		next := make(map[string]uint64) // by tap, session, shard and kind
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			tap, session := rapid.Uint32Range(0, 2).Draw(t, "tap"), rapid.Uint64Range(0, 4).Draw(t, "session")
			shard, kind := rapid.Uint16Range(0, 1).Draw(t, "shard"), rapid.Uint8Range(0, 1).Draw(t, "kind")
			id := fmt.Sprint(tap, session, shard, kind)
			known, have := newest[tap]
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0:
				if ok := s.Advance(tap, session); ok != (!have || session >= known) {
					t.Fatalf("Advance(%d, %d) is %v; newest %d, %v", tap, session, ok, known, have)
				} else if ok {
					newest[tap] = session
				}
			case 1:
				n := rapid.Uint64Range(0, 9).Draw(t, "next")
				s.Note(tap, session, shard, kind, n)
				if have && session == known {
					next[id] = max(next[id], n)
				}
			case 2:
				if err := s.Save(); err != nil {
					t.Fatal(err)
				}
				if s, err = openState(path); err != nil {
					t.Fatal(err)
				}
			}
			want := next[id]
			if session != newest[tap] {
				want = 0
			}
			if got := s.Counter(tap, session, shard, kind); got != want || s.Newest(tap) != newest[tap] {
				t.Fatalf("counter %d, want %d; newest %d, want %d", got, want, s.Newest(tap), newest[tap])
			}
		}
	})
}

// FuzzStateFile: refuse, or write back a text that reads as the same.
func FuzzStateFile(f *testing.F) {
	f.Add(goodState)
	f.Add("ntap-state-1\nend")
	f.Add("ntap-state-1\r\ntap 0 session FFFFFFFFFFFFFFFF\r\nend\r\n")
	f.Add("ntap-state-1\ntap 1 session 0000000000000000\nstream 1 shard 00 kind 0 next 0\nend\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := &state{taps: make(map[uint32]*stateTap)}
		if _, err := s.read(strings.NewReader(text)); err != nil {
			return
		}
		again := &state{taps: make(map[uint32]*stateTap)}
		if line, err := again.read(strings.NewReader(string(s.text()))); err != nil || string(again.text()) != string(s.text()) {
			t.Fatalf("%q written back as %q: line %d: %v", text, s.text(), line, err)
		}
	})
}
