// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// A fake is a frame as the kernel writes it into a block.
type fake struct {
	data     []byte // without the tag that the kernel took out
	wire     uint32 // tp_len; 0: len(data)
	status   uint32
	tci      uint32
	tpid     uint16
	outgoing bool
	vnet     [vnetLen]byte // before the frame
}

// fakeBlock lays frames out as prb_fill_curr_block of net/packet/af_packet.c
// does, 86 bytes apart from their headers: a 14-byte header and PACKET_RESERVE.
func fakeBlock(size int, frames ...fake) []byte {
	const mac = 86
	order := binary.NativeEndian
	mem := make([]byte, size)
	order.PutUint32(mem[descStatus:], statusUser)
	order.PutUint32(mem[descPackets:], uint32(len(frames)))
	order.PutUint32(mem[descFirst:], descLen)
	at := descLen
	for i, f := range frames {
		h := mem[at:]
		step := (mac + len(f.data) + 7) &^ 7
		if i < len(frames)-1 {
			order.PutUint32(h[headNext:], uint32(step))
		}
		order.PutUint32(h[headSec:], 1_700_000_000)
		order.PutUint32(h[headNsec:], uint32(i))
		order.PutUint32(h[headSnapLen:], uint32(len(f.data)))
		order.PutUint32(h[headLen:], max(f.wire, uint32(len(f.data))))
		order.PutUint32(h[headStatus:], f.status|statusUser)
		order.PutUint16(h[headMAC:], mac)
		order.PutUint32(h[headVLANTCI:], f.tci)
		order.PutUint16(h[headVLANTPID:], f.tpid)
		if f.outgoing {
			h[headPktType] = packetOutgoing
		}
		copy(h[mac-vnetLen:], f.vnet[:])
		copy(h[mac:], f.data)
		at += step
	}
	return mem
}

// counting returns n bytes that are all different from their neighbours.
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + n)
	}
	return b
}

func ethernetBlock() *Block { return &Block{snap: 1<<32 - 1, tags: true} }

func TestBlockGivesFramesInOrder(t *testing.T) {
	frames := make([]fake, 100)
	for i := range frames {
		frames[i] = fake{data: counting(i * 11), wire: uint32(i * 12), outgoing: i%3 == 0}
	}
	mem := fakeBlock(1<<18, frames...)
	b := ethernetBlock()
	b.take(mem)
	for i, want := range frames {
		if b.Len() != len(frames)-i {
			t.Fatalf("%d frames are left before frame %d", b.Len(), i)
		}
		f, ok := b.Next()
		if !ok || !bytes.Equal(f.Data, want.data) || cap(f.Data) != len(f.Data) || f.WireLen != want.wire ||
			f.Time != 1_700_000_000_000_000_000+int64(i) || f.Outgoing != want.outgoing {
			t.Fatalf("frame %d: %+v, %v; want %+v", i, f, ok, want)
		}
	}
	for range 2 {
		if f, ok := b.Next(); ok || f != nil {
			t.Fatalf("a frame after the last: %+v", f)
		}
	}
	b.Release()
	if blockReady(mem) {
		t.Fatal("the block was not handed back")
	}
	// Twice does no harm: the kernel may have filled the block again by then.
	binary.NativeEndian.PutUint32(mem[descStatus:], statusUser)
	b.Release()
	if _, ok := b.Next(); ok || !blockReady(mem) || b.Len() != 0 {
		t.Fatal("a released block was released again, or gave frames")
	}
}

// A block is dense if its timer closed it, not its end, with many frames in it.
func TestBlockIsDense(t *testing.T) {
	for _, c := range []struct {
		frames int
		status uint32
		want   bool
	}{
		{denseFrames, statusUser | statusTimeout, true},
		{denseFrames - 1, statusUser | statusTimeout, false},
		{denseFrames, statusUser, false},
		{0, statusUser | statusTimeout, false},
	} {
		mem := fakeBlock(1<<18, make([]fake, c.frames)...)
		binary.NativeEndian.PutUint32(mem[descStatus:], c.status)
		b := ethernetBlock()
		if b.take(mem); b.dense() != c.want {
			t.Errorf("%d frames, status %#x: dense is %v", c.frames, c.status, !c.want)
		}
	}
}

