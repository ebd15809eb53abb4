// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// Chosen: as a remote has it.
const (
	blockFrame  = 96 // bytes that a block has for a frame beyond its own, about
	reportEvery = time.Second
)

// A FlightsConfig says what taps a flights source plays.
type FlightsConfig struct {
	To      string  `json:"to"`
	KeyFile string  `json:"key_file"`
	Taps    int     `json:"taps"` // with IDs from 1
	Suite   string  `json:"suite,omitempty"`
	Traffic Traffic `json:"traffic"`
	CPU     int     `json:"cpu"`
}

// Flights plays taps towards a collector: it packs, seals and sends what
// remotes would, without a capture. A recording would do only once, since
// nothing is accepted twice; so it seals while it sends, and what that costs is
// measured and known apart, in its own process.
type Flights struct {
	cfg    FlightsConfig
	frames *frames
	taps   []*played
	at     int // the next frame, of frames.order
}

// A played tap.
type played struct {
	id                     uint32
	session                uint64
	data, announce, report sealer
	pack                   proto.Packer
	out                    *batch.Sender
	rec                    proto.Record
	sealed, bytes          uint64
	revision               uint32
	due                    time.Time
}

// A sealer has the header of its datagrams ready.
type sealer struct {
	*crypto.Sealer
	head [proto.HeaderLen]byte
}

func (s *sealer) seal(d []byte) {
	copy(d, s.head[:])
	proto.PutCounter(d, s.Counter())
	s.Seal(d, proto.HeaderLen)
}

// newPlayed starts a session of a tap.
func newPlayed(cfg FlightsConfig, keys *crypto.KeyFile, suite crypto.Suite, id uint32) (*played, error) {
	now := time.Now()
	key, err := keys.TapKey(id)
	if err != nil {
		return nil, err
	}
	keyID, err := keys.Newest(now)
	if err != nil {
		return nil, err
	}
	p := &played{id: id, session: proto.NewSession(now.UnixNano(), uint16(id)), rec: proto.Record{LinkType: proto.LinkTypeEthernet, Direction: proto.Inbound}}
	for kind, s := range map[proto.Kind]*sealer{proto.Data: &p.data, proto.Announcing: &p.announce, proto.Reporting: &p.report} {
		h := proto.Header{Kind: kind, Key: keyID, Suite: uint8(suite), Tap: id, Session: p.session}
		h.Put(s.head[:])
		if s.Sealer, err = crypto.NewSealer(&key, crypto.Stream{Suite: suite, Kind: uint8(kind), Session: p.session}); err != nil {
			return nil, err
		}
	}
	p.out, err = batch.NewSender(batch.SenderConfig{To: cfg.To, SendBuffer: 4 << 20})
	return p, err
}

