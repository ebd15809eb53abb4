// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// late counts the times that come behind later ones.
func late(times []int64) (n uint64) {
	last := int64(0)
	for _, t := range times {
		if t < last {
			n++
		}
		last = max(last, t)
	}
	return n
}

// Frames of several taps that come to several workers go to a Receiver and to a
// file in the order of their times, all of them, with their own bytes; those
// that are late are counted; the account adds up.
func TestMergeOutputs(t *testing.T) {
	for _, window := range []time.Duration{time.Minute, time.Millisecond} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			const taps, frames = 5, 4000
			keys := testKeys(t)
			file := filepath.Join(t.TempDir(), "merged.pcapng")
			r := receive(t, t.Context(), Config{Keys: keys, Workers: 3, Once: true, Write: file, Merge: window})
			start := time.Now()
			var begin []func()
			for tap := range taps {
				s := newSim(t, keys, uint32(tap+1), startedAgo(0), 0, 1472)
				s.say(t, false)
				s.tell(false)
				next := 0
				s.stamped, s.clock = true, func() time.Time { return start.Add(time.Duration(next*taps+tap) * time.Microsecond) }
				for next = range frames {
					s.frame(60 + next%200)
				}
				s.clock = time.Now
				s.tell(true)
				s.say(t, true)
				conn, err := net.Dial("udp", r.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if _, err := conn.Write(s.out[0]); err != nil {
					t.Fatal(err)
				}
				begin = append(begin, func() {
					for i, d := range s.out[1:] {
						if conn.Write(d); i%20 == 0 {
							time.Sleep(time.Millisecond) // taps send at the same time
						}
					}
				})
			}
			for _, do := range begin { // each was heard before one ends, and with it the Receiver
				go do()
			}
			var times []int64
			byTap := map[uint32]uint32{}
			if err := r.Run(func(b *Batch) error {
				if b.Worker != 0 {
					t.Errorf("worker %d", b.Worker)
				}
				for i := range b.Frames {
					f := &b.Frames[i]
					times = append(times, f.Time)
					n := byTap[b.Tap]
					if binary.BigEndian.Uint32(f.Data) != n || len(f.Data) != 60+int(n)%200 || f.Time != start.UnixNano()+int64(n*taps+b.Tap-1)*1000 {
						return fmt.Errorf("tap %d: frame %d where %d should be", b.Tap, binary.BigEndian.Uint32(f.Data), n)
					}
					byTap[b.Tap]++
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			r.Account().Print(&text)
			if len(times) != taps*frames {
				t.Errorf("%d frames of %d\n%s", len(times), taps*frames, &text)
			}
			if window == time.Minute && !slices.IsSorted(times) {
				t.Errorf("%d frames of %d are not in order", late(times), len(times))
			}
			var written []int64
			for _, p := range testnet.ReadCapture(t, file) {
				written = append(written, p.Time)
			}
			for _, o := range r.Account().Outputs() {
				got := times
				if strings.HasPrefix(o.Name, "pcapng") {
					got = written
				}
				if s := o.Sum(); s.Late != late(got) || s.Delivered != taps*frames || uint64(len(got)) != s.Delivered {
					t.Errorf("%s: %d frames, of which %d late; it counts %d and %d", o.Name, len(got), late(got), s.Delivered, s.Late)
				}
			}
		})
	}
}

// The datagrams that a remote sent last and that did not come are told at the end of
// a file, also where frames are merged.
func TestMergeTellsLossAtEnd(t *testing.T) {
	for _, window := range []time.Duration{0, time.Millisecond} {
		keys := testKeys(t)
		file := filepath.Join(t.TempDir(), "x.pcapng")
		r := receive(t, t.Context(), Config{Keys: keys, Once: true, Write: file, Merge: window})
		s := newSim(t, keys, 1, startedAgo(0), 0, 1472)
		s.stamped = true
		s.say(t, false)
		s.tell(false)
		for range 100 {
			s.frame(200)
		}
		s.flush()
		came := s.out
		for range 50 {
			s.frame(200)
		}
		s.flush()
		lost := len(s.out) - len(came)
		s.out = nil
		s.tell(true)
		s.say(t, true)
		conn, err := net.Dial("udp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, d := range append(came, s.out...) {
			if _, err := conn.Write(d); err != nil {
				t.Fatal(err)
			}
		}
		frames := 0
		if err := r.Run(func(b *Batch) error { frames += len(b.Frames); return nil }); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, packets, stats := blocks(t, b)
		want := fmt.Sprintf("ntap: %d datagrams of tap 1, shard 0, were lost after its last frame", lost)
		if len(packets) != frames || frames == 0 || len(stats) != 1 || stats[0].Comment != want {
			t.Errorf("window %v: %d packets of %d; statistics %+v, want %q", window, len(packets), frames, stats, want)
		}
	}
}

// blockSink takes nothing until it is told to.
type blockSink struct {
	listSink
	let chan struct{}
}

func (b *blockSink) Write(o *Origin, r *proto.Record) {
	<-b.let
	b.listSink.Write(o, r)
}

// An output that takes nothing stops its workers once the buffer is full, and
// what waits is bounded; then all of it comes. An output that fails says so to
// the workers, and refuses the rest.
func TestMergeOutputIsBounded(t *testing.T) {
	inner := &blockSink{let: make(chan struct{})}
	account := &OutputAccount{Name: "x"}
	closed := false
	out := merged(output{
		sink:  func(int, *OutputAccount) (sink, error) { return inner, nil },
		close: func() error { closed = true; return nil },
	}, &Config{Merge: time.Millisecond, MergeBuffer: minMerge})
	s, err := out.sink(0, account)
	if err != nil {
		t.Fatal(err)
	}
	const frames = 40000 // of 1000 bytes: five times the buffer
	sent := make(chan int, frames)
	done := make(chan error, 1)
	go func() {
		var err error
		for i := range frames {
			s.Write(&Origin{Tap: 1}, &proto.Record{Time: int64(i), Data: make([]byte, 1000)})
			if i%10 == 0 {
				err = errors.Join(err, s.Flush())
				sent <- i
			}
		}
		done <- errors.Join(err, s.Close())
	}()
	least, most := minMerge/2/1128-10, 2*minMerge/1128
	last := -1
	for quiet := false; !quiet; {
		wait := time.Minute
		if last >= least {
			wait = time.Second
		}
		select {
		case last = <-sent:
		case <-time.After(wait):
			quiet = true
		}
	}
	if last < least || last > most {
		t.Errorf("with an output that takes nothing %d frames were taken, want %d to %d", last, least, most)
	}
	close(inner.let)
	if err := testnet.Receive(t, "all frames are taken", done); err != nil {
		t.Fatal(err)
	}
	if err := out.close(); err != nil || !closed {
		t.Errorf("%v, closed %v", err, closed)
	}
	if got := account.Sum().Delivered; got != frames || len(inner.frames) != frames {
		t.Errorf("%d delivered, %d there", got, len(inner.frames))
	}
}

// failSink fails.
type failSink struct{ listSink }

var errTest = errors.New("test")

func (*failSink) Flush() error { return errTest }

func TestMergeOutputFails(t *testing.T) {
	out := merged(output{sink: func(int, *OutputAccount) (sink, error) { return new(failSink), nil }}, &Config{Merge: time.Millisecond})
	s, _ := out.sink(0, new(OutputAccount))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s.Write(new(Origin), &proto.Record{})
		if err := s.Flush(); err == errTest {
			break
		} else if err != nil || time.Now().After(deadline) {
			t.Fatalf("a sink that fails is not told of: %v", err)
		}
	}
	if err := out.close(); err != nil {
		t.Errorf("the error that was told is told again: %v", err)
	}
	none := merged(output{sink: func(int, *OutputAccount) (sink, error) { return nil, errTest }}, &Config{Merge: time.Millisecond})
	for range 2 {
		if _, err := none.sink(0, new(OutputAccount)); err != errTest {
			t.Errorf("an output that has no sink: %v", err)
		}
	}
	if err := none.close(); err != nil {
		t.Error(err)
	}
	for _, cfg := range []Config{{Merge: -1}, {Merge: time.Hour}, {MergeBuffer: 1}} {
		if checkMerge(&cfg) == nil {
			t.Errorf("%v, %d is taken", cfg.Merge, cfg.MergeBuffer)
		}
	}
}

