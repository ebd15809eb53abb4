// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// examples returns the hex blocks of WIRE.md by name. "11*454" is 454 bytes.
func examples(t *testing.T) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("WIRE.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	repeat := regexp.MustCompile(`([0-9a-f]{2})\*([0-9]+)`)
	for _, m := range regexp.MustCompile("(?s)```hex ([a-z-]+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		body := repeat.ReplaceAllStringFunc(m[2], func(s string) string {
			p := repeat.FindStringSubmatch(s)
			n, _ := strconv.Atoi(p[2])
			return strings.Repeat(p[1], n)
		})
		b, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
		if err != nil {
			t.Fatalf("WIRE.md, block %s: %v", m[1], err)
		}
		out[m[1]] = b
	}
	if len(out) == 0 {
		t.Fatal("no examples in WIRE.md")
	}
	return out
}

// The examples of WIRE.md are what the code writes, and the code reads them.
// The block "sealed" is read by the test of package remote, which has keys.
func TestWireExamples(t *testing.T) {
	blocks := examples(t)
	check := map[string]func(t *testing.T, b []byte){
		"header": func(t *testing.T, b []byte) {
			h := Header{Kind: Data, Suite: 1, Shard: 2, Tap: 7, Session: 0x6925e2c080004d2b, Counter: 5}
			if got := h.Append(nil); !bytes.Equal(got, b) {
				t.Errorf("wrote %x", got)
			}
			got, version, ok := ParseHeader(append(bytes.Clone(b), make([]byte, TagLen)...))
			if !ok || version != Version || got != h {
				t.Errorf("read %+v, version %d, %v", got, version, ok)
			}
		},
		"data": func(t *testing.T, b []byte) {
			records := []Record{
				{Data: []byte("hello"), OrigLen: 5, Time: 1000000000, LinkType: 1, Direction: Inbound},
				{Data: []byte{0x45, 0, 0, 0}, OrigLen: 60, Time: 1000001500, LinkType: 101, Interface: 1, Direction: Outbound},
			}
			var p Packer
			if got := pack(&p, 1472, records, never); len(got) != 1 || !bytes.Equal(got[0], b) {
				t.Errorf("wrote %x", got)
			}
			got, err := drain(NewUnpacker(NewAssembly(nil)), b, true)
			if d := cmp.Diff(records, got); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
		},
		"data-cut": func(t *testing.T, b []byte) {
			var p Packer
			r := Record{Data: bytes.Repeat([]byte{0x11}, 600), OrigLen: 600, Time: 2, LinkType: 1}
			got := pack(&p, MinDatagram, []Record{r}, never)
			if !bytes.Equal(bytes.Join(got, nil), b) {
				t.Errorf("wrote %x", got)
			}
		},
		"data-padded": func(t *testing.T, b []byte) {
			var p Packer
			p.Reset(bytes.Repeat([]byte{0xAA}, MinDatagram))
			r := Record{Data: []byte("hello"), OrigLen: 5, Time: 1000000000, LinkType: 1, Direction: Inbound}
			p.Add(&r)
			p.Fill()
			if got := p.Take(); !bytes.Equal(got[HeaderLen:len(got)-TagLen], b) {
				t.Errorf("wrote %x", got)
			}
			got, err := drain(NewUnpacker(NewAssembly(nil)), b, true)
			if d := cmp.Diff([]Record{r}, got); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
		},
		"announce": func(t *testing.T, b []byte) {
			a := Announce{Tap: 7, Name: "web", Shards: 1, Now: 5}
			announceVector(t, &a, 1, b)
		},
		"announce-captured": func(t *testing.T, b []byte) {
			a := Announce{
				Tap: 7, Shards: 1, Bye: true, Now: 5, Interfaces: []Interface{{Name: "eth0", LinkType: 1}, {Name: "veth1", LinkType: 1}, {Name: "veth2", LinkType: 1}},
				Captured: []InterfaceCount{{100, 2}, {5}, {0}}, Dropped: 3,
			}
			announceVector(t, &a, 2, b)
		},
		"report": func(t *testing.T, b []byte) {
			r := Report{Final: true, Time: 5, Captured: 100, KernelDrops: 2, Freezes: 1, Sealed: 98, SealedBytes: 9800, NextData: 7, Sent: 9}
			if got := r.Append(nil); !bytes.Equal(got, b) || len(got) != ReportLen {
				t.Errorf("wrote %x", got)
			}
			if got, err := ParseReport(b); got != r || err != nil {
				t.Errorf("read %+v, %v", got, err)
			}
		},
		"sealed": func(t *testing.T, b []byte) {
			if want := append(bytes.Clone(blocks["header"]), blocks["data"]...); len(b) != len(want)+TagLen || !bytes.HasPrefix(b, blocks["header"]) {
				t.Errorf("%d bytes, and a header of %x", len(b), b[:HeaderLen])
			}
		},
	}
	for name, b := range blocks {
		f, ok := check[name]
		if !ok {
			t.Errorf("WIRE.md has a block %s that no test reads", name)
			continue
		}
		t.Run(name, func(t *testing.T) { f(t, b) })
		delete(check, name)
	}
	for name := range check {
		t.Errorf("WIRE.md lacks the block %s", name)
	}
}

