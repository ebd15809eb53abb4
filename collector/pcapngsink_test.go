// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A narrowWriter takes what there is room for.
type narrowWriter struct {
	bytes.Buffer
	err error

	mu   sync.Mutex
	room int
	many int // buffers that came at once, at the most
}

func (w *narrowWriter) more(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room += n
}

func (w *narrowWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(w.room, len(b))
	w.room -= n
	w.Buffer.Write(b[:n])
	if n < len(b) {
		return n, &os.PathError{Op: "write", Path: "x", Err: w.err}
	}
	return n, nil
}

// writev takes less than all without an error where there is room for some, as
// writev(2) does.
func (w *narrowWriter) writev(b [][]byte) (n int, err error) {
	w.many = max(w.many, len(b))
	for i := range b {
		k, err := w.Write(b[i])
		if n += k; err != nil && n == 0 {
			return 0, err
		} else if err != nil {
			break
		}
	}
	return n, nil
}

// However the room comes and goes, the file holds whole blocks, and exactly
// the frames that were counted as delivered and not as unsent; the others count
// as full. So it is where many buffers are written at once.
func TestPcapngFull(t *testing.T) {
	t.Run("one", func(t *testing.T) { testPcapngFull(t, 1) })
	t.Run("many", func(t *testing.T) { testPcapngFull(t, queueMany) })
}

func testPcapngFull(t *testing.T, many int) {
	var sum uint64
	most := 0
	defer func() {
		if sum == 0 || most != many && many > 1 {
			t.Errorf("%d frames were left in the queue; %d buffers at once", sum, most)
		}
	}()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		out := &narrowWriter{room: 1000, err: []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO}[seed%3]}
		q := newQueue(out, formatPcapng, 3000, nil)
		q.pause, q.many = time.Microsecond, many
		q.start()
		f, warned := testFile(t, q)
		o := origin(1, nil)
		sinks := []*pcapngSink{f.sink(nil), f.sink(nil)}
		in := 0
		for range 60 {
			s := sinks[rng.IntN(2)]
			for range rng.IntN(4) {
				s.Write(o, &proto.Record{Data: make([]byte, rng.IntN(300)), Interface: rng.Uint32N(3), LinkType: 1})
				in++
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			out.more(rng.IntN(3) * rng.IntN(200))
			if rng.IntN(4) == 0 {
				time.Sleep(10 * time.Microsecond) // for the writer to get on, or not
			}
		}
		if seed%2 == 0 {
			out.more(1 << 20)
			allWritten(t, f)
		}
		if err := errors.Join(sinks[0].Close(), sinks[1].Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		unsent, _ := q.close(0, nil)
		sum, most = sum+unsent, max(most, out.many)
		var delivered, full uint64
		for _, s := range sinks {
			delivered += s.Counts().Delivered.Load()
			full += s.Counts().Full.Load()
		}
		b := out.Bytes()
		if seed%2 == 1 {
			b = b[:wholeBlocks(b)] // a bytes.Buffer cannot take a begun block back
		}
		_, packets, stats := blocks(t, b)
		if len(packets) != int(delivered-unsent) || delivered+full != uint64(in) || full == 0 || unsent > 0 && seed%2 == 0 {
			t.Fatalf("seed %d: %d packets in the file, %d delivered, %d unsent, %d full, %d in all", seed, len(packets), delivered, unsent, full, in)
		}
		if len(*warned) == 0 || !strings.Contains((*warned)[0], "frames are dropped until there is room") ||
			len(*warned) > 1 && !strings.Contains((*warned)[1], "there is room again; ") {
			t.Fatalf("warned %q", *warned)
		}
		for _, s := range stats {
			for _, p := range packets {
				if p.Interface == s.Interface {
					s.Delivered--
				}
			}
			if s.Delivered != 0 {
				t.Fatalf("seed %d: statistics are off by %d", seed, int64(s.Delivered))
			}
		}
	}
}

func wholeBlocks(b []byte) int {
	n := 0
	for len(b)-n >= 8 && blockLen(b[n:]) <= len(b)-n {
		n += blockLen(b[n:])
	}
	return n
}

// packetBlocks returns how many of the whole blocks at the start of b are enhanced
// packet blocks.
func packetBlocks(b []byte) (packets int) {
	for n := 0; len(b)-n >= 8 && blockLen(b[n:]) <= len(b)-n; n += blockLen(b[n:]) {
		if binary.LittleEndian.Uint32(b[n:]) == 6 {
			packets++
		}
	}
	return packets
}

// When the reader of a pipe goes away, the output fails.
func TestPcapngReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	f, _ := testFile(t, w)
	s, other, o := f.sink(nil), f.sink(nil), origin(1, nil)
	s.Write(o, &proto.Record{Data: make([]byte, 100), LinkType: 1})
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	allWritten(t, f)
	r.Close()
	s.Write(o, &proto.Record{Data: make([]byte, 100), LinkType: 1})
	if err := s.Flush(); err != nil {
		t.Fatal(err) // it is in the queue
	}
	testnet.Receive(t, "the queue's end", f.out.done)
	for _, s := range []*pcapngSink{s, s, other} {
		s.Write(o, &proto.Record{Data: make([]byte, 100), LinkType: 1})
		if err := s.Flush(); !errors.Is(err, errOutputGone) || !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Flush: %v, want errOutputGone", err)
		}
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if c := s.Counts(); c.Delivered.Load() != 2 || c.Refused.Load() != 2 || other.Counts().Refused.Load() != 1 || f.cfg.Late.counts.Unsent.Load() != 1 {
		t.Errorf("delivered %d, of which unsent %d; refused %d and %d; want 2, 1, 2, 1", c.Delivered.Load(), f.cfg.Late.counts.Unsent.Load(), c.Refused.Load(), other.Counts().Refused.Load())
	}
}

