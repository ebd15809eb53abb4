// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
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
const pcapngWrite = 128 << 10 // bytes in a worker's buffer that are written without waiting for Flush

// farPast is what is added to times before 1970, s: pcapng's ticks are
// unsigned, and an interface can have an offset.
const farPast = 9223372037

// A pcapngConfig says where frames are written.
type pcapngConfig struct {
	Path   string    // a file, which is replaced, or a FIFO; "-": Stdout
	Stdout io.Writer // stays open

	// Warn is told when the output begins to refuse frames, when it takes them
	// again, and that a FIFO has no reader yet. Any worker may call it.
	Warn func(error)

	// Stop ends the waiting for a FIFO's reader; nil: it waits for ever.
	Stop <-chan struct{}
}

// A pcapngFile is one pcapng file that all workers write, in whole blocks. A
// worker encodes into its own memory, and takes the lock once for each write.
//
// A write that fails in the middle of a block is finished before anything
// else is written, so that the file stays readable up to its last byte.
type pcapngFile struct {
	cfg   pcapngConfig
	name  string
	file  *os.File // nil: out is none
	own   bool     // file is to be closed
	start time.Time

	mu    sync.Mutex
	out   io.Writer
	ids   map[pcapngKey]uint32 // interface blocks, written or in head
	stats []pcapngStats        // by interface
	head  []byte               // blocks to be written before any frame
	begun int                  // bytes of head that are in the file already
	owed  owedFrame            // if that block is a frame
	full  bool
	lost  uint64 // frames since it is full
	err   error  // ends the collector
}

// A pcapngKey stands for an interface block: what changes makes a new one.
type pcapngKey struct {
	tap     uint32
	session uint64
	number  uint32 // in the announce
	link    proto.LinkType
	early   bool            // times are before 1970
	known   bool            // was announced, as
	as      proto.Interface // this
}

type pcapngStats struct {
	early       bool
	given, lost uint64 // frames
}

// An owedFrame is a frame of which a part is in the file: its sink counts it
// once the rest is.
type owedFrame struct {
	by    *pcapngSink // nil: none
	bytes uint64
}

// newPcapngFile opens the file and writes its header. A FIFO is waited for
// until it has a reader.
func newPcapngFile(cfg pcapngConfig) (*pcapngFile, error) {
	f := &pcapngFile{cfg: cfg, name: cfg.Path, start: time.Now(), ids: make(map[pcapngKey]uint32)}
	if cfg.Path == "-" {
		f.name, f.out = "standard output", cfg.Stdout
		f.file, _ = cfg.Stdout.(*os.File)
		if f.file == os.Stdout {
			// Else the runtime ends the process where the write should fail
			// (package os/signal, SIGPIPE).
			signal.Ignore(syscall.SIGPIPE)
		}
	} else {
		file, err := f.open()
		if err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		f.file, f.out, f.own = file, file, true
	}
	s := proto.PcapngSection{Hardware: hardware(), OS: system(), Writer: "ntap " + Version}
	f.head = s.Append(nil)
	if err := f.settle(); err != nil {
		f.closeFile()
		if isGone(err) {
			return nil, fmt.Errorf("%w: %s: %w", errOutputGone, f.name, err)
		}
		return nil, fmt.Errorf("collector: %s: %w", f.name, err)
	}
	return f, nil
}

