// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A clearText seals plaintexts in suite 0.
type clearText struct {
	t     *testing.T
	key   crypto.Key
	seals map[proto.Kind]*crypto.Sealer
	all   [][]byte
}

const clearSession = 0x69_25_e2_c0_80_00_4d_2b

func newClearText(t *testing.T) *clearText {
	return &clearText{t: t, seals: map[proto.Kind]*crypto.Sealer{}}
}

// add makes a datagram of plaintext, without its checks.
func (c *clearText) add(kind proto.Kind, plaintext []byte) {
	s := c.seals[kind]
	if s == nil {
		var err error
		if s, err = crypto.NewSealer(&c.key, crypto.Stream{Suite: crypto.Plaintext, Kind: uint8(kind), Session: clearSession}); err != nil {
			c.t.Fatal(err)
		}
		c.seals[kind] = s
	}
	h := proto.Header{Kind: kind, Suite: uint8(crypto.Plaintext), Tap: 7, Session: clearSession, Counter: s.Counter()}
	d := append(h.Append(nil), plaintext...)
	d = append(d, make([]byte, proto.TagLen)...)
	s.Seal(d, proto.HeaderLen)
	c.all = append(c.all, d)
}

// plaintexts packs records into the plaintexts of datagrams of size bytes.
func plaintexts(size int, records []proto.Record) (all [][]byte) {
	var p proto.Packer
	p.Reset(make([]byte, size))
	take := func() {
		if d := p.Take(); d != nil {
			all = append(all, d[proto.HeaderLen:len(d)-proto.TagLen])
		}
		p.Reset(make([]byte, size))
	}
	for i := range records {
		for rest := p.Add(&records[i]); rest != nil; rest = p.Continue(rest) {
			take()
		}
	}
	take()
	return all
}

// oddRecords are records with all that one can have.
func oddRecords(n int) (all []proto.Record) {
	random := rand.New(rand.NewPCG(1, 2))
	at := int64(1_700_000_000_123_456_789)
	for i := range n {
		r := proto.Record{Data: make([]byte, random.IntN(300)), LinkType: proto.LinkTypeEthernet, Direction: proto.Direction(random.IntN(3))}
		for k := range r.Data {
			r.Data[k] = byte(random.Uint32())
		}
		at += random.Int64N(1<<(1+i%50)) - 1000
		r.Time, r.OrigLen = at, uint32(len(r.Data))
		if random.IntN(3) == 0 {
			r.Interface = random.Uint32()
		}
		if random.IntN(3) == 0 {
			r.LinkType = proto.LinkType(random.Uint32())
		}
		if random.IntN(3) == 0 {
			r.OrigLen = random.Uint32()
		}
		if random.IntN(3) == 0 {
			r.NeedsCsum, r.CsumStart, r.CsumOffset = true, uint16(random.Uint32()), uint16(random.IntN(200))
		}
		if random.IntN(3) == 0 {
			r.GSOType, r.GSOSize = byte(1+random.IntN(255)), uint16(random.Uint32())
		}
		all = append(all, r)
	}
	return append(all, proto.Record{Data: []byte{1, 2, 3, 4}, OrigLen: 4, Time: -1_000_000_001, LinkType: 1},
		proto.Record{Data: []byte{1, 2, 3, 4}, OrigLen: 4, Time: -1, LinkType: 1})
}

