// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
)

// Chosen.
const (
	defaultMerge = 64 << 20              // bytes of frames that wait, for each output
	minMerge     = 8 << 20               // the least Config.MergeBuffer
	mergeChunk   = 512 << 10             // bytes that a worker gathers at the most before it hands them over
	mergeSpare   = 64                    // batches that are kept for use again
	mergeLook    = 20 * time.Millisecond // the longest that the output is not flushed, as it would be by a worker
	maxMerge     = time.Minute           // the longest Config.Merge
	maxOwn       = 1 << 16               // origins that a worker's end knows
)

// checkMerge says what is wrong with the configuration's window.
func checkMerge(cfg *Config) error {
	if cfg.Merge < 0 || cfg.Merge > maxMerge {
		return fmt.Errorf("collector: merging over a window of %v: 0 (frames are not merged) to %v", cfg.Merge, maxMerge)
	}
	if cfg.MergeBuffer != 0 && cfg.MergeBuffer < minMerge {
		return fmt.Errorf("collector: %d bytes for frames that are merged: that is too small; %d or more", cfg.MergeBuffer, minMerge)
	}
	return nil
}

// A mergeOutput is an output before which the frames of all workers are merged:
//
//	record ──Write──▶ batch of the worker ──(512 KiB, or Flush)──▶ merger ──(its own goroutine)──▶ the output's sink
//
// A worker waits only if the merger's buffer is full, as it would for the
// output itself.
type mergeOutput struct {
	out  output
	m    *merger
	own  SinkCounts
	sink sink // the merger's goroutine has it

	mu      sync.Mutex
	room    *sync.Cond
	started error         // why there is no sink
	done    chan struct{} // closed when the goroutine has ended; nil: it has not begun
	coming  []*mergeBatch
	ends    []mergeEnd // of the workers that are done: of all when closing
	bytes   int        // of those, and of what waited when the goroutine last looked
	free    []*mergeBatch
	takes   *choice // what the sink is to select
	err     error   // of the sink
	closing bool
	wake    chan struct{}
}

// merged returns the output with the frames of all workers merged before it.
func merged(out output, cfg *Config) output {
	w := &mergeOutput{out: out, wake: make(chan struct{}, 1)}
	w.room = sync.NewCond(&w.mu)
	w.m = newMerger(cfg.Merge, cmp.Or(cfg.MergeBuffer, defaultMerge)/2, &w.own, func(o *Origin, r *proto.Record) { w.sink.Write(o, r) })
	return output{name: out.name, tick: out.tick, failure: out.failure, sink: w.end, close: w.close, alter: out.alter}
}

// end returns a worker's end. The first one begins the merging.
func (w *mergeOutput) end(_ int, a *OutputAccount) (sink, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil && w.started == nil {
		if w.sink, w.started = w.out.sink(0, a); w.started == nil {
			a.add(w.sink.Counts())
			a.add(&w.own)
			w.done = make(chan struct{})
			go w.run()
		}
	}
	return &mergeSink{w: w}, w.started
}

// take takes a worker's batch, and returns an empty one. The error is that of
// the output.
func (w *mergeOutput) take(b *mergeBatch) (empty *mergeBatch, err error) {
	size := b.size()
	w.mu.Lock()
	for w.bytes > 0 && w.bytes+size > 2*w.m.limit {
		w.room.Wait()
	}
	w.bytes += size
	w.coming = append(w.coming, b)
	if n := len(w.free); n > 0 {
		empty, w.free = w.free[n-1], w.free[:n-1]
	}
	err = w.err
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return empty, err
}

// run merges until the output is closed.
func (w *mergeOutput) run() {
	defer close(w.done)
	var came []*mergeBatch
	var chosen *choice
	timer := time.NewTimer(mergeLook)
	defer timer.Stop()
	for closing := false; !closing; {
		select {
		case <-w.wake:
		case <-timer.C:
		}
		w.mu.Lock()
		came, w.coming = w.coming, came[:0]
		closing = w.closing
		takes, ends := w.takes, w.ends
		w.mu.Unlock()
		if takes != chosen {
			chosen = takes
			if s, ok := w.sink.(chooser); ok {
				s.choose(takes)
			}
		}
		now := time.Now()
		for i, b := range came {
			w.m.add(b, now)
			came[i] = nil
		}
		if w.m.due(now); closing {
			w.m.all()
			w.m.end(ends)
		}
		err := w.sink.Flush()
		if closing {
			err = errors.Join(err, w.sink.Close())
		}
		w.mu.Lock()
		w.m.release(func(b *mergeBatch) {
			if b.reset(); len(w.free) < mergeSpare {
				w.free = append(w.free, b)
			}
		})
		w.bytes = w.m.held
		for _, b := range w.coming {
			w.bytes += b.size()
		}
		if err != nil {
			w.err = err
		}
		w.mu.Unlock()
		w.room.Broadcast()
		wait := mergeLook
		if d, ok := w.m.wait(time.Now()); ok {
			wait = min(wait, d)
		}
		timer.Reset(wait)
	}
}

