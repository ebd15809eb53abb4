// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawRecord makes a record with any of the optional fields.
func drawRecord(t *rapid.T, longest int) Record {
	r := Record{
		Data:      rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "data"),
		Time:      rapid.OneOf(rapid.Int64(), rapid.Int64Range(1.7e18, 1.7e18+1e6)).Draw(t, "time"),
		LinkType:  LinkType(rapid.OneOf(rapid.Just[uint16](1), rapid.Uint16()).Draw(t, "linktype")),
		Interface: rapid.OneOf(rapid.Just[uint32](0), rapid.Uint32()).Draw(t, "interface"),
		Direction: Direction(rapid.IntRange(0, 2).Draw(t, "direction")),
	}
	if n := rapid.IntRange(0, longest).Draw(t, "length"); rapid.Bool().Draw(t, "long") {
		r.Data = bytes.Repeat(append(r.Data, 7), n/(len(r.Data)+1)+1)[:n]
	}
	r.OrigLen = uint32(len(r.Data))
	if rapid.Bool().Draw(t, "sliced") {
		r.OrigLen = rapid.Uint32().Draw(t, "origlen")
	}
	if rapid.Bool().Draw(t, "csum") {
		r.NeedsCsum, r.CsumStart, r.CsumOffset = true, rapid.Uint16().Draw(t, "start"), rapid.Uint16().Draw(t, "offset")
	}
	if rapid.Bool().Draw(t, "gso") {
		r.GSOType, r.GSOSize = rapid.Uint8Range(1, 255).Draw(t, "type"), rapid.Uint16().Draw(t, "size")
	}
	return r
}

// pack returns the plaintexts of records in datagrams of size bytes; flush
// says after which records a flight ends.
func pack(p *Packer, size int, records []Record, flush func(i int) bool) (plaintexts [][]byte) {
	emit := func() {
		if d := p.Take(); d != nil {
			plaintexts = append(plaintexts, d[HeaderLen:len(d)-TagLen])
		}
		p.Reset(bytes.Repeat([]byte{0xAA}, size))
	}
	p.Reset(bytes.Repeat([]byte{0xAA}, size))
	for i := range records {
		for rest := p.Add(&records[i]); rest != nil; rest = p.Continue(rest) {
			emit()
		}
		if flush(i) {
			emit()
		}
	}
	emit()
	return plaintexts
}

func never(int) bool { return false }

// drain returns copies of the records of one plaintext.
func drain(u *Unpacker, plaintext []byte, gap bool) (out []Record, err error) {
	if err := u.Start(plaintext, gap); err != nil {
		return nil, err
	}
	for r, ok := u.Next(); ok; r, ok = u.Next() {
		c := *r
		c.Data = bytes.Clone(append([]byte{}, r.Data...))
		out = append(out, c)
	}
	return out, u.Err()
}

// Whatever records go in come out, in order, for any size of datagram; each
// datagram but the last of a flight is full, and with padding that too; and the reference reads and
// writes the same bytes.
func TestPackUnpack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.OneOf(rapid.IntRange(MinDatagram, 2000), rapid.IntRange(MinDatagram, MaxDatagram)).Draw(t, "size")
		records := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Record { return drawRecord(t, MaxFrame) }), 0, 20).Draw(t, "records")
		every := rapid.IntRange(1, 30).Draw(t, "flush")
		var p Packer
		padded := rapid.Bool().Draw(t, "padded")
		plaintexts := pack(&p, size, records, func(i int) bool {
			if end := i%every == every-1 || i == len(records)-1; padded && end {
				p.Fill()
			}
			return i%every == every-1
		})
		asm := NewAssembly(make([]byte, 1<<20))
		u := NewUnpacker(asm)
		var got []Record
		tail := 0
		for i, plain := range plaintexts {
			if len(plain) > size-Overhead || padded && len(plain) != size-Overhead {
				t.Fatalf("plaintext %d has %d bytes, room is for %d", i, len(plain), size-Overhead)
			}
			d, ok := parseData(plain, tail)
			if !ok {
				t.Fatalf("plaintext %d: the reference refuses it: %x", i, plain)
			}
			if again := d.encode(); !bytes.Equal(again, plain) {
				t.Fatalf("plaintext %d: the reference writes\n%x, not\n%x", i, again, plain)
			}
			if tail -= len(d.Tail); len(d.Records) > 0 {
				tail = d.Missing
			}
			rs, err := drain(u, plain, false)
			if err != nil {
				t.Fatalf("plaintext %d: %v", i, err)
			}
			got = append(got, rs...)
			if i%3 == 0 {
				asm.Reset()
			}
		}
		if len(got) != len(records) {
			t.Fatalf("%d records came of %d", len(got), len(records))
		}
		for i := range got {
			if !bytes.Equal(got[i].Data, records[i].Data) {
				t.Fatalf("record %d: other data", i)
			}
			got[i].Data, records[i].Data = nil, nil
			if d := cmp.Diff(records[i], got[i]); d != "" {
				t.Fatalf("record %d: %s", i, d)
			}
		}
	})
}