// Whatever a datagram holds, there is no error of Lua, and what our own parsers
// refuse is an expert info: datagrams cut at every length, and changed ones
// with right checksums.
func TestDissectorHostile(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	random := rand.New(rand.NewPCG(3, 4))
	c := newClearText(t)
	a := proto.Announce{Tap: 7, Name: "web", Shards: 1}
	parts, err := a.Split(3, 500)
	if err != nil {
		t.Fatal(err)
	}
	report := proto.Report{Final: true}
	seeds := map[proto.Kind][][]byte{proto.Data: plaintexts(508, oddRecords(8)), proto.Announcing: parts, proto.Reporting: {report.Append(nil)}}
	type what struct {
		kind proto.Kind
		bad  bool
	}
	var want []what
	add := func(kind proto.Kind, p []byte) {
		var err error
		switch kind {
		case proto.Data:
			u := proto.NewUnpacker(proto.NewAssembly(make([]byte, 1<<20)))
			err = u.Start(p, true)
			for _, ok := u.Next(); ok; _, ok = u.Next() {
			}
			if err == nil {
				err = u.Err()
			}
		case proto.Announcing:
			_, err = proto.ParseAnnouncePart(p)
		case proto.Reporting:
			_, err = proto.ParseReport(p)
		}
		want = append(want, what{kind, err != nil})
		c.add(kind, p)
	}
	for kind := range proto.Kind(3) {
		for _, seed := range seeds[kind] {
			for n := range seed {
				add(kind, seed[:n])
			}
			for range 200 {
				p := bytes.Clone(seed)
				for range 1 + random.IntN(3) {
					at := random.IntN(len(p))
					if random.IntN(2) == 0 {
						at = random.IntN(min(len(p), 30))
					}
					p[at] = []byte{0, 0x80, 0xFF, 0x90, 0xFE, byte(random.Uint32()), p[at] ^ 1<<random.IntN(8)}[random.IntN(7)]
				}
				add(kind, p)
			}
		}
	}
	many := append(make([]byte, 8, 60000), 0, 10) // records of no bytes
	for len(many) < 60000 {
		many = append(many, 0x90, 0, 0)
	}
	add(proto.Data, many)
	bad := 0
	for i, row := range dissect(t, onTheWire(t, 5678, c.all), "ntap.malformed", "ntap.short", "ntap.many", "ntap.kind") {
		if want[i].bad {
			bad++
		}
		if got := row[0] != nil; got != want[i].bad && !(i == len(want)-1 && row[2] != nil) {
			t.Errorf("datagram %d of kind %d: malformed %v, want %v: %x", i, want[i].kind, got, want[i].bad, c.all[i])
		}
	}
	if bad < 300 || bad > len(want)-300 {
		t.Errorf("%d of %d datagrams are malformed", bad, len(want))
	}

	// Counters that leap: what is missing is a number of 64 bits, of which Lua's
	// string.format made an error from 2^63 on.
	var leaps [][]byte
	for _, counter := range []uint64{5, 1<<40 + 6, 1 << 40, 1<<63 + 1<<41, math.MaxUint64 - 1, 7, math.MaxUint64} {
		d := bytes.Clone(c.all[0])
		binary.BigEndian.PutUint64(d[16:], counter)
		leaps = append(leaps, d)
	}
	missing := []string{"", "1099511627776", "", "9223373136366403577", "9223369837831520253", "", ""}
	for i, row := range dissect(t, onTheWire(t, 5678, leaps), "ntap.missing") {
		if got := strings.Join(row[0], ""); got != missing[i] {
			t.Errorf("counter %d: %s missing, want %s", binary.BigEndian.Uint64(leaps[i][16:]), got, missing[i])
		}
	}

	// Whole datagrams cut, of any version, kind and suite, and noise.
	var all [][]byte
	for _, d := range [][]byte{c.all[200], append(make([]byte, 0, 1224), bytes.Repeat([]byte{0x14}, 1224)...)} {
		for n := range d {
			all = append(all, d[:n])
		}
	}
	for b := range 256 {
		for _, suite := range []byte{0, 1, 2, 3, 0xF1} {
			d := bytes.Clone(c.all[0])
			d[0], d[1] = byte(b), suite
			all = append(all, d)
		}
	}
	for range 500 {
		d := make([]byte, random.IntN(1500))
		for k := range d {
			d[k] = byte(random.Uint32())
		}
		if len(d) > 0 && random.IntN(2) == 0 {
			d[0] = 0x10
		}
		all = append(all, d)
	}
	for i, row := range dissect(t, onTheWire(t, 5678, all), "ntap.short", "ntap.bad_version", "ntap.bad_kind", "ntap.bad_suite", "ntap.version") {
		d := all[i]
		if len(d) == 0 {
			continue
		}
		h, version, ok := proto.ParseHeader(d)
		if got, want := row[1] != nil, d[0]>>4 != proto.Version; got != want {
			t.Errorf("%x: version not known: %v", d, got)
		} else if got || version != proto.Version && ok {
			continue
		}
		kind := proto.Kind(d[0] & 0xF)
		unknown := kind == proto.Parity || kind > proto.Keying
		if got := row[0] != nil; got != (!ok && (!unknown || len(d) < proto.HeaderLen)) {
			t.Errorf("%x: too short: %v", d, got)
		}
		if ok && (row[2] != nil) != unknown {
			t.Errorf("%x: kind not known: %v", d, row[2] != nil)
		}
		if ok && !unknown && (row[3] != nil) != (h.Suite > 2) {
			t.Errorf("%x: suite not known: %v", d, row[3] != nil)
		}
	}
}
