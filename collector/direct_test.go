// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"syscall"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// A narrowDisk takes what there is room for, as O_DIRECT does: only in whole
// and aligned pieces.
type narrowDisk struct {
	t interface{ Fatalf(string, ...any) }

	room int64
	b    []byte
	bad  bool
}

func (d *narrowDisk) WriteAt(b []byte, at int64) (int, error) {
	if at%directAlign != 0 || len(b)%directAlign != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%directAlign != 0 {
		d.bad = true
	}
	n := max(min(int64(len(b)), d.room-at), 0)
	if end := at + n; end > int64(len(d.b)) {
		d.b = append(d.b, make([]byte, end-int64(len(d.b)))...)
	}
	copy(d.b[at:], b[:n])
	if n < int64(len(b)) {
		return int(n), syscall.ENOSPC
	}
	return int(n), nil
}

func (d *narrowDisk) Truncate(size int64) error {
	if size > int64(len(d.b)) {
		d.bad = true
	}
	d.b = d.b[:size]
	return nil
}

// Whatever is written, and however the room comes and goes, the file holds
// exactly the blocks that were taken, whole and in order, but for those that
// close says did not get there, which are the last. A block of which a part was
// taken is the queue's to count.
func TestDirectFile(t *testing.T) {
	const size = 16 << 10
	arena, err := batch.NewArena(size + 2*directAlign)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	rapid.Check(t, func(t *rapid.T) {
		disk := &narrowDisk{t: t, room: 1 << 40}
		d := newDirectFile(disk, arena.Bytes())
		var taken, wait []byte // what Write took, and what it did not
		number := byte(0)
		for range rapid.IntRange(0, 30).Draw(t, "writes") {
			b := wait
			for range rapid.IntRange(1, 8).Draw(t, "blocks") {
				number++
				p := proto.PcapngPacket{Data: bytes.Repeat([]byte{number}, rapid.SampledFrom([]int{0, 1, 60, 1514, 4000, 9000}).Draw(t, "bytes"))}
				b = p.Append(b)
			}
			n, err := d.Write(b)
			if (n == len(b)) != (err == nil) {
				t.Fatalf("took %d of %d bytes with %v", n, len(b), err)
			}
			taken, wait = append(taken, b[:n]...), bytes.Clone(b[n:])
			switch rapid.IntRange(0, 4).Draw(t, "then") {
			case 0:
				disk.room = int64(len(taken)) + int64(rapid.IntRange(-30000, 10000).Draw(t, "room"))
			case 1:
				disk.room = 1 << 40
			case 2:
				if err := d.sync(); err == nil && len(disk.b) < len(taken) {
					t.Fatalf("%d bytes of %d in the file", len(disk.b), len(taken))
				}
			}
		}
		frames, lost, err := d.close()
		if disk.bad {
			t.Fatalf("a write that is not aligned, or a file cut where it is not")
		}
		whole := wholeBlocks(taken)
		if !bytes.HasPrefix(taken, disk.b) || err == nil && len(disk.b) != whole {
			t.Fatalf("%d bytes in the file, %d taken, %v", len(disk.b), len(taken), err)
		}
		wantFrames, wantBytes := formatPcapng.count(taken[len(disk.b):whole], 0)
		if frames != wantFrames || lost != wantBytes {
			t.Fatalf("close says that %d frames of %d bytes are missing, and %d of %d are: %d bytes in the file, %d taken, %v", frames, lost, wantFrames, wantBytes, len(disk.b), len(taken), err)
		}
	})
}

// The file's last bytes are filled up with a block that says how long it is.
func TestDirectPad(t *testing.T) {
	to := make([]byte, 2*directAlign)
	for n := 0; n < directAlign; n += 4 {
		last := bytes.Repeat([]byte{7}, n)
		length := pad(to, last)
		if n == 0 {
			if length != 0 {
				t.Error("nothing is filled up")
			}
			continue
		}
		if length%directAlign != 0 || !bytes.Equal(to[:n], last) || n+blockLen(to[n:]) != length || blockLen(to[n:]) < proto.PcapngBlockMin {
			t.Fatalf("%d bytes are filled up to %d, with a block of %d", n, length, blockLen(to[n:]))
		}
	}
}
