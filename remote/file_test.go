// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// packets reads the rest of f in the terms of the judge.
func packets(f *fileReader) (all []testnet.Packet, err error) {
	var r proto.Record
	for err = f.Next(&r); err == nil; err = f.Next(&r) {
		i := f.Interfaces()[r.Interface]
		all = append(all, testnet.Packet{
			Data: bytes.Clone(r.Data), OrigLen: r.OrigLen, Time: r.Time, LinkType: uint16(r.LinkType),
			Interface: int(r.Interface), InterfaceName: i.Name, Direction: uint8(r.Direction),
		})
		if i.LinkType != r.LinkType {
			return all, errors.New("the interface has another link type than its packet")
		}
	}
	if err == io.EOF {
		err = nil
	}
	return all, err
}

func decode(b []byte) ([]testnet.Packet, error) {
	f, err := newFileReader("test", bytes.NewReader(b), func() error { return nil })
	if err != nil {
		return nil, err
	}
	return packets(f)
}

// Every capture reads as an independent reader reads it.
func TestFileReadsCaptures(t *testing.T) {
	for _, path := range testnet.Captures(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := openFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := packets(f)
			if err != nil {
				t.Fatal(err)
			}
			if d := testnet.DiffPackets(got, testnet.ReadCapture(t, path)); d != "" {
				t.Error(d)
			}
		})
	}
}

// What no judge can tell: a fraction of a second of more than a second counts
// on into the seconds.
func TestFileLongFraction(t *testing.T) {
	path := testnet.Captures(t)[0]
	f, err := openFile(filepath.Join(filepath.Dir(path), "rx_serviceid_oobr.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := packets(f)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d packets, %v", len(got), err)
	}
	if want := int64(3841916976_000); got[1].Time != want {
		t.Errorf("time %d, want %d", got[1].Time, want)
	}
}

