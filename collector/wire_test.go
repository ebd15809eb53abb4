// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ntap-project/ntap/proto"
)

// Of a sliced GSO frame each frame that the wire saw comes out, with its
// headers and its length on the wire, and with as much data as was captured. The
// checksum of the IP header used to be that of the GSO frame.
func TestCutsSlicedFrames(t *testing.T) {
	whole := synthetic{payload: 5000, gso: 1000}.record()
	var want [][]byte
	w := &worker{shared: &shared{}, account: new(WorkerAccount), sinks: []sink{&keeper{frames: &want}}}
	w.finish(&Origin{}, synthetic{payload: 5000, gso: 1000}.record())
	for _, snap := range []int{54, 55, 1053, 1054, 1055, 2500, 5053} {
		r := *whole
		r.Data = bytes.Clone(whole.Data[:snap])
		var c proto.Cutter
		i := 0
		c.Finish(&r, func(f *proto.Record) {
			from := 54 + i*1000
			captured := 54 + min(max(snap-from, 0), 1000)
			if int(f.OrigLen) != len(want[i]) || len(f.Data) != captured {
				t.Fatalf("%d bytes, frame %d: %d of %d bytes; want %d of %d", snap, i, len(f.Data), f.OrigLen, captured, len(want[i]))
			}
			a, b := bytes.Clone(f.Data), bytes.Clone(want[i][:captured])
			if captured < len(want[i]) { // nothing to compute a checksum of
				clear(a[50:52])
				clear(b[50:52])
			}
			if !bytes.Equal(a, b) {
				t.Fatalf("%d bytes, frame %d:\n%x\nwant\n%x", snap, i, head(a), head(b))
			}
			i++
		}, nil)
		if i != len(want) {
			t.Fatalf("%d bytes: %d frames, want %d", snap, i, len(want))
		}
	}
}

// IPv6 BIG TCP under a VLAN tag is cut as without: the
// kernel's own hop-by-hop header is in none of the frames. (This is not held
// against the kernel, whose segmentation in software leaves it there under a tag
// that is in the frame: ipv6_has_hopopt_jumbo looks at skb->protocol.)
func TestCutsJumbo(t *testing.T) {
	s := synthetic{payload: 150000, gso: 1400, v6: true}
	plain := finished(t, s.record())
	s.tags = 1
	tagged := finished(t, s.record())
	if len(plain) != 108 || len(tagged) != len(plain) {
		t.Fatalf("%d frames, %d with a tag", len(plain), len(tagged))
	}
	for i := range plain {
		if d := tagged[i]; !bytes.Equal(append(bytes.Clone(d[:12]), d[16:]...), plain[i]) || !bytes.Equal(d[12:16], []byte{0x81, 0, 0, 100}) {
			t.Fatalf("frame %d:\n%x, and with a tag\n%x", i, head(plain[i]), head(d))
		}
	}
	// Of one that is cut behind its headers where it is captured, too.
	r := s.record()
	if !r.SliceHeaders() || len(r.Data) != 18+48+20 {
		t.Fatalf("%d bytes of headers", len(r.Data))
	}
	for i, d := range finished(t, r) {
		clear(tagged[i][18+40+16:][:2]) // TCP's checksum cannot be known
		clear(d[18+40+16:][:2])
		if !bytes.Equal(d, tagged[i][:18+40+20]) {
			t.Fatalf("headers %d:\n%x, not\n%x", i, d, head(tagged[i]))
		}
	}
}

// What cannot be cut is given whole, and counted.
func TestUncut(t *testing.T) {
	arp := &proto.Record{LinkType: proto.LinkTypeEthernet, Data: make([]byte, 60), OrigLen: 60, GSOType: gsoTCPv4, GSOSize: 10}
	for name, r := range map[string]*proto.Record{
		"no IP":          arp,
		"no GSO size":    func() *proto.Record { r := synthetic{payload: 500, gso: 100}.record(); r.GSOSize = 0; return r }(),
		"too many":       func() *proto.Record { r := synthetic{payload: 65000, gso: 1}.record(); r.OrigLen = 1 << 31; return r }(),
		"another start":  func() *proto.Record { r := synthetic{payload: 500, gso: 100}.record(); r.CsumStart++; return r }(),
		"other link":     func() *proto.Record { r := synthetic{payload: 500, gso: 100}.record(); r.LinkType = 127; return r }(),
		"headers cut":    func() *proto.Record { r := synthetic{payload: 500, gso: 100}.record(); r.Data = r.Data[:50]; return r }(),
		"a fragment":     func() *proto.Record { r := synthetic{payload: 500, gso: 100}.record(); r.Data[20] = 0x20; return r }(),
		"a short header": func() *proto.Record { r := synthetic{payload: 500, gso: 100}.record(); r.Data[46] = 0x40; return r }(),
	} {
		var got [][]byte
		w := &worker{shared: &shared{}, account: new(WorkerAccount), sinks: []sink{&keeper{frames: &got}}}
		want := bytes.Clone(r.Data)
		w.finish(&Origin{}, r)
		if len(got) != 1 || !bytes.Equal(got[0], want) || w.account.Uncut.Load() != 1 || w.account.Cut.Load() != 0 {
			t.Errorf("%s: %d frames, %d uncut, %d cut", name, len(got), w.account.Uncut.Load(), w.account.Cut.Load())
		}
	}
}

