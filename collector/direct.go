// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// Chosen. benchmarks/README.md, "pcapng to disk", has figures.
const (
	directBuffer  = 2 << 20                // bytes in one write
	directSmall   = 512 << 10              // the same where there is a recording for each tap
	directBuffers = 16                     // of a file
	directAhead   = 64 << 20               // bytes of the file that are allocated at once
	directFlush   = 100 * time.Millisecond // the longest that what was given is not in the file
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

// A directFile writes pcapng past the page cache. Workers' blocks are copied into
// large aligned buffers, which a goroutine of its own writes:
//
//	blocks ──Write──▶ filling ──(4 MiB)──▶ full ──pwrite(2), O_DIRECT──▶ disk
//
// Write never waits: what there is no buffer for is not taken. A write that
// fails is tried again, so a disk that is full costs what finds no buffer.
type directFile struct {
	file directOut
	size int // bytes of a buffer

	mu      sync.Mutex
	free    []*directPart
	full    []*directPart // in the order of the file
	filling *directPart   // nil: none is free
	err     error         // of the last attempt to write; nil: it worked
	closing bool
	wake    chan struct{}
	done    chan struct{}
	wrote   sync.Cond // after each attempt
	pad     []byte    // an aligned buffer for the last part of the file
	ahead   int64     // bytes of the file that are allocated
}

// A directOut is what a directFile needs of a file.
type directOut interface {
	WriteAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
}

// errSlowDisk says that all buffers are full.
var errSlowDisk = errors.New("the disk is slower than frames come")

// A directPart is one buffer: the bytes of the file from at on.
type directPart struct {
	mem   []byte
	n     int   // filled
	at    int64 // a multiple of directAlign
	done  int   // bytes of it that are in the file, in whole directAlign
	flush int   // n when it was last flushed

	// The block that the end of the buffer before cuts.
	begin int64 // where in the file it begins; at: there is none
	first int   // where in mem it ends
	frame bool  // it holds a frame
	bytes uint64
}

// newDirectFile writes to an empty file through memory: an arena, whose first
// bytes are for what fills the file up.
func newDirectFile(file directOut, memory []byte, size int) *directFile {
	d := &directFile{file: file, size: size, wake: make(chan struct{}, 1), done: make(chan struct{}), pad: memory[:2*directAlign]}
	for memory = memory[2*directAlign:]; len(memory) >= size; memory = memory[size:] {
		d.free = append(d.free, &directPart{mem: memory[:size:size]})
	}
	d.filling, d.free = d.free[0], d.free[1:]
	d.wrote.L = &d.mu
	go d.run()
	return d
}

// A directMemory is the memory of one file after the other.
type directMemory struct {
	size  int // bytes of a buffer
	arena *batch.Arena
}

// open has an empty file written past the page cache.
func (m *directMemory) open(file *os.File) (*directFile, error) {
	if err := setDirect(file); err != nil {
		return nil, fmt.Errorf("%s: writing past the page cache: %w; its file system cannot do that: leave out --direct", file.Name(), err)
	}
	if m.arena == nil {
		var err error
		if m.arena, err = batch.NewArena(m.size*directBuffers + 2*directAlign); err != nil {
			return nil, err
		}
	}
	return newDirectFile(file, m.arena.Bytes(), m.size), nil
}

// close gives the memory back.
func (m *directMemory) close() {
	if m.arena != nil {
		m.arena.Close()
		m.arena = nil
	}
}

// Write takes as many of the blocks in b as there is room for.
func (d *directFile) Write(b []byte) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n < len(b) {
		p := d.filling
		if p == nil {
			break
		}
		rest := b[n:]
		if len(rest) <= len(p.mem)-p.n {
			copy(p.mem[p.n:], rest)
			p.n += len(rest)
			n = len(b)
			if p.n == len(p.mem) {
				d.next(p.at+int64(p.n), p.at+int64(p.n), nil)
			}
			break
		}
		// Whole blocks, and then the one that the buffer's end cuts.
		whole := 0
		for whole+blockLen(rest[whole:]) <= len(p.mem)-p.n {
			whole += blockLen(rest[whole:])
		}
		cut := rest[whole : whole+blockLen(rest[whole:])]
		if len(p.mem)-p.n > whole && len(d.free) == 0 { // there is no room for its end
			copy(p.mem[p.n:], rest[:whole])
			p.n += whole
			n += whole
			break
		}
		room := len(p.mem) - p.n
		copy(p.mem[p.n:], rest[:room])
		begin := p.at + int64(p.n+whole)
		p.n += room
		n += whole
		if over := room - whole; over == 0 {
			d.next(p.at+int64(p.n), p.at+int64(p.n), nil)
		} else {
			d.next(p.at+int64(p.n), begin, cut)
			q := d.filling
			q.n = copy(q.mem, cut[over:])
			q.first = q.n
			n += len(cut)
		}
	}
	if n < len(b) {
		if err = d.err; err == nil {
			err = errSlowDisk
		}
	}
	return n, err
}