// An originSink notes whose frames come.
type originSink struct {
	nullSink
	all map[uint32]*Origin // by tap
}

func (s *originSink) Write(o *Origin, r *proto.Record) {
	if s.all[o.Tap] == nil {
		s.all[o.Tap] = o
	}
	if s.all[o.Tap] == o {
		s.nullSink.Write(o, r)
	}
}

// marks returns how many outputs have left their mark in an origin.
func marks(o *Origin) (n int) {
	for m := o.merges; m != nil; m = m.next {
		n++
	}
	return n
}

// Each output that merges has one Origin of its own in the place of a worker's, and
// tells it of what was lost by the end. A frame costs no allocation, also if each is
// of another shard than the one before, which used to be noted in a map each time. At
// the end, and if there are too many, nothing of that is left in the worker's.
func TestMergeMarks(t *testing.T) {
	const shards, frames = 100, 2000
	var outs [2]output
	var sinks [2]*originSink
	var ends [2]*mergeSink
	for i := range outs {
		sinks[i] = &originSink{all: make(map[uint32]*Origin)}
		outs[i] = merged(output{sink: func(int, *OutputAccount) (sink, error) { return sinks[i], nil }}, &Config{Merge: time.Millisecond})
		s, err := outs[i].sink(0, new(OutputAccount))
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = s.(*mergeSink)
	}
	all, n, r := make([]*Origin, shards), 0, &proto.Record{Data: make([]byte, 60)}
	for i := range all {
		all[i] = &Origin{Tap: uint32(i)}
	}
	one := func() {
		r.Time = int64(n)
		for _, s := range ends {
			s.Write(all[n%shards], r)
		}
		n++
	}
	for n < frames {
		one()
	}
	for _, s := range ends {
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		s.b = &mergeBatch{frames: make([]mergeFrame, 0, 2*frames), mem: make([]byte, 0, mergeChunk)} // else it may grow still
	}
	if a := testing.AllocsPerRun(frames, one); a != 0 {
		t.Errorf("%v allocations a frame", a)
	}
	for i, o := range all {
		if o.lost = uint64(1000 + i); marks(o) != len(outs) {
			t.Errorf("%d marks in an origin, of %d outputs", marks(o), len(outs))
		}
	}
	for i := range outs {
		if err := errors.Join(ends[i].Close(), outs[i].close()); err != nil {
			t.Fatal(err)
		}
		if got := sinks[i].counts.Delivered.Load(); got != uint64(n) || len(sinks[i].all) != shards {
			t.Errorf("%d frames of %d came with the Origin of their tap's first one; %d Origins", got, n, len(sinks[i].all))
		}
	}
	for i, o := range all {
		x, y := sinks[0].all[uint32(i)], sinks[1].all[uint32(i)]
		if x == y || x == o || x.lost != o.lost || y.lost != o.lost || marks(o) != 0 {
			t.Errorf("shard %d: %d lost, as the outputs were told %d and %d; %d marks are left", i, o.lost, x.lost, y.lost, marks(o))
		}
	}
	many, last := make([]Origin, maxOwn+1), new(mergeSink)
	for i := range many {
		last.meet(&many[i])
	}
	if marks(&many[0])+marks(&many[maxOwn-1]) != 0 || marks(&many[maxOwn]) != 1 || len(last.met) != 1 {
		t.Errorf("of %d origins %d are known at the end", len(many), len(last.met))
	}
}

