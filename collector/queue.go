// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Why a queue has no room, if writing does not fail: what it goes to is slower
// than the frames come.
var (
	errSlow     error = waits{errors.New("the reader is slower than frames come")}
	errSlowDisk error = waits{errors.New("the disk is slower than frames come")}
)

// A waits is an error after which it is tried again, and what is to be written
// waits.
type waits struct{ error }

func (w waits) Unwrap() error { return w.error }

// Chosen.
const (
	queueSlice = 64 << 10               // bytes in one write to a reader: progress is seen after each
	queueStall = 5 * time.Second        // at the end, the longest that a reader or a disk may take nothing
	queueSize  = 64 << 20               // bytes for a file, or for the reader of a pipe
	queuePart  = 192 << 10              // bytes of a buffer
	queueTaps  = 8 << 20                // bytes for each of the files, where each tap has a recording
	queueShort = 4                      // buffers that wait where writing keeps up
	queueMany  = 4                      // buffers in one write to a file: benchmarks/README.md, "pcapng to disk"
	queueAgain = 100 * time.Millisecond // between attempts to write where that fails
)

// A queue is what waits for a file, or for the reader of a pipe or a
// connection. Workers put blocks in and never wait; a goroutine of its own
// writes them:
//
//	blocks ──Write, copied, or hand──▶ buffers ──write(2), writev(2)──▶ file, reader
//
// A full buffer changes hands, and what is less is copied to the end of the last
// one. Each begins with a whole block, and none is given up because writing it
// fails: it is tried again, until the queue is closed.
type queue struct {
	to     io.Writer
	format captureFormat
	limit  int // bytes of all buffers that wait
	size   int // bytes of one
	slice  int // bytes in one write
	many   int // buffers in one write, at the most; more than 1: to is a gatherer
	slow   error
	pause  time.Duration // between attempts to write where that fails
	failed func(error)
	spare  *spares

	mu      sync.Mutex
	parts   []*part // in order
	busy    int     // of the first, those that are being written
	held    int     // bytes of the buffers
	written uint64  // bytes: progress
	trouble error   // why writing does not work now; nil: it does
	err     error   // nothing more is put in, or written

	lasting error    // the goroutine's: why it ends
	vector  [][]byte // likewise: what it is about to write
	pace    pace     // likewise

	wake    chan struct{} // has a token if there is something to do
	closing chan struct{} // closed when what there is is all
	done    chan struct{} // closed when the goroutine has ended
}

// A part is one buffer of a queue, or a turn between two.
type part struct {
	mem  []byte
	done int   // bytes of it that are written
	turn *turn // to be made before; nil: none
}

// What a queue writes to may be asked for more than writing.
type (
	turner   interface{ turn(t *turn) error } // goes on in another file
	gatherer interface {
		writev(b [][]byte) (n int, err error)
	} // writes many buffers at once; less than all also without an error
	looker interface { // does something by the clock, at the latest whenever nothing is written for every
		look(time.Time) error
		every() time.Duration // 0: it has nothing to do
	}
	ender interface{ finish(over int) } // ends, with over bytes of a block that is not whole. It is the last that the goroutine does
)

// lookPipe is how long it takes at the most to notice that a reader is gone.
// Chosen.
const lookPipe = time.Second

// spares are buffers for use again, of all queues of one output.
type spares struct {
	mu   sync.Mutex
	size int // bytes of each
	most int
	free []*part
}

func newSpares(size, most int) *spares { return &spares{size: size, most: most} }

func (s *spares) get(size int) *part {
	if size > s.size {
		return &part{mem: make([]byte, 0, size)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p
	}
	return &part{mem: make([]byte, 0, s.size)}
}

func (s *spares) put(p *part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(p.mem) == s.size && len(s.free) < s.most {
		p.mem, p.done = p.mem[:0], 0
		s.free = append(s.free, p)
	}
}

// newQueue returns a queue of limit bytes that writes to to once it is started.
// failed, if not nil, is called when that fails for good.
func newQueue(to io.Writer, format captureFormat, limit int, failed func(error)) *queue {
	size := min(queuePart, limit/8)
	return &queue{
		to: to, format: format, limit: limit, size: size, slice: queueSlice, many: 1, slow: errSlow, pause: queueAgain, failed: failed, spare: newSpares(size, limit/size),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}), pace: pace{ending: new(atomic.Bool)},
	}
}