// next has the buffer written that is full, and goes on in a free one, if there
// is any. cut is the block that the end of the one before cuts, which begins
// at begin.
func (d *directFile) next(at, begin int64, cut []byte) {
	d.full = append(d.full, d.filling)
	d.filling = nil
	if last := len(d.free) - 1; last >= 0 {
		d.filling, d.free = d.free[last], d.free[:last]
		d.filling.start(at, begin, cut)
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (p *directPart) start(at, begin int64, cut []byte) {
	*p = directPart{mem: p.mem, at: at, begin: begin}
	if cut != nil {
		p.bytes, p.frame = formatPcapng.frame(cut)
	}
}

// run writes until the file is closed.
func (d *directFile) run() {
	defer close(d.done)
	tick := time.NewTicker(directFlush)
	defer tick.Stop()
	for {
		select {
		case <-d.wake:
		case <-tick.C:
		}
		d.mu.Lock()
		closing := d.closing
		var err error
		for err == nil && len(d.full) > 0 {
			p := d.full[0]
			d.mu.Unlock()
			err = d.put(p, p.n)
			d.mu.Lock()
			if err == nil {
				d.full = d.full[1:]
				d.recycle(p)
			}
		}
		if p := d.filling; err == nil && p != nil && p.n > p.flush {
			n := p.n
			tail := n - n%directAlign
			length := pad(d.pad, p.mem[tail:n])
			d.mu.Unlock()
			if err = d.put(p, tail); err == nil {
				err = d.at(d.pad[:length], p.at+int64(tail))
			}
			d.mu.Lock()
			if err == nil {
				p.flush = n
			}
		}
		d.err = err
		d.mu.Unlock()
		d.wrote.Broadcast()
		if closing {
			return
		}
	}
}

// recycle makes a buffer free again.
func (d *directFile) recycle(p *directPart) {
	if d.filling == nil { // nothing was taken since the last one was full
		end := p.at + int64(p.n)
		if len(d.full) > 0 {
			last := d.full[len(d.full)-1]
			end = last.at + int64(last.n)
		}
		d.filling = p
		p.start(end, end, nil)
		return
	}
	d.free = append(d.free, p)
}

// put writes p up to n, a multiple of directAlign.
func (d *directFile) put(p *directPart, n int) error {
	if n == p.done {
		return nil
	}
	if end := p.at + int64(n); end > d.ahead {
		if f, ok := d.file.(*os.File); ok {
			allocate(f, d.ahead, directAhead) // it goes faster with it, and works without
		}
		d.ahead += directAhead
	}
	k, err := d.file.WriteAt(p.mem[p.done:n], p.at+int64(p.done))
	p.done += k - k%directAlign
	return fileError(err)
}

func (d *directFile) at(b []byte, at int64) error {
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

// drain waits until there is room, or a write fails.
func (d *directFile) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.full) > 0 && d.err == nil {
		d.wrote.Wait()
	}
}

// close writes what there is, and cuts the file where its last whole block ends.
// It returns the frames that did not get there, and their bytes. The file
// stays open.
func (d *directFile) close() (frames, bytes uint64, err error) {
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
	<-d.done
	size := int64(0)
	parts := d.full
	if d.filling != nil {
		parts = append(parts, d.filling)
	}
	for i, p := range parts {
		written := p.done
		if p == d.filling && d.err == nil {
			written = p.n
		}
		end := len(p.mem) // of the blocks that begin here
		if p == d.filling {
			end = p.n
		} else if i+1 < len(parts) {
			end = int(parts[i+1].begin - p.at)
		}
		at := 0
		if p.begin < p.at {
			if at = p.first; written < at {
				if i == 0 {
					size = p.begin
				}
				if p.frame {
					frames, bytes = frames+1, bytes+p.bytes
				}
			}
		}
		if i == 0 && (written >= at) {
			size = p.at + int64(at)
		}
		for at < end {
			next := at + blockLen(p.mem[at:])
			if next <= written {
				if i == 0 {
					size = p.at + int64(next)
				}
			} else if n, ok := formatPcapng.frame(p.mem[at:]); ok {
				frames, bytes = frames+1, bytes+n
			}
			at = next
		}
	}
	if d.err != nil {
		err = d.err
	}
	if e := d.file.Truncate(size); e != nil {
		err = errors.Join(err, fileError(e))
	}
	return frames, bytes, err
}
