// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A state remembers, across restarts of the collector, what must not be
// accepted again: the newest session of each tap, and how far each of that
// session's streams has come. Its file is text (docs/KEYS.md, State file):
//
//	ntap-state-1
//	tap 7 session 68c1f2a31b2c3d4e
//	stream 7 shard 0 kind 0 next 123456
//	end
//
// Tap, shard, kind and next (the highest counter accepted + 1) are decimal, a
// session is 16 hexadecimal digits. A stream belongs to the session of its
// tap's line, which precedes it. The last line shows that nothing is missing.
//
// All methods are for any goroutine. None is called per datagram of a stream
// that is known.
type state struct {
	path string // "": in memory only

	saving sync.Mutex // held by Save; taken before mu

	mu      sync.RWMutex
	taps    map[uint32]*stateTap
	changed bool // since the last Save that succeeded
	refused int  // taps that found no place since the last Save
}

type stateTap struct {
	session uint64
	timed   bool // nothing was known of the tap before: the session was accepted by its time
	next    map[stateStream]uint64
}

type stateStream struct {
	shard uint16
	kind  uint8
}

// Chosen: bounds of the state, for memory's sake. A remote with 512 CPUs has
// 1536 streams.
const (
	maxStateTaps    = 65536
	maxStateStreams = 4096 // per tap
)

const stateMagic = "ntap-state-1"

// CheckState says what is wrong with a state file (Config.State). One that is
// not there yet is good.
func CheckState(path string) error {
	_, err := openState(path)
	return err
}

// openState reads the state file at path. A file that does not exist yet is an
// empty one; a damaged one is an error, since going on without it would accept
// what was seen before.
func openState(path string) (*state, error) {
	s := &state{path: path, taps: make(map[uint32]*stateTap)}
	if path == "" {
		return s, nil
	}
	if to, err := filepath.EvalSymlinks(path); err == nil {
		s.path = to // Save replaces the file, not a link to it
	}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := replaceFile(s.path, s.text()); err != nil { // to learn it now, not after the first tap
			return nil, fmt.Errorf("collector: state file: %w; its folder has to be there, and one that this user may write to: make it, or name another file", err)
		}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("collector: state file: %w; the collector's user must be able to read and write it", err)
	}
	defer f.Close()
	if line, err := s.read(f); err != nil {
		return nil, fmt.Errorf("collector: state file %s: line %d: %w; restore it from a backup, or remove it: "+
			"then recordings of earlier sessions are accepted, once, until the taps are heard again", path, line, err)
	}
	return s, nil
}

// read reads the text of a state file; line is the one that err is about.
func (s *state) read(r io.Reader) (line int, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 256), 256)
	ended := false
	for lines.Scan() {
		line++
		switch text := lines.Text(); {
		case line == 1:
			if text != stateMagic {
				return line, fmt.Errorf("not %q: this is no state file, or one of another version", stateMagic)
			}
		case ended:
			return line, errors.New("text after the end")
		case text == "end":
			ended = true
		default:
			if err := s.readLine(text); err != nil {
				return line, err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return line + 1, err
	}
	if !ended {
		return line + 1, errors.New("cut off: the last line must be \"end\"")
	}
	return 0, nil
}

var errStateLine = errors.New("damaged: neither \"tap ID session HEX\" nor \"stream ID shard N kind N next N\"")

func (s *state) readLine(text string) error {
	words := strings.Split(text, " ")
	var err error
	number := func(i, base, bits int) uint64 {
		n, e := strconv.ParseUint(words[i], base, bits)
		err = cmp.Or(err, e)
		return n
	}
	switch {
	case len(words) == 4 && words[0] == "tap" && words[2] == "session":
		tap, session := uint32(number(1, 10, 32)), number(3, 16, 64)
		if err != nil || len(words[3]) != 16 {
			return errStateLine
		}
		if s.taps[tap] != nil {
			return fmt.Errorf("tap %d comes twice", tap)
		}
		if len(s.taps) == maxStateTaps {
			return fmt.Errorf("more than %d taps", maxStateTaps)
		}
		s.taps[tap] = &stateTap{session: session, next: make(map[stateStream]uint64)}
	case len(words) == 8 && words[0] == "stream" && words[2] == "shard" && words[4] == "kind" && words[6] == "next":
		tap, next := uint32(number(1, 10, 32)), number(7, 10, 64)
		key := stateStream{uint16(number(3, 10, 16)), uint8(number(5, 10, 8))}
		if err != nil {
			return errStateLine
		}
		t := s.taps[tap]
		switch {
		case t == nil:
			return fmt.Errorf("a stream of tap %d, which has no line before it", tap)
		case len(t.next) == maxStateStreams:
			return fmt.Errorf("more than %d streams of tap %d", maxStateStreams, tap)
		}
		if _, twice := t.next[key]; twice {
			return fmt.Errorf("tap %d, shard %d, kind %d comes twice", tap, key.shard, key.kind)
		}
		t.next[key] = next
	default:
		return errStateLine
	}
	return nil
}

// Newest returns the newest session of a tap, or 0 if none is known.
func (s *state) Newest(tap uint32) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if t := s.taps[tap]; t != nil {
		return t.session
	}
	return 0
}

