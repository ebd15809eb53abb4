// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// tcp is what tcpdump -y EN10MB -ddd tcp prints.
const tcp = "12\n40 0 0 12\n21 0 2 2048\n48 0 0 23\n21 6 7 6\n21 0 6 34525\n48 0 0 20\n21 3 0 6\n21 0 3 44\n48 0 0 54\n21 0 1 6\n6 0 0 262144\n6 0 0 0\n"

func TestTapSet(t *testing.T) {
	for text, want := range map[string]string{
		"7": "7", "1,3-5": "1,3-5", "5,4,3,1": "1,3-5", "3-9,1-4,10": "1-10", "0-4294967295": "0-4294967295", "4294967295,0": "0,4294967295",
	} {
		if s, err := ParseTapSet(text); err != nil || s.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, s, err, want)
		}
	}
	for _, text := range []string{"", ",", "1,", "x", "5-3", "-1", "1-", "4294967296", "1 2"} {
		if s, err := ParseTapSet(text); err == nil || !strings.Contains(err.Error(), "want a list like 1,3-5") {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		in, text := map[uint32]bool{}, ""
		for range 1 + rng.IntN(6) {
			first := rng.Uint32N(40)
			last := first + rng.Uint32N(5)
			for id := first; id <= last; id++ {
				in[id] = true
			}
			text += fmt.Sprintf(",%d-%d", first, last)
		}
		s, err := ParseTapSet(text[1:])
		if err != nil {
			t.Fatal(err)
		}
		for id := range uint32(50) {
			if s.Has(id) != in[id] {
				t.Fatalf("%s as %s: tap %d is %v", text[1:], s, id, s.Has(id))
			}
		}
	}
	if !TapSet(nil).Has(9) {
		t.Error("no set does not mean all taps")
	}
}

