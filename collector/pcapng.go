// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
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
	Stdout  io.Writer     // stays open
	Name    string        // for messages; "": Path
	Format  captureFormat // of Stdout; files are pcapng
	Link    proto.LinkType
	SnapLen int         // bytes that frames were cut at; 0: they were not
	Chunk   int         // bytes in a worker's buffer that are written without waiting for Flush; 0: pcapngWrite
	Direct  bool        // files are written past the page cache, and
	Late    *lateCounts // counts what turns out later not to be in them
	Files   *recording  // makes files in the place of Path; nil: there is one

	// Warn is told when the output begins to refuse frames, and when it takes
	// them again. Any worker may call it.
	Warn func(error)
}

// A pcapngFile is one stream of pcapng, or a pcap one, that all workers write,
// in whole blocks: a file, the files of a recording one after the other, or
// what a reader gets. A worker encodes into its own memory, and takes the lock
// once for each write.
//
// A write that fails in the middle of a block is finished before anything
// else is written, so that the file stays readable up to its last byte.
type pcapngFile struct {
	cfg  pcapngConfig
	name string

	mu      sync.Mutex
	out     io.Writer   // nil: there is no file under way
	file    *os.File    // nil: out is none
	own     bool        // file is to be closed
	direct  *directFile // is out; nil: it is not
	memory  directMemory
	start   time.Time
	section uint64 // counts files
	table   pcapngTable
	size    int64     // bytes written to the file
	head    []byte    // blocks to be written before any frame
	begun   int       // bytes of head that are in the file already
	owed    owedFrame // if that block is a frame
	full    bool
	fullAt  time.Time // when it was last
	lost    uint64    // frames since it is full
	err     error     // ends the collector
}

// An owedFrame is a frame of which a part is in the file: its sink counts it
// once the rest is.
type owedFrame struct {
	by    *pcapngSink // nil: none
	bytes uint64
}

// newPcapngFile opens the file and writes its header. A recording of one tap
// begins with the first frame.
func newPcapngFile(cfg pcapngConfig) (*pcapngFile, error) {
	f := &pcapngFile{cfg: cfg, name: cmp.Or(cfg.Name, cfg.Path), table: pcapngTable{ids: make(map[pcapngKey]uint32)}}
	switch {
	case cfg.Files != nil:
		if cfg.Files.names.has("t") {
			return f, nil
		}
		if err := f.next(time.Now()); err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
	case cfg.Path == "-":
		f.name = cmp.Or(cfg.Name, "standard output")
		f.out = cfg.Stdout
		f.file, _ = cfg.Stdout.(*os.File)
		if f.file == os.Stdout {
			// Else the runtime ends the process where the write should fail
			// (package os/signal, SIGPIPE).
			signal.Ignore(syscall.SIGPIPE)
		}
		f.begin("")
	default:
		file, err := os.OpenFile(cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) // the umask has its say
		if err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		if err := f.take(file); err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		f.begin("")
	}
	if err := f.settle(); err != nil {
		f.closeFile()
		if isGone(err) {
			return nil, fmt.Errorf("%w: %s: %w", errOutputGone, f.name, err)
		}
		return nil, fmt.Errorf("collector: %s: %w", f.name, err)
	}
	return f, nil
}

// begin begins a section.
func (f *pcapngFile) begin(comment string) {
	f.start = time.Now()
	f.section++
	f.table = pcapngTable{ids: make(map[pcapngKey]uint32)}
	f.head, f.begun, f.size = f.head[:0], 0, 0
	if f.cfg.Format == formatPcapng {
		s := proto.PcapngSection{Hardware: hardware(), OS: system(), Writer: "ntap " + Version, Comment: comment}
		f.head = s.Append(f.head)
	}
}

// next makes the next file of a recording.
func (f *pcapngFile) next(now time.Time) error {
	r := f.cfg.Files
	file, err := r.next(now)
	if err != nil {
		r.failed = now
		return err
	}
	if err := f.take(file); err != nil {
		r.failed = now
		r.part = ""
		return errors.Join(err, os.Remove(file.Name()))
	}
	comment := fmt.Sprintf("file %d of the recording %s", r.number, r.names.text)
	if r.last != "" {
		comment += ", after " + filepath.Base(r.last)
	}
	f.begin(comment)
	return nil
}