// start starts the goroutine.
func (q *queue) start() { go q.run() }

// Write puts in as many of the blocks in b as there is room for.
func (q *queue) Write(b []byte) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.put(b)
}

// hand is Write of a buffer that the queue may keep: then it returns another one
// in its place.
func (q *queue) hand(b []byte) (empty []byte, n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := 3*len(b) >= 2*cap(b)
	if q.err != nil || cap(b) != q.size || q.held+q.size > q.limit || !full && (3*len(b) < cap(b) || len(q.parts) > queueShort) {
		n, err = q.put(b)
		return b, n, err
	}
	p := q.spare.get(q.size)
	empty, p.mem = p.mem, b
	q.add(p)
	q.poke()
	return empty, len(b), nil
}

// put copies blocks.
func (q *queue) put(b []byte) (n int, err error) {
	if q.err != nil {
		return 0, q.err
	}
	for n < len(b) {
		if last := len(q.parts) - 1; last >= q.busy {
			p := q.parts[last]
			k := q.fitting(b[n:], cap(p.mem)-len(p.mem))
			p.mem = append(p.mem, b[n:n+k]...)
			if n += k; n == len(b) {
				break
			}
		}
		size := max(q.size, q.format.blockLen(b[n:]))
		if q.held+size > q.limit {
			err = q.reason()
			break
		}
		q.add(q.spare.get(size))
	}
	q.poke()
	return n, err
}

// reason says why there is no room.
func (q *queue) reason() error {
	if q.trouble != nil {
		return q.trouble
	}
	return q.slow
}

func (q *queue) why() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reason()
}

// fitting returns the length of the blocks in b that room bytes hold.
func (q *queue) fitting(b []byte, room int) (n int) {
	if len(b) <= room {
		return len(b)
	}
	for next := q.format.blockLen(b); n+next <= room; next = q.format.blockLen(b[n:]) {
		n += next // and not all fit
	}
	return n
}

func (q *queue) add(p *part) {
	q.parts = append(q.parts, p)
	q.held += cap(p.mem)
}

// turn has what is put in from here on go to another file. It takes no memory
// worth counting; between two there is something else.
func (q *queue) turn(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.parts = append(q.parts, &part{turn: t})
	q.poke()
}

// idle says that nothing waits.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.parts) == 0
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run writes until the queue is closed and empty, or that fails for good.
func (q *queue) run() {
	defer close(q.done)
	over := q.writeAll()
	if e, ok := q.to.(ender); ok {
		e.finish(over)
	}
	if q.lasting == nil {
		return
	}
	q.mu.Lock()
	if q.err == nil {
		q.err = q.lasting
	}
	q.mu.Unlock()
	if q.failed != nil {
		q.failed(q.lasting)
	}
}

// writeAll is run without the end. It returns how many bytes of a block were
// written that is not whole.
func (q *queue) writeAll() (over int) {
	look, _ := q.to.(looker)
	var tick <-chan time.Time
	if look != nil && look.every() == 0 {
		look = nil
	} else if look != nil {
		t := time.NewTicker(look.every())
		defer t.Stop()
		tick = t.C
	}
	for {
		last := q.closed()
		if parts := q.first(); len(parts) > 0 {
			if over, ok := q.write(parts); !ok {
				return over
			}
		} else if last {
			return 0
		} else {
			select {
			case <-q.wake:
				continue
			case <-q.closing:
				continue
			case <-tick:
			}
		}
		if look != nil {
			if err := look.look(time.Now()); err != nil && !q.again(err, q.pause) {
				return 0
			}
		}
	}
}

// failure returns why nothing can be put in any more.
func (q *queue) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

func (q *queue) closed() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

// first returns the buffers to be written now, or a turn; none: nothing waits.
func (q *queue) first() []*part {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return nil
	}
	n := min(len(q.parts), q.many)
	if i := slices.IndexFunc(q.parts[:n], func(p *part) bool { return p.turn != nil }); i >= 0 {
		n = max(i, 1)
	}
	q.busy = n
	return q.parts[:n]
}