// close gives what waits, and closes the output. The workers' ends are closed.
func (w *mergeOutput) close() (err error) {
	w.mu.Lock()
	w.closing = true
	done, told := w.done, w.err
	w.mu.Unlock()
	if done != nil {
		select {
		case w.wake <- struct{}{}:
		default:
		}
		<-done
		if told == nil && !errors.Is(w.err, errOutputGone) && !errors.Is(w.err, ErrStop) {
			err = w.err
		}
	}
	if w.out.close != nil {
		err = errors.Join(err, w.out.close())
	}
	return err
}

// A chooser is a sink that itself selects frames.
type chooser interface{ choose(takes *choice) }

// A mergeSink is a worker's end of a mergeOutput.
type mergeSink struct {
	w    *mergeOutput
	b    *mergeBatch
	err  error
	from *Origin   // of the frame before
	own  *Origin   // in its place
	met  []*Origin // of all frames, each with a mark of this

	_      perf.Pad
	counts SinkCounts // of what is not selected, and does not come here
	_      perf.Pad
}

// A mergeMark says which Origin stands in the place of a worker's behind a merge:
// the worker's goes on while frames wait. It lies in the worker's, where it is found
// without a map also if each frame is of another shard than the one before.
type mergeMark struct {
	of   *mergeSink
	own  *Origin    // once frames are handed over, the merge's goroutine has it
	next *mergeMark // of another output
}

// Write copies the record, see sink.
func (s *mergeSink) Write(o *Origin, r *proto.Record) {
	if s.b == nil {
		s.b = new(mergeBatch)
	} else if len(s.b.mem) >= mergeChunk {
		s.hand()
	}
	if o != s.from {
		s.from, s.own = o, s.meet(o)
	}
	s.b.put(s.own, o.lost, r)
}

// meet returns what stands in an origin's place: once for a run of its datagrams.
func (s *mergeSink) meet(o *Origin) *Origin {
	for m := o.merges; m != nil; m = m.next {
		if m.of == s {
			return m.own
		}
	}
	if len(s.met) == maxOwn {
		s.forget()
	}
	own := &Origin{Tap: o.Tap, Session: o.Session, Shard: o.Shard, announce: o.announce, tally: o.tally}
	o.merges, s.met = &mergeMark{s, own, o.merges}, append(s.met, o)
	return own
}

// forget takes the marks back, and returns how many datagrams each origin had lost
// by now.
func (s *mergeSink) forget() (ends []mergeEnd) {
	for _, o := range s.met {
		at := &o.merges
		for (*at).of != s {
			at = &(*at).next
		}
		ends = append(ends, mergeEnd{(*at).own, o.lost})
		*at = (*at).next
	}
	s.from, s.own, s.met = nil, nil, nil
	return ends
}

func (s *mergeSink) hand() {
	b, err := s.w.take(s.b)
	if s.b = b; b == nil {
		s.b = new(mergeBatch)
	}
	if err != nil {
		s.err = err
	}
}

// Flush hands over what the worker gathered, see sink.
func (s *mergeSink) Flush() error {
	if s.b != nil && len(s.b.frames) > 0 {
		s.hand()
		return s.err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.err
}

// choose says what the output is to select, see chooser.
func (s *mergeSink) choose(takes *choice) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.takes = takes
}

// Counts returns the accounts of the worker's end.
func (s *mergeSink) Counts() *SinkCounts { return &s.counts }

// Close hands over what the worker gathered, and how many datagrams were lost by
// now: no frame may come to tell. The output stays open for the others.
func (s *mergeSink) Close() error {
	err, ends := s.Flush(), s.forget()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.ends = append(s.w.ends, ends...)
	return err
}