// take makes file the one that is written.
func (f *pcapngFile) take(file *os.File) (err error) {
	f.file, f.out, f.own, f.direct = file, file, true, nil
	if f.cfg.Direct {
		if f.memory.size = directBuffer; f.cfg.Files != nil && f.cfg.Files.names.has("t") {
			f.memory.size = directSmall
		}
		if f.direct, err = f.memory.open(file); err != nil {
			f.out = nil
			return errors.Join(err, f.closeFile())
		}
		f.out = f.direct
	}
	return nil
}

// turn ends the recording's file if it is due, more bytes being about to be
// written, and makes the next one.
func (f *pcapngFile) turn(now time.Time, more int) {
	r := f.cfg.Files
	if f.out != nil && f.due(now, more) {
		if err := f.end(); err != nil {
			f.warn(err)
		}
	}
	if f.out != nil || more == 0 || now.Sub(r.failed) < retryOpen {
		return
	}
	warned := !r.failed.IsZero()
	if err := f.next(now); err == nil {
		r.failed = time.Time{}
	} else if !warned {
		f.warn(fmt.Errorf("collector: %s: %w: its frames are refused until it works", f.name, err))
	}
}

// due says whether the recording's file has to end before more bytes are
// written.
func (f *pcapngFile) due(now time.Time, more int) bool {
	r := f.cfg.Files
	const statistics = 80 // bytes for each interface, at the end
	full := r.roll.Size > 0 && more > 0 && f.size+int64(len(f.head)+more+len(f.table.stats)*statistics) > r.roll.Size
	return full && f.size > 0 || !r.until.IsZero() && !now.Before(r.until)
}

// tick ends a recording's file in time where no frame comes that would.
func (f *pcapngFile) tick(now time.Time) {
	if f.cfg.Files == nil || f.cfg.Files.roll.Every == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.turn(now, 0)
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
		s.buf = make([]byte, 0, pcapngWrite+proto.MaxFrame+proto.PcapngPacketMax+maxMark)
	}
	return s
}

// Close ends the file, once the sinks are closed.
func (f *pcapngFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.memory.close()
	return f.end()
}

// end ends the file with the statistics of its interfaces and closes it.
func (f *pcapngFile) end() error {
	if f.out == nil {
		return nil
	}
	if f.cfg.Format == formatPcapng {
		f.head = f.table.statistics(f.head, f.start.UnixNano(), time.Now().UnixNano())
	}
	if f.direct != nil {
		f.direct.drain()
	}
	var err error
	if f.err == nil {
		if err = f.settle(); isFull(err) || isGone(err) {
			err = nil // said before, or it does not matter any more
		}
	}
	if by := f.owed.by; by != nil {
		if f.err != nil {
			by.counts.Refused.Add(1)
		} else {
			by.counts.Full.Add(1)
		}
		f.owed = owedFrame{}
	}
	if f.begun > 0 && f.file != nil {
		// There is no room for the rest of a block: take its begin back.
		if at, err := f.file.Seek(0, io.SeekCurrent); err == nil {
			f.file.Truncate(at - int64(f.begun))
		}
		f.begun = 0
	}
	f.head, f.out = nil, nil
	if f.direct != nil {
		frames, bytes, e := f.direct.close()
		if f.cfg.Late.add(frames, bytes); e != nil {
			e = fmt.Errorf("collector: %s: %w: %d frames of its buffers were dropped", f.name, e, frames)
			if f.warn(e); !isFull(e) {
				err = errors.Join(err, e)
			}
		}
		f.direct = nil
	}
	if f.cfg.Files != nil {
		if e := f.cfg.Files.whole(); e != nil {
			err = errors.Join(err, fmt.Errorf("collector: %w", e))
		}
	}
	return errors.Join(err, f.closeFile())
}

func (f *pcapngFile) closeFile() error {
	if !f.own {
		return nil
	}
	f.own = false
	if err := f.file.Close(); err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	return nil
}

