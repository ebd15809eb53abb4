// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/cpuid/v2"

	"github.com/ntap-project/ntap/proto"
)

// errOutputGone says that whoever read the collector's output went away.
var errOutputGone = errors.New("collector: nobody reads the output any more")

// Chosen. BenchmarkPcapngWrite: from 64 KiB on, longer writes are no faster.
const pcapngWrite = 128 << 10

// calmTime is how long a reader that was too slow has to keep up before it is
// said that it does.
const calmTime = 5 * time.Second

// A pcapngConfig says where frames are written.
type pcapngConfig struct {
	Path    string        // a file, which is replaced; "-": Stdout
	Stdout  io.Writer     // stays open; a queue, which stays open too, or what one writes to
	Stop    io.Closer     // ends a write to Stdout that waits; nil: nothing does
	Buffer  int           // bytes that wait to be written; 0: queueSize
	Name    string        // for messages; "": Path
	Format  captureFormat // of Stdout; files are pcapng
	Link    proto.LinkType
	SnapLen int         // bytes that frames were cut at; 0: they were not
	Chunk   int         // bytes in a worker's buffer that are written without waiting for Flush; 0: pcapngWrite
	Keep    bool        // a file that holds something is left alone: another name stands in
	Direct  bool        // files are written past the page cache
	Late    *lateCounts // counts what turns out later not to be written
	Spare   *spares     // buffers that other files share; nil: none do
	Files   *recording  // makes files in the place of Path; nil: there is one
	Since   time.Time   // when the output was opened; zero: with its first file

	// Warn is told when the output begins to refuse frames, and when it takes
	// them again. Any worker may call it.
	Warn func(error)
}

// A pcapngFile is one stream of pcapng, or a pcap one, that all workers write,
// in whole blocks: a file, the files of a recording one after the other, or
// what a reader gets. A worker encodes into its own memory, and takes the lock
// once for each time that it puts blocks into the queue, which writes them.
type pcapngFile struct {
	cfg  pcapngConfig
	name string
	end  *fileEnd // what the queue writes to; nil: no file

	mu      sync.Mutex
	out     *queue
	own     bool // out is to be closed
	under   bool // there is a file, or a stream, under way
	ended   bool // its statistics are made
	periods periods
	until   time.Time // when the file of a recording ends; zero: it does not by the clock
	section uint64    // counts files
	table   pcapngTable
	size    int64               // bytes given to the file
	head    []byte              // blocks to be put in before any frame
	untold  map[shardKey]uint64 // datagrams lost after the last frame, of sinks that are closed
	full    bool
	fullAt  time.Time // when it was last
	lost    uint64    // frames since it is full
	err     error     // ends the output
}

// newPcapngFile opens the file and writes its header. A recording of one tap
// begins with the first frame.
func newPcapngFile(cfg pcapngConfig) (*pcapngFile, error) {
	f := &pcapngFile{cfg: cfg, name: cmp.Or(cfg.Name, cfg.Path)}
	f.table = pcapngTable{periods: &f.periods, ids: make(map[pcapngKey]uint32)}
	if f.cfg.Late == nil {
		f.cfg.Late = new(lateCounts)
	}
	now := time.Now()
	if cfg.Path == "-" && cfg.Files == nil {
		f.name = cmp.Or(cfg.Name, "standard output")
		if f.out, _ = cfg.Stdout.(*queue); f.out == nil {
			f.own, f.out = true, newQueue(cfg.Stdout, cfg.Format, cmp.Or(cfg.Buffer, queueSize), nil)
			f.out.start()
		}
		if f.begin(now); cfg.Format == formatPcapng {
			f.head = sectionHead("")
		}
		return f, f.settle()
	}
	f.end = &fileEnd{cfg: &f.cfg, name: f.name}
	if cfg.Files == nil || !cfg.Files.names.has("t") {
		if err := f.end.open(now); err != nil {
			return nil, err
		}
		f.begin(now)
	}
	f.own, f.out = true, newQueue(f.end, formatPcapng, cmp.Or(cfg.Buffer, queueSize), nil)
	f.out.pace.ending = &f.end.ending
	if f.out.slow, f.out.slice = errSlowDisk, f.out.size; f.end.gathers() {
		f.out.many = queueMany
	}
	if cfg.Spare != nil {
		f.out.spare = cfg.Spare
	}
	f.out.start()
	return f, nil
}

// headMost is what the section's header and the markers of a recording's file
// take at the most, but for the names in it, bytes.
const headMost = 1 << 10