func (f *pcapngFile) open() (*os.File, error) {
	st, err := os.Stat(f.cfg.Path)
	if err != nil || st.Mode()&fs.ModeNamedPipe == 0 {
		return os.OpenFile(f.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) // the umask has its say
	}
	for tries := 0; ; tries++ { // fifo(7): open fails until there is a reader
		file, err := os.OpenFile(f.cfg.Path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) {
			return file, err
		}
		if tries == 0 {
			f.warn(fmt.Errorf("collector: %s: waiting for a reader of the FIFO", f.name))
		}
		select {
		case <-f.cfg.Stop:
			return nil, fmt.Errorf("%s: stopped while waiting for a reader of the FIFO", f.cfg.Path)
		case <-time.After(50 * time.Millisecond):
		}
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

// sink returns a worker's end of the file.
func (f *pcapngFile) sink() *pcapngSink {
	return &pcapngSink{f: f, ids: make(map[pcapngKey]uint32), buf: make([]byte, 0, pcapngWrite+proto.MaxFrame+proto.PcapngPacketMax)}
}

// Close ends the file with the statistics of its interfaces and closes it,
// once the sinks are closed.
func (f *pcapngFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := time.Now().UnixNano()
	for id, s := range f.stats {
		b := proto.PcapngStatistics{
			Interface: uint32(id), Start: ticks(f.start.UnixNano(), s.early), End: ticks(end, s.early),
			Accepted: s.given, Delivered: s.given - s.lost,
		}
		f.head = b.Append(f.head)
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
	f.head = nil
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

// describe returns the number of the interface block for key, and queues that
// block if it is new: it is in the file before the first frame that needs it.
func (f *pcapngFile) describe(key pcapngKey, a *proto.Announce) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id, ok := f.ids[key]; ok {
		return id
	}
	b := proto.PcapngInterface{
		LinkType: key.link, Resolution: proto.PcapngNanoseconds,
		// The same for all, and not that of the tap: libpcap refuses a file
		// whose interfaces differ in it (sf-pcapng.c, pcap_ng_next_packet).
		SnapLen:     proto.MaxFrame,
		Name:        fmt.Sprintf("if%d", key.number),
		Description: fmt.Sprintf("tap %d", key.tap),
	}
	if key.known {
		b.Name, b.Speed = key.as.Name, key.as.Speed
		b.MAC, _ = net.ParseMAC(key.as.MAC)
	}
	if a != nil {
		b.Description += fmt.Sprintf(" %q on %s", a.Name, a.Host)
		if a.SnapLen != 0 {
			b.Description += fmt.Sprintf(", frames cut at %d bytes", a.SnapLen)
		}
		b.Filter = a.Filter
	}
	if key.early {
		b.Offset = -farPast
	}
	id := uint32(len(f.stats))
	f.ids[key] = id
	f.stats = append(f.stats, pcapngStats{early: key.early})
	f.head = b.Append(f.head)
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
	for done < len(f.head) && f.begun >= blockLen(f.head[done:]) {
		f.begun -= blockLen(f.head[done:])
		done += blockLen(f.head[done:])
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
	var p *fs.PathError
	switch {
	case errors.As(err, &p):
		err = os.NewSyscallError(p.Op, p.Err)
	case n < len(b) && err == nil:
		err = io.ErrShortWrite
	}
	return n, err
}

// blockLen returns the length of the block that b begins with.
func blockLen(b []byte) int { return int(binary.LittleEndian.Uint32(b[4:])) }

// write writes what s has encoded, and accounts for it. The error ends the
// collector.
func (f *pcapngFile) write(s *pcapngSink) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err, n := f.err, 0
	if err == nil {
		err = f.settle()
	}
	if err == nil {
		n, err = f.put(s.buf)
	}
	if err == nil {
		s.counts.Delivered.Add(s.frames)
		s.counts.DeliveredBytes.Add(s.bytes)
		if f.full {
			f.full = false
			f.warn(fmt.Errorf("collector: %s: there is room again; %d frames were dropped", f.name, f.lost))
		}
		return nil
	}
	lost := f.account(s, n)
	switch {
	case f.err != nil:
	case isFull(err):
		s.counts.Full.Add(lost)
		if !f.full {
			f.full, f.lost = true, 0
			f.warn(fmt.Errorf("collector: %s: %w: frames are dropped until there is room", f.name, err))
		}
		f.lost += lost
		return nil
	case isGone(err):
		f.err = fmt.Errorf("%w: %s: %w", errOutputGone, f.name, err)
	default:
		f.err = fmt.Errorf("collector: %s: %w", f.name, err)
	}
	s.counts.Refused.Add(lost)
	return f.err
}

// account accounts for what s has encoded, of which n bytes were written, and
// returns the number of frames that were not. The rest of a block that was
// begun goes to head.
func (f *pcapngFile) account(s *pcapngSink, n int) (lost uint64) {
	for b := s.buf; len(b) > 0; {
		length := blockLen(b)
		bytes := uint64(binary.LittleEndian.Uint32(b[20:]))
		switch {
		case n >= length:
			s.counts.Delivered.Add(1)
			s.counts.DeliveredBytes.Add(bytes)
		case n > 0:
			f.head = append(f.head, b[:length]...) // which was empty
			f.begun = n
			f.owed = owedFrame{s, bytes}
		default:
			f.stats[binary.LittleEndian.Uint32(b[8:])].lost++
			lost++
		}
		n = max(n-length, 0)
		b = b[length:]
	}
	return lost
}

// isFull says that there is no room, or a bad sector: later writes may do
// better.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) ||
		errors.Is(err, syscall.EFBIG)
}

// isGone says that the other end of a pipe or socket was closed.
func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}

// ticks returns a time in ns since 1970 as an interface counts it.
func ticks(ns int64, early bool) uint64 {
	if early {
		return uint64(ns) + farPast*1e9
	}
	return uint64(ns)
}