// NewFlights starts the sessions. The calling goroutine is locked to its thread
// from then on.
func NewFlights(cfg FlightsConfig) (*Flights, error) {
	if cfg.Taps < 1 || cfg.Taps > 1<<16 {
		return nil, fmt.Errorf("flights: %d taps: 1 to %d", cfg.Taps, 1<<16)
	}
	f, err := cfg.Traffic.frames()
	if err != nil {
		return nil, err
	}
	keys, suite, err := keysAndSuite(cfg.KeyFile, cfg.Suite)
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	p := &Flights{cfg: cfg, frames: f}
	for id := range cfg.Taps {
		t, err := newPlayed(cfg, keys, suite, uint32(id+1))
		if err != nil {
			return nil, err
		}
		p.taps = append(p.taps, t)
		if err := t.tell(false); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// SetTraffic has the taps send other frames from now on.
func (p *Flights) SetTraffic(t Traffic) error {
	f, err := t.frames()
	if err == nil {
		p.frames, p.at, p.cfg.Traffic = f, 0, t
		for _, one := range p.taps {
			one.rec = proto.Record{LinkType: proto.LinkTypeEthernet, Direction: proto.Inbound}
		}
	}
	return err
}

// Run sends what o says, as remotes would: each tap sends what a block holds,
// or what came within a block's time.
func (p *Flights) Run(ctx context.Context, o Offer) (Offered, error) {
	mean, err := MeanLength(p.cfg.Traffic.Frame)
	if err != nil || o.Rate < 0 || o.For <= 0 || o.Probes != 0 {
		return Offered{}, fmt.Errorf("flights: %v frames a second for %v with %v probes: %w", o.Rate, o.For, o.Probes, err)
	}
	n := max(1, int(ring.DefaultBlockSize/(mean+blockFrame)))
	if o.Rate > 0 {
		n = min(n, max(1, int(o.Rate/float64(len(p.taps))*ring.DefaultRetire.Seconds())))
	}
	var r Offered
	before, plan := threadCPU(), schedule{Offer: o, start: time.Now()}
	for i := 0; plan.wait(time.Now(), float64(r.Frames)) && (i%64 != 0 || ctx.Err() == nil); i++ {
		now := time.Now()
		t := p.taps[i%len(p.taps)]
		if now.After(t.due) {
			if err := t.tell(false); err != nil {
				return r, err
			}
		}
		bytes, err := p.flush(t, n, now.UnixNano())
		if err != nil {
			return r, err
		}
		r.Frames += uint64(n)
		r.Bytes += bytes
	}
	r.Took, r.CPU, r.Slipped = time.Since(plan.start), threadCPU()-before, plan.slipped
	var unsent uint64
	for _, t := range p.taps {
		unsent += t.out.Stats().Unsent.Load() + t.out.Stats().Refused.Load()
	}
	if unsent > 0 {
		return r, fmt.Errorf("flights: %d datagrams were not taken by the kernel, or nobody listens on %s", unsent, p.cfg.To)
	}
	return r, nil
}

// flush packs n frames of a tap and sends them.
func (p *Flights) flush(t *played, n int, at int64) (bytes uint64, err error) {
	emit := func() {
		if d := t.pack.Take(); d != nil {
			t.data.seal(d)
			t.out.Queue(len(d))
		}
		t.pack.Reset(t.out.Slot())
	}
	t.pack.Reset(t.out.Slot())
	for i := range n {
		b := p.frames.all[p.frames.order[p.at]]
		if p.at++; p.at == len(p.frames.order) {
			p.at = 0
		}
		t.rec.Data, t.rec.Time, t.rec.OrigLen = b, at+int64(i)*500, uint32(len(b))
		if p.frames.gso {
			t.rec.NeedsCsum, t.rec.CsumStart, t.rec.CsumOffset = true, etherLen+ipv4Len, 16
			t.rec.GSOType, t.rec.GSOSize = 1, gsoSegment // VIRTIO_NET_HDR_GSO_TCPV4
		}
		for rest := t.pack.Add(&t.rec); rest != nil; rest = t.pack.Continue(rest) {
			emit()
		}
		bytes += uint64(len(b))
	}
	emit()
	t.sealed += uint64(n)
	t.bytes += bytes
	return bytes, t.out.Flush()
}

// tell sends the tap's announce and report.
func (t *played) tell(bye bool) error {
	now := time.Now()
	t.due = now.Add(reportEvery)
	t.revision++
	a := proto.Announce{Tap: t.id, Name: fmt.Sprintf("played %d", t.id), Started: proto.SessionStart(t.session) * 1e9, Now: now.UnixNano(),
		Interfaces: []proto.Interface{{Name: "played", LinkType: proto.LinkTypeEthernet}}, Shards: 1, Bye: bye}
	parts, err := a.Split(t.revision, t.out.Size()-proto.Overhead)
	if err != nil {
		return err
	}
	r := proto.Report{Final: bye, Time: now.UnixNano(), Captured: t.sealed, Sealed: t.sealed, SealedBytes: t.bytes, NextData: t.data.Counter()}
	if err := t.message(&t.report, r.Append(nil)); err != nil {
		return err
	}
	for _, p := range parts {
		if err := t.message(&t.announce, p); err != nil {
			return err
		}
	}
	return nil
}

func (t *played) message(with *sealer, plaintext []byte) error {
	n := proto.Overhead + len(plaintext)
	slot := t.out.Slot()
	if n > len(slot) {
		return fmt.Errorf("flights: a message of %d bytes", n)
	}
	copy(slot[proto.HeaderLen:], plaintext)
	with.seal(slot[:n:n])
	t.out.Queue(n)
	return t.out.Flush()
}

// Close ends the sessions.
func (p *Flights) Close() error {
	var err error
	for _, t := range p.taps {
		err = errors.Join(err, t.tell(true), t.out.Close())
	}
	return err
}

func flightsRole() role {
	var f *Flights
	return role{
		"open": taking(func(_ context.Context, cfg FlightsConfig) (_ any, err error) {
			if f, err = NewFlights(cfg); err != nil {
				return nil, err
			}
			return nil, pin(cfg.CPU)
		}),
		"run":     taking(func(ctx context.Context, o Offer) (any, error) { return f.Run(ctx, o) }),
		"traffic": taking(func(_ context.Context, t Traffic) (any, error) { return nil, f.SetTraffic(t) }),
		"close":   func(context.Context, json.RawMessage) (any, error) { return nil, f.Close() },
	}
}