// statistics is what those of an interface take at the end of a file, bytes.
const statistics = 512

// begin begins a section.
func (f *pcapngFile) begin(now time.Time) {
	f.until = time.Time{}
	if f.periods.opened.IsZero() {
		if f.periods.opened = f.cfg.Since; f.cfg.Since.IsZero() {
			f.periods.opened = now
		}
	}
	f.section++
	f.table = pcapngTable{start: now.UnixNano(), periods: &f.periods, ids: make(map[pcapngKey]uint32)}
	f.head, f.size, f.under, f.ended = f.head[:0], 0, true, false
	if r := f.cfg.Files; r != nil {
		f.size = headMost + int64(2*len(r.names.text))
		if r.roll.Every > 0 {
			f.until = now.Truncate(r.roll.Every).Add(r.roll.Every)
		}
	}
}

// turn ends the recording's file if it is due, more bytes being about to be
// given to it, and begins the next one. The error says that there is no room.
func (f *pcapngFile) turn(now time.Time, more int) error {
	if f.under && (f.ended || f.due(now, more)) {
		if err := f.finish(); err != nil {
			return err
		}
		f.out.turn(&turn{at: now})
		f.under = false
	}
	if !f.under && more > 0 {
		f.out.turn(&turn{begin: true, at: now})
		f.begin(now)
	}
	return nil
}

// due says whether the recording's file has to end before more bytes are given
// to it.
func (f *pcapngFile) due(now time.Time, more int) bool {
	r := f.cfg.Files
	given := len(f.table.stats) > 0
	if r.roll.Size > 0 && more > 0 && given && f.size+int64(len(f.head)+more+len(f.table.stats)*statistics) > r.roll.Size {
		return true
	}
	return !f.until.IsZero() && !now.Before(f.until) && (given || f.out.idle())
}

// tick ends a recording's file in time where no frame comes that would.
func (f *pcapngFile) tick(now time.Time) {
	if f.cfg.Files == nil || f.cfg.Files.roll.Every == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		_ = f.turn(now, 0) // later, once there is room
	}
}

func (f *pcapngFile) warn(err error) {
	if f.cfg.Warn != nil {
		f.cfg.Warn(err)
	}
}

func hardware() string {
	if name := cpuid.CPU.BrandName; name != "" {
		return runtime.GOARCH + ", " + name
	}
	return runtime.GOARCH
}

func system() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease") // proc_sys_kernel(5)
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + string(bytes.TrimSpace(release))
}

// sink returns a worker's end of the file, which encodes into buf; nil: memory
// of its own.
func (f *pcapngFile) sink(buf []byte) *pcapngSink {
	s := &pcapngSink{f: f, pcapngEncoder: newPcapngEncoder(f), chunk: cmp.Or(f.cfg.Chunk, pcapngWrite)}
	if s.buf = buf[:0]; buf == nil {
		s.buf = make([]byte, 0, f.out.size)
	}
	return s
}

// Close ends the file, once the sinks are closed: with the statistics of its
// interfaces, if there is room. A queue of its own is drained, and what is left
// then is accounted for.
func (f *pcapngFile) Close() (err error) {
	calm := time.Duration(0)
	if f.own && !f.out.drain(0) && f.out.why() == f.out.slow { // so that there is room
		calm = time.Millisecond // enough was waited; what fails, ends by itself once it is closed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && f.under {
		if err = f.finish(); isFull(err) || isGone(err) {
			err = nil // said before, or it does not matter any more
		}
		f.under = false
	}
	if !f.own {
		return err
	}
	frames, bytes := f.out.close(calm, f.cfg.Stop)
	if f.end != nil {
		select {
		case <-f.out.done:
			err = errors.Join(err, f.end.err)
		default: // the disk takes nothing
		}
		n, b := f.end.rest()
		frames, bytes = frames+n, bytes+b
		if frames > 0 {
			f.warn(fmt.Errorf("collector: %s: %w: %d frames that waited were dropped", f.name, f.out.why(), frames))
		}
	}
	f.cfg.Late.add(frames, bytes)
	return err
}

// failure returns why the output takes nothing any more; nil: it does.
func (f *pcapngFile) failure() error {
	switch err := f.out.failure(); {
	case err == nil:
		return nil
	case isGone(err):
		return fmt.Errorf("%w: %s: %w", errOutputGone, f.name, err)
	default:
		return fmt.Errorf("collector: %s: %w", f.name, err)
	}
}

