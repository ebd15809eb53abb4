// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/proto"
)

// space returns how long a file is, and how much of the disk it has, bytes.
func space(t *testing.T, path string) (size, used int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(path, err)
	}
	return st.Size, st.Blocks * 512 // stat(2)
}

// While a file is written, more of the disk is its own than it is long, and no
// reader sees that; at its end, what was not used is given back. So it is by whoever
// gives a file its name that a run before left.
func TestAllocatedAhead(t *testing.T) {
	for _, many := range []int{1, queueMany} {
		t.Run(fmt.Sprintf("buffers=%d", many), func(t *testing.T) { testAllocatedAhead(t, many) })
	}
}

func testAllocatedAhead(t *testing.T, many int) {
	const frames, slack = 3000, 128 << 10
	path := filepath.Join(t.TempDir(), "file")
	f, err := newPcapngFile(pcapngConfig{Path: path, Late: new(lateCounts)})
	if err != nil {
		t.Fatal(err)
	}
	f.end.ahead = ahead{file: f.end.file} // on whatever file system
	f.out.mu.Lock()
	f.out.many = many
	f.out.mu.Unlock()
	s, o := f.sink(nil), origin(1, nil)
	for range frames {
		s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	allWritten(t, f)
	given := s.Counts().DeliveredBytes.Load()
	size, used := space(t, path)
	if size < int64(given) || size > int64(given)*11/10 || used > 2*size+aheadLeast+slack {
		t.Errorf("%d bytes of frames: the file is %d bytes long and has %d of the disk", given, size, used)
	}
	// How far ahead depends on where writes end: buffer by buffer those are always the same.
	if end := f.end.ahead.end; end < size || used < end || used > end+slack || many == 1 && used < size+aheadLeast/2 {
		t.Errorf("%d bytes of frames: allocated up to %d, the file is %d bytes long and has %d of the disk", given, end, size, used)
	}
	left := filepath.Join(t.TempDir(), "left"+partSuffix)
	copyAhead(t, path, left)
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if size, used = space(t, path); used > size+slack {
		t.Errorf("at its end the file is %d bytes long and has %d of the disk", size, used)
	}
	if mended, err := mendPart(left); !mended || err != nil {
		t.Fatal(mended, err)
	}
	if size, used = space(t, left[:len(left)-len(partSuffix)]); size < int64(given) || used > size+slack {
		t.Errorf("mended, a file that was left is %d bytes long and has %d of the disk", size, used)
	}
}

// copyAhead copies a file as a collector leaves it that is killed: with more of
// the disk than it is long.
func copyAhead(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !allocate(f, int64(len(b)), 4<<20) {
		t.Fatal("nothing is allocated")
	}
	if size, used := space(t, to); size != int64(len(b)) || used < size+4<<20 {
		t.Fatalf("%d bytes, %d of the disk", size, used)
	}
}

// What is allocated at once grows with the file, up to a bound, and never goes
// beyond the length that a file of a recording has at the most.
func TestAheadGrows(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		most       int64
		reach, end []int64
	}{
		{0, []int64{1, 4 << 20, 5 << 20, 9 << 20, 200 << 20, 200<<20 + 1}, []int64{1 + aheadLeast, 8 << 20, 8 << 20, 18 << 20, 264 << 20, 264 << 20}},
		{10 << 20, []int64{6 << 20, 10 << 20, 11 << 20}, []int64{10 << 20, 10 << 20, 11 << 20}},
	} {
		a := ahead{file: f, most: c.most}
		for i, end := range c.reach {
			if a.reach(end); a.end != c.end[i] {
				t.Errorf("most %d, reach %d: allocated up to %d, not %d", c.most, end, a.end, c.end[i])
			}
		}
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
	}
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	a := ahead{file: pipe}
	if a.reach(100); a.file != nil {
		t.Error("what has no blocks is asked again")
	}
}
