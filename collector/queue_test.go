// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A readerGate lets bytes through when it is told to.
type readerGate struct {
	mu   sync.Mutex
	cond sync.Cond
	open bool
	gone bool
	room int // bytes more that are let through though it is shut
	buf  bytes.Buffer
}

func newReaderGate() *readerGate {
	g := &readerGate{}
	g.cond.L = &g.mu
	return g
}

func (g *readerGate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.open && !g.gone && g.room == 0 {
		g.cond.Wait()
	}
	if g.gone {
		return 0, io.ErrClosedPipe
	}
	if !g.open {
		b = b[:min(len(b), g.room)]
		g.room -= len(b)
	}
	return g.buf.Write(b)
}

func (g *readerGate) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	g.cond.Broadcast()
}

func (g *readerGate) Close() error {
	g.set(func() { g.gone = true })
	return nil
}

// behind returns a pcapngFile whose blocks wait in a queue of size bytes.
func behind(t *testing.T, to io.Writer, size int) (*queue, *pcapngFile, *warnings) {
	t.Helper()
	w := new(warnings)
	q := newQueue(to, formatPcapng, size, nil)
	q.start()
	f, err := newPcapngFile(pcapngConfig{Path: "-", Name: "reader", Stdout: q, Warn: w.add})
	if err != nil {
		t.Fatal(err)
	}
	return q, f, w
}

// A reader that stops loses what does not fit the queue, and only that: what
// comes is whole, in order, and tells how many frames are missing where. No
// worker waits.
func TestQueueSlowReader(t *testing.T) {
	g := newReaderGate()
	const size = 1 << 20
	q, f, w := behind(t, g, size)
	s, o := f.sink(nil), origin(1, nil)
	const frames = 5000
	write := func(from, to int) {
		for n := from; n < to; n++ {
			s.Write(o, &proto.Record{Data: make([]byte, 1000), Interface: uint32(n % 2), Time: int64(n), LinkType: 1})
			if n%20 == 0 && s.Flush() != nil {
				t.Fatal("Flush failed")
			}
		}
		s.Flush()
	}
	write(0, frames)
	if c := s.Counts(); c.Full.Load() == 0 || c.Delivered.Load() < size/2/1100 || c.Delivered.Load() > size/1000 {
		t.Fatalf("%d frames in the queue, %d without room", c.Delivered.Load(), c.Full.Load())
	}
	q.mu.Lock()
	held := 0
	for _, p := range q.parts {
		held += cap(p.mem)
	}
	q.mu.Unlock()
	if held > size || held < size*3/4 {
		t.Errorf("the queue takes %d bytes of %d", held, size)
	}
	g.set(func() { g.open = true })
	testnet.Eventually(t, "the queue is empty", q.idle)
	write(frames, frames+100)
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if n, b := q.close(0, g); n+b != 0 {
		t.Errorf("%d frames not written", n)
	}
	c := s.Counts()
	_, packets, stats := blocks(t, g.buf.Bytes())
	if uint64(len(packets)) != c.Delivered.Load() || c.Delivered.Load()+c.Full.Load() != frames+100 {
		t.Errorf("%d packets came, %d counted, %d without room", len(packets), c.Delivered.Load(), c.Full.Load())
	}
	next := []uint64{0, 1} // time of the next frame of each interface
	for _, p := range packets {
		i := p.Interface
		if want := next[i] + 2*p.Dropped; p.Ticks != want {
			t.Fatalf("interface %d: frame %d, which says that %d are missing; frame %d was due", i, p.Ticks, p.Dropped, next[i])
		}
		next[i] = p.Ticks + 2
	}
	if next[0] < frames+98 || next[1] < frames+98 || stats[0].Accepted-stats[0].Delivered+stats[1].Accepted-stats[1].Delivered != c.Full.Load() {
		t.Errorf("up to frame %d; statistics %+v", next, stats)
	}
	if w := w.all(); len(w) != 1 || !strings.Contains(w[0], "slower than frames come: frames are dropped") {
		t.Errorf("warned %q", w)
	}
}

