// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

func origin(tap uint32, a *proto.Announce) *Origin {
	o := &Origin{Tap: tap, Session: 1, announce: new(atomic.Pointer[proto.Announce])}
	o.announce.Store(a)
	return o
}

// testFile returns a pcapngFile over out, and what it warned of.
func testFile(t testing.TB, out io.Writer) (*pcapngFile, *[]string) {
	t.Helper()
	var warned []string
	f, err := newPcapngFile(pcapngConfig{Path: "-", Stdout: out, Warn: func(err error) { warned = append(warned, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	return f, &warned
}

// settled waits until all that was given to f is written, or cannot be.
func settled(t testing.TB, f *pcapngFile) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f.out.idle() && f.out.why() == f.out.slow; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("a minute, and not all is written")
		}
	}
}

// allWritten waits until all that was given to f is written.
func allWritten(t testing.TB, f *pcapngFile) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f.out.idle(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("a minute, and not all is written")
		}
	}
}

func record(p *testnet.Packet) *proto.Record {
	return &proto.Record{
		Data: p.Data, OrigLen: p.OrigLen, Time: p.Time, LinkType: proto.LinkType(p.LinkType),
		Interface: uint32(p.Interface), Direction: proto.Direction(p.Direction),
	}
}

// known reads a capture, and gives the packets whose time no judge can tell
// one.
func known(t testing.TB, path string) []testnet.Packet {
	all := testnet.ReadCapture(t, path)
	for i := range all {
		if all[i].Time == testnet.UnknownTime {
			all[i].Time = 7
		}
	}
	return all
}

// What goes in comes out, of every capture, as an independent reader sees it.
// tcpdump reads it without complaint: of each link type all captures in one
// file, since that is all it can read.
func TestPcapngCaptures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	create := func(name string) (*pcapngFile, *pcapngSink) {
		f, err := newPcapngFile(pcapngConfig{Path: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		return f, f.sink(nil)
	}
	type pair struct {
		f *pcapngFile
		s *pcapngSink
	}
	byType := make(map[uint16]pair)
	for n, in := range testnet.Captures(t) {
		want := known(t, in)
		o := origin(uint32(n), &proto.Announce{Name: "a \"tap\"", Host: "host", Interfaces: []proto.Interface{{Name: "eth0"}}})
		f, s := create(filepath.Base(in))
		var size uint64
		for i := range want {
			s.Write(o, record(&want[i]))
			want[i].InterfaceName = "eth0"
			size += uint64(len(want[i].Data))
			link := want[i].LinkType
			if byType[link].s == nil {
				f, s := create(strconv.Itoa(int(link)))
				byType[link] = pair{f, s}
			}
			byType[link].s.Write(o, record(&want[i]))
		}
		if err := errors.Join(s.Flush(), s.Close(), f.Close()); err != nil {
			t.Fatal(in, err)
		}
		c := s.Counts()
		if c.Delivered.Load() != uint64(len(want)) || c.DeliveredBytes.Load() != size {
			t.Errorf("%s: %d frames, %d bytes delivered; want %d, %d", in, c.Delivered.Load(), c.DeliveredBytes.Load(), len(want), size)
		}
		got, err := testnet.ReadGopacket(f.cfg.Path)
		if d := testnet.DiffPackets(got, want); d != "" || err != nil {
			t.Error(in, d, err)
		}
	}
	testnet.RequireTool(t, "tcpdump")
	for link, p := range byType {
		if err := errors.Join(p.s.Close(), p.f.Close()); err != nil {
			t.Fatal(err)
		}
		if link == uint16(proto.LinkTypeRaw) {
			// libpcap 1.10 refuses a second interface: it compares the link
			// type with its own number for it (sf-pcapng.c), which here differs.
			continue
		}
		out, err := testnet.Command(t, "tcpdump", "-nn", "-r", p.f.cfg.Path, "-w", "/dev/null").CombinedOutput()
		if text := string(out); err != nil || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "reading from file") {
			t.Errorf("link type %d: tcpdump: %v\n%s", link, err, out)
		}
	}
}

// All captures in one file, each as a tap of its own: tshark agrees on
// lengths, times and interfaces, and capinfos has no complaint.
func TestPcapngTshark(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark", "capinfos")
	path := filepath.Join(t.TempDir(), "all.pcapng")
	f, err := newPcapngFile(pcapngConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s := f.sink(nil)
	var want []string
	for n, in := range testnet.Captures(t) {
		name := filepath.Base(in)
		o := origin(uint32(n), &proto.Announce{Interfaces: []proto.Interface{{Name: name}}})
		for _, p := range known(t, in) {
			s.Write(o, record(&p))
			want = append(want, fmt.Sprintf("%d\t%d\t%d.%09d\t%s", p.OrigLen, len(p.Data), p.Time/1e9, p.Time%1e9, name))
		}
	}
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := testnet.Command(t, "tshark", "-r", path, "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len", "-e", "frame.time_epoch", "-e", "frame.interface_name")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, &stderr)
	}
	got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("packet %d: tshark says %q, want %q", i+1, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("tshark says %d packets, want %d", len(got), len(want))
	}
	out, err = testnet.Command(t, "capinfos", "-c", "-M", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), strconv.Itoa(len(want))) || strings.Contains(string(out), "error") {
		t.Errorf("capinfos: %v\n%s", err, out)
	}
}