// SCTP has a CRC-32C in place of a checksum: that of 32 zero bytes is in RFC
// 3720, appendix B.4.
func TestCompletesSCTP(t *testing.T) {
	d := make([]byte, 34+32)
	binary.BigEndian.PutUint32(d[34+8:], 0xDEADBEEF)
	r := &proto.Record{Data: d, OrigLen: uint32(len(d)), NeedsCsum: true, CsumStart: 34, CsumOffset: 8}
	new(proto.Cutter).Finish(r, func(*proto.Record) {}, nil)
	if got := binary.LittleEndian.Uint32(d[34+8:]); got != 0x8a9136aa || r.Unfinished() {
		t.Errorf("checksum %#x", got)
	}
}

// Nothing that a remote may say of a frame leads out of it, or makes more than
// the arena holds.
func FuzzFinish(f *testing.F) {
	for _, c := range unfinished() {
		r := c.record()
		f.Add(head(r.Data), r.OrigLen, r.NeedsCsum, r.CsumStart, r.CsumOffset, r.GSOType, r.GSOSize, true)
	}
	var c proto.Cutter
	c.Finish(synthetic{payload: 500, gso: 100}.record(), func(*proto.Record) {}, nil) // its arena is made once
	c.Reset()
	f.Fuzz(func(t *testing.T, d []byte, orig uint32, needs bool, start, offset uint16, kind byte, size uint16, ethernet bool) {
		r := &proto.Record{
			Data: bytes.Clone(d), OrigLen: max(orig%(proto.MaxFrame+1), uint32(len(d))), NeedsCsum: needs, CsumStart: start, CsumOffset: offset,
			GSOType: kind, GSOSize: size, LinkType: proto.LinkTypeRaw,
		}
		if ethernet {
			r.LinkType = proto.LinkTypeEthernet
		}
		if !r.Unfinished() {
			return
		}
		n := 0
		w := &worker{shared: &shared{}, account: new(WorkerAccount), cut: c}
		w.sinks = []sink{sinkFunc(func(r *proto.Record) {
			n++
			if len(r.Data) > int(r.OrigLen) {
				t.Fatalf("%d bytes of %d", len(r.Data), r.OrigLen)
			}
		})}
		w.finish(&Origin{}, r)
		if uint64(n) != w.account.Cut.Load()+1 {
			t.Fatalf("%d frames, %d counted beyond the first", n, w.account.Cut.Load())
		}
	})
}

// A sinkFunc is a sink that calls a function.
type sinkFunc func(*proto.Record)

func (f sinkFunc) Write(_ *Origin, r *proto.Record) { f(r) }
func (sinkFunc) Flush() error                       { return nil }
func (sinkFunc) Counts() *SinkCounts                { return new(SinkCounts) }
func (sinkFunc) Close() error                       { return nil }

// Cutting and completing allocate nothing once the arena is there.
func TestFinishAllocates(t *testing.T) {
	gso, csum := synthetic{payload: 60000, gso: 1448}.record(), synthetic{payload: 1448}.record()
	w := &worker{shared: &shared{}, account: new(WorkerAccount), sinks: []sink{sinkFunc(func(*proto.Record) {})}}
	o := &Origin{}
	if n := testing.AllocsPerRun(100, func() {
		w.finish(o, gso)
		csum.NeedsCsum = true
		w.finish(o, csum)
		w.cut.Reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFinish(b *testing.B) {
	for _, s := range []synthetic{{payload: 1448}, {payload: 60000, gso: 1448}} {
		r := s.record()
		b.Run(map[bool]string{true: "checksum", false: "cut"}[s.gso == 0], func(b *testing.B) {
			frames := 0
			w := &worker{shared: &shared{}, account: new(WorkerAccount), sinks: []sink{sinkFunc(func(*proto.Record) { frames++ })}}
			o := &Origin{}
			b.SetBytes(int64(len(r.Data)))
			for range b.N {
				x := *r
				w.finish(o, &x)
				w.cut.Reset()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(frames), "ns/frame")
		})
	}
}