// What a frame costs, CPU of the worker and of the merge, where frames of a number
// of shards come in turn.
func BenchmarkMergeOutput(b *testing.B) {
	for _, shards := range []int{1, 4, 64, 1024} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			out := merged(output{sink: func(int, *OutputAccount) (sink, error) { return new(nullSink), nil }}, &Config{Merge: time.Millisecond})
			s, err := out.sink(0, new(OutputAccount))
			if err != nil {
				b.Fatal(err)
			}
			all := make([]*Origin, shards)
			for i := range all {
				all[i] = &Origin{Tap: uint32(i)}
			}
			r := &proto.Record{Data: make([]byte, 60)}
			mergeCost(b, s, out, all, r)
		})
	}
}

// mergeCost writes records of all origins in turn, reports what each costs the worker
// and the merge with what is behind it, and returns how many there were.
func mergeCost(b *testing.B, s sink, out output, all []*Origin, r *proto.Record) (n int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	worker, process := cpuTime(b, unix.RUSAGE_THREAD), cpuTime(b, unix.RUSAGE_SELF)
	for b.Loop() {
		r.Time = int64(n)
		s.Write(all[n%len(all)], r)
		if n++; n%256 == 0 {
			s.Flush()
		}
	}
	if err := errors.Join(s.Close(), out.close()); err != nil {
		b.Fatal(err)
	}
	worker, process = cpuTime(b, unix.RUSAGE_THREAD)-worker, cpuTime(b, unix.RUSAGE_SELF)-process
	b.ReportMetric(float64(worker.Nanoseconds())/float64(n), "worker-ns/op")
	b.ReportMetric(float64((process-worker).Nanoseconds())/float64(n), "merge-ns/op")
	return n
}
