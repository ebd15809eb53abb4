// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// listSink keeps copies of what it is given.
type listSink struct {
	frames []proto.Record
	taps   []uint32
	counts SinkCounts
}

func (l *listSink) Write(o *Origin, r *proto.Record) {
	c := *r
	c.Data = bytes.Clone(r.Data)
	l.frames = append(l.frames, c)
	l.taps = append(l.taps, o.Tap)
	l.counts.Delivered.Add(1)
}
func (l *listSink) Flush() error        { return nil }
func (l *listSink) Counts() *SinkCounts { return &l.counts }
func (l *listSink) Close() error        { return nil }

// A desk is a worker without a socket, whose clock the test sets.
type desk struct {
	*worker
	out *listSink
	all *Account
}

func newDesk(t testing.TB, keys *crypto.KeyFile, statePath string) *desk {
	t.Helper()
	st, err := openState(statePath)
	if err != nil {
		t.Fatal(err)
	}
	all := &Account{taps: map[uint32]*tap{}}
	out := &listSink{}
	w := &worker{
		shared: &shared{
			cfg: Config{Keys: keys}, reorder: defaultReorder, reorderWait: defaultWait,
			taps: &taps{all}, state: st, log: zerolog.Nop(),
		},
		in: new(batch.Receiver), asm: proto.NewAssembly(make([]byte, assemblyLen)), streams: map[streamKey]*stream{},
		pool: holdPool{spare: holdBytes}, account: new(WorkerAccount), sinks: []sink{out}, now: time.Now(), gate: newGate(time.Now()),
	}
	w.home = w.in
	all.Workers = []*WorkerAccount{w.account}
	o := &OutputAccount{Name: "list"}
	o.add(&out.counts)
	all.outputs = []*OutputAccount{o}
	return &desk{w, out, all}
}

// feed does with a datagram what deliver does with each.
func (d *desk) feed(datagram []byte) error {
	b := bytes.Clone(datagram)
	s, kind, counter, plaintext, drop := d.open(b)
	if drop == nil {
		drop = d.take(s, kind, counter, plaintext)
	}
	d.count(b, drop)
	return drop
}

// batchEnd does what deliver does after the datagrams, after has gone by.
func (d *desk) batchEnd(t testing.TB, after time.Duration) {
	t.Helper()
	d.now = d.now.Add(after)
	d.expire()
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
}

// A sim is one shard of a remote that seals into a list.
type sim struct {
	head                   proto.Header
	data, announce, report *crypto.Sealer
	pack                   proto.Packer
	size                   int
	frames                 uint64
	out                    [][]byte
	clock                  func() time.Time // the remote's
	stamped                bool             // frames carry its time, and not their number
	captured               []proto.InterfaceCount
}

func newSim(t testing.TB, keys *crypto.KeyFile, tapID uint32, session uint64, shard uint16, size int) *sim {
	t.Helper()
	key, err := keys.TapKey(tapID)
	if err != nil {
		t.Fatal(err)
	}
	s := &sim{clock: time.Now, size: size, head: proto.Header{Suite: uint8(crypto.AES256GCM), Shard: shard, Tap: tapID, Session: session}}
	for kind, p := range []**crypto.Sealer{&s.data, &s.announce, &s.report} {
		*p, err = crypto.NewSealer(&key, crypto.Stream{Suite: crypto.AES256GCM, Kind: uint8(kind), Shard: shard, Session: session})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.pack.Reset(make([]byte, size))
	return s
}

func (s *sim) seal(kind proto.Kind, with *crypto.Sealer, d []byte) {
	h := s.head
	h.Kind, h.Counter = kind, with.Counter()
	h.Put(d)
	with.Seal(d, proto.HeaderLen)
	s.out = append(s.out, d)
}

// frame packs one frame that begins with its number.
func (s *sim) frame(n int) {
	data := make([]byte, max(n, 4))
	binary.BigEndian.PutUint32(data, uint32(s.frames))
	r := proto.Record{Data: data, OrigLen: uint32(len(data)), Time: int64(s.frames), LinkType: 1}
	if s.stamped {
		r.Time = s.clock().UnixNano()
	}
	for rest := s.pack.Add(&r); rest != nil; rest = s.pack.Continue(rest) {
		s.flush()
	}
	s.frames++
}

func (s *sim) flush() {
	if d := s.pack.Take(); d != nil {
		s.seal(proto.Data, s.data, d)
	}
	s.pack.Reset(make([]byte, s.size))
}

func (s *sim) message(kind proto.Kind, with *crypto.Sealer, plaintext []byte) {
	d := append(make([]byte, proto.HeaderLen), plaintext...)
	s.seal(kind, with, append(d, make([]byte, proto.TagLen)...))
}

func (s *sim) tell(final bool) {
	s.flush()
	r := proto.Report{Final: final, Time: s.clock().UnixNano(), Captured: s.frames, Sealed: s.frames, NextData: s.data.Counter()}
	s.message(proto.Reporting, s.report, r.Append(nil))
}

func (s *sim) say(t testing.TB, bye bool) {
	a := proto.Announce{Tap: s.head.Tap, Name: "sim", Shards: 1, Bye: bye, Now: s.clock().UnixNano(), Captured: s.captured}
	parts, err := a.Split(uint32(s.announce.Counter()+1), s.size-proto.Overhead)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		s.message(proto.Announcing, s.announce, p)
	}
}

func testKeys(t testing.TB) *crypto.KeyFile {
	t.Helper()
	k, err := crypto.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return crypto.FromMaster(k)
}

func startedAgo(ago time.Duration) uint64 {
	return proto.NewSession(time.Now().Add(-ago).UnixNano(), uint16(rand.Uint32()))
}

// finish ends the desk as a collector ends, and holds its account against the
// list.
func (d *desk) finish(t testing.TB) TapTotal {
	t.Helper()
	d.batchEnd(t, time.Second)
	for _, s := range d.streams {
		d.giveUp(s)
	}
	d.batchEnd(t, 0)
	d.all.outputs[0].gave(d.given())
	if err := d.all.Check(); err != nil {
		t.Fatal(err)
	}
	taps := d.all.Taps()
	if len(taps) == 0 {
		return TapTotal{}
	}
	return taps[0]
}