// describe returns the number of the interface for key in the file that is
// written now, and queues its block if it is new: it is in the file before the
// first frame that needs it. What e has encoded gets the numbers of that file.
func (f *pcapngFile) describe(e *pcapngEncoder, key pcapngKey, a *proto.Announce) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.align(e)
	return f.number(key, a)
}

func (f *pcapngFile) align(e *pcapngEncoder) {
	if e.section != f.section {
		e.begin(f.section, f.number)
	}
}

func (f *pcapngFile) number(key pcapngKey, a *proto.Announce) (id uint32) {
	f.head, id = f.table.number(f.head, key, a, f.cfg.SnapLen)
	return id
}

// settle writes what has to be in the file before any frame. If it fails, the
// rest is still in head.
func (f *pcapngFile) settle() error {
	if len(f.head) == 0 {
		return nil
	}
	n, err := f.put(f.head[f.begun:])
	f.begun += n
	done := 0
	for done < len(f.head) && f.begun >= f.cfg.Format.blockLen(f.head[done:]) {
		length := f.cfg.Format.blockLen(f.head[done:])
		f.begun -= length
		done += length
		if by := f.owed.by; by != nil { // it was the first
			by.counts.Delivered.Add(1)
			by.counts.DeliveredBytes.Add(f.owed.bytes)
			f.owed = owedFrame{}
		}
	}
	f.head = slices.Delete(f.head, 0, done)
	return err
}

// put writes b: less of it only with an error, which says the call and why.
func (f *pcapngFile) put(b []byte) (int, error) {
	n, err := f.out.Write(b)
	f.size += int64(n)
	if err = fileError(err); n < len(b) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// errNoFile says that a recording has no file to write to, which was told.
var errNoFile = errors.New("there is no file")

// write writes what s has encoded, and accounts for it. The error ends the
// collector.
func (f *pcapngFile) write(s *pcapngSink) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err, n := f.err, 0
	if err == nil && f.cfg.Files != nil {
		if f.turn(time.Now(), len(s.buf)); f.out == nil {
			err = errNoFile
		} else {
			f.align(&s.pcapngEncoder)
		}
	}
	if err == nil {
		err = f.settle()
	}
	if err == nil {
		n, err = f.put(s.buf)
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
			f.room()
		}
		return nil
	}
	lost := f.account(s, n)
	switch {
	case f.err != nil:
	case err == errNoFile:
		s.counts.Refused.Add(lost)
		return nil
	case isFull(err):
		s.counts.Full.Add(lost)
		f.crowded(err, lost)
		return nil
	case isGone(err):
		f.err = fmt.Errorf("%w: %s: %w", errOutputGone, f.name, err)
	default:
		f.err = fmt.Errorf("collector: %s: %w", f.name, err)
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
	if errors.Is(err, errSlow) || errors.Is(err, errSlowDisk) {
		f.fullAt = time.Now()
	}
}

// room notes that there is room again. A slow reader has some now and then.
func (f *pcapngFile) room() {
	if !f.fullAt.IsZero() && time.Since(f.fullAt) < calmTime {
		return
	}
	f.full = false
	f.warn(fmt.Errorf("collector: %s: there is room again; %d frames were dropped", f.name, f.lost))
}

// account accounts for what s has encoded, of which n bytes were written, and
// returns the number of frames that were not. The rest of a block that was
// begun goes to head.
func (f *pcapngFile) account(s *pcapngSink, n int) (lost uint64) {
	for b := s.buf; len(b) > 0; {
		length := f.cfg.Format.blockLen(b)
		bytes, _ := f.cfg.Format.frame(b)
		switch {
		case n >= length:
			s.counts.Delivered.Add(1)
			s.counts.DeliveredBytes.Add(bytes)
		case n > 0:
			f.head = append(f.head, b[:length]...) // which was empty
			f.begun = n
			f.owed = owedFrame{s, bytes}
		default:
			if f.cfg.Format == formatPcapng {
				s.drop(b)
				if s.section == f.section {
					f.table.stats[binary.LittleEndian.Uint32(b[8:])].lost++
				}
			}
			lost++
		}
		n = max(n-length, 0)
		b = b[length:]
	}
	return lost
}
