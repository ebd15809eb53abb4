// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"slices"
	"time"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/perf/sizing"
	"github.com/ntap-project/ntap/proto"
)

// The stages that are measured with nothing around them, in memory.
const (
	StagePack   = sizing.Pack
	StageSeal   = sizing.Seal
	StageOpen   = sizing.Open
	StageUnpack = "unpack"
)

// StageCapture is the ring, read by a thread that does nothing else.
const StageCapture = "capture, alone"

// PureStages are those, in the order in which a frame meets them.
var PureStages = []string{StagePack, StageSeal, StageOpen, StageUnpack}

// datagramSize is the payload of a full datagram at MTU 1500 over IPv4, bytes.
const datagramSize = 1500 - 20 - 8

// batchBytes is how much is worked on between two looks at the clock: about
// what one receive brings, so that it lies where it would then.
const batchBytes = 128 << 10

// A StageCost is what a stage takes, alone.
type StageCost struct {
	Nanoseconds float64 `json:"ns"`               // a frame: the median of its batches
	Bytes       float64 `json:"bytes"`            // of a frame, mean
	Datagrams   float64 `json:"datagrams"`        // a frame
	Sealed      float64 `json:"sealed"`           // UDP payload bytes a frame
	Kernel      string  `json:"kernel,omitempty"` // which code seals and opens
}

// A StageRun says which stage to measure.
type StageRun struct {
	Stage string        `json:"stage"`
	Frame string        `json:"frame"`
	Suite string        `json:"suite"` // "": the fastest
	For   time.Duration `json:"for"`
}

// RunStage measures one of PureStages in this process.
func RunStage(run StageRun) (c StageCost, err error) {
	suite, _ := crypto.Pick()
	if run.Suite != "" {
		if suite, err = crypto.ParseSuite(run.Suite); err != nil {
			return c, err
		}
	}
	if suite == crypto.AES256GCM {
		if c.Kernel, _, err = crypto.Kernel(); err != nil {
			return c, err
		}
	}
	f, err := Traffic{Frame: run.Frame}.frames()
	if err != nil {
		return c, err
	}
	s, err := newStageWork(f, suite)
	if err != nil {
		return c, err
	}
	prepare := func() {}
	var work func()
	switch run.Stage {
	case StagePack:
		work = s.packAll
	case StageSeal:
		s.packAll()
		work = s.sealAll
	case StageOpen:
		s.packAll()
		prepare, work = s.renew, s.openAll
	case StageUnpack:
		s.packAll()
		work = s.unpackAll
	default:
		return c, fmt.Errorf("stage %q: %v", run.Stage, PureStages)
	}
	var took []float64
	for end := time.Now().Add(run.For); len(took) < 8 || time.Now().Before(end); {
		prepare()
		start := time.Now()
		work()
		took = append(took, float64(time.Since(start).Nanoseconds()))
		if s.err != nil {
			return c, fmt.Errorf("stage %s: %w", run.Stage, s.err)
		}
	}
	slices.Sort(took)
	n := float64(s.n)
	c.Nanoseconds = took[len(took)/2] / n
	c.Datagrams = float64(len(s.datagrams)) / n
	for _, b := range s.batch {
		c.Bytes += float64(len(b)) / n
	}
	for _, d := range s.datagrams {
		c.Sealed += float64(len(d)) / n
	}
	return c, nil
}

// stageWork is what the stages work on: a batch of frames, and the datagrams
// that they make.
type stageWork struct {
	n         int // frames
	batch     [][]byte
	gso       bool
	arena     []byte
	datagrams [][]byte
	pack      proto.Packer
	seal      *crypto.Sealer
	open      *crypto.Opener
	unpack    *proto.Unpacker
	asm       *proto.Assembly
	header    proto.Header
	err       error
}

func newStageWork(f *frames, suite crypto.Suite) (*stageWork, error) {
	s := &stageWork{gso: f.gso, header: proto.Header{Suite: uint8(suite), Tap: 1, Session: 1}}
	for i := 0; s.n == 0 || i+len(f.all[f.order[s.n%len(f.order)]]) < batchBytes; s.n++ {
		b := f.all[f.order[s.n%len(f.order)]]
		s.batch = append(s.batch, b)
		i += len(b)
	}
	s.arena = make([]byte, 2*batchBytes+64*datagramSize)
	key, err := crypto.NewKey()
	if err != nil {
		return nil, err
	}
	stream := crypto.Stream{Suite: suite, Session: 1}
	if s.seal, err = crypto.NewSealer(&key, stream); err != nil {
		return nil, err
	}
	if s.open, err = crypto.NewOpener(&key, stream); err != nil {
		return nil, err
	}
	s.asm = proto.NewAssembly(make([]byte, 2<<20))
	s.unpack = proto.NewUnpacker(s.asm)
	return s, nil
}

// packAll packs the batch, as remote/path.go does.
func (s *stageWork) packAll() {
	s.datagrams = s.datagrams[:0]
	at := 0
	slot := func() []byte { return s.arena[at : at+datagramSize : at+datagramSize] }
	s.pack.Reset(slot())
	emit := func() {
		if d := s.pack.Take(); d != nil {
			s.datagrams = append(s.datagrams, d)
			at += datagramSize
			s.pack.Reset(slot())
		}
	}
	r := proto.Record{LinkType: proto.LinkTypeEthernet, Direction: proto.Inbound}
	if s.gso {
		r.NeedsCsum, r.CsumStart, r.CsumOffset, r.GSOType, r.GSOSize = true, etherLen+ipv4Len, 16, 1, gsoSegment
	}
	for i, b := range s.batch {
		r.Data, r.OrigLen, r.Time = b, uint32(len(b)), int64(i)*700
		for rest := s.pack.Add(&r); rest != nil; rest = s.pack.Continue(rest) {
			emit()
		}
	}
	emit()
}

// sealAll seals the datagrams where they lie: what was sealed before is as good
// as a plaintext.
func (s *stageWork) sealAll() {
	for _, d := range s.datagrams {
		s.header.Counter = s.seal.Counter()
		s.header.Put(d)
		s.seal.Seal(d, proto.HeaderLen)
	}
}

// renew packs and seals the batch anew, since nothing is opened twice.
func (s *stageWork) renew() {
	s.packAll()
	s.sealAll()
}

// openAll opens the datagrams.
func (s *stageWork) openAll() {
	for _, d := range s.datagrams {
		h, _, _ := proto.ParseHeader(d)
		if _, err := s.open.Open(d, proto.HeaderLen, h.Counter, s.open.Epoch()+1); err != nil {
			s.err = err
		}
	}
}

// unpackAll takes the plaintexts apart, as collector/path.go does.
func (s *stageWork) unpackAll() {
	n := 0
	for _, d := range s.datagrams {
		if err := s.unpack.Start(d[proto.HeaderLen:len(d)-proto.TagLen], false); err != nil {
			s.err = err
		}
		for _, ok := s.unpack.Next(); ok; _, ok = s.unpack.Next() {
			n++
		}
	}
	s.asm.Reset()
	if n != s.n || s.unpack.Err() != nil {
		s.err = fmt.Errorf("%d frames of %d: %w", n, s.n, s.unpack.Err())
	}
}
