// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// testBlock returns a block with a frame of n bytes.
func testBlock(n int) []byte {
	return (&proto.PcapngPacket{OrigLen: uint32(n), Data: make([]byte, n)}).Append(nil)
}

// A gathering notes how much is written at once, and writes nothing before it may.
type gathering struct {
	may func() bool

	mu   sync.Mutex
	ends []int // bytes of each write
}

func (g *gathering) Write(b []byte) (int, error) { return g.writev([][]byte{b}) }

func (g *gathering) writev(b [][]byte) (n int, err error) {
	for i := range b {
		n += len(b[i])
	}
	g.mu.Lock()
	g.ends = append(g.ends, n)
	g.mu.Unlock()
	for !g.may() {
		time.Sleep(time.Millisecond)
	}
	return n, nil
}

func (g *gathering) writes() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.ends)
}

// What waits at the end is written in little pieces, each of which is progress. Four
// buffers in one write took longer than queueStall on a disk that takes 150 KB/s: what
// was left was then taken for lost.
func TestQueueEndsInSmallWrites(t *testing.T) {
	g := new(gathering)
	q := newQueue(g, formatPcapng, queueSize, nil)
	g.may = q.pace.ending.Load
	q.slice, q.many = q.size, queueMany
	frame := testBlock(q.size - 100)
	for range 8 {
		if n, err := q.Write(frame); n != len(frame) {
			t.Fatal(n, err)
		}
	}
	q.start()
	testnet.Eventually(t, "the first write", func() bool { return len(g.writes()) == 1 })
	if !q.drain(0) {
		t.Fatal("not all was written")
	}
	q.close(0, nil)
	all := g.writes()
	if all[0] != queueMany*len(frame) || slices.Max(all[1:]) > queueSlice {
		t.Errorf("writes of %d bytes", all)
	}
}

// Where a disk is slow, little is written at once also before the end: it may come
// while that is under way. Where it is fast again, much is.
func TestQueueWritesLittleWhereSlow(t *testing.T) {
	g := &gathering{may: func() bool { return true }}
	q := newQueue(g, formatPcapng, queueSize, nil)
	q.slice, q.many = q.size, queueMany
	var parts []*part
	for range queueMany {
		parts = append(parts, &part{mem: testBlock(q.size - 100)})
	}
	for _, c := range []struct {
		took time.Duration
		want int
	}{{queueStall, queueSlice}, {time.Millisecond, queueMany * len(parts[0].mem)}} {
		q.pace.took(queueMany*queuePart, c.took)
		if n, err := q.give(parts); n != c.want || err != nil {
			t.Errorf("%d bytes at once after a write that took %v, %v; want %d", n, c.took, err, c.want)
		}
	}
}

// A sluggish disk tells how far a queue says it is when it is written.
type sluggish struct {
	narrowDisk
	q     *queue
	sizes []int
	seen  []uint64
}

func (d *sluggish) WriteAt(b []byte, at int64) (int, error) {
	d.sizes, d.seen = append(d.sizes, len(b)), append(d.seen, d.q.progress())
	return d.narrowDisk.WriteAt(b, at)
}

// Past the page cache, what is in the buffer at the end is written in little pieces as
// well, and each is progress: it was one write of 2 MiB.
func TestDirectEndsInSmallWrites(t *testing.T) {
	arena, err := batch.NewArena(directBuffer + 2*directAlign)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	e := &fileEnd{cfg: new(pcapngConfig)}
	disk := &sluggish{narrowDisk: narrowDisk{t: t, room: 1 << 30}, q: newQueue(e, formatPcapng, queueSize, nil)}
	d := newDirectFile(disk, arena.Bytes())
	d.pace.ending, d.moved = &e.ending, &e.past
	block := testBlock(1 << 20)
	if _, err := d.Write(block); err != nil {
		t.Fatal(err)
	}
	if err := d.sync(); err != nil || slices.Max(disk.sizes) != len(block)-len(block)%directAlign {
		t.Errorf("before the end: writes of %d bytes, %v", disk.sizes, err)
	}
	e.ending.Store(true)
	disk.sizes, disk.seen = nil, nil
	if _, err := d.Write(block); err != nil {
		t.Fatal(err)
	}
	if frames, _, err := d.close(); frames != 0 || err != nil {
		t.Fatal(frames, err)
	}
	if slices.Max(disk.sizes) > queueSlice || len(slices.Compact(disk.seen)) < len(block)/queueSlice || disk.bad {
		t.Errorf("at the end: writes of %d bytes, progress %d", disk.sizes, disk.seen)
	}
}
