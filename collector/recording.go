// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A Rotation says when a recording goes on in a new file. The zero Rotation is
// one file.
type Rotation struct {
	Size  int64         // bytes that no file is larger than; 0: no bound
	Every time.Duration // files end at multiples of this, as at the full hour, UTC; 0: they do not
	Keep  int           // files of a recording that are kept, the one that is written among them: the oldest go; 0: all
}

// minRotation is the least Rotation.Size: a worker writes up to 128 KiB and a
// frame at once.
const minRotation = 512 << 10

// retryOpen is how often it is tried to make a file where that failed.
const retryOpen = time.Second

// A recording makes the files of one output, or of one tap of it, one after
// the other. Each is written under its name with .part, and gets the name when
// it is whole. The goroutine that writes them has it.
type recording struct {
	names  namePattern
	tap    uint32
	roll   Rotation
	number int    // of the file under way, or of the last
	part   string // its name for now; "": there is none
	last   string // the name of the file before it
}

// next makes the next file.
func (r *recording) next(now time.Time) (*os.File, error) {
	if r.number == 0 {
		_, numbers, err := r.names.files(r.tap, false)
		if err != nil {
			return nil, err
		}
		if len(numbers) > 0 {
			r.number = slices.Max(numbers) // a run before this one
		}
	}
	if err := r.trim(); err != nil {
		return nil, err
	}
	name := r.names.name(r.tap, now, r.number+1)
	if err := r.names.directories(name); err != nil {
		return nil, err
	}
	f, err := createPart(name, !r.cyclic())
	if err != nil {
		return nil, err
	}
	r.number++
	r.part = f.Name()
	return f, nil
}

// cyclic says that names come again, as with %H: then the new file replaces the
// old one, as that of any other name does.
func (r *recording) cyclic() bool { return !r.names.has("Yns") }

// createPart makes the file for name under its name for now, locked. Where
// either is taken, another name stands in.
func createPart(name string, keep bool) (*os.File, error) {
	for n := 1; ; n++ {
		try := name
		if n > 1 {
			try = again(name, n)
		}
		if _, err := os.Lstat(try); keep && err == nil && n < math.MaxUint16 {
			continue
		}
		f, err := os.OpenFile(try+partSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644) // the umask has its say
		switch {
		case errors.Is(err, fs.ErrExist) && n < math.MaxUint16:
			continue
		case err != nil:
			return nil, err
		}
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX) // so that nobody takes it for left over
		return f, nil
	}
}

// whole gives the file under way its name, once it is written.
func (r *recording) whole() error {
	if r.part == "" {
		return nil
	}
	name := strings.TrimSuffix(r.part, partSuffix)
	err := os.Rename(r.part, name)
	r.part, r.last = "", name
	return err
}

// trim removes the oldest files, so that with one more there are as many as are
// kept.
func (r *recording) trim() error {
	if r.roll.Keep == 0 {
		return nil
	}
	names, numbers, err := r.names.files(r.tap, false)
	if err != nil {
		return err
	}
	type old struct {
		name   string
		number int
		at     time.Time
	}
	var all []old
	for i, name := range names {
		if st, err := os.Stat(name); err == nil && !strings.HasSuffix(name, partSuffix) {
			all = append(all, old{name, numbers[i], st.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b old) int {
		return cmp.Or(cmp.Compare(a.number, b.number), a.at.Compare(b.at), cmp.Compare(a.name, b.name))
	})
	for len(all) > r.roll.Keep-1 {
		if err := os.Remove(all[0].name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		all = all[1:]
	}
	return nil
}

// mend finishes the files that runs before this one left unfinished: what is
// behind the last whole block goes, and the file gets its name. It tells told
// about each. Files that another process writes are left alone.
func (p *namePattern) mend(stop <-chan struct{}, told func(string, error)) {
	names, _, err := p.files(0, true)
	if err != nil {
		told(p.text, err)
	}
	for _, name := range names {
		select {
		case <-stop:
			return
		default:
		}
		if !strings.HasSuffix(name, partSuffix) {
			continue
		}
		if mended, err := mendPart(name); mended || err != nil {
			told(name, err)
		}
	}
}

func mendPart(name string) (mended bool, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return false, nil
	}
	st, err := f.Stat()
	if err != nil || st.Size() == 0 && time.Since(st.ModTime()) < time.Minute {
		return false, err // just made, perhaps
	}
	size, err := wholeLen(f, st.Size())
	if err != nil {
		return false, err
	}
	if size == 0 {
		return true, os.Remove(name)
	}
	if err := f.Truncate(size); err != nil {
		return false, err
	}
	to := strings.TrimSuffix(name, partSuffix)
	for n := 2; n < math.MaxUint16; n++ {
		if _, err := os.Lstat(to); err != nil {
			break
		}
		to = again(strings.TrimSuffix(name, partSuffix), n)
	}
	err = os.Rename(name, to)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // its writer was about to
	}
	return true, err
}

// wholeLen returns how many bytes of a pcapng file of size bytes are whole
// blocks.
func wholeLen(f io.Reader, size int64) (n int64, err error) {
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		head, err := r.Peek(8)
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
		if n == 0 && binary.LittleEndian.Uint32(head) != proto.PcapngTypeSection {
			return 0, fmt.Errorf("it is no recording of ntap")
		}
		length := int64(binary.LittleEndian.Uint32(head[4:]))
		if length < proto.PcapngBlockMin || length%4 != 0 || n+length > size {
			return n, nil
		}
		if _, err := r.Discard(int(length)); err != nil {
			return n, err
		}
		n += length
	}
}