// A record may only begin where the prologue says that one does: what stands
// behind the last of a record that no other follows is padding, or refused. It
// was taken for a record.
func TestNothingButPaddingBehindTheLast(t *testing.T) {
	for rest, good := range map[string]bool{"": true, "\x00": true, "\x00\x00\x00": true, "\x80\x02\x00ab": false, "\x00\x80": false, "\x01": false} {
		p := append(binary.BigEndian.AppendUint64(nil, 5), 0xFF, 0xFF, 1, 2, 3)
		p = append(p, rest...)
		u := NewUnpacker(NewAssembly(make([]byte, 100)))
		u.need, u.part = 3, make([]byte, 0, 3)
		got, err := drain(u, p, false)
		if _, ok := parseData(p, 3); ok != good || (err == nil) != good || good && len(got) != 1 {
			t.Errorf("%x: %d records, %v; the reference says %v", rest, len(got), err, ok)
		}
	}
}

// Without some of the datagrams, every record that comes is one that went in,
// in order; and every record that lies whole in datagrams that came, comes.
func TestUnpackAfterLoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(MinDatagram, 1600).Draw(t, "size")
		lengths := make([]int, rapid.IntRange(1, 60).Draw(t, "records"))
		for i := range lengths {
			lengths[i] = rapid.IntRange(0, 3000).Draw(t, "length")
		}
		afterLoss(t, size, lengths, func(int) bool { return rapid.IntRange(0, 3).Draw(t, "lost") == 0 })
	})
}

// A record that ends with its datagram needs no other: it was expected to need
// the next one too, by a test that had these numbers by chance.
func TestUnpackAfterLossOfTheNext(t *testing.T) {
	lengths := []int{
		4, 1, 4, 1, 585, 0, 134, 2, 11, 1270, 322, 44, 0, 638, 2, 50, 3, 0, 895, 50, 2, 27,
		2951, 3, 57, 98, 66, 499, 3, 0, 1206, 3000, 1358, 0, 1404, 36, 4, 1, 1872, 0, 31, 22,
	}
	lost := []int{0, 1, 6, 8, 9, 12, 15, 16, 19, 24, 26, 31}
	afterLoss(t, 574, lengths, func(i int) bool { return slices.Contains(lost, i) })
}

// afterLoss packs records of 4 bytes and these many more into datagrams of a
// size, loses some of those, and checks what comes.
func afterLoss(t interface{ Fatalf(string, ...any) }, size int, lengths []int, isLost func(datagram int) bool) {
	n := len(lengths)
	records := make([]Record, n)
	for i := range records {
		data := make([]byte, 4+lengths[i])
		binary.BigEndian.PutUint32(data, uint32(i))
		records[i] = Record{Data: data, OrigLen: uint32(len(data)), Time: int64(i) * 1000, LinkType: 1}
	}
	var p Packer
	plaintexts := pack(&p, size, records, never)
	whole := map[int]bool{} // records that lie in datagrams that came
	at, lost := -1, make([]bool, len(plaintexts))
	for i := range lost {
		lost[i] = isLost(i)
	}
	tail := 0
	ref := make([]struct{ from, to int }, n)
	for i, plain := range plaintexts {
		d, _ := parseData(plain, tail)
		if tail -= len(d.Tail); tail == 0 && len(d.Tail) > 0 {
			ref[at].to = max(ref[at].to, i)
		}
		for range d.Records {
			at++
			ref[at].from, ref[at].to = i, i
		}
		if len(d.Records) > 0 {
			tail = d.Missing
		}
		if tail > 0 && at >= 0 {
			ref[at].to = i + 1
		}
	}
	for i, r := range ref {
		whole[i] = true
		for k := r.from; k <= r.to; k++ {
			if k < len(lost) && lost[k] {
				whole[i] = false
			}
		}
	}
	u := NewUnpacker(NewAssembly(make([]byte, 1<<20)))
	gap, last, came := true, -1, map[int]bool{}
	for i, plain := range plaintexts {
		if lost[i] {
			gap = true
			continue
		}
		rs, err := drain(u, plain, gap)
		if err != nil {
			t.Fatalf("plaintext %d: %v", i, err)
		}
		gap = false
		for _, r := range rs {
			k := int(binary.BigEndian.Uint32(r.Data))
			if k <= last || !bytes.Equal(r.Data, records[k].Data) || r.Time != records[k].Time {
				t.Fatalf("after record %d came record %d, %d bytes, time %d", last, k, len(r.Data), r.Time)
			}
			last, came[k] = k, true
		}
	}
	for k := range whole {
		if whole[k] != came[k] {
			t.Fatalf("record %d (datagrams %d to %d): whole %v, came %v", k, ref[k].from, ref[k].to, whole[k], came[k])
		}
	}
}