func TestBlockPutsTagsBack(t *testing.T) {
	data := counting(60)
	tagged := func(tag ...byte) []byte { return append(append(bytes.Clone(data[:12]), tag...), data[12:]...) }
	const valid, both = statusVLANValid, statusVLANValid | statusTPIDValid
	tests := []struct {
		name string
		in   fake
		snap uint32
		raw  bool
		want []byte
		wire uint32
	}{
		{name: "untagged", in: fake{data: data, tci: 5, tpid: 0x8100}, want: data, wire: 60},
		{name: "802.1Q", in: fake{data: data, status: both, tci: 0x2064, tpid: 0x8100}, want: tagged(0x81, 0, 0x20, 0x64), wire: 64},
		{name: "802.1ad", in: fake{data: data, status: both, tci: 0x0FFF, tpid: 0x88A8}, want: tagged(0x88, 0xA8, 0x0F, 0xFF), wire: 64},
		{name: "priority", in: fake{data: data, status: both, tci: 0xE000, tpid: 0x8100}, want: tagged(0x81, 0, 0xE0, 0), wire: 64},
		{name: "all zero", in: fake{data: data, status: both, tpid: 0x8100}, want: tagged(0x81, 0, 0, 0), wire: 64},
		{name: "before 3.14", in: fake{data: data, status: valid, tci: 7, tpid: 0xFFFF}, want: tagged(0x81, 0, 0, 7), wire: 64},
		{name: "cut", in: fake{data: data, wire: 1500, status: both, tci: 7, tpid: 0x8100}, snap: 60, want: tagged(0x81, 0, 0, 7)[:60], wire: 1504},
		{name: "cut inside the tag", in: fake{data: data[:14], wire: 60, status: both, tci: 7, tpid: 0x8100}, snap: 14, want: tagged(0x81, 0)[:14], wire: 64},
		{name: "cut before the tag", in: fake{data: data[:11], wire: 60, status: both, tci: 7, tpid: 0x8100}, snap: 11, want: data[:11], wire: 64},
		{name: "addresses only", in: fake{data: data[:12], wire: 60, status: both, tci: 7, tpid: 0x8100}, want: tagged(0x81, 0, 0, 7)[:16], wire: 64},
		{name: "no link-layer header", in: fake{data: data, status: both, tci: 7, tpid: 0x8100}, raw: true, want: data, wire: 60},
		{name: "cut by a program that returns its accumulator", in: fake{data: data}, snap: 20, want: data[:20], wire: 60},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			after := fake{data: counting(61)} // has to stay as it is
			b := &Block{snap: 1<<32 - 1, tags: !test.raw}
			if test.snap > 0 {
				b.snap = test.snap
			}
			b.take(fakeBlock(4096, test.in, after))
			f, ok := b.Next()
			if !ok || !bytes.Equal(f.Data, test.want) || f.WireLen != test.wire {
				t.Errorf("%x, %d bytes on the wire\nwant %x, %d", f.Data, f.WireLen, test.want, test.wire)
			}
			b.snap = 1<<32 - 1
			if f, ok := b.Next(); !ok || !bytes.Equal(f.Data, after.data) {
				t.Errorf("the frame behind it: %x", f.Data)
			}
		})
	}
}

