// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// A File is a pcapng output.
type File struct {
	// Path is a file, which is replaced, a FIFO, or - for standard output.
	// With verbs it is a pattern for the names of a recording's files: %t is
	// the tap ID, which makes a recording for each tap; %n the number of the
	// file; %Y %m %d %H %M %S %s the time, UTC, at which it begins. Files of a
	// recording have .part behind their name until they are whole.
	Path   string
	Rotate Rotation // when it goes on in a new file
	// Direct has files written past the page cache (O_DIRECT), which takes less
	// CPU: what was given is in the file within 100 ms.
	Direct bool
	Buffer int       // bytes that wait to be written: the rest is dropped; 0: 64 MiB, or 8 MiB for each tap's recording
	Select Selection // of frames
}

// check says what is wrong with the file, and returns the pattern of its names.
func (c *File) check() (names namePattern, err error) {
	if names, err = parseNamePattern(c.Path); err != nil {
		return names, err
	}
	r := &c.Rotate
	switch {
	case c.Path == "":
		return names, errors.New("no file is named: give its name, or - for standard output")
	case c.Buffer != 0 && c.Buffer < minQueue:
		return names, fmt.Errorf("%d bytes that wait: that is too small; %d or more", c.Buffer, minQueue)
	case r.Size != 0 && r.Size < minRotation:
		return names, fmt.Errorf("files of at most %d bytes: that is too small; %d or more", r.Size, minRotation)
	case r.Every != 0 && r.Every < time.Second:
		return names, fmt.Errorf("files of %v: that is too short; a second or more", r.Every)
	case r.Keep < 0:
		return names, fmt.Errorf("%d files are to be kept: 1 or more, or 0 for all", r.Keep)
	case r.Keep > 0 && r.Size == 0 && r.Every == 0:
		return names, errors.New("a number of files is given, but neither a size nor a time after which one ends")
	case c.Direct && c.Path == "-":
		return names, errors.New("standard output cannot be written past the page cache: --direct is for files")
	case r.rotates() && c.Path == "-":
		return names, errors.New("standard output is one stream: it cannot go on in a new file")
	}
	if r.Size != 0 && !names.has("n") || r.Every != 0 && !names.has("nYmdHMSs") {
		names = names.numbered()
	}
	return names, nil
}

// lateCounts count frames that were delivered, and turned out later not to be:
// those that were not written when the output was closed.
type lateCounts struct {
	mu     sync.Mutex
	counts SinkCounts
}

func (l *lateCounts) add(frames, bytes uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Unsent.Add(frames)
	l.counts.UnsentBytes.Add(bytes)
}

// join makes them part of an output's account, once.
func (l *lateCounts) join(worker int, a *OutputAccount) {
	if worker == 0 {
		a.add(&l.counts)
	}
}

func (r *Rotation) rotates() bool { return *r != Rotation{} }

// errTerminal is final: it does not become anything else while the collector runs.
var errTerminal = errors.New("collector: standard output is a terminal, which cannot show pcapng: have a program read it, as in -w - | tcpdump -n -r -, or write a file, -w FILE")

// openFile opens a file, pipe or recording.
// again says that it failed before: what it has written stays.
func openFile(ctx context.Context, c File, again bool, stdout io.Writer, warn func(error)) (out output, err error) {
	names, err := c.check()
	if err != nil {
		return out, fmt.Errorf("collector: %s: %w", c.Path, err)
	}
	cfg := pcapngConfig{Path: names.name(0, time.Time{}, 0), Name: c.Path, Stdout: stdout, SnapLen: c.Select.SnapLen, Direct: c.Direct, Buffer: c.Buffer, Keep: again, Late: new(lateCounts), Warn: warn}
	pipe, err := isPipe(cfg.Path, stdout)
	switch {
	case err != nil:
		return out, fmt.Errorf("collector: %w", err)
	case pipe && c.Rotate.rotates():
		return out, fmt.Errorf("collector: %s is a pipe: it cannot go on in a new file", c.Path)
	case pipe && c.Direct:
		return out, fmt.Errorf("collector: %s is a pipe: it cannot be written past the page cache: --direct is for files", c.Path)
	case cfg.Path == "-" && isTerminal(stdout):
		return out, errTerminal
	case cfg.Path == "-" || pipe:
		return out, openPipe(ctx, cfg, &out)
	case names.plain() && !c.Rotate.rotates():
		f, err := newPcapngFile(cfg)
		if err != nil {
			return out, err
		}
		out.of(f)
		return out, nil
	}
	return out, openRecording(cfg, names, c.Rotate, &out)
}