// The reader does not care in what pieces its input comes.
func TestFileFromSlowPipe(t *testing.T) {
	for _, path := range testnet.Captures(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 4096 {
			continue
		}
		want, err := decode(b)
		if err != nil {
			t.Fatal(path, err)
		}
		f, err := newFileReader(path, iotest.OneByteReader(bytes.NewReader(b)), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := packets(f)
		if d := testnet.DiffPackets(got, want); d != "" || err != nil {
			t.Error(path, d, err)
		}
	}
}

// Every format that editcap converts to holds the same packets.
func TestFileFormats(t *testing.T) {
	testnet.RequireTool(t, "editcap")
	dir := filepath.Dir(testnet.Captures(t)[0])
	in := filepath.Join(dir, "of10_7050q.pcapng")
	want := testnet.ReadCapture(t, in)
	for _, format := range []string{"pcap", "nsecpcap", "modpcap", "pcapng"} {
		out := filepath.Join(t.TempDir(), format)
		if text, err := testnet.Command(t, "editcap", "-F", format, in, out).CombinedOutput(); err != nil {
			t.Fatalf("editcap: %v\n%s", err, text)
		}
		f, err := openFile(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := packets(f)
		f.Close()
		for i := range got {
			if format == "modpcap" {
				got[i].Direction = 0 // editcap writes the type of a frame as 0, received
			}
		}
		if d := testnet.DiffPackets(got, want); d != "" || err != nil {
			t.Error(format, d, err)
		}
	}
}

// put appends integers in the given byte order, and bytes.
func put(order binary.AppendByteOrder, b []byte, v ...any) []byte {
	for _, v := range v {
		switch v := v.(type) {
		case uint16:
			b = order.AppendUint16(b, v)
		case uint32:
			b = order.AppendUint32(b, v)
		case uint64:
			b = order.AppendUint64(b, v)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

// block makes a pcapng block, body padded to 4 bytes.
func block(order binary.AppendByteOrder, kind uint32, body []byte) []byte {
	body = append(body, make([]byte, -len(body)&3)...)
	n := uint32(12 + len(body))
	return put(order, nil, kind, n, body, n)
}

func section(order binary.AppendByteOrder) []byte {
	return block(order, 0x0A0D0D0A, put(order, nil, uint32(0x1A2B3C4D), uint16(1), uint16(0), ^uint64(0)))
}

func option(order binary.AppendByteOrder, code uint16, v []byte) []byte {
	b := put(order, nil, code, uint16(len(v)), v)
	return append(b, make([]byte, -len(b)&3)...)
}

// A file of several sections, in both byte orders, with every block type.
func TestFileSections(t *testing.T) {
	var b []byte
	var want []testnet.Packet
	for n, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian, binary.LittleEndian} {
		b = append(b, section(order)...)
		b = append(b, block(order, 0x0BAD, make([]byte, 3<<20))...) // custom, longer than any buffer
		b = append(b, block(order, 1, slices.Concat(
			put(order, nil, uint16(1), uint16(0), uint32(60)),
			option(order, 1, []byte("a comment")),
			option(order, 2, []byte("eth0")),
			option(order, 6, []byte{2, 0, 0, 0, 0, 1}),
			option(order, 8, put(order, nil, uint64(1e10))),
			option(order, 9, []byte{9}),
			put(order, nil, uint32(0))))...)
		b = append(b, block(order, 1, slices.Concat(
			put(order, nil, uint16(113), uint16(0), uint32(0)),
			option(order, 2, []byte("any")),
			option(order, 9, []byte{0x80 | 20}),
			option(order, 14, put(order, nil, uint64(1700000000)))))...) // no end of options
		data := []byte{1, 2, 3, 4, 5}
		b = append(b, block(order, 6, slices.Concat(
			put(order, nil, uint32(0), uint32(0x18000000), uint32(0x00000001), uint32(5), uint32(1500), data, make([]byte, 3)),
			option(order, 2, put(order, nil, uint32(2))), put(order, nil, uint32(0))))...)
		want = append(want, testnet.Packet{
			Data: data, OrigLen: 1500, Time: 0x1800000000000001, LinkType: 1, InterfaceName: "eth0", Direction: 2,
		})
		b = append(b, block(order, 2, slices.Concat( // old packet block, 7 drops
			put(order, nil, uint16(1), uint16(7), uint32(0), uint32(3<<20+1<<19), uint32(5), uint32(3), data, make([]byte, 3)),
			option(order, 2, put(order, nil, uint32(1)))))...)
		want = append(want, testnet.Packet{
			Data: data, OrigLen: 3, Time: 1700000003_500000000, LinkType: 113, InterfaceName: "any", Direction: 1,
		})
		long := bytes.Repeat([]byte{byte(n)}, 60)
		b = append(b, block(order, 3, put(order, nil, uint32(99), long))...)
		want = append(want, testnet.Packet{Data: long, OrigLen: 99, LinkType: 1, InterfaceName: "eth0"})
		b = append(b, block(order, 5, put(order, nil, uint32(0), uint32(0), uint32(0)))...)
	}
	f, err := newFileReader("test", bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := packets(f)
	if d := testnet.DiffPackets(got, want); d != "" || err != nil {
		t.Error(d, err)
	}
	eth := proto.Interface{Name: "eth0", LinkType: 1, MAC: "02:00:00:00:00:01", Speed: 1e10}
	any := proto.Interface{Name: "any", LinkType: 113}
	if known := []proto.Interface{eth, any, eth, any, eth, any}; !reflect.DeepEqual(f.Interfaces(), known) {
		t.Errorf("interfaces %+v, want %+v", f.Interfaces(), known)
	}
	for i, p := range got {
		if want := i/3*2 + i%3%2; p.Interface != want {
			t.Errorf("packet %d is of interface %d, want %d", i, p.Interface, want)
		}
	}
}

// The interfaces in front of the first packet are known once the file is open,
// so that the first announce has them.
func TestFileInterfacesAtOpen(t *testing.T) {
	for _, path := range testnet.Captures(t) {
		f, err := openFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Interfaces()) != 1 {
			t.Errorf("%s: %d interfaces", path, len(f.Interfaces()))
		}
		f.Close()
	}
}

// Ready tells a packet that is there from one that a pipe still owes.
func TestFileReady(t *testing.T) {
	for _, name := range []string{"vsock-1.pcapng", "IGMP_V2.pcap"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(testnet.Captures(t)[0]), name))
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		testnet.Bound(t, r)
		w.Write(b[:len(b)-4])
		f, err := newFileReader(name, r, r.Close)
		if err != nil {
			t.Fatal(err)
		}
		var rec proto.Record
		n := 0
		for ; f.Ready(); n++ {
			if err := f.Next(&rec); err != nil {
				t.Fatal(err)
			}
		}
		if n == 0 {
			t.Errorf("%s: no packet is ready", name)
		}
		w.Close()
		rest, err := packets(f)
		if all, _ := decode(b); len(all)-n-len(rest) > 1 || !errors.Is(err, errFileCut) {
			t.Errorf("%s: %d and %d packets, of %d, then %v", name, n, len(rest), len(all), err)
		}
		f.Close()
	}
}

// A file cut anywhere gives the packets before the cut and says so.
func TestFileCutAnywhere(t *testing.T) {
	for _, name := range []string{"vsock-1.pcapng", "IGMP_V2.pcap", "timestamp_invalid_nano.pcap", "bgp-role.pcapng"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(testnet.Captures(t)[0]), name))
		if err != nil {
			t.Fatal(err)
		}
		all, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		clean := 0
		for n := range b {
			got, err := decode(b[:n])
			if len(got) > len(all) || testnet.DiffPackets(got, all[:len(got)]) != "" {
				t.Fatalf("%s, %d bytes: not the packets before the cut", name, n)
			}
			switch {
			case err == nil:
				clean++
			case n >= 4 && !errors.Is(err, errFileCut):
				t.Errorf("%s, %d bytes: %v", name, n, err)
			}
		}
		if clean < len(all)-1 || clean > len(all)+4 {
			t.Errorf("%s: %d of its cuts are between packets, of %d", name, clean, len(all))
		}
	}
}

