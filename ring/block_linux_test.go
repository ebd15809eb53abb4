// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fakeBlock lays frames of size bytes out as the kernel does
// (net/packet/af_packet.c, prb_fill_curr_block).
func fakeBlock(frames, size int) []byte {
	const mac = 82
	step := (mac + size + 7) &^ 7
	mem := make([]byte, blockHeader+frames*step)
	h := (*unix.TpacketHdrV1)(unsafe.Pointer(&mem[8]))
	h.Block_status, h.Num_pkts, h.Offset_to_first_pkt = unix.TP_STATUS_USER, uint32(frames), blockHeader
	for i := range frames {
		p := (*unix.Tpacket3Hdr)(unsafe.Pointer(&mem[blockHeader+i*step]))
		*p = unix.Tpacket3Hdr{Next_offset: uint32(step), Sec: 1, Nsec: uint32(i), Snaplen: uint32(size), Len: uint32(size + i), Mac: mac, Net: mac + 14}
		binary.BigEndian.PutUint32(mem[blockHeader+i*step+mac:], uint32(i))
	}
	return mem
}

func TestBlock(t *testing.T) {
	mem := fakeBlock(100, 60)
	var b Block
	b.take(mem)
	if b.Len() != 100 {
		t.Fatalf("%d frames", b.Len())
	}
	for i := range 100 {
		f, ok := b.Next()
		if !ok || len(f.Data) != 60 || cap(f.Data) != 60 || f.WireLen != uint32(60+i) || f.Time != 1e9+int64(i) || binary.BigEndian.Uint32(f.Data) != uint32(i) {
			t.Fatalf("frame %d: %+v, %v", i, f, ok)
		}
	}
	if _, ok := b.Next(); ok {
		t.Error("a frame after the last")
	}
	b.Release()
	if *blockStatus(mem) != unix.TP_STATUS_KERNEL {
		t.Error("the block was not handed back")
	}
}

func BenchmarkNext(b *testing.B) {
	mem := fakeBlock(1000, 60)
	var block Block
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := block.Next(); !ok {
			block.take(mem)
		}
	}
}