// Frames of the corners: nothing, exactly what is left, one byte more, the
// longest; in datagrams from the smallest to the largest.
func TestPackCorners(t *testing.T) {
	for _, size := range []int{MinDatagram, 576 - 28, 1232, 1472, 8972, MaxDatagram} {
		room := size - Overhead - prologueLen
		for _, n := range []int{0, 1, room - 6, room - 5, room - 4, room - 3, room, room + 1, 2 * room, 65535, MaxFrame} {
			records := make([]Record, 5)
			for i := range records {
				records[i] = Record{Data: bytes.Repeat([]byte{byte(i + 1)}, n), OrigLen: uint32(n), Time: math.MinInt64 + int64(i), LinkType: 1}
			}
			var p Packer
			u := NewUnpacker(NewAssembly(make([]byte, 2<<20)))
			i := 0
			for _, plain := range pack(&p, size, records, never) {
				rs, err := drain(u, plain, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rs {
					if !bytes.Equal(r.Data, records[i].Data) || r.Time != records[i].Time {
						t.Fatalf("datagram of %d, frame of %d bytes: frame %d differs", size, n, i)
					}
					i++
				}
			}
			if i != len(records) {
				t.Fatalf("datagram of %d, frame of %d bytes: %d frames of %d", size, n, i, len(records))
			}
		}
	}
}

// Overhead bounds of the design: outer Ethernet, IPv4, UDP, header, tag,
// prologue and record headers, at MTU 1500, for steady traffic.
func TestOverhead(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames []int
		most   float64
	}{
		{"64", []int{64}, 0.17},
		{"IMIX", []int{64, 64, 64, 64, 64, 64, 64, 594, 594, 594, 594, 1518}, 0.085},
		{"1514", []int{1514}, 0.07},
	} {
		var records []Record
		captured := 0
		for i := range 12000 {
			n := c.frames[i%len(c.frames)]
			records = append(records, Record{Data: make([]byte, n), OrigLen: uint32(n), Time: int64(i) * 1200, LinkType: 1, Direction: Inbound})
			captured += n
		}
		var p Packer
		wire := 0
		for _, plain := range pack(&p, 1472, records, never) {
			wire += 14 + 20 + 8 + Overhead + len(plain)
		}
		over := float64(wire)/float64(captured) - 1
		t.Logf("%s: %.2f %%", c.name, over*100)
		if over > c.most {
			t.Errorf("%s bytes: overhead %.2f %%, at most %.1f %%", c.name, over*100, c.most*100)
		}
	}
}

// Truncated at any length a plaintext is refused or gives fewer records, and
// never anything that was not sent.
func TestUnpackTruncated(t *testing.T) {
	records := []Record{
		{Data: []byte("first"), OrigLen: 5, Time: 1, LinkType: 1},
		{Data: []byte("second"), OrigLen: 99, Time: 2, LinkType: 101, Interface: 3, Direction: Outbound, NeedsCsum: true, CsumStart: 34, CsumOffset: 6, GSOType: 5, GSOSize: 1000},
		{Data: bytes.Repeat([]byte{9}, 300), OrigLen: 300, Time: 3, LinkType: 1},
	}
	var p Packer
	plain := pack(&p, 1472, records, never)[0]
	for n := range plain {
		u := NewUnpacker(NewAssembly(make([]byte, 1<<20)))
		rs, _ := drain(u, bytes.Clone(plain[:n]), false)
		if len(rs) >= len(records) {
			t.Fatalf("%d bytes of %d gave all records", n, len(plain))
		}
		for i, r := range rs {
			if !bytes.Equal(r.Data, records[i].Data) {
				t.Fatalf("%d bytes: record %d differs", n, i)
			}
		}
	}
}

