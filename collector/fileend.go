// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// A fileEnd is what a queue's goroutine writes: a file, or the files of a
// recording one after the other. Whatever may wait for a disk is done here:
// only the first file is made by whoever opens the output.
type fileEnd struct {
	cfg    *pcapngConfig
	name   string
	file   *os.File    // nil: there is none
	direct *directFile // writes the file; nil: the file itself does
	memory directMemory
	ahead  ahead         // of file, if direct is nil
	at     int64         // bytes of file, if direct is nil
	head   []byte        // of the file, not written yet
	failed bool          // to make a file, which was told
	ending atomic.Bool   // what there is is all
	past   atomic.Uint64 // bytes written past the page cache
	err    error         // of the end

	mu     sync.Mutex // of direct, memory and what follows
	frames uint64     // that were in the buffer of a directFile at the end, and did not get to the disk
	bytes  uint64
}

// A turn is where one file of a recording ends, or the next one begins.
type turn struct {
	begin bool
	at    time.Time // it began
}

// open makes the first file, and writes its header.
func (e *fileEnd) open(at time.Time) error {
	if e.cfg.Files != nil {
		if err := e.next(at); err != nil {
			return fmt.Errorf("collector: %w", err)
		}
	} else {
		path := e.cfg.Path
		for n := 2; e.cfg.Keep && holds(path) && n < math.MaxUint16; n++ {
			path = again(e.cfg.Path, n)
		}
		file, err := createPlain(path)
		if err == nil {
			err = e.take(file, "")
		}
		if err != nil {
			return fmt.Errorf("collector: %w", err)
		}
	}
	if _, err := e.Write(nil); err != nil {
		e.memory.close()
		return fmt.Errorf("collector: %s: %w", e.name, errors.Join(err, e.file.Close()))
	}
	return nil
}

// holds says that there is a file with something in it.
func holds(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() > 0
}