// write writes buffers, or makes a turn. False: that ended the queue, with over
// bytes written of a block that is not whole.
func (q *queue) write(parts []*part) (over int, ok bool) {
	if t := parts[0].turn; t != nil {
		for err := q.to.(turner).turn(t); err != nil; err = q.to.(turner).turn(t) {
			if !q.again(waits{err}, retryOpen) {
				return 0, false
			}
		}
		_, ok = q.note(parts, 0, nil)
		return 0, ok
	}
	for len(parts) > 0 { // workers do not add to them any more
		n, err := q.give(parts)
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if parts, ok = q.note(parts, n, err); ok && (err == nil || q.again(err, q.pause)) {
			continue
		}
		if len(parts) > 0 {
			over = parts[0].done - q.fitting(parts[0].mem, parts[0].done)
		}
		return over, false
	}
	return 0, true
}

// give writes once.
func (q *queue) give(parts []*part) (n int, err error) {
	start := time.Now()
	defer func() { q.pace.took(n, time.Since(start)) }()
	if p := parts[0]; len(parts) == 1 || q.pace.careful() {
		return q.to.Write(p.mem[p.done : p.done+q.once(len(p.mem)-p.done)])
	}
	for _, p := range parts {
		q.vector = append(q.vector, p.mem[p.done:])
	}
	n, err = q.to.(gatherer).writev(q.vector)
	clear(q.vector)
	q.vector = q.vector[:0]
	return n, err
}

// note notes that n bytes of buffers are written, and whether that went well.
// Those that are whole are done with; the rest is returned. False: the queue was
// closed.
func (q *queue) note(parts []*part, n int, err error) (rest []*part, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.written += uint64(n)
	done := 0
	for _, p := range parts {
		k := min(n, len(p.mem)-p.done)
		p.done += k
		if n -= k; p.done < len(p.mem) {
			break
		}
		done++
	}
	if err == nil {
		q.trouble = nil
	}
	if q.err != nil {
		return parts[done:], false
	}
	for _, p := range parts[:done] {
		if q.held -= cap(p.mem); p.mem != nil {
			q.spare.put(p)
		}
	}
	q.written += uint64(done)
	q.parts, q.busy = slices.Delete(q.parts, 0, done), q.busy-done
	return q.parts[:q.busy], true
}

// again waits until what failed is to be tried again. False: it is not.
func (q *queue) again(err error, wait time.Duration) bool {
	q.mu.Lock()
	q.trouble = waits{err}
	q.mu.Unlock()
	if !isFull(err) {
		q.lasting = err
		return false
	}
	if q.closed() {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-q.closing: // once more
	}
	return true
}

// drain waits until everything is written, for as long as that makes progress,
// and for no longer than most (0: as long as it takes). False: it is not.
func (q *queue) drain(most time.Duration) bool {
	q.pace.ending.Store(true)
	q.await(most, func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.parts) == 0 || q.trouble != nil
	})
	return q.idle()
}

// close ends the queue: what there is is drained. Then stop, if not nil, ends a
// write under way; else it is left to itself. It returns the frames that were
// not written whole, and their bytes.
func (q *queue) close(most time.Duration, stop io.Closer) (frames, bytes uint64) {
	close(q.closing)
	if !q.await(most, func() bool { return false }) && stop != nil {
		stop.Close()
		<-q.done
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = io.ErrClosedPipe
	for _, p := range q.parts {
		f, b := q.format.count(p.mem, p.done)
		frames, bytes = frames+f, bytes+b
	}
	q.parts = nil
	return frames, bytes
}

// await waits until it is enough, for as long as there is progress and for no
// longer than most. True: the goroutine has ended.
func (q *queue) await(most time.Duration, enough func() bool) bool {
	start := time.Now()
	last, since := q.progress(), start
	tick := time.NewTicker(queueStall / 500)
	defer tick.Stop()
	for !enough() {
		select {
		case <-q.done:
			return true
		case now := <-tick.C:
			if n := q.progress(); n != last {
				last, since = n, now
			}
			if now.Sub(since) > queueStall || most > 0 && now.Sub(start) > most {
				return false
			}
		}
	}
	return false
}

func (q *queue) progress() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.written
	if m, ok := q.to.(mover); ok {
		n += m.moved()
	}
	return n
}
