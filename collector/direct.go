// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// Chosen. benchmarks/README.md, "pcapng to disk", has figures.
const (
	directBuffer = 2 << 20                // bytes in one write
	directSmall  = 512 << 10              // the same where there is a recording for each tap
	directFlush  = 100 * time.Millisecond // the longest that what was given is not in the file
)

// directAlign is what memory, places in the file and lengths of O_DIRECT writes
// are multiples of: the block size of file systems, and more than that of
// disks (open(2), O_DIRECT).
const directAlign = 4096

// directPad is the type of the block that fills the file up to a multiple of
// directAlign while it is written, so that a reader always finds whole blocks.
// Types with the top bit set are for local use (draft-ietf-opsawg-pcapng,
// section 10.1).
const directPad = 0x8000_4E54

// A directFile writes pcapng past the page cache, from one large aligned buffer:
//
//	blocks ──Write──▶ buffer ──(2 MiB, or 100 ms)──▶ pwrite(2), O_DIRECT ──▶ disk
//
// The goroutine of its queue writes. A write that fails is tried again with the
// next Write, which takes nothing as long as the buffer is full.
type directFile struct {
	file  directOut
	pace  pace
	moved *atomic.Uint64 // bytes that were written
	pad   []byte         // an aligned buffer for the last part of the file
	ahead ahead
	last  time.Time

	mu    sync.Mutex // not held while writing; guards against lost
	mem   []byte
	n     int   // filled
	at    int64 // where in the file it goes: a multiple of directAlign
	done  int   // bytes of it that are in the file, in whole directAlign
	flush int   // n when it was last flushed
	left  int   // bytes to come of the block that what was taken ends in

	before, behind cutBlock // those that the begin and the end of the buffer cut
	first          int      // where in mem before ends
}

// A cutBlock is a block that does not lie whole in one buffer.
type cutBlock struct {
	begin int64 // where in the file
	frame bool  // it holds a frame
	bytes uint64
}

// A directOut is what a directFile needs of a file.
type directOut interface {
	WriteAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
}

// newDirectFile writes to an empty file through memory: an arena, whose last
// bytes are for what fills the file up.
func newDirectFile(file directOut, memory []byte) *directFile {
	size := len(memory) - 2*directAlign
	return &directFile{file: file, pad: memory[size:], mem: memory[:size], pace: pace{ending: new(atomic.Bool)}, moved: new(atomic.Uint64)}
}

// A directMemory is the memory of one file after the other.
type directMemory struct {
	size  int // bytes of a buffer
	arena *batch.Arena
}

// open has an empty file written past the page cache, of no more than most bytes
// (0: nobody knows).
func (m *directMemory) open(file *os.File, most int64) (*directFile, error) {
	if err := setDirect(file); err != nil {
		return nil, fmt.Errorf("%s: writing past the page cache: %w; its file system cannot do that: leave out --direct", file.Name(), err)
	}
	if m.arena == nil {
		var err error
		if m.arena, err = batch.NewArena(m.size + 2*directAlign); err != nil {
			return nil, err
		}
	}
	d := newDirectFile(file, m.arena.Bytes())
	d.ahead = ahead{file: file, most: most}
	return d, nil
}

// close gives the memory back.
func (m *directMemory) close() {
	if m.arena != nil {
		m.arena.Close()
		m.arena = nil
	}
}

// Write takes what there is room for: less than all of b, which ends with a whole
// block, only with an error.
func (d *directFile) Write(b []byte) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n < len(b) {
		if d.n == len(d.mem) {
			if err := d.put(d.n); err != nil {
				return n, err
			}
			d.at += int64(d.n)
			d.n, d.done, d.flush, d.first, d.before = 0, 0, 0, d.left, d.behind
		}
		rest := b[n:]
		k := copy(d.mem[d.n:], rest)
		if k == len(rest) {
			d.left = 0
		} else {
			d.cut(rest, k)
		}
		d.n += k
		n += k
	}
	return n, nil
}

