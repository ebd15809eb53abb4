// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// tinyDisk mounts a file system of size bytes in a mount namespace of the
// test's own, which ends with the test's goroutine.
func tinyDisk(t *testing.T, options string) string {
	t.Helper()
	missing := func(what string, err error) {
		testnet.Missing(t, fmt.Sprintf("%s: %v; run: sudo make test", what, err))
	}
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		missing("no mount namespace", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		missing("make / private", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		missing("mount tmpfs", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A disk that is full costs frames, which are counted, and never the file;
// with room again it goes on.
func TestPcapngDiskFull(t *testing.T) {
	dir := tinyDisk(t, "size=256k")
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	var warned []string
	f, err := newPcapngFile(pcapngConfig{Path: path, Buffer: 64 << 10, Warn: func(err error) { warned = append(warned, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	s, o := f.sink(nil), origin(1, nil)
	const frames = 300
	write := func() {
		for n := range frames {
			s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
			if n%20 != 19 {
				continue
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			settled(t, f)
		}
	}
	write() // 300 KB onto 192 KiB, and 64 KiB wait
	first := s.Counts().Delivered.Load()
	if first == 0 || first == frames || s.Counts().Full.Load() == 0 {
		t.Fatalf("%d delivered, %d full of %d", first, s.Counts().Full.Load(), frames)
	}
	for range 3 {
		s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	allWritten(t, f)
	for range 3 {
		s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write() // and full once more, to the end
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	c, unsent := s.Counts(), f.cfg.Late.counts.Unsent.Load()
	if c.Delivered.Load() < first+3 || c.Delivered.Load()+c.Full.Load() != 2*frames+6 {
		t.Errorf("%d delivered first, then %d; %d full", first, c.Delivered.Load(), c.Full.Load())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, packets, _ := blocks(t, b); len(packets) != int(c.Delivered.Load()-unsent) || unsent == 0 {
		t.Errorf("%d packets in the file, %d counted, %d unsent", len(packets), c.Delivered.Load(), unsent)
	}
	if len(warned) != 4 || !strings.Contains(warned[0], "no space left") || !strings.Contains(warned[1], "room again") || !strings.Contains(warned[2], "no space left") || !strings.Contains(warned[3], fmt.Sprintf("%d frames that waited were dropped", unsent)) {
		t.Errorf("warned %q", warned)
	}
}

// The same for a recording: with a disk that is full in the middle of a file
// every file is whole, the frames that found no room are counted, and the next
// frame tells how many those were.
func TestRecordingDiskFull(t *testing.T) {
	disk, err := os.Open(tinyDisk(t, "size=2200k"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	dir := fmt.Sprintf("/proc/self/fd/%d", disk.Fd()) // which the writer finds, whose thread is in no namespace of the test's
	out, warned := openTestRecording(t, File{Path: filepath.Join(dir, "x.pcapng"), Rotate: Rotation{Size: minRotation}, Buffer: minQueue})
	account := new(OutputAccount)
	s, err := out.sink(0, account)
	if err != nil {
		t.Fatal(err)
	}
	account.add(s.Counts())
	o, given := origin(1, nil), uint64(0)
	write := func(frames int) {
		for range frames {
			s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
			if given++; given%100 != 0 {
				continue
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			settled(t, s.(*pcapngSink).f)
		}
	}
	write(4500)
	full := account.Sum().Full
	if full < 500 {
		t.Fatalf("%d frames found no room", full)
	}
	for n := range 3 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("x-%05d.pcapng", n+1))); err != nil {
			t.Fatal(err)
		}
	}
	allWritten(t, s.(*pcapngSink).f)
	write(200)
	if err := errors.Join(s.Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	sum, packets, told := account.Sum(), uint64(0), uint64(0)
	for _, name := range listDir(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || filepath.Ext(name) != ".pcapng" {
			t.Fatal(name, err)
		}
		_, p, _ := blocks(t, b)
		packets += uint64(len(p))
		for i := range p {
			told += p[i].Dropped
		}
	}
	if sum.Delivered+sum.Full != given || sum.Full != full || told != full || packets >= sum.Delivered || packets < 1000 {
		t.Errorf("%d frames given, %d in the files that are left, which tell of %d dropped; full before %d; %+v", given, packets, told, full, sum)
	}
	if w := warned.all(); len(w) != 2 || !strings.Contains(w[0], "no space left") || !strings.Contains(w[1], "room again") {
		t.Errorf("warned %q", w)
	}
}

// A countingEnd counts what its file is given.
type countingEnd struct {
	*fileEnd
	writes, gathered int
}

func (e *countingEnd) Write(b []byte) (int, error) {
	e.writes++
	return e.fileEnd.Write(b)
}

func (e *countingEnd) writev(b [][]byte) (int, error) {
	e.gathered++
	return e.fileEnd.writev(b)
}

// What waits for a file is written several buffers at once. Wherever among them a
// disk is full, the file holds whole blocks, and exactly the frames that are not
// counted as left; and so it does where there is room.
func TestGathered(t *testing.T) {
	disk, err := os.Open(tinyDisk(t, "size=1m"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	const frames, bytes, limit = 400, 1000, 512 << 10 // seven buffers of the queue's eight
	whole := 0
	for room := 0; room < limit; room += 36 << 10 {
		path := fmt.Sprintf("/proc/self/fd/%d/file", disk.Fd()) // which the writer finds, whose thread is in no namespace of the test's
		other := fmt.Sprintf("/proc/self/fd/%d/other", disk.Fd())
		if err := os.WriteFile(other, make([]byte, 1<<20-4096-room), 0o600); err != nil {
			t.Fatal(err)
		}
		end := &countingEnd{fileEnd: &fileEnd{cfg: &pcapngConfig{Path: path}, name: path}}
		if err := end.open(time.Now()); err != nil || !end.gathers() {
			t.Fatal(err)
		}
		q := newQueue(end, formatPcapng, limit, nil)
		q.slice, q.many = q.size, queueMany
		head, _ := (&pcapngTable{periods: new(periods), ids: make(map[pcapngKey]uint32)}).number(nil, pcapngSource{}, 0)
		if _, err := q.Write(head); err != nil {
			t.Fatal(err)
		}
		for range frames {
			packet := proto.PcapngPacket{Data: make([]byte, bytes)}
			if _, err := q.Write(packet.Append(nil)); err != nil {
				t.Fatal(err)
			}
		}
		parts := len(q.parts)
		q.start()
		testnet.Eventually(t, "all is written, or the disk is full", func() bool { return q.idle() || q.why() != q.slow })
		left, n := q.close(0, nil)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if wholeBlocks(b) != len(b) || uint64(packetBlocks(b))+left != frames || n != left*bytes {
			t.Errorf("room for %d bytes: %d bytes in the file, %d of them in whole blocks; %d frames, and %d left", room, len(b), wholeBlocks(b), packetBlocks(b), left)
		}
		if left == 0 {
			if whole++; parts <= queueMany || end.writes+end.gathered != (parts+queueMany-1)/queueMany {
				t.Errorf("%d buffers in %d writes", parts, end.writes+end.gathered)
			}
		}
		if err := errors.Join(os.Remove(path), os.Remove(other)); err != nil {
			t.Fatal(err)
		}
	}
	if whole == 0 || whole > 5 {
		t.Errorf("the disk had room for all %d times", whole)
	}
}