// A block that is wrong ends, inside its memory; the frames that it does not
// give stay in Len.
func TestBlockWrongOffsets(t *testing.T) {
	const first, all = descLen, 1<<32 - 1
	second := first + 152 // 86 bytes and 60, aligned to 8
	for _, test := range []struct {
		name   string
		at     int
		value  uint32
		frames int // that come
	}{
		{"first frame behind the block", descFirst, 4096, 0},
		{"first frame at the very end", descFirst, 4096 - frameHead + 1, 0},
		{"first frame far away", descFirst, all, 0},
		{"captured length", first + headSnapLen, all, 0},
		{"captured length one too much", first + headSnapLen, 4096 - first - 86 + 1, 0},
		{"second captured length", second + headSnapLen, 4096, 1},
		{"offset of the frame", first + headMAC, all, 0},
		{"no next", first + headNext, 0, 1},
		{"next inside this one", first + headNext, frameHead - 1, 1},
		{"next behind the block", first + headNext, 4096, 1},
		{"next far away", first + headNext, all, 1},
		{"more frames than there are", descPackets, all, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := counting(60)
			mem := fakeBlock(4096, fake{data: data}, fake{data: data}, fake{data: data})
			binary.NativeEndian.PutUint32(mem[test.at:], test.value)
			b := ethernetBlock()
			b.take(mem)
			promised, n := b.Len(), 0
			for f, ok := b.Next(); ok; f, ok = b.Next() {
				if !bytes.Equal(f.Data[:60], data) {
					t.Errorf("frame %d: %x", n, f.Data)
				}
				n++
			}
			if _, ok := b.Next(); ok || n != test.frames || b.Len() != promised-n {
				t.Errorf("%d frames and %d left, want %d of %d", n, b.Len(), test.frames, promised)
			}
		})
	}
}

// Whatever a block says, its frames lie in it, and they end.
func FuzzBlock(f *testing.F) {
	f.Add(fakeBlock(512, fake{data: counting(60)}, fake{data: counting(70), status: statusVLANValid | statusTPIDValid}), uint32(1<<32-1))
	f.Fuzz(func(t *testing.T, mem []byte, snap uint32) {
		if len(mem) < descLen {
			return
		}
		mem = append(make([]byte, 0, len(mem)+64), mem...)
		behind := mem[len(mem) : len(mem)+64]
		b := &Block{snap: snap, tags: true}
		b.take(mem)
		n := 0
		for frame, ok := b.Next(); ok; frame, ok = b.Next() {
			if n++; n > len(mem)/frameHead+1 || len(frame.Data) > len(mem) || uint64(len(frame.Data)) > uint64(snap) {
				t.Fatalf("frame %d of %d bytes, from a block of %d", n, len(frame.Data), len(mem))
			}
			for i := range frame.Data {
				frame.Data[i]++
			}
		}
		if !bytes.Equal(behind, make([]byte, 64)) {
			t.Fatal("something was written behind the block")
		}
	})
}

func TestBlockAllocates(t *testing.T) {
	frames := make([]fake, 1000)
	for i := range frames {
		frames[i] = fake{data: counting(60), status: uint32(i%2) * statusVLANValid}
	}
	mem, b, sum := fakeBlock(1<<18, frames...), ethernetBlock(), 0
	if n := testing.AllocsPerRun(10, func() {
		b.take(mem)
		for f, ok := b.Next(); ok; f, ok = b.Next() {
			sum += len(f.Data)
		}
		b.Release()
	}); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
}

// One operation is one block of 256 KiB, full of frames; or of such as have the network
// card's time, which is looked for.
func BenchmarkBlockNext(b *testing.B) {
	kinds := []struct {
		name   string
		status uint32
	}{{"tagged=false", 0}, {"tagged=true", statusVLANValid | statusTPIDValid}, {"stamped", statusCard}}
	for _, size := range []int{60, 300, 1514} {
		for _, kind := range kinds {
			b.Run(fmt.Sprintf("frame=%d/%s", size, kind.name), func(b *testing.B) {
				frames := make([]fake, (DefaultBlockSize-descLen)/(size+96))
				for i := range frames {
					frames[i] = fake{data: counting(size), status: kind.status, tci: 7, tpid: tpid8021Q}
				}
				mem, block := fakeBlock(DefaultBlockSize, frames...), ethernetBlock()
				block.card = kind.status == statusCard
				block.look = block.card
				b.SetBytes(int64(size * len(frames)))
				b.ReportAllocs()
				for b.Loop() {
					block.take(mem)
					benchSum += nextAll(block)
				}
				n := float64(b.N) * float64(len(frames))
				b.ReportMetric(n/b.Elapsed().Seconds(), "frames/s")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/frame")
			})
		}
	}
}