// cut notes which block the end of the buffer cuts, behind k bytes of rest.
func (d *directFile) cut(rest []byte, k int) {
	next := d.left
	for next < k {
		block := rest[next:]
		if next += blockLen(block); next > k {
			d.behind.begin = d.at + int64(d.n+next-blockLen(block))
			d.behind.bytes, d.behind.frame = formatPcapng.frame(block)
		}
	}
	d.left = next - k
}

// look has what was taken in the file every directFlush.
func (d *directFile) look(now time.Time) error {
	if now.Sub(d.last) < directFlush {
		return nil
	}
	d.last = now
	return d.sync()
}

// sync has all that was taken in the file, filled up.
func (d *directFile) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == d.flush {
		return nil
	}
	tail := d.n - d.n%directAlign
	if err := d.put(tail); err != nil {
		return err
	}
	length, n := pad(d.pad, d.mem[tail:d.n]), d.n
	if err := d.fill(d.pad[:length], d.at+int64(tail)); err != nil {
		return err
	}
	d.flush = n
	return nil
}

// put writes the buffer up to n, a multiple of directAlign.
func (d *directFile) put(n int) error {
	for d.done < n {
		at := d.done
		end := at + d.pace.most(n-at)
		d.mu.Unlock()
		d.ahead.reach(d.at + int64(n))
		start := time.Now()
		k, err := d.file.WriteAt(d.mem[at:end], d.at+int64(at))
		d.pace.took(k, time.Since(start))
		d.moved.Add(uint64(k))
		d.mu.Lock()
		if d.done += k - k%directAlign; err != nil {
			return fileError(err)
		}
	}
	return nil
}

// fill writes the last part of the file, filled up.
func (d *directFile) fill(b []byte, at int64) error {
	d.mu.Unlock()
	defer d.mu.Lock()
	_, err := d.file.WriteAt(b, at)
	return fileError(err)
}

// pad copies the last bytes of the file to a buffer, fills that up with a block
// that readers skip, and returns how long it is then.
func pad(to, last []byte) int {
	n := copy(to, last)
	if n == 0 {
		return 0
	}
	length := directAlign - n
	if length == 0 {
		return n
	}
	if length < proto.PcapngBlockMin {
		length += directAlign
	}
	b := to[n : n+length]
	clear(b)
	binary.LittleEndian.PutUint32(b, directPad)
	binary.LittleEndian.PutUint32(b[4:], uint32(length))
	binary.LittleEndian.PutUint32(b[length-4:], uint32(length))
	return n + length
}

// close has what there is in the file, and cuts that where its last whole block
// ends. It returns the frames that did not get there, and their bytes. The file
// stays open.
func (d *directFile) close() (frames, bytes uint64, err error) {
	err = d.sync()
	frames, bytes, size := d.lost()
	if e := d.file.Truncate(size); e != nil {
		err = errors.Join(err, fileError(e))
	}
	return frames, bytes, err
}

// lost returns the frames that were taken and are not in the file, their bytes,
// and how long the file is without them.
func (d *directFile) lost() (frames, bytes uint64, size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flush == d.n && d.left == 0 {
		return 0, 0, d.at + int64(d.n)
	}
	written, at, end := d.done, d.first, d.n
	if d.left > 0 { // what is cut there, the queue counts
		end = int(d.behind.begin - d.at)
	}
	if size = d.at + int64(at); written < at {
		if size = d.before.begin; d.before.frame {
			frames, bytes = 1, d.before.bytes
		}
	}
	for at < end {
		next := at + blockLen(d.mem[at:])
		if next <= written {
			size = d.at + int64(next)
		} else if n, ok := formatPcapng.frame(d.mem[at:]); ok {
			frames, bytes = frames+1, bytes+n
		}
		at = next
	}
	return frames, bytes, size
}