// What the unpacker takes from one plaintext is what the reference takes, and
// that re-encodes to the same bytes.
func FuzzUnpack(f *testing.F) {
	var p Packer
	for _, size := range []int{MinDatagram, 1472} {
		for _, plain := range pack(&p, size, []Record{
			{Data: make([]byte, 60), OrigLen: 60, Time: 1e18, LinkType: 1, Direction: Inbound},
			{Data: make([]byte, 700), OrigLen: 1514, Time: 1e18 + 5, LinkType: 113, Interface: 300, Direction: Outbound},
			{Data: nil, OrigLen: 0, Time: 0, LinkType: 1, NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: 1, GSOSize: 1448},
		}, never) {
			f.Add(plain, 0)
			f.Add(plain, 100)
		}
	}
	f.Fuzz(func(t *testing.T, plain []byte, tail int) {
		if tail < 0 || tail > MaxFrame || len(plain) > MaxDatagram {
			return
		}
		u := NewUnpacker(NewAssembly(make([]byte, 1<<20)))
		u.need, u.part = tail, make([]byte, 0, tail)
		got, err := drain(u, plain, false)
		want, ok := parseData(plain, tail)
		if tail == 0 && len(plain) >= prologueLen && binary.BigEndian.Uint16(plain[8:]) != prologueLen {
			want, ok = parseData(plain, -1) // out of step: it resynchronises
		}
		if ok != (err == nil) {
			t.Fatalf("the unpacker says %v, the reference %v, for %x", err, ok, plain)
		}
		if !ok {
			return
		}
		if again := want.encode(); !bytes.Equal(again, plain) {
			t.Fatalf("%x re-encodes to %x", plain, again)
		}
		whole := want.Records
		if want.Missing > 0 {
			whole = whole[:len(whole)-1]
		}
		if tail > 0 && len(want.Tail) == tail {
			got = got[1:]
		}
		if len(got) != len(whole) {
			t.Fatalf("%d records, the reference has %d", len(got), len(whole))
		}
		for i := range got {
			if !bytes.Equal(got[i].Data, whole[i].Data) {
				t.Fatalf("record %d differs", i)
			}
			got[i].Data, whole[i].Data = nil, nil
			if d := cmp.Diff(whole[i], got[i]); d != "" {
				t.Fatal(d)
			}
		}
	})
}

func TestPackAllocates(t *testing.T) {
	var p Packer
	buf := make([]byte, 1472)
	r := Record{Data: make([]byte, 1000), OrigLen: 1000, Time: 5, LinkType: 1}
	u := NewUnpacker(NewAssembly(make([]byte, 1<<20)))
	if n := testing.AllocsPerRun(1000, func() {
		p.Reset(buf)
		for rest := p.Add(&r); rest != nil; rest = p.Continue(rest) {
			d := p.Take()
			u.Start(d[HeaderLen:len(d)-TagLen], false)
			p.Reset(buf)
		}
		d := p.Take()
		u.Start(d[HeaderLen:len(d)-TagLen], false)
		for _, ok := u.Next(); ok; _, ok = u.Next() {
		}
		u.asm.Reset()
	}); n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}

func BenchmarkPack(b *testing.B) {
	for _, size := range []int{60, 300, 1300} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			var p Packer
			buf := make([]byte, 1472)
			p.Reset(buf)
			r := Record{Data: make([]byte, size), OrigLen: uint32(size), Time: 5, LinkType: 1}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for rest := p.Add(&r); rest != nil; rest = p.Continue(rest) {
					p.Take()
					p.Reset(buf)
				}
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	for _, size := range []int{60, 300, 1300} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			records := make([]Record, 1000)
			for i := range records {
				records[i] = Record{Data: make([]byte, size), OrigLen: uint32(size), Time: int64(i) * 1000, LinkType: 1}
			}
			var p Packer
			plaintexts := pack(&p, 1472, records, never)
			asm := NewAssembly(make([]byte, 1<<20))
			u := NewUnpacker(asm)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n, i := 0, 0
			for b.Loop() {
				for {
					if _, ok := u.Next(); ok {
						break
					}
					if i%352 == 0 {
						asm.Reset()
					}
					u.Start(plaintexts[i%len(plaintexts)], i%len(plaintexts) == 0)
					i++
				}
				n++
			}
		})
	}
}
