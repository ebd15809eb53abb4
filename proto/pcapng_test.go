// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"testing"
)

// Blocks as the format's text lays them out, byte by byte.
func TestPcapngVectors(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"section", (&PcapngSection{Writer: "ntap"}).Append(nil),
			"0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0400 6e746170 00000000 28000000"},
		{"empty section", (&PcapngSection{}).Append(nil),
			"0a0d0d0a 1c000000 4d3c2b1a 0100 0000 ffffffffffffffff 1c000000"},
		{"interface", (&PcapngInterface{
			LinkType: 113, SnapLen: 262144, Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Speed: 1e10, Resolution: 9, Filter: "tcp", Offset: -1,
		}).Append(nil), "01000000 54000000 7100 0000 00000400 0200 0400 65746830 0600 0600 020000000001 0000 0800 0800 00e40b5402000000" +
			"0900 0100 09 000000 0b00 0400 00746370 0e00 0800 ffffffffffffffff 00000000 54000000"},
		{"packet", (&PcapngPacket{Interface: 1, Ticks: 0x1122334455667788, OrigLen: 1500, Direction: Outbound, Data: []byte{1, 2, 3, 4, 5}}).Append(nil),
			"06000000 34000000 01000000 44332211 88776655 05000000 dc050000 0102030405 000000 0200 0400 02000000 0000 0000 34000000"},
		{"packet without options", (&PcapngPacket{OrigLen: 4, Data: []byte{1, 2, 3, 4}}).Append(nil),
			"06000000 24000000 00000000 00000000 00000000 04000000 04000000 01020304 24000000"},
		{"packet with marks", (&PcapngPacket{Interface: 1, OrigLen: 1, Direction: Inbound, Dropped: 3, Comment: []byte("gap"), Data: []byte{7}}).Append(nil),
			"06000000 44000000 01000000 00000000 00000000 01000000 01000000 07000000 0100 0300 67617000 0200 0400 01000000" +
				"0400 0800 0300000000000000 0000 0000 44000000"},
		{"section and interface with comments", (&PcapngInterface{Comment: "c", Resolution: 6}).Append((&PcapngSection{Comment: "ab"}).Append(nil)),
			"0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0100 0200 61620000 0000 0000 28000000" +
				"01000000 20000000 0000 0000 00000000 0100 0100 63000000 0000 0000 20000000"},
		{"pcap header", AppendPcapHeader(nil, 113, 262144), "4d3cb2a1 0200 0400 00000000 00000000 00000400 71000000"},
		{"pcap packet", (&PcapPacket{Time: 5e9 + 7, CapLen: 60, OrigLen: 1500}).Append(nil), "05000000 07000000 3c000000 dc050000"},
		{"pcap packet before 1970", (&PcapPacket{Time: -1}).Append(nil), "ffffffff ffc99a3b 00000000 00000000"},
		{"statistics", (&PcapngStatistics{Interface: 2, Start: 1 << 32, End: 3, Accepted: 4, Delivered: 5}).Append(nil),
			"05000000 4c000000 02000000 00000000 03000000 0200 0800 01000000 00000000 0300 0800 00000000 03000000" +
				"0600 0800 0400000000000000 0800 0800 0500000000000000 0000 0000 4c000000"},
		{"statistics with the interface's counts", (&PcapngStatistics{Counted: true, Received: 9, Dropped: 3, Accepted: 4, Delivered: 5}).Append(nil),
			"05000000 64000000 00000000 00000000 00000000 0200 0800 00000000 00000000 0300 0800 00000000 00000000" +
				"0400 0800 0900000000000000 0500 0800 0300000000000000 0600 0800 0400000000000000 0800 0800 0500000000000000 0000 0000 64000000"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, c.got, want)
		}
	}
}