// However much of the queue a reader took before it went, frames that it did
// not get whole are counted, and no others.
func TestQueueReaderGone(t *testing.T) {
	for room := 0; room < 6000; room += 97 {
		g := newReaderGate()
		q, f, _ := behind(t, g, 1<<20)
		s, o := f.sink(nil), origin(1, nil)
		for range 10 {
			s.Write(o, &proto.Record{Data: make([]byte, 500), LinkType: 1})
			s.Flush()
		}
		g.set(func() { g.room = room })
		if room%2 == 0 {
			testnet.Eventually(t, "the room is used", func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return g.room == 0 || int64(g.buf.Len()) == f.size
			})
		}
		g.Close()
		if err := errors.Join(s.Close(), f.Close()); err != nil && !errors.Is(err, errOutputGone) {
			t.Fatal(err)
		}
		unsent, bytes := q.close(0, g)
		got := g.buf.Bytes()
		came := 0
		if n := wholeBlocks(got); n > 0 {
			_, packets, _ := blocks(t, got[:n])
			came = len(packets)
		}
		if want := s.Counts().Delivered.Load() - unsent; uint64(came) != want || bytes != unsent*500 {
			t.Errorf("%d bytes taken: %d frames came, %d counted; %d bytes unsent", room, came, want, bytes)
		}
	}
}

// A reader that takes nothing does not hold up the end.
func TestQueueStalledAtTheEnd(t *testing.T) {
	g := newReaderGate()
	q, f, _ := behind(t, g, 1<<20)
	s := f.sink(nil)
	s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 500), LinkType: 1})
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if unsent, _ := q.close(time.Millisecond, g); unsent != 1 {
		t.Errorf("%d frames unsent, want 1", unsent)
	}
	select {
	case <-q.done:
	default:
		t.Error("the queue's goroutine still runs")
	}
}

// A pipe's reader gets each frame when it is flushed, and when it goes away the
// collector ends.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	testnet.Bound(t, r)
	out, err := openFile(t.Context(), File{Path: "-"}, false, w, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	account := new(OutputAccount)
	s, err := out.sink(0, account)
	if err != nil {
		t.Fatal(err)
	}
	account.add(s.Counts())
	o, buf := origin(1, nil), make([]byte, 1<<16)
	var got []byte
	for n := range 5 {
		s.Write(o, &proto.Record{Data: make([]byte, 100), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		for packets := 0; packets <= n; {
			k, err := r.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:k]...)
			if whole := wholeBlocks(got); whole > 0 {
				_, p, _ := blocks(t, got[:whole])
				packets = len(p)
			}
		}
	}
	r.Close()
	given := uint64(5)
	for err = nil; err == nil; given++ {
		s.Write(o, &proto.Record{Data: make([]byte, 100), LinkType: 1})
		err = s.Flush()
	}
	if !errors.Is(err, errOutputGone) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Flush: %v, want errOutputGone", err)
	}
	if err := errors.Join(out.close(), w.Close()); err != nil {
		t.Error(err)
	}
	if sum := account.Sum(); sum.Delivered != 5 || sum.Refused != given-5 {
		t.Errorf("%d given; %+v", given, sum)
	}
}

// A lookedAt counts how often a queue has it look at the clock.
type lookedAt struct {
	io.Writer
	often time.Duration
	looks int
}

func (l *lookedAt) every() time.Duration { return l.often }

func (l *lookedAt) look(time.Time) error {
	l.looks++
	return nil
}

// What has nothing to do by the clock is left alone: each file used to be looked at
// ten times a second, also those that are written through the page cache.
func TestQueueLooks(t *testing.T) {
	for _, often := range []time.Duration{0, time.Hour} {
		to := &lookedAt{Writer: io.Discard, often: often}
		_, f, _ := behind(t, to, 1<<20)
		s := f.sink(nil)
		s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 500), LinkType: 1})
		s.Flush()
		allWritten(t, f)
		if err := errors.Join(s.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if n, _ := f.out.close(0, nil); n != 0 || (to.looks > 0) != (often > 0) {
			t.Errorf("every %v: looked %d times, with %d frames left", often, to.looks, n)
		}
	}
	for _, direct := range []bool{false, true} {
		if e := (&fileEnd{cfg: &pcapngConfig{Direct: direct}}); (e.every() > 0) != direct {
			t.Errorf("direct %v: looks every %v", direct, e.every())
		}
	}
}