// The process used to be killed by SIGPIPE where standard output itself was
// the pipe.
func TestPcapngStdoutGone(t *testing.T) {
	if os.Getenv("NTAP_TEST_STDOUT") != "" {
		out, err := openFile(context.Background(), File{Path: "-"}, false, os.Stdout, nil)
		if err != nil {
			os.Exit(3)
		}
		s, _ := out.sink(0, new(OutputAccount))
		o := origin(1, nil)
		for err == nil {
			s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
			err = s.Flush()
		}
		if !errors.Is(err, errOutputGone) {
			os.Exit(4)
		}
		os.Exit(42)
	}
	cmd := testnet.Command(t, os.Args[0], "-test.run=^TestPcapngStdoutGone$")
	cmd.Env = append(os.Environ(), "NTAP_TEST_STDOUT=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.CopyN(io.Discard, out, 5000)
	out.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 42 {
		t.Errorf("the process ended with %v", err)
	}
}

// A FIFO is waited for, and read as it is written.
func TestPcapngFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if out, err := testnet.Command(t, "mkfifo", path).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v %s", err, out)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := openFile(stopped, File{Path: path}, false, nil, nil); err == nil || !strings.Contains(err.Error(), "has no reader") {
		t.Errorf("stopped: %v", err)
	}
	reader := make(chan *os.File, 1)
	out, err := openFile(t.Context(), File{Path: path}, false, nil, func(error) {
		go func() { // which the warning says is needed
			r, _ := os.Open(path)
			reader <- r
		}()
	})
	if err != nil {
		t.Fatal(err)
	}
	r := testnet.Receive(t, "the FIFO is open", reader)
	testnet.Bound(t, r)
	s, err := out.sink(0, new(OutputAccount))
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 200<<10) // more than a pipe holds
	go func() {
		s.Write(origin(1, nil), &proto.Record{Data: data, LinkType: 1})
		s.Flush()
		s.Close()
		out.close()
	}()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, packets, stats := blocks(t, b); len(packets) != 1 || len(packets[0].Data) != len(data) || len(stats) != 1 {
		t.Errorf("%d packets", len(packets))
	}
}

// A reader that sits on the pipe sees a frame as soon as it is flushed.
func TestPcapngLive(t *testing.T) {
	testnet.RequireTool(t, "tcpdump")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := testnet.Command(t, "tcpdump", "-nn", "-l", "-r", "-")
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	f, _ := testFile(t, w)
	s, o := f.sink(nil), origin(1, nil)
	line := make([]byte, 1000)
	for range 3 {
		s.Write(o, &proto.Record{Data: make([]byte, 60), OrigLen: 60, LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, err := out.Read(line); n == 0 || err != nil { // it is killed if it does not come
			t.Fatalf("tcpdump printed nothing: %v", err)
		}
	}
	s.Close()
	f.Close()
	w.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Workers write at once, and the frames of each stay in order.
func TestPcapngWorkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "two")
	f, err := newPcapngFile(pcapngConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	const workers, frames = 3, 20000
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			s, o := f.sink(nil), origin(uint32(w), nil)
			data := make([]byte, 100+w)
			for n := range frames {
				s.Write(o, &proto.Record{Data: data, Time: int64(n), Interface: uint32(n % 5), LinkType: 1})
				if n%64 == 0 && s.Flush() != nil {
					t.Error("Flush failed")
				}
			}
			if err := s.Close(); err != nil || s.Counts().Delivered.Load() != frames {
				t.Error(err, s.Counts().Delivered.Load())
			}
		})
	}
	testnet.Await(t, "the workers' end", wg.Wait)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ifs, packets, _ := blocks(t, b)
	if len(packets) != workers*frames || len(ifs) != workers*5 {
		t.Fatalf("%d packets, %d interfaces", len(packets), len(ifs))
	}
	next := make([]uint64, workers)
	for _, p := range packets {
		w := len(p.Data) - 100
		want := fmt.Sprintf("if%d tap %d", next[w]%5, w)
		if i := ifs[p.Interface]; p.Ticks != next[w] || i.Name+" "+i.Description != want {
			t.Fatalf("worker %d: frame %d of %s %s, want %d of %s", w, p.Ticks, i.Name, i.Description, next[w], want)
		}
		next[w]++
	}
}

// What cannot be written is told when the collector starts.
func TestPcapngOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]error{
		dir:                                syscall.EISDIR,
		filepath.Join(dir, "none", "file"): os.ErrNotExist,
		"/dev/full":                        syscall.ENOSPC,
	} {
		if _, err := newPcapngFile(pcapngConfig{Path: path}); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestPcapngAllocations(t *testing.T) {
	f, _ := testFile(t, io.Discard)
	s := f.sink(nil)
	os := []*Origin{origin(1, &proto.Announce{Interfaces: make([]proto.Interface, 4)}), origin(2, nil)}
	r := &proto.Record{Data: make([]byte, 700), LinkType: 1, Direction: proto.Outbound}
	n := uint32(0)
	run := func() {
		r.Interface = n / 2 % 4
		s.Write(os[n%2], r)
		if n++; n%50 == 0 && s.Flush() != nil {
			t.Error("Flush failed")
		}
	}
	for range 100 {
		run()
	}
	if a := testing.AllocsPerRun(2000, run); a != 0 {
		t.Errorf("%v allocations per record", a)
	}
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Error(err)
	}
}