// next makes the next file of the recording.
func (e *fileEnd) next(at time.Time) error {
	r := e.cfg.Files
	file, err := r.next(at)
	if err != nil {
		return withRemedy(err)
	}
	comment := fmt.Sprintf("file %d of the recording %s", r.number, r.names.text)
	if r.last != "" {
		comment += ", after " + filepath.Base(r.last)
	}
	if err := e.take(file, comment); err != nil {
		r.number, r.part = r.number-1, "" // the next attempt makes the same file
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// take makes file the one that is written.
func (e *fileEnd) take(file *os.File, comment string) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var most int64
	if e.cfg.Files != nil {
		most = e.cfg.Files.roll.Size
	}
	if e.ahead, e.at = (ahead{}), 0; e.cfg.Direct {
		if e.memory.size = directBuffer; e.cfg.Files != nil && e.cfg.Files.names.has("t") {
			e.memory.size = directSmall
		}
		if e.direct, err = e.memory.open(file, most); err != nil {
			return errors.Join(err, file.Close())
		}
		e.direct.pace.ending, e.direct.moved = &e.ending, &e.past
	} else if gainsByAllocation(file) {
		e.ahead = ahead{file: file, most: most}
	}
	e.file = file
	e.head = sectionHead(comment)
	return nil
}

// sectionHead returns the block that a file of pcapng begins with.
func sectionHead(comment string) []byte {
	s := proto.PcapngSection{Hardware: hardware(), OS: system(), Writer: "ntap " + Version, Comment: comment}
	return s.Append(nil)
}

// Write writes blocks, behind what the file begins with.
func (e *fileEnd) Write(b []byte) (n int, err error) {
	if len(e.head) > 0 {
		n, err := e.put(e.head)
		if e.head = e.head[n:]; len(e.head) > 0 {
			return 0, fileError(err)
		}
	}
	if len(b) == 0 {
		return 0, nil
	}
	n, err = e.put(b)
	return n, fileError(err)
}

func (e *fileEnd) put(b []byte) (n int, err error) {
	if e.direct != nil {
		return e.direct.Write(b)
	}
	e.ahead.reach(e.at + int64(len(b)))
	n, err = e.file.Write(b)
	e.at += int64(n)
	return n, err
}

// gathers says that what waits is to be written with writev: where the kernel
// copies it, and no reader may be slow.
func (e *fileEnd) gathers() bool {
	if e.cfg.Direct {
		return false
	}
	if e.cfg.Files != nil { // the first of them may not be open yet
		return true
	}
	st, err := e.file.Stat()
	return err == nil && st.Mode().IsRegular()
}

// writev writes the blocks of many buffers, see gatherer.
func (e *fileEnd) writev(b [][]byte) (n int, err error) {
	if _, err := e.Write(nil); err != nil { // what the file begins with
		return 0, err
	}
	end := e.at
	for i := range b {
		end += int64(len(b[i]))
	}
	e.ahead.reach(end)
	n, err = batch.Writev(e.file, b)
	e.at += int64(n)
	return n, err
}

// turn ends the file under way, or makes the next one.
func (e *fileEnd) turn(t *turn) error {
	if !t.begin {
		return e.end(false)
	}
	err := e.next(t.at)
	if err != nil && !e.failed {
		e.warn(fmt.Errorf("collector: %s: %w: its frames wait until it works", e.name, err))
	}
	e.failed = err != nil
	return fileError(err)
}

// moved counts what is written past the page cache as it comes to the disk, see mover.
func (e *fileEnd) moved() uint64 { return e.past.Load() }

// every is 0 through the page cache: a thousand recordings that look ten times a
// second take a twelfth of a CPU.
func (e *fileEnd) every() time.Duration {
	if !e.cfg.Direct {
		return 0
	}
	return directFlush
}

// look has what waits in the buffer of a directFile in the file, when it is time.
func (e *fileEnd) look(now time.Time) error {
	if e.direct == nil || e.file == nil {
		return nil
	}
	return e.direct.look(now)
}

// end ends the file, and gives it its name. Unless it is the last chance, it does
// nothing if what it has cannot be written now.
func (e *fileEnd) end(last bool) (err error) {
	if e.file == nil {
		return nil
	}
	if e.direct != nil {
		if err := e.direct.sync(); err != nil && !last {
			return err
		}
		frames, bytes, err2 := e.direct.close()
		e.mu.Lock()
		e.direct, e.frames, e.bytes = nil, frames, bytes
		e.mu.Unlock()
		if !isFull(err2) && err2 != nil {
			err = fmt.Errorf("collector: %s: %w", e.name, err2)
		}
	}
	if e.ahead.end > e.at {
		_ = e.file.Truncate(e.at) // gives back what was allocated and not used
	}
	if e.cfg.Files != nil {
		if e := e.cfg.Files.whole(); e != nil {
			err = errors.Join(err, fmt.Errorf("collector: %w", e))
		}
	}
	if e := e.file.Close(); e != nil {
		err = errors.Join(err, fmt.Errorf("collector: %w", e))
	}
	if e.file = nil; err != nil && !last {
		e.warn(err)
		err = nil
	}
	return err
}

// finish ends the last file, see ender.
func (e *fileEnd) finish(over int) {
	if e.file != nil && over > 0 && e.direct == nil {
		e.at -= int64(over)
		_ = e.file.Truncate(e.at) // there is no room for the rest: take its begin back
	}
	e.err = e.end(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.close()
}

func (e *fileEnd) warn(err error) {
	if e.cfg.Warn != nil {
		e.cfg.Warn(err)
	}
}

// rest returns the frames that are in the buffer of a file past the page cache and
// not on the disk, and their bytes. The goroutine has ended, or waits for the disk
// and is left to itself.
func (e *fileEnd) rest() (frames, bytes uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.direct == nil {
		return e.frames, e.bytes
	}
	frames, bytes, _ = e.direct.lost()
	return frames, bytes
}