func TestSessionOrder(t *testing.T) {
	const start int64 = 1_764_000_000_123_456_789
	last := uint64(0)
	for i := range int64(1000) {
		s := NewSession(start+i*20_000_000, uint16(i*7919))
		if s <= last {
			t.Fatalf("session %d is %016x, the one 20 ms before was %016x", i, s, last)
		}
		last = s
	}
	if got := SessionStart(NewSession(start, 9)); got != start/1_000_000_000 {
		t.Errorf("a session that started at %d says %d", start/1_000_000_000, got)
	}
}

func TestAnnounceParts(t *testing.T) {
	a := Announce{Tap: 1, Name: "many", Shards: 4}
	for i := range 100 {
		a.Interfaces = append(a.Interfaces, Interface{Name: "veth" + strconv.Itoa(i), LinkType: 1, MAC: "02:00:00:00:00:01"})
	}
	parts, err := a.Split(3, 400)
	if err != nil || len(parts) < 5 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	var j AnnounceJoiner
	old, _ := (&Announce{Tap: 1}).Split(2, 400)
	for i := len(parts) - 1; i >= 0; i-- { // backwards, twice, and an older one between
		for _, p := range [][]byte{parts[i], parts[i], old[0]} {
			if len(p) > 400 {
				t.Fatalf("a part of %d bytes", len(p))
			}
			back, err := j.Add(p)
			if err != nil {
				t.Fatal(err)
			}
			if back == nil {
				continue
			}
			if i != 0 {
				t.Fatalf("complete after part %d", i)
			}
			if d := cmp.Diff(&a, back); d != "" {
				t.Fatal(d)
			}
			return
		}
	}
	t.Fatal("never complete")
}

// A padded announce is as long as its datagrams allow, whatever it says, and
// says the same.
func TestAnnouncePadded(t *testing.T) {
	for _, n := range []int{0, 1, 500, 5000} {
		a := Announce{Tap: 1, Name: "web", Filter: strings.Repeat("x", n), Now: 7}
		b := a
		b.Pad, b.Bye = true, true
		plain, _ := a.Split(1, 400)
		parts, err := b.Split(2, 400)
		if err != nil || len(parts) > len(plain)+1 {
			t.Fatal(err)
		}
		var j AnnounceJoiner
		for i, p := range parts {
			back, err := j.Add(p)
			if len(p) != 400 || err != nil || (back != nil) != (i == len(parts)-1) {
				t.Fatalf("part %d of %d: %d bytes, %v", i, len(parts), len(p), err)
			}
			if back != nil {
				back.Pad = true
				if d := cmp.Diff(&b, back); d != "" {
					t.Error(d)
				}
			}
		}
	}
	a := Announce{Filter: strings.Repeat("x", MaxAnnounce-100), Pad: true}
	parts, err := a.Split(1, 1400)
	if err != nil {
		t.Fatal(err)
	}
	var j AnnounceJoiner
	for _, p := range parts { // with padding it would be over the bound
		if _, err := j.Add(p); err != nil {
			t.Fatal(err)
		}
	}
}

// What is captured of each interface comes back as it was, and an announce that
// says nothing of it is that of before. What says it wrongly is refused; numbers
// and names of a later version are not.
func TestAnnounceCaptured(t *testing.T) {
	read := func(text string) (*Announce, error) {
		var j AnnounceJoiner
		return j.Add((&AnnouncePart{Parts: 1, Text: []byte(text)}).Append(nil))
	}
	for _, c := range [][]InterfaceCount{nil, {{}}, {{0}}, {{1<<64 - 1, 1}, {}, {3}}} {
		a := Announce{Tap: 1, Captured: c, Dropped: uint64(len(c)) << 63}
		parts, err := a.Split(1, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(parts[0][announcePrologue:]); c == nil && text != `{"tap":1,"started":0,"shards":0}` {
			t.Errorf("nothing captured: %s", text)
		}
		var j AnnounceJoiner
		back, err := j.Add(parts[0])
		if d := cmp.Diff(&a, back); d != "" || err != nil {
			t.Errorf("%v: %v %s", c, err, d)
		}
	}
	for _, bad := range []string{`{"captured":[[-1,0]]}`, `{"captured":[[1.5]]}`, `{"captured":[["1"]]}`, `{"captured":[5]}`, `{"captured":[[18446744073709551616]]}`, `{"dropped":-1}`} {
		if _, err := read(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	a, err := read(`{"captured":[[1,2,3],null],"later":{"x":[1]}}`)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a.Captured, []InterfaceCount{{1, 2, 3}, nil}); d != "" {
		t.Error(d)
	}
}

func TestAnnounceTooLarge(t *testing.T) {
	a := Announce{Filter: strings.Repeat("x", MaxAnnounce)}
	if _, err := a.Split(1, 1400); err == nil {
		t.Error("an announce over the bound was taken")
	}
}

func FuzzAnnounce(f *testing.F) {
	parts, _ := (&Announce{Tap: 7, Name: "web", Interfaces: []Interface{{Name: "eth0", LinkType: 1}}, Shards: 1}).Split(9, 60)
	counted, _ := (&Announce{Interfaces: []Interface{{Name: "eth0"}, {Name: "any"}}, Captured: []InterfaceCount{{100, 2}, {5}, {}}, Dropped: 3}).Split(9, 1400)
	for _, p := range append(parts, counted...) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseAnnouncePart(b)
		if err != nil {
			return
		}
		if got := p.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x re-encodes to %x", b, got)
		}
		var j AnnounceJoiner
		for i := range p.Parts {
			p.Part = i
			if _, err := j.Add(p.Append(nil)); err != nil {
				return
			}
		}
	})
}