var benchSum int64

// nextAll is what a path does with a block, without its work.
func nextAll(b *Block) (sum int64) {
	for f, ok := b.Next(); ok; f, ok = b.Next() {
		sum += int64(len(f.Data)) + int64(f.WireLen) + f.Time
	}
	return sum
}

// TestBlockSaysWhatIsUnfinished: the virtio_net_hdr before a frame is read
// before a VLAN tag is put over it, and its offset moves by the tag.
func TestBlockSaysWhatIsUnfinished(t *testing.T) {
	order := binary.NativeEndian
	v := func(flags, kind byte, size, start, offset uint16) (h [vnetLen]byte) {
		h[0], h[1] = flags, kind
		order.PutUint16(h[2:], 54) // hdr_len: only a hint, not used
		order.PutUint16(h[4:], size)
		order.PutUint16(h[6:], start)
		order.PutUint16(h[8:], offset)
		return h
	}
	frames := []fake{
		{data: counting(60)},
		{data: counting(200), vnet: v(1, 0, 0, 34, 16)},
		{data: counting(200), vnet: v(1, 5, 1000, 34, 6), status: statusVLANValid, tci: 5},
		{data: counting(200), vnet: v(2, 1, 1448, 0, 0)}, // valid data: put together by the kernel
		{data: counting(60)},
	}
	type facts struct {
		csum                bool
		kind                uint8
		size, start, offset uint16
	}
	want := []facts{{}, {true, 0, 0, 34, 16}, {true, 5, 1000, 38, 6}, {false, 1, 1448, 0, 0}, {}}
	for _, vnet := range []bool{true, false} {
		b := ethernetBlock()
		b.vnet = vnet
		b.take(fakeBlock(1<<16, frames...))
		for i := range frames {
			f, ok := b.Next()
			if !ok {
				t.Fatal("too few frames")
			}
			var got facts
			if f.NeedsCsum || f.GSOType != 0 {
				got = facts{f.NeedsCsum, f.GSOType, f.GSOSize, f.CsumStart, f.CsumOffset}
			}
			w := want[i]
			if !vnet {
				w = facts{}
			}
			if got != w {
				t.Errorf("header %v, frame %d: %+v, want %+v", vnet, i, got, w)
			}
		}
	}
}

// Of a ring that asked for the network card's time, received frames that the
// kernel's clock stamped are counted; frames that the host sent are not.
func TestBlockCountsUnstampedFrames(t *testing.T) {
	const software = 1 << 29 // TP_STATUS_TS_SOFTWARE
	frames := []fake{
		{data: counting(60), status: statusCard},
		{data: counting(60), status: software},
		{data: counting(60)}, // of kernels that do not say software
		{data: counting(60), status: statusCard | statusVLANValid | statusTPIDValid, tpid: 0x8100},
		{data: counting(60), status: software | statusVLANValid | statusTPIDValid, tpid: 0x8100},
		{data: counting(60), status: software, outgoing: true},
		{data: counting(60), status: statusCard, outgoing: true},
	}
	for _, card := range []bool{true, false} {
		b := ethernetBlock()
		b.card, b.look = card, card
		for range 2 { // it goes on counting in the next block
			b.take(fakeBlock(1<<14, frames...))
			for i := range frames {
				f, ok := b.Next()
				if !ok || f.Index != 0 || f.LinkType != 0 {
					t.Fatalf("frame %d: %+v, %v", i, f, ok)
				}
				if tagged := frames[i].status&statusVLANValid != 0; tagged != (len(f.Data) == 64) {
					t.Errorf("frame %d: %d bytes", i, len(f.Data))
				}
			}
			b.Release()
		}
		want := uint64(0)
		if card {
			want = 2 * 3
		}
		if b.unstamped != want {
			t.Errorf("card %v: %d counted, not %d", card, b.unstamped, want)
		}
	}
}