func TestParseSelection(t *testing.T) {
	s, err := ParseSelection(" taps=1,3-5  snaplen=96 filter=2,40 0 0 12,6 0 0 1 ")
	if err != nil || s.Taps.String() != "1,3-5" || s.SnapLen != 96 || s.Filter != "2,40 0 0 12,6 0 0 1" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := ParseSelection(""); err != nil || !s.all() {
		t.Errorf("nothing selected: %+v, %v", s, err)
	}
	for text, want := range map[string]string{
		"taps=": "no tap ID", "taps": "no tap ID", "snaplen=-1": "want 0", "snaplen=262145": "want 0", "snaplen=x": "want 0",
		"filter=": "without a filter", "tap=1": "want taps=", "taps=1 only": "want taps=",
	} {
		if s, err := ParseSelection(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	for filter, want := range map[string]string{
		"tcp prot 80": `column 5`, "1,6 0 0": "3 numbers", "1,6 0 0 x": "invalid syntax", "2,6 0 0 1": "it has to be their number", "1,40 0 0 12": "no return",
		"2,32 0 0 4294963248,22 0 0 0": "only the kernel knows", "host nobody.invalid": "not looked up",
	} {
		s := Selection{Filter: filter}
		if _, err := s.choose(false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("filter %q: %v, want %q", filter, err, want)
		}
	}
}

// choice returns a selection ready for use.
func choose(t testing.TB, s Selection) choice {
	t.Helper()
	c, err := s.choose(false)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An output gets the frames that are selected, cut as it wants them, and each
// frame is either given or counted as left out.
func TestSelectSink(t *testing.T) {
	taps, err := ParseTapSet("1,3")
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{tcp, "tcp"} {
		testSelectSink(t, taps, filter)
	}
	if s := selected(&nullSink{}, choice{}); s.Counts() == nil || fmt.Sprintf("%T", s) != "*collector.nullSink" {
		t.Error("an output of everything is wrapped")
	}
}

func testSelectSink(t *testing.T, taps TapSet, filter string) {
	t.Helper()
	list := &listSink{}
	s := selected(list, choose(t, Selection{Taps: taps, Filter: filter, SnapLen: 100}))
	isTCP := func(f []byte) bool {
		if len(f) < 14 {
			return false
		}
		switch {
		case f[12] == 8 && f[13] == 0:
			return len(f) > 23 && f[23] == 6
		case f[12] == 0x86 && f[13] == 0xDD:
			return len(f) > 20 && (f[20] == 6 || f[20] == 44 && len(f) > 54 && f[54] == 6)
		}
		return false
	}
	want, given, cut := 0, uint64(0), 0
	for i, file := range testnet.Captures(t) {
		o := origin(uint32(i%4), nil)
		for _, p := range known(t, file) {
			r := record(&p)
			if filter != tcp && p.LinkType != 1 {
				continue // the expression matches some; the bytecode none
			}
			s.Write(o, r)
			given++
			if o.Tap%2 == 1 && p.LinkType == 1 && isTCP(p.Data) {
				if len(list.frames) != want+1 || list.taps[want] != o.Tap || len(list.frames[want].Data) != min(100, len(p.Data)) || list.frames[want].OrigLen != p.OrigLen {
					t.Fatalf("%s: %d frames came, want %d", file, len(list.frames), want+1)
				}
				if want++; len(p.Data) > 100 {
					cut++
				}
			}
			if len(r.Data) != len(p.Data) {
				t.Fatal("the record of others was cut")
			}
		}
	}
	c := s.Counts()
	if n := c.LeftOut.Load(); n != 0 || s.Flush() != nil {
		t.Errorf("%d frames left out are counted before Flush: frame by frame", n)
	}
	if want < 100 || cut < 50 || len(list.frames) != want || c.Delivered.Load() != uint64(want) || c.Delivered.Load()+c.LeftOut.Load() != given {
		t.Errorf("%d frames of %d selected, %d came, %d cut; %d left out", want, given, len(list.frames), cut, c.LeftOut.Load())
	}
}

// An expression is for the frames of each link type as they begin; bytecode is
// for Ethernet.
func TestSelectLinkTypes(t *testing.T) {
	ip := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}, make([]byte, 20)...)
	eth := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, ip...)
	sll := append([]byte{0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0}, ip...)
	for filter, want := range map[string][]bool{
		"tcp": {true, true, true, true, false}, "udp": make([]bool, 5), tcp: {true, false, false, false, false}, "ether host 2:0:0:0:0:1": {true, false, false, false, false},
	} {
		list := &listSink{}
		s := selected(list, choose(t, Selection{Filter: filter}))
		for i, r := range []proto.Record{{Data: eth, LinkType: 1}, {Data: ip, LinkType: 101}, {Data: ip, LinkType: 228}, {Data: sll, LinkType: 113}, {Data: eth, LinkType: 105}} {
			before := len(list.frames)
			r.OrigLen = uint32(len(r.Data))
			s.Write(origin(1, nil), &r)
			if came := len(list.frames) > before; came != want[i] {
				t.Errorf("%.20q, link type %d: %v", filter, r.LinkType, came)
			}
		}
	}
}

func TestSelectAllocations(t *testing.T) {
	s := selected(&nullSink{}, choose(t, Selection{Filter: "tcp port 80 or udp port 53 or tcp", SnapLen: 60}))
	frame := make([]byte, 300)
	frame[12], frame[23] = 8, 6
	os, n := []*Origin{origin(1, nil), origin(2, nil)}, 0
	r := &proto.Record{Data: frame, LinkType: 1}
	if a := testing.AllocsPerRun(1000, func() { s.Write(os[n%2], r); n++ }); a != 0 {
		t.Errorf("%v allocations a frame", a)
	}
	if s.Counts().Delivered.Load() < 1000 {
		t.Error("no frame was selected")
	}
}

// What a frame costs a selection that leaves it out, because of its tap.
func BenchmarkSelectNone(b *testing.B) {
	c, err := (Selection{Taps: TapSet{{2, 2}}}).choose(false)
	if err != nil {
		b.Fatal(err)
	}
	s, o, r := selected(&nullSink{}, c), origin(1, nil), &proto.Record{Data: make([]byte, 60), LinkType: 1}
	for n := 0; b.Loop(); n++ {
		if s.Write(o, r); n%256 == 0 {
			s.Flush()
		}
	}
}