// Ticks against exact arithmetic, for every resolution.
func TestPcapngTime(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 20000 {
		i := PcapngInterface{Resolution: uint8(n)}
		ticks := rng.Uint64() >> rng.UintN(64)
		if n%3 == 0 {
			i.Offset = rng.Int64() >> rng.UintN(63)
		}
		base := int64(10)
		if i.Resolution&0x80 != 0 {
			base = 2
		}
		unit := new(big.Int).Exp(big.NewInt(base), big.NewInt(int64(i.Resolution&0x7F)), nil)
		want := new(big.Int).SetUint64(ticks)
		want.Mul(want, big.NewInt(1e9)).Div(want, unit)
		want.Add(want, new(big.Int).Mul(big.NewInt(i.Offset), big.NewInt(1e9)))
		got, ok := i.Time(ticks)
		edge := new(big.Int).Abs(want).Cmp(big.NewInt(math.MaxInt64-3e9)) > 0
		if ok != want.IsInt64() && !edge || ok && (!want.IsInt64() || want.Int64() != got) {
			t.Fatalf("%d ticks of resolution %#x, offset %d: %d, %v; want %d", ticks, i.Resolution, i.Offset, got, ok, want)
		}
	}
}

// Options too long for their field are cut, not spoiled.
func TestPcapngLongOptions(t *testing.T) {
	long := strings.Repeat("x", 100000)
	i := PcapngInterface{Name: long, Filter: long}
	b := i.Append(nil)
	got, err := ParsePcapngInterface(b, LittleEndian)
	if err != nil || got.Name != long[:maxOption] || got.Filter != long[:maxOption-1] {
		t.Errorf("%v, %d and %d bytes", err, len(got.Name), len(got.Filter))
	}
}

func TestPcapHeader(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	header := func(order binary.AppendByteOrder, magic uint32, major, minor uint16, link uint32) []byte {
		b := order.AppendUint32(nil, magic)
		b = order.AppendUint16(b, major)
		b = order.AppendUint16(b, minor)
		b = append(b, make([]byte, 8)...)
		b = order.AppendUint32(b, 96)
		return order.AppendUint32(b, link)
	}
	for name, c := range map[string]struct {
		b    []byte
		want PcapHeader
		err  error
	}{
		"µs":      {header(le, 0xA1B2C3D4, 2, 4, 1), PcapHeader{Major: 2, Minor: 4, SnapLen: 96, LinkType: 1}, nil},
		"ns":      {header(be, 0xA1B23C4D, 2, 4, 276), PcapHeader{Order: BigEndian, Nano: true, Major: 2, Minor: 4, SnapLen: 96, LinkType: 276}, nil},
		"patched": {header(be, 0xA1B2CD34, 2, 4, 1), PcapHeader{Order: BigEndian, Patched: true, Major: 2, Minor: 4, SnapLen: 96, LinkType: 1}, nil},
		"FCS":     {header(le, 0xA1B2C3D4, 2, 4, 0x24000001), PcapHeader{Major: 2, Minor: 4, SnapLen: 96, LinkType: 1, FCSLen: 4}, nil},
		"noise":   {header(le, 0xA1B2C3D4, 2, 4, 0x30000001), PcapHeader{Major: 2, Minor: 4, SnapLen: 96, LinkType: 1}, nil},
		"version": {header(le, 0xA1B2C3D4, 3, 0, 1), PcapHeader{Major: 3}, ErrPcapVersion},
		"magic":   {header(le, 0xA1B2C3D5, 2, 4, 1), PcapHeader{}, ErrNotPcap},
		"short":   {header(le, 0xA1B2C3D4, 2, 4, 1)[:23], PcapHeader{}, ErrNotPcap},
	} {
		if got, err := ParsePcapHeader(c.b); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, got, err, c.want, c.err)
		}
	}
	lengths := le.AppendUint64(le.AppendUint64(nil, 0), 60<<32|100) // 100, 60
	for minor, want := range map[uint16]uint32{4: 100, 3: 60, 2: 60} {
		h := PcapHeader{Major: 2, Minor: minor}
		if p := h.ParsePacket(lengths); p.CapLen != want || p.CapLen+p.OrigLen != 160 {
			t.Errorf("version 2.%d: %+v, want %d bytes captured", minor, p, want)
		}
	}
}

