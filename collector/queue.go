// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// errSlow says that a queue has no room: its reader is slower than the frames
// come.
var errSlow = errors.New("the reader is slower than frames come")

// Chosen.
const (
	queueSlice = 64 << 10        // bytes in one write: progress is seen after each
	queueStall = 5 * time.Second // at the end, the longest that a reader may take nothing
	pipeQueue  = 64 << 20        // bytes for the reader of a pipe
)

// A queue is what waits for the reader of a pipe or a connection. Workers put
// blocks in and never wait; a goroutine of its own writes them:
//
//	blocks ──Write──▶ filling ──(swap)──▶ writing ──write(2)──▶ reader
//
// Both buffers begin with a whole block and have half of the limit each.
type queue struct {
	to     io.Writer
	format captureFormat
	limit  int // bytes of one buffer
	failed func(error)

	mu      sync.Mutex
	filling []byte
	writing []byte
	swapped uint64 // bytes sent before writing
	given   uint64 // bytes put in
	err     error  // nothing more is put in

	sent   atomic.Uint64 // bytes
	wake   chan struct{} // has a token if there is something to do
	closed atomic.Bool   // what there is is all
	done   chan struct{} // closed when the goroutine has ended
}

// newQueue returns a queue of size bytes that writes to to once it is started.
// failed, if not nil, is called when that fails.
func newQueue(to io.Writer, format captureFormat, size int, failed func(error)) *queue {
	return &queue{to: to, format: format, limit: size / 2, failed: failed, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// start starts the goroutine.
func (q *queue) start() { go q.run() }

// Write puts in as many of the blocks in b as there is room for.
func (q *queue) Write(b []byte) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return 0, q.err
	}
	if room := q.limit - len(q.filling); len(b) <= room {
		n = len(b)
	} else {
		err = errSlow
		for next := q.format.blockLen(b); n+next <= room; next = q.format.blockLen(b[n:]) {
			n += next // and not all fit
		}
	}
	if need := len(q.filling) + n; need > cap(q.filling) {
		q.filling = append(make([]byte, 0, min(max(need, 2*cap(q.filling), queueSlice), q.limit)), q.filling...)
	}
	q.filling = append(q.filling, b[:n]...)
	q.given += uint64(n)
	q.poke()
	return n, err
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run writes until the queue is closed and empty, or the reader is gone.
func (q *queue) run() {
	defer close(q.done)
	for range q.wake {
		last := q.closed.Load()
		q.mu.Lock()
		b := q.filling
		q.writing, q.filling, q.swapped = b, q.writing[:0], q.sent.Load()
		q.mu.Unlock()
		for len(b) > 0 {
			n, err := q.to.Write(b[:min(queueSlice, len(b))])
			q.sent.Add(uint64(n))
			if err == nil && n == 0 {
				err = io.ErrShortWrite
			}
			if err != nil {
				q.mu.Lock()
				q.err = err
				q.mu.Unlock()
				if q.failed != nil {
					q.failed(err)
				}
				return
			}
			b = b[n:]
		}
		if last {
			return
		}
	}
}

// drain waits until everything is written, for as long as the reader goes on
// reading, and for no longer than most (0: as long as it takes).
func (q *queue) drain(most time.Duration) {
	q.mu.Lock()
	given := q.given
	q.mu.Unlock()
	q.await(most, func() bool { return q.sent.Load() >= given })
}

// close ends the queue: what there is is drained. Then stop, if not nil, ends a
// write under way. It returns the frames that were not written whole, and
// their bytes.
func (q *queue) close(most time.Duration, stop io.Closer) (frames, bytes uint64) {
	q.closed.Store(true)
	q.poke()
	if !q.await(most, func() bool { return false }) && stop != nil {
		stop.Close()
		<-q.done
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = io.ErrClosedPipe
	frames, bytes = q.format.count(q.writing, int(q.sent.Load()-q.swapped))
	f, b := q.format.count(q.filling, 0)
	q.filling = nil
	return frames + f, bytes + b
}

// await waits until it is enough, for as long as the reader goes on reading and
// for no longer than most. True: the goroutine has ended.
func (q *queue) await(most time.Duration, enough func() bool) bool {
	start := time.Now()
	last, since := q.sent.Load(), start
	tick := time.NewTicker(queueStall / 500)
	defer tick.Stop()
	for !enough() {
		select {
		case <-q.done:
			return true
		case now := <-tick.C:
			if sent := q.sent.Load(); sent != last {
				last, since = sent, now
			}
			if now.Sub(since) > queueStall || most > 0 && now.Sub(start) > most {
				return false
			}
		}
	}
	return false
}

// A captureFormat is a way to write frames one after the other.
type captureFormat uint8

const (
	formatPcapng captureFormat = iota
	formatPcap                 // without the file's header
)

// blockLen returns the length of the block that b begins with.
func (f captureFormat) blockLen(b []byte) int {
	if f == formatPcap {
		return proto.PcapPacketLen + int(binary.LittleEndian.Uint32(b[8:]))
	}
	return blockLen(b)
}

// frame says whether the block that b begins with holds a frame, and of how
// many bytes.
func (f captureFormat) frame(b []byte) (bytes uint64, ok bool) {
	switch {
	case f == formatPcap:
		return uint64(binary.LittleEndian.Uint32(b[8:])), true
	case binary.LittleEndian.Uint32(b) == proto.PcapngTypeEnhanced:
		return uint64(binary.LittleEndian.Uint32(b[20:])), true
	}
	return 0, false
}

// count counts the frames of b, and their bytes, that do not lie whole in its
// first done bytes.
func (f captureFormat) count(b []byte, done int) (frames, bytes uint64) {
	for at := 0; at < len(b); {
		length := f.blockLen(b[at:])
		if n, ok := f.frame(b[at:]); ok && at+length > done {
			frames++
			bytes += n
		}
		at += length
	}
	return frames, bytes
}