// finish puts the statistics of the interfaces in.
func (f *pcapngFile) finish() error {
	if !f.ended && f.cfg.Format == formatPcapng {
		if f.cfg.Files != nil {
			f.head = f.table.quiet(f.head, f.cfg.SnapLen, f.room())
		}
		if f.head = f.table.statistics(f.head, time.Now().UnixNano(), f.untold); f.cfg.Files != nil {
			f.periods.leave(f.table.stats)
		}
	}
	f.ended = true
	return f.settle()
}

// room returns how many bytes the recording's file has room for besides the
// statistics of the interfaces in it.
func (f *pcapngFile) room() int64 {
	most := f.cfg.Files.roll.Size
	if most == 0 {
		return math.MaxInt64
	}
	return most - f.size - int64(len(f.head)+len(f.table.stats)*statistics)
}

// describe returns the number of the interface of a source in the file that is
// written now, and queues its block if it is new: it is in the file before the
// first frame that needs it. What e has encoded gets the numbers of that file.
func (f *pcapngFile) describe(e *pcapngEncoder, of pcapngSource) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.align(e)
	return f.number(of)
}

func (f *pcapngFile) align(e *pcapngEncoder) {
	if e.section != f.section {
		e.begin(f.section, f.number)
	}
}

func (f *pcapngFile) number(of pcapngSource) (id uint32) {
	f.head, id = f.table.number(f.head, of, f.cfg.SnapLen)
	return id
}

// settle puts in what has to be in the file before any frame. If there is no
// room, the rest is still in head.
func (f *pcapngFile) settle() error {
	if len(f.head) == 0 {
		return nil
	}
	n, err := f.out.Write(f.head)
	f.size += int64(n)
	f.head = slices.Delete(f.head, 0, n)
	return err
}

// write puts what s has encoded into the queue, and accounts for it. The error
// ends the output.
func (f *pcapngFile) write(s *pcapngSink) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err, n := f.err, 0
	if err == nil && f.cfg.Files != nil {
		if err = f.turn(time.Now(), len(s.buf)); err == nil {
			f.align(&s.pcapngEncoder)
		}
	}
	if err == nil {
		err = f.settle()
	}
	if err == nil {
		s.buf, n, err = f.out.hand(s.buf)
		f.size += int64(n)
	}
	if f.cfg.Format == formatPcapng && s.section == f.section {
		for _, id := range s.touched {
			f.table.stats[id].given += s.known[id].given
		}
	}
	if err == nil {
		s.counts.Delivered.Add(s.frames)
		s.counts.DeliveredBytes.Add(s.bytes)
		if f.full {
			f.calm()
		}
		return nil
	}
	lost := f.account(s, n)
	switch {
	case f.err != nil:
	case isFull(err):
		s.counts.Full.Add(lost)
		f.crowded(err, lost)
		return nil
	default:
		f.err = f.failure()
	}
	s.counts.Refused.Add(lost)
	return f.err
}

// crowded notes that frames were lost for want of room.
func (f *pcapngFile) crowded(err error, lost uint64) {
	if !f.full {
		f.full, f.lost = true, 0
		f.warn(fmt.Errorf("collector: %s: %w: frames are dropped until there is room", f.name, err))
	}
	f.lost += lost
	if err == errSlow || err == errSlowDisk {
		f.fullAt = time.Now()
	}
}

// calm notes that there is room again. A slow reader has some now and then.
func (f *pcapngFile) calm() {
	if !f.fullAt.IsZero() && time.Since(f.fullAt) < calmTime {
		return
	}
	f.full = false
	f.warn(fmt.Errorf("collector: %s: there is room again; %d frames were dropped", f.name, f.lost))
}

// account accounts for what s has encoded, of which n bytes are in the queue,
// in whole blocks, and returns the number of frames that are not.
func (f *pcapngFile) account(s *pcapngSink, n int) (lost uint64) {
	var frames, bytes uint64 // in the queue
	for b := s.buf; len(b) > 0; {
		length := f.cfg.Format.blockLen(b)
		if n > 0 {
			more, _ := f.cfg.Format.frame(b)
			frames, bytes, n = frames+1, bytes+more, n-length
		} else {
			if f.cfg.Format == formatPcapng {
				s.drop(len(s.buf) - len(b))
				if s.section == f.section {
					f.table.stats[binary.LittleEndian.Uint32(b[8:])].lost++
				}
			}
			lost++
		}
		b = b[length:]
	}
	s.counts.Delivered.Add(frames)
	s.counts.DeliveredBytes.Add(bytes)
	return lost
}