func FuzzReport(f *testing.F) {
	f.Add((&Report{Final: true, Captured: 5}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x re-encodes to %x", b, got)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add((&Header{Kind: Reporting, Suite: 2, Shard: 3, Tap: 4, Session: 5, Counter: 6}).Append(make([]byte, 0, 64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, TagLen)...)
		h, version, ok := ParseHeader(b)
		if !ok {
			if len(b) >= Overhead {
				t.Fatalf("%d bytes refused", len(b))
			}
			return
		}
		if got := h.Append(nil); version == Version && !bytes.Equal(got, b[:HeaderLen]) {
			t.Fatalf("%x re-encodes to %x", b[:HeaderLen], got)
		}
	})
}

// Anything shorter than what it parses is refused, at every length.
func TestTruncated(t *testing.T) {
	report := (&Report{}).Append(nil)
	for n := range report {
		if _, err := ParseReport(report[:n]); err == nil {
			t.Errorf("a report of %d bytes was taken", n)
		}
	}
	for n := range Overhead {
		if _, _, ok := ParseHeader(make([]byte, n)); ok {
			t.Errorf("a datagram of %d bytes was taken", n)
		}
	}
	parts, _ := (&Announce{Tap: 7, Name: "web", Captured: []InterfaceCount{{100, 2}, {5}}, Dropped: 3}).Split(1, 1000)
	for n := range parts[0] {
		var j AnnounceJoiner
		if a, err := j.Add(parts[0][:n]); err == nil || a != nil {
			t.Errorf("an announce of %d bytes was taken", n)
		}
	}
}

func TestVarint(t *testing.T) {
	for _, u := range []uint64{0, 1, 127, 128, 16383, 16384, 1<<32 - 1, 1 << 63, 1<<64 - 1} {
		var b [10]byte
		n := putUvarint(b[:], u)
		if n != uvarintLen(u) {
			t.Errorf("%d: %d bytes, uvarintLen says %d", u, n, uvarintLen(u))
		}
		if got, m := uvarint(b[:n]); got != u || m != n {
			t.Errorf("%d came back as %d, %d bytes of %d", u, got, m, n)
		}
		for cut := range n {
			if _, m := uvarint(b[:cut]); m != 0 {
				t.Errorf("%d: %d bytes of %d were taken", u, cut, n)
			}
		}
	}
	for _, bad := range [][]byte{{0x80, 0}, {0xff, 0x80, 0}, bytes.Repeat([]byte{0xff}, 10), bytes.Repeat([]byte{0xff}, 11)} {
		if _, n := uvarint(bad); n != 0 {
			t.Errorf("%x was taken", bad)
		}
	}
	for _, n := range []int64{0, -1, 1, -1 << 63, 1<<63 - 1} {
		if got := unzigzag(zigzag(n)); got != n {
			t.Errorf("zigzag: %d came back as %d", n, got)
		}
	}
}

// SentAt finds the time in the examples of WIRE.md, and nowhere where it is
// cut off.
func TestSentAt(t *testing.T) {
	blocks := examples(t)
	for name, want := range map[string]struct {
		kind Kind
		time int64
	}{"data": {Data, 1000000000}, "announce": {Announcing, 5}, "report": {Reporting, 5}} {
		b := blocks[name]
		if got, ok := SentAt(want.kind, b); got != want.time || !ok {
			t.Errorf("%s: %d, %v", name, got, ok)
		}
		for n := range 8 {
			if _, ok := SentAt(want.kind, b[:n]); ok {
				t.Errorf("%s: a time in %d bytes", name, n)
			}
		}
	}
	if _, ok := SentAt(Parity, blocks["report"]); ok {
		t.Error("a time in a kind that is not known")
	}
}

// announceVector says that an announce of that revision is written as the one part b,
// and read back.
func announceVector(t *testing.T, a *Announce, revision uint32, b []byte) {
	t.Helper()
	got, err := a.Split(revision, 1000)
	if err != nil || len(got) != 1 || !bytes.Equal(got[0], b) {
		t.Errorf("wrote %x, %v", got, err)
	}
	var j AnnounceJoiner
	back, err := j.Add(b)
	if d := cmp.Diff(a, back); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
}