// A statistics block that is cut anywhere says no more than it holds: its numbers
// are read as they were written, or not at all, and the two of the interface only
// together.
func TestPcapngStatisticsTruncated(t *testing.T) {
	want := PcapngStatistics{Interface: 1, Start: 2, End: 3, Counted: true, Received: 1<<64 - 1, Dropped: 5, Accepted: 6, Delivered: 7, Comment: "lost"}
	b := want.Append(nil)
	whole := 0
	for n := range len(b) + 1 {
		got, err := ParsePcapngStatistics(b[:n], LittleEndian)
		if err != nil {
			if n >= 24 {
				t.Errorf("%d bytes: %v", n, err)
			}
			continue
		}
		if got == want {
			whole++
		}
		if got.Counted != (got.Received != 0) || got.Counted && (got.Received != want.Received || got.Dropped != want.Dropped) ||
			got.Accepted != 0 && got.Accepted != want.Accepted || got.Delivered != 0 && got.Delivered != want.Delivered {
			t.Errorf("%d bytes say %+v", n, got)
		}
	}
	if whole == 0 {
		t.Error("never whole")
	}
}

// Whatever a block holds, parsing does not panic, and what it says survives
// being written and parsed again.
func FuzzPcapngBlock(f *testing.F) {
	f.Add((&PcapngSection{Hardware: "a", OS: "b", Writer: "c"}).Append(nil), false)
	f.Add((&PcapngInterface{Name: "a", Description: "b", MAC: make([]byte, 8), Speed: 1, Filter: "c", Offset: 1}).Append(nil), false)
	f.Add((&PcapngPacket{Data: []byte("abc"), Direction: Inbound}).Append(nil), false)
	f.Add((&PcapngPacket{Data: []byte("abc"), Comment: []byte("d"), Dropped: 9}).Append(nil), false)
	f.Add((&PcapngStatistics{Accepted: 1}).Append(nil), false)
	f.Add((&PcapngStatistics{Counted: true, Received: 2, Dropped: 1, Comment: "a"}).Append(nil), false)
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x20\x00\x01\x00\x07\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x20"), true)
	f.Fuzz(func(t *testing.T, b []byte, swapped bool) {
		order := ByteOrder(swapped)
		if s, err := ParsePcapngSection(b); err == nil {
			s.Order = LittleEndian // as it is written
			again(t, s, s.Append(nil), func(b []byte) (PcapngSection, error) { return ParsePcapngSection(b) })
		}
		if i, err := ParsePcapngInterface(b, order); err == nil {
			again(t, i, i.Append(nil), func(b []byte) (PcapngInterface, error) { return ParsePcapngInterface(b, LittleEndian) })
			i.Time(uint64(len(b)) << 50)
		}
		if p, err := ParsePcapngPacket(b, order); err == nil {
			again(t, p, p.Append(nil), func(b []byte) (PcapngPacket, error) { return ParsePcapngPacket(b, LittleEndian) })
		}
		if p, err := ParsePcapngSimple(b, order, 100); err == nil && len(p.Data) > len(b) {
			t.Fatal("more data than block")
		}
		if s, err := ParsePcapngStatistics(b, order); err == nil {
			again(t, s, s.Append(nil), func(b []byte) (PcapngStatistics, error) { return ParsePcapngStatistics(b, LittleEndian) })
		}
		if h, err := ParsePcapHeader(b); err == nil {
			h.ParsePacket(b)
		}
	})
}

func again[T any](t *testing.T, want T, b []byte, parse func([]byte) (T, error)) {
	t.Helper()
	n := binary.LittleEndian.Uint32(b[4:])
	if int(n) != len(b) || n%4 != 0 || binary.LittleEndian.Uint32(b[len(b)-4:]) != n {
		t.Fatalf("a block of %d bytes says %d", len(b), n)
	}
	if got, err := parse(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
}