// blocks parses a file, and fails if there is anything in it that is no block.
func blocks(t *testing.T, b []byte) (interfaces []proto.PcapngInterface, packets []proto.PcapngPacket, stats []proto.PcapngStatistics) {
	t.Helper()
	if _, err := proto.ParsePcapngSection(b[:blockLen(b)]); err != nil {
		t.Fatal(err)
	}
	for b = b[blockLen(b):]; len(b) > 0; {
		n := proto.PcapngBlockMin
		if len(b) >= 8 {
			n = blockLen(b)
		}
		if n > len(b) || n != blockLen(b[n-8:]) {
			t.Fatalf("the file ends in the middle of a block of %d bytes, after %d", n, len(b))
		}
		var err error
		switch proto.LittleEndian.Uint32(b) {
		case proto.PcapngTypeInterface:
			var i proto.PcapngInterface
			i, err = proto.ParsePcapngInterface(b[:n], proto.LittleEndian)
			interfaces = append(interfaces, i)
		case proto.PcapngTypeEnhanced:
			var p proto.PcapngPacket
			p, err = proto.ParsePcapngPacket(b[:n], proto.LittleEndian)
			packets = append(packets, p)
			if int(p.Interface) >= len(interfaces) {
				t.Fatalf("packet %d is of interface %d, of %d so far", len(packets), p.Interface, len(interfaces))
			}
		case proto.PcapngTypeStatistics:
			var s proto.PcapngStatistics
			s, err = proto.ParsePcapngStatistics(b[:n], proto.LittleEndian)
			stats = append(stats, s)
		default:
			t.Fatalf("a block of type %#x", b[:4])
		}
		if err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	return interfaces, packets, stats
}

// Interfaces are described as their tap announced them, and before that by
// their number.
func TestPcapngInterfaces(t *testing.T) {
	var out bytes.Buffer
	f, _ := testFile(t, &out)
	s, o := f.sink(nil), origin(7, nil)
	frame := func(n uint32, link proto.LinkType, ns int64) {
		s.Write(o, &proto.Record{Data: []byte{1, 2, 3}, OrigLen: 3, Interface: n, LinkType: link, Time: ns, Direction: proto.Inbound})
	}
	frame(1, 1, 5)
	frame(1, 1, 6)
	for range 3 { // each second there is a new one that says the same
		o.announce.Store(&proto.Announce{
			Name: "web", Host: "h1", SnapLen: 96, Filter: "tcp",
			Interfaces: []proto.Interface{{Name: "lo"}, {Name: "eth1", MAC: "02:00:00:00:00:09", Speed: 1e10}},
		})
		frame(1, 1, 7)
		frame(0, 1, 8)
		frame(1, 113, -5e9-1)
		frame(1, 113, 10)
		frame(9, 1, 9)
	}
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	ifs, packets, stats := blocks(t, out.Bytes())
	var got []string
	for _, i := range ifs {
		got = append(got, fmt.Sprintf("%s|%s|%s|%d|%d|%s|%d|%d", i.Name, i.Description, i.MAC, i.Speed, i.LinkType, i.Filter, i.Resolution, i.SnapLen))
	}
	const about = `|tap 7 "web" on h1, frames cut at 96 bytes|`
	want := []string{
		"if1|tap 7||0|1||9|262144",
		"eth1" + about + "02:00:00:00:00:09|10000000000|1|tcp|9|262144",
		"lo" + about + "|0|1|tcp|9|262144",
		"eth1" + about + "02:00:00:00:00:09|10000000000|113|tcp|9|262144",
		"eth1" + about + "02:00:00:00:00:09|10000000000|113|tcp|9|262144", // with an offset, or without
		"if9" + about + "|0|1|tcp|9|262144",
	}
	if !slices.Equal(got, want) {
		t.Errorf("interfaces:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for n, p := range packets {
		at := []int64{5, 6}
		for range 3 {
			at = append(at, 7, 8, -5e9-1, 10, 9)
		}
		if ns, ok := ifs[p.Interface].Time(p.Ticks); !ok || ns != at[n] || p.Direction != proto.Inbound {
			t.Errorf("packet %d: time %d, want %d; direction %d", n, ns, at[n], p.Direction)
		}
	}
	for id, want := range []uint64{2, 3, 3, 3, 3, 3} {
		if s := stats[id]; s.Accepted != want || s.Delivered != want || int(s.Interface) != id {
			t.Errorf("statistics of interface %d: %+v, want %d frames", id, s, want)
		}
	}
	if section, err := proto.ParsePcapngSection(out.Bytes()[:blockLen(out.Bytes())]); err != nil ||
		section.Writer != "ntap "+Version || section.OS == "" || section.Hardware == "" {
		t.Errorf("section %+v, %v", section, err)
	}
}

// After Flush everything is written at once; before that nothing need be.
func TestPcapngVisible(t *testing.T) {
	var out bytes.Buffer
	f, _ := testFile(t, &out)
	defer f.Close()
	s, o := f.sink(nil), origin(1, nil)
	for n := 1; n < 20; n++ {
		s.Write(o, &proto.Record{Data: make([]byte, n), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		allWritten(t, f)
		if _, packets, _ := blocks(t, out.Bytes()); len(packets) != n || int(s.Counts().Delivered.Load()) != n {
			t.Fatalf("%d packets in the file, %d counted, want %d", len(packets), s.Counts().Delivered.Load(), n)
		}
	}
}