// Advance says whether a session of a tap, of which a datagram verified, may
// be accepted, and makes it the newest if it is. It may not if it is older
// than the newest, or if there is no place for another tap: then Save says so.
func (s *state) Advance(tap uint32, session uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.taps[tap]
	switch {
	case t != nil && session <= t.session:
		return session == t.session
	case t == nil && len(s.taps) >= maxStateTaps:
		s.refused++
		return false
	}
	s.taps[tap] = &stateTap{session: session, timed: t == nil, next: make(map[stateStream]uint64)}
	s.changed = true
	return true
}

// Ordered says whether an earlier session of the tap is known, or this one from
// an earlier run: then what may be accepted of it follows from their order, and
// from the counters.
func (s *state) Ordered(tap uint32, session uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.taps[tap]
	return t != nil && (session > t.session || session == t.session && !t.timed)
}

// Counter returns what Note was last told of a stream; 0 if the session is not
// the newest of its tap.
func (s *state) Counter(tap uint32, session uint64, shard uint16, kind uint8) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if t := s.taps[tap]; t != nil && t.session == session {
		return t.next[stateStream{shard, kind}]
	}
	return 0
}

// Note remembers next, the highest counter accepted of a stream + 1. What is
// not of the tap's newest session, or lower than what is known, or one stream
// too many, is left out.
func (s *state) Note(tap uint32, session uint64, shard uint16, kind uint8, next uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.taps[tap]
	if t == nil || t.session != session {
		return
	}
	key := stateStream{shard, kind}
	old, known := t.next[key]
	if next <= old || !known && len(t.next) >= maxStateStreams {
		return
	}
	t.next[key] = next
	s.changed = true
}

// Save writes the state to its file if it has changed since it was written:
// to a new file beside it, which replaces it once it is safely on the disk. If
// that fails, the old file stays, and the next Save tries again.
func (s *state) Save() error {
	if s.path == "" {
		return nil
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	changed, refused := s.changed, s.refused
	s.changed, s.refused = false, 0
	s.mu.Unlock()
	if changed {
		if err := replaceFile(s.path, s.text()); err != nil {
			s.mu.Lock()
			s.changed = true
			s.refused += refused
			s.mu.Unlock()
			return fmt.Errorf("collector: state file: %w; make room, or name another file: the one from before stays in force", err)
		}
	}
	if refused > 0 {
		return fmt.Errorf("collector: state file %s: holds %d taps, the most there can be: %d datagrams of others were refused; "+
			"stop the collector and remove the lines of taps that are gone", s.path, maxStateTaps, refused)
	}
	return nil
}

// text returns the text of the file, in the order of taps, shards and kinds.
// It takes the lock for one tap at a time, so that no worker waits for long;
// what changes meanwhile is in this text or sets changed again.
func (s *state) text() []byte {
	s.mu.RLock()
	taps := slices.Collect(maps.Keys(s.taps)) // none ever goes
	s.mu.RUnlock()
	slices.Sort(taps)
	b := append([]byte(nil), stateMagic+"\n"...)
	for _, tap := range taps {
		b = s.appendTap(b, tap)
	}
	return append(b, "end\n"...)
}

func (s *state) appendTap(b []byte, tap uint32) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.taps[tap]
	b = fmt.Appendf(b, "tap %d session %016x\n", tap, t.session)
	for _, k := range slices.SortedFunc(maps.Keys(t.next), func(a, b stateStream) int {
		return cmp.Or(cmp.Compare(a.shard, b.shard), cmp.Compare(a.kind, b.kind))
	}) {
		b = fmt.Appendf(b, "stream %d shard %d kind %d next %d\n", tap, k.shard, k.kind, t.next[k])
	}
	return b
}

// replaceFile makes text the content of the file at path, all of it or none,
// also if the power fails.
func replaceFile(path string, text []byte) (err error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