// createPlain makes the file of an output that is one file, or empties it. One that
// somebody else writes stays as it is: of the frames of both, none could be read.
func createPlain(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644) // the umask has its say
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() { // as /dev/null
		return f, nil
	}
	if errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) { // others: no locks there
		return nil, errors.Join(fmt.Errorf("%s is written by another output, or by another collector: give each a file of its own", path), f.Close())
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// of makes an output of one stream.
func (o *output) of(f *pcapngFile) {
	o.sink = func(worker int, a *OutputAccount) (sink, error) {
		f.cfg.Late.join(worker, a)
		return f.sink(nil), nil
	}
	o.close, o.failure = f.Close, f.failure
}

// isPipe says that what reads the output may be slow: it is no file and no
// device like /dev/null.
func isPipe(path string, stdout io.Writer) (bool, error) {
	mode := fs.ModeNamedPipe | fs.ModeSocket
	if path == "-" {
		f, ok := stdout.(*os.File)
		if !ok {
			return false, nil
		}
		st, err := f.Stat()
		return err == nil && st.Mode()&(mode|fs.ModeCharDevice) != 0, err
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.Mode()&mode != 0, err
}

// openPipe opens standard output, or a FIFO once it has a reader.
func openPipe(ctx context.Context, cfg pcapngConfig, o *output) error {
	cfg.Name = "standard output"
	var fifo *os.File
	if cfg.Path != "-" {
		var err error
		if fifo, err = openFIFO(ctx, cfg.Path, cfg.Warn); err != nil {
			return fmt.Errorf("collector: %w", err)
		}
		cfg.Name, cfg.Path, cfg.Stdout, cfg.Stop = cfg.Path, "-", fifo, fifo
	}
	if cfg.Stdout == os.Stdout {
		// Else the runtime ends the process where the write should fail
		// (package os/signal, SIGPIPE).
		signal.Ignore(syscall.SIGPIPE)
	}
	if file, ok := cfg.Stdout.(*os.File); ok {
		if end, err := newPipeEnd(file, file == fifo); err == nil { // of others there is nothing to notice
			cfg.Stdout = end
		}
	}
	f, err := newPcapngFile(cfg)
	if err != nil {
		return err
	}
	o.of(f)
	if fifo != nil {
		o.close = func() error { return errors.Join(f.Close(), ignoreClosed(fifo.Close())) }
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// errNoReader says that a FIFO has no reader.
var errNoReader = errors.New("the FIFO has no reader")

// openFIFO waits until the FIFO has a reader, or ctx is done.
func openFIFO(ctx context.Context, path string, warn func(error)) (*os.File, error) {
	for tries := 0; ; tries++ { // fifo(7): open fails until there is a reader
		file, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) {
			return file, err
		}
		if tries == 0 && warn != nil && ctx.Err() == nil {
			warn(fmt.Errorf("collector: %s: waiting for a reader of the FIFO", path))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", path, errNoReader)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// openRecording opens a recording of one or more files, or one for each tap.
func openRecording(cfg pcapngConfig, names namePattern, roll Rotation, o *output) error {
	if err := names.probe(); err != nil {
		return fmt.Errorf("collector: %s: %w", cfg.Name, err)
	}
	cfg.Since = time.Now()
	if names.has("t") {
		cfg.Buffer = cmp.Or(cfg.Buffer, queueTaps)
		size := min(queuePart, cfg.Buffer/8)
		cfg.Spare = newSpares(size, queueSize/size)
	}
	set := &recordingSet{cfg: cfg, names: names, roll: roll, taps: make(map[uint32]*pcapngFile), stop: make(chan struct{})}
	if !names.has("t") {
		one := set.config(0)
		f, err := newPcapngFile(one)
		if err != nil {
			return err
		}
		set.one = f
	}
	set.mending.Go(func() {
		names.mend(set.stop, func(name string, err error) {
			if err != nil {
				err = fmt.Errorf("collector: %s was left unfinished, and stays so: %w", name, err)
			} else {
				err = fmt.Errorf("collector: %s was left unfinished by a run before this one: it is whole now", name)
			}
			cfg.Warn(err)
		})
	})
	o.sink, o.tick, o.close, o.failure = set.sink, set.tick, set.close, set.failure
	return nil
}

// A recordingSet is a recording, or one for each tap.
type recordingSet struct {
	cfg   pcapngConfig
	names namePattern
	roll  Rotation
	one   *pcapngFile // nil: one for each tap

	mu      sync.Mutex // not held for frames
	taps    map[uint32]*pcapngFile
	full    bool // warned that there are too many
	stop    chan struct{}
	mending sync.WaitGroup
}

// maxRecordings bounds the recordings of one output: each has a file open.
// Chosen.
const maxRecordings = 1024

func (s *recordingSet) config(tap uint32) pcapngConfig {
	c := s.cfg
	c.Files = &recording{names: s.names, tap: tap, roll: s.roll}
	return c
}

// file returns the recording of a tap; nil: there are too many.
func (s *recordingSet) file(tap uint32) *pcapngFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.taps[tap]
	if f == nil && len(s.taps) < maxRecordings {
		c := s.config(tap)
		c.Name = c.Files.names.name(tap, time.Now(), 0)
		f, _ = newPcapngFile(c) // which begins with the first frame
		s.taps[tap] = f
	}
	if f == nil && !s.full {
		s.full = true
		s.cfg.Warn(fmt.Errorf("collector: %s: there are recordings of %d taps: those of other taps, such as tap %d, are refused; give outputs with taps of their own", s.cfg.Name, maxRecordings, tap))
	}
	return f
}

// all returns the recordings.
func (s *recordingSet) all() []*pcapngFile {
	if s.one != nil {
		return []*pcapngFile{s.one}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*pcapngFile
	for _, f := range s.taps {
		all = append(all, f)
	}
	return all
}

func (s *recordingSet) tick(now time.Time) {
	if s.roll.Every > 0 {
		for _, f := range s.all() {
			f.tick(now)
		}
	}
}

func (s *recordingSet) failure() (err error) {
	for _, f := range s.all() {
		err = errors.Join(err, f.failure())
	}
	return err
}

func (s *recordingSet) close() error {
	close(s.stop)
	s.mending.Wait()
	all := s.all()
	errs := make([]error, len(all))
	var closing sync.WaitGroup
	for i, f := range all { // all at once: each may wait for its disk
		closing.Go(func() { errs[i] = f.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}

func (s *recordingSet) sink(worker int, a *OutputAccount) (sink, error) {
	s.cfg.Late.join(worker, a)
	if s.one != nil {
		return s.one.sink(nil), nil
	}
	return &recordingSink{set: s, account: a, taps: make(map[uint32]*pcapngSink)}, nil
}

// recordingOpen is how many recordings a worker encodes for at the same time: each
// has a buffer then. BenchmarkMergeRecordings.
const recordingOpen = 16

// A recordingSink is a worker's end of the recordings of all taps. Those whose records
// came last have a buffer each: frames of other taps between them do not end a write.
type recordingSink struct {
	set     *recordingSet
	account *OutputAccount
	taps    map[uint32]*pcapngSink
	places  [pcapngPlaces]recordingPlace
	open    []*pcapngSink // those that have a buffer
	free    [][]byte      // buffers that none has
	refused uint64        // frames since Flush
	counts  SinkCounts
	err     error
}

// A recordingPlace keeps the end of a tap's recording, found without a map.
type recordingPlace struct {
	known bool
	tap   uint32
	end   *pcapngSink // nil: refused
}

// Write gives the record to the recording of its tap, see sink.
func (s *recordingSink) Write(o *Origin, r *proto.Record) {
	p := &s.places[o.Tap%pcapngPlaces]
	if p.tap != o.Tap || !p.known {
		*p = recordingPlace{true, o.Tap, s.find(o.Tap)}
	}
	if p.end == nil {
		s.refused++
		return
	}
	if p.end.buf == nil {
		s.lend(p.end)
	}
	p.end.Write(o, r)
}

// find returns the end of a tap's recording; nil: there are too many.
func (s *recordingSink) find(tap uint32) *pcapngSink {
	p, known := s.taps[tap]
	if !known {
		if f := s.set.file(tap); f != nil {
			p = f.sink([]byte{})
			p.buf = nil
			s.account.add(p.Counts())
		}
		if p != nil || len(s.taps) < 2*maxRecordings { // of those there are no more than recordings
			s.taps[tap] = p
		}
	}
	return p
}

// lend gives an end a buffer. If as many as may be are lent, all come back first.
func (s *recordingSink) lend(p *pcapngSink) {
	if len(s.open) == recordingOpen {
		s.put()
		for _, o := range s.open {
			s.free, o.buf = append(s.free, o.buf), nil
		}
		s.open = s.open[:0]
	}
	if n := len(s.free); n > 0 {
		p.buf, s.free = s.free[n-1], s.free[:n-1]
	} else {
		p.buf = make([]byte, 0, p.f.out.size)
	}
	s.open = append(s.open, p)
}

// put writes what is encoded.
func (s *recordingSink) put() {
	for _, p := range s.open {
		if err := p.Flush(); err != nil {
			s.err = err
		}
	}
}

// Flush writes what is encoded, see sink.
func (s *recordingSink) Flush() error {
	s.counts.Refused.Add(s.refused)
	s.refused = 0
	s.put()
	return s.err
}

// Counts returns the accounts of what went to no recording.
func (s *recordingSink) Counts() *SinkCounts { return &s.counts }

// Close writes what is encoded, and says what no frame told.
func (s *recordingSink) Close() error {
	err := s.Flush()
	for _, p := range s.taps {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	return err
}