// What is not a capture file is refused in words.
func TestFileErrors(t *testing.T) {
	le := binary.LittleEndian
	pcap := put(le, nil, uint32(0xA1B2C3D4), uint16(2), uint16(4), uint64(0), uint32(65535), uint32(1))
	packet := func(n uint32) []byte { return put(le, nil, uint32(1), uint32(2), n, n, make([]byte, min(n, 100))) }
	idb := block(le, 1, put(le, nil, uint32(1), uint32(0)))
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":    {nil, "is empty"},
		"text":     {[]byte("#!/bin/sh\n"), "not a capture file (first bytes 23 21 2f 62); pcap and pcapng are read"},
		"short":    {[]byte{0xD4, 0xC3}, "not a capture file (first bytes d4 c3)"},
		"gzip":     {[]byte("\x1f\x8b\x08\x00\x00"), "is compressed by gzip; unpack it first: gunzip -c"},
		"zstd":     {[]byte("\x28\xb5\x2f\xfd\x00"), "unzstd"},
		"version":  {put(le, nil, uint32(0xA1B2C3D4), uint16(7), uint16(1), make([]byte, 16)), "pcap version 7.1"},
		"header":   {pcap[:20], "ends in the middle of its header"},
		"packet":   {append(pcap, packet(60)[:50]...), "ends in the middle of packet 1 at offset 24"},
		"packet 2": {slices.Concat(pcap, packet(60), packet(60)[:7]), "ends in the middle of packet 2 at offset 100: packets before it were sent"},
		"long":     {append(pcap, packet(1<<31)...), "packet 1, offset 24: the packet has 2147483648 bytes, more than the 262144 that can be sent"},
		"no interface": {append(section(le), block(le, 6, make([]byte, 20))...),
			"packet 1, offset 28: the packet is of interface 0, of 0 in its section"},
		"simple":        {append(section(le), block(le, 3, make([]byte, 20))...), "of interface 0, of 0"},
		"lengths":       {append(section(le), 6, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0), "16 bytes at its begin and 12 at its end"},
		"length":        {append(section(le), 9, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 8), "a length of 8 bytes, at least 12"},
		"magic":         {append(section(le)[:8], make([]byte, 20)...), "byte-order magic 00 00 00 00"},
		"section cut":   {section(le)[:25], "ends in the middle of a section header at offset 0"},
		"interface cut": {append(section(le), idb[:13]...), "ends in the middle of a block of type 1 at offset 28"},
		"epb":           {slices.Concat(section(le), idb, block(le, 6, put(le, nil, uint32(0), uint64(0), uint32(9), uint32(9), uint32(0)))), "shorter than what it says"},
		"year": {slices.Concat(section(le), block(le, 1, slices.Concat(put(le, nil, uint32(1), uint32(0)), option(le, 9, []byte{0}))),
			block(le, 6, put(le, nil, uint32(0), uint32(1<<28), uint32(0), uint64(0)))), "outside the years 1678 to 2262"},
		"skipped cut": {append(section(le), block(le, 77, make([]byte, 3<<20))[:2<<20]...), "ends in the middle of a block of type 77 at offset 28"},
		"huge":        {append(section(le), put(le, nil, uint32(6), uint32(1<<31), make([]byte, 99))...), "more than the 262144"},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := openFile(path)
		if err == nil {
			_, err = packets(f)
			var r proto.Record
			if again := f.Next(&r); again != err {
				t.Errorf("%s: %v, then %v", name, err, again)
			}
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := openFile(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	if _, err := openFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	bad := iotest.ErrReader(errors.New("bad sector"))
	if _, err := newFileReader("disk", io.MultiReader(bytes.NewReader(pcap[:9]), bad), nil); err == nil || !strings.Contains(err.Error(), "offset 9: bad sector") {
		t.Errorf("bad disk: %v", err)
	}
}

// Reading costs no memory per packet.
func TestFileAllocations(t *testing.T) {
	le := binary.LittleEndian
	pcap := put(le, nil, uint32(0xA1B2C3D4), uint16(2), uint16(4), uint64(0), uint32(65535), uint32(1))
	ng := append(section(le), block(le, 1, put(le, nil, uint32(1), uint32(0)))...)
	for range 2000 {
		pcap = put(le, pcap, uint32(1), uint32(2), uint32(1500), uint32(1500), make([]byte, 1500))
		ng = append(ng, block(le, 6, put(le, nil, uint32(0), uint64(0), uint32(1500), uint32(1500), make([]byte, 1500)))...)
	}
	for name, b := range map[string][]byte{"pcap": pcap, "pcapng": ng} {
		f, err := newFileReader(name, bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		var r proto.Record
		if n := testing.AllocsPerRun(1500, func() {
			if err := f.Next(&r); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per packet", name, n)
		}
	}
}

// No file makes the reader panic, give frames that cannot be sent, or give
// more bytes than it read.
func FuzzFile(f *testing.F) {
	for _, path := range testnet.Captures(f) {
		if b, err := os.ReadFile(path); err == nil && len(b) < 2000 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := newFileReader("fuzz", bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		total := 0
		var rec proto.Record
		for r.Next(&rec) == nil {
			if total += len(rec.Data) + 12; total > len(b) || int(rec.Interface) >= len(r.Interfaces()) || len(rec.Data) > proto.MaxFrame {
				t.Fatalf("%d bytes of data from %d, interface %d of %d", total, len(b), rec.Interface, len(r.Interfaces()))
			}
			if rec.Direction > proto.Outbound {
				t.Fatalf("direction %d", rec.Direction)
			}
		}
	})
}
