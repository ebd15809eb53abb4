// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"sync"

	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// A Receiver is a collector inside a program of yours: frames come to a
// function, or to a loop, with no interface, file or socket between. It opens,
// orders and accounts as Run does, on as many workers, and may have other
// outputs beside.
//
//	r, err := collector.Listen(ctx, collector.Config{Listen: ":5678", Keys: keys})
//	…
//	for frame := range r.Frames() {
//		fmt.Println(frame.Tap, frame.Time, len(frame.Data))
//	}
//	err = r.Err()
//
// Frames copies each frame. Run does not: its function works on the memory that
// datagrams were received in.
type Receiver struct {
	c   *collector
	ctx context.Context

	mu   sync.Mutex
	used bool // Run was called, or Close
	take func(*Batch) error
	err  error // of Frames
}

// A Frame is one captured frame. Of a GSO frame the Receiver makes the frames
// that the wire saw, unless Config.KeepGSO says not to.
type Frame struct {
	*Origin      // whose it is
	proto.Record // bytes, time, lengths, interface, direction
}

// Via returns the interface that the frame was captured on, as its tap announced
// it; ok is false if it did not yet.
func (f *Frame) Via() (i proto.Interface, ok bool) { return f.Origin.Via(&f.Record) }

// Via returns the interface that a record of this origin was captured on, as
// the tap announced it; ok is false if it did not yet.
func (o *Origin) Via(r *proto.Record) (i proto.Interface, ok bool) {
	a := o.Announce()
	if a == nil || uint64(r.Interface) >= uint64(len(a.Interfaces)) {
		return proto.Interface{}, false
	}
	return a.Interfaces[r.Interface], true
}

// A Batch is frames of one shard of one tap on loan, in order: frames and their
// bytes are good until the function that they were given to returns, and may
// not be written to. The frames of a shard come to one worker.
type Batch struct {
	*Origin                // whose frames they are
	Worker  int            // 0 to Config.Workers - 1
	Frames  []proto.Record // at least one
}

// batchFrames is how many frames are in a batch at most. Chosen: their records
// stay in the nearest cache.
const batchFrames = 64

// ErrStop ends Run, which then returns nil, when its function returns it.
var ErrStop = errors.New("collector: no more frames are wanted")

// Listen opens a collector's sockets and outputs, if any. Frames come once Run or
// Frames is called, and until ctx is done; without either, call Close.
func Listen(ctx context.Context, cfg Config) (*Receiver, error) {
	r := &Receiver{ctx: ctx}
	cfg.receiver = r
	c, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	r.c = c
	return r, nil
}

// Addr returns the address that the Receiver listens on.
func (r *Receiver) Addr() netip.AddrPort { return r.c.in[0].Addr() }

// Account returns what became of every datagram and frame. It is kept up to
// date, and final once Run has returned or the loop over Frames has ended.
func (r *Receiver) Account() *Account { return r.c.account }

// Run gives each batch of frames to take, until the context of Listen is done,
// take returns an error, or, with Config.Once, every tap that was heard said
// bye. Each worker calls take from a goroutine, and locked thread, of its own: with
// several workers calls come at the same time, and Batch.Worker tells them
// apart; with Config.Merge there is one goroutine for all, and Batch.Worker is
// 0. While take works nothing is received: what the socket's buffer then has
// no room for is lost, and counted.
//
// Run may be called once. Afterwards the Receiver is closed.
func (r *Receiver) Run(take func(*Batch) error) error {
	if !r.use() {
		return errors.New("collector: a Receiver runs once")
	}
	r.take = take
	return r.c.run(r.ctx)
}

func (r *Receiver) use() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := r.used
	r.used = true
	return !used
}

// Close closes a Receiver that was not run.
func (r *Receiver) Close() error {
	if !r.use() {
		return nil
	}
	r.c.close()
	return r.c.outs.close()
}

// Frames returns the frames that come, as Run has them, one by one. They are
// copies and yours. After the loop, which may be left at any time, Err says how
// it ended. The order of frames of different workers is that in which they
// happen to be given on.
func (r *Receiver) Frames() iter.Seq[Frame] {
	return func(yield func(Frame) bool) {
		// A worker copies what it received at once and hands it over at once: one
		// step from goroutine to goroutine for many frames.
		copies := make(chan []Frame, r.c.cfg.Workers)
		stop := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			err := r.Run(func(b *Batch) error {
				select {
				case copies <- cloneFrames(b):
					return nil
				case <-stop:
					return ErrStop
				}
			})
			close(copies)
			ended <- err
		}()
		defer func() {
			close(stop)
			err := <-ended
			r.mu.Lock()
			defer r.mu.Unlock()
			r.err = err
		}()
		for frames := range copies {
			for _, f := range frames {
				if !yield(f) {
					return
				}
			}
		}
	}
}

// Err returns the error that ended the loop over Frames; nil: the context was
// done, the taps had ended, or the loop was left.
func (r *Receiver) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// cloneFrames copies frames with their bytes, in three allocations.
func cloneFrames(b *Batch) []Frame {
	n := 0
	for i := range b.Frames {
		n += len(b.Frames[i].Data)
	}
	o := *b.Origin // the worker goes on writing to its own
	out, mem := make([]Frame, len(b.Frames)), make([]byte, 0, n)
	for i := range out {
		f := &out[i]
		*f = Frame{&o, b.Frames[i]}
		at := len(mem)
		mem = append(mem, f.Data...)
		f.Data = mem[at:len(mem):len(mem)]
	}
	return out
}

// A batchSink is a worker's end of a Receiver:
//
//	record ──Write──▶ batch ──(64, another shard, or Flush)──▶ the program's function
type batchSink struct {
	take   func(*Batch) error
	worker int
	from   *Origin // whose frames are in the batch
	frames [batchFrames]proto.Record
	n      int // of them
	batch  Batch
	err    error

	_      perf.Pad
	counts SinkCounts
	_      perf.Pad
}

// turn makes o the one whose frames come.
func (s *batchSink) turn(o *Origin) {
	if s.from != o {
		if s.n > 0 {
			s.give()
		}
		s.from = o
	}
}

// place returns where the record of the next frame may be made.
func (s *batchSink) place() *proto.Record { return &s.frames[s.n] }

// keep takes the frame whose record was made there.
func (s *batchSink) keep() {
	if s.n++; s.n == batchFrames {
		s.give()
	}
}

// Write puts a record into the batch, see sink.
func (s *batchSink) Write(o *Origin, r *proto.Record) {
	s.turn(o)
	*s.place() = *r
	s.keep()
}

// Flush gives the batch on, see sink.
func (s *batchSink) Flush() error {
	if s.n > 0 {
		s.give()
	}
	return s.err
}

// give gives the batch to the function. Once that has had enough, frames count
// as refused.
func (s *batchSink) give() {
	b := s.frames[:s.n]
	s.n = 0
	if s.err != nil {
		s.counts.Refused.Add(uint64(len(b)))
		return
	}
	bytes := 0
	for i := range b {
		bytes += len(b[i].Data)
	}
	s.batch = Batch{Origin: s.from, Worker: s.worker, Frames: b}
	s.err = s.take(&s.batch)
	s.counts.Delivered.Add(uint64(len(b)))
	s.counts.DeliveredBytes.Add(uint64(bytes))
}

// Counts returns the sink's accounts.
func (s *batchSink) Counts() *SinkCounts { return &s.counts }

// Close gives the batch on.
func (s *batchSink) Close() error { return s.Flush() }
