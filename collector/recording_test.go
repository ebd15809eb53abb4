// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// warnings are what an output warned of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) add(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, err.Error())
}

func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.text)
}

// openTestRecording opens a recording and returns it with what it warns of.
func openTestRecording(t *testing.T, c File) (output, *warnings) {
	t.Helper()
	w := new(warnings)
	out, err := openFile(context.Background(), c, false, nil, w.add)
	if err != nil {
		t.Fatal(err)
	}
	return out, w
}

func listDir(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Several workers write a recording that goes on in new files all the time: no
// file is larger than allowed, each is whole by itself, with the interfaces and
// the statistics of its own frames, and no frame is lost, repeated or, within
// its worker, out of order.
func TestRecordingRotates(t *testing.T) { testRecordingRotates(t, false) }

func testRecordingRotates(t *testing.T, direct bool) {
	dir := t.TempDir()
	out, warned := openTestRecording(t, File{Path: filepath.Join(dir, "x.pcapng"), Rotate: Rotation{Size: minRotation}, Direct: direct})
	const workers, frames = 3, 6000
	account := new(OutputAccount)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			s, err := out.sink(w, account)
			if err != nil {
				t.Error(err)
				return
			}
			account.add(s.Counts())
			o := origin(uint32(w), nil)
			for n := range frames {
				data := make([]byte, 4+n%1500)
				binary.BigEndian.PutUint32(data, uint32(n))
				s.Write(o, &proto.Record{Data: data, Interface: uint32(n / 1000 % 3), Time: int64(n), LinkType: 1})
				if n%50 == 0 && s.Flush() != nil {
					t.Error("Flush failed")
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	testnet.Await(t, "the workers' end", wg.Wait)
	if err := out.close(); err != nil || len(warned.all()) > 0 {
		t.Fatal(err, warned.all())
	}
	names := listDir(t, dir)
	next := make([]uint32, workers)
	for i, name := range names {
		if want := fmt.Sprintf("x-%05d.pcapng", i+1); name != want {
			t.Errorf("file %s, want %s", name, want)
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > minRotation || len(b) < minRotation/2 && i < len(names)-1 {
			t.Errorf("%s has %d bytes, of at most %d", name, len(b), minRotation)
		}
		section, _ := proto.ParsePcapngSection(b[:blockLen(b)])
		if want := fmt.Sprintf("file %d of the recording", i+1); !strings.Contains(section.Comment, want) || i > 0 && !strings.Contains(section.Comment, names[i-1]) {
			t.Errorf("%s says %q", name, section.Comment)
		}
		ifs, packets, stats := blocks(t, b)
		count := make([]uint64, len(ifs))
		for _, p := range packets {
			var w, number int
			fmt.Sscanf(ifs[p.Interface].Description, "tap %d", &w)
			fmt.Sscanf(ifs[p.Interface].Name, "if%d", &number)
			if n := binary.BigEndian.Uint32(p.Data); n != next[w] || number != int(n/1000%3) {
				t.Fatalf("%s: frame %d of worker %d, interface %d; want %d", name, n, w, number, next[w])
			}
			next[w]++
			count[p.Interface]++
		}
		for i, s := range stats {
			if s.Accepted != count[i] || s.Delivered != count[i] || len(stats) != len(ifs) {
				t.Errorf("%s: interface %d: %+v, and %d frames", name, i, s, count[i])
			}
		}
	}
	if s := account.Sum(); len(names) < 10 || s.Delivered != workers*frames || !slices.Equal(next, []uint32{frames, frames, frames}) {
		t.Errorf("%d files, %d delivered, up to %d", len(names), s.Delivered, next)
	}
}

// A bounded number of files is kept, also over restarts, and numbers go on.
func TestRecordingKeeps(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "x-00001.pcap")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out, _ := openTestRecording(t, File{Path: filepath.Join(dir, "x-%n.pcapng"), Rotate: Rotation{Size: minRotation, Keep: 3}})
		s, err := out.sink(0, new(OutputAccount))
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for n := range 4000 {
			s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 1000), LinkType: 1})
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if n%50 == 0 {
				allWritten(t, s.(*pcapngSink).f)
			}
			most = max(most, len(listDir(t, dir)))
		}
		if err := errors.Join(s.Close(), out.close()); err != nil {
			t.Fatal(err)
		}
		if most != 4 { // and the other file
			t.Errorf("up to %d files", most)
		}
	}
	if got := strings.Join(listDir(t, dir), " "); got != "x-00001.pcap x-00014.pcapng x-00015.pcapng x-00016.pcapng" {
		t.Errorf("%s", got)
	}
}

// Files end by the clock, also where no frame comes, and there are no empty
// ones between.
func TestRecordingByTime(t *testing.T) {
	dir := t.TempDir()
	every := time.Hour
	for time.Until(time.Now().Truncate(every).Add(every)) < 5*time.Minute {
		every += 7 * time.Minute // no file ends by itself while this runs
	}
	set, _ := openTestRecording(t, File{Path: filepath.Join(dir, "%s.pcapng"), Rotate: Rotation{Every: every}})
	s, err := set.sink(0, new(OutputAccount))
	if err != nil {
		t.Fatal(err)
	}
	put := func() {
		s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 100), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	put()
	if names := listDir(t, dir); len(names) != 1 || !strings.HasSuffix(names[0], ".pcapng.part") {
		t.Fatalf("%q", names)
	}
	set.tick(time.Now())
	if names := listDir(t, dir); !strings.HasSuffix(names[0], ".part") {
		t.Errorf("ended before its time: %q", names)
	}
	set.tick(time.Now().Truncate(every).Add(every))
	set.tick(time.Now().Truncate(every).Add(3 * every))
	allWritten(t, s.(*pcapngSink).f)
	if names := listDir(t, dir); len(names) != 1 || !strings.HasSuffix(names[0], ".pcapng") {
		t.Errorf("after the hour: %q", names)
	}
	put() // a new one, perhaps of the same second: that replaces nothing
	if err := errors.Join(s.Close(), set.close()); err != nil {
		t.Fatal(err)
	}
	if names := listDir(t, dir); len(names) != 2 || strings.HasSuffix(names[0]+names[1], ".part") {
		t.Errorf("at the end: %q", names)
	}
}

// Each tap has a recording of its own, in folders that are made.
func TestRecordingByTap(t *testing.T) {
	dir := t.TempDir()
	out, _ := openTestRecording(t, File{Path: filepath.Join(dir, "tap-%t", "x.pcapng")})
	account := new(OutputAccount)
	s, err := out.sink(0, account)
	if err != nil {
		t.Fatal(err)
	}
	account.add(s.Counts())
	origins := []*Origin{origin(0, nil), origin(3, nil), origin(70000, nil)}
	for n := range 3000 {
		s.Write(origins[n%7%3], &proto.Record{Data: binary.BigEndian.AppendUint32(nil, uint32(n)), Time: int64(n), LinkType: 1})
		if n%100 == 0 && s.Flush() != nil {
			t.Fatal("Flush failed")
		}
	}
	if err := errors.Join(s.Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	all := 0
	for _, o := range origins {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("tap-%d", o.Tap), "x.pcapng"))
		if err != nil {
			t.Fatal(err)
		}
		ifs, packets, _ := blocks(t, b)
		if len(ifs) != 1 || ifs[0].Description != fmt.Sprintf("tap %d", o.Tap) || !strings.Contains(ifs[0].Comment, fmt.Sprintf("tap %d, session", o.Tap)) {
			t.Errorf("tap %d: %+v", o.Tap, ifs)
		}
		for _, p := range packets {
			if n := binary.BigEndian.Uint32(p.Data); origins[n%7%3] != o {
				t.Fatalf("frame %d went to tap %d", n, o.Tap)
			}
		}
		all += len(packets)
	}
	if sum := account.Sum(); all != 3000 || sum.Delivered != 3000 {
		t.Errorf("%d frames in the files, %d delivered", all, sum.Delivered)
	}
}

// More taps than recordings: theirs are refused, which is counted and told.
func TestRecordingTooManyTaps(t *testing.T) {
	dir := t.TempDir()
	out, warned := openTestRecording(t, File{Path: filepath.Join(dir, "%t.pcapng")})
	account := new(OutputAccount)
	s, err := out.sink(0, account)
	if err != nil {
		t.Fatal(err)
	}
	account.add(s.Counts())
	for n := range maxRecordings + 50 {
		s.Write(origin(uint32(n), nil), &proto.Record{Data: make([]byte, 60), LinkType: 1})
	}
	if err := errors.Join(s.Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	if sum := account.Sum(); sum.Delivered != maxRecordings || sum.Refused != 50 || len(listDir(t, dir)) != maxRecordings {
		t.Errorf("%+v, %d files", sum, len(listDir(t, dir)))
	}
	if w := warned.all(); len(w) != 1 || !strings.Contains(w[0], "those of other taps, such as tap 1024, are refused") {
		t.Errorf("warned %q", w)
	}
}

// A collector that is killed leaves what it had flushed. The next run takes
// away what is behind the last whole block, and gives the file its name; what
// another collector writes it leaves alone.
func TestRecordingKilled(t *testing.T) {
	if dir := os.Getenv("NTAP_TEST_RECORD"); dir != "" {
		out, err := openFile(context.Background(), File{Path: filepath.Join(dir, "x.pcapng"), Rotate: Rotation{Size: 1 << 30}}, false, nil, func(error) {})
		if err != nil {
			os.Exit(3)
		}
		s, _ := out.sink(0, new(OutputAccount))
		for n := 0; ; n++ {
			s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 1000+n%1000), Time: int64(n), LinkType: 1})
			if n%10 == 0 {
				s.Flush()
				fmt.Println(n)
			}
		}
	}
	dir := t.TempDir()
	cmd := testnet.Command(t, os.Args[0], "-test.run=^TestRecordingKilled$")
	cmd.Env = append(os.Environ(), "NTAP_TEST_RECORD="+dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	flushed := 0
	for flushed < 3000 {
		if _, err := fmt.Fscanln(stdout, &flushed); err != nil {
			t.Fatal(err)
		}
	}
	part := filepath.Join(dir, "x-00001.pcapng.part")
	testnet.Eventually(t, "what was flushed is in the file", func() bool {
		b, err := os.ReadFile(part)
		if err != nil {
			return false
		}
		_, packets, _ := blocks(t, b[:wholeBlocks(b)])
		return len(packets) > flushed
	})
	alive, whole := mendPart(part)
	cmd.Process.Kill()
	cmd.Wait()
	if alive || whole != nil {
		t.Errorf("a file that is written was taken for left over: %v, %v", alive, whole)
	}
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	if _, packets, _ := blocks(t, b[:wholeBlocks(b)]); len(packets) < flushed {
		t.Errorf("%d packets in the file, %d were flushed", len(packets), flushed)
	}
	if err := os.WriteFile(part, b[:len(b)-7], 0o600); err != nil { // as a crash of the machine leaves it
		t.Fatal(err)
	}
	out, warned := openTestRecording(t, File{Path: filepath.Join(dir, "x.pcapng"), Rotate: Rotation{Size: 1 << 30}})
	testnet.Eventually(t, "the file is mended", func() bool { return len(warned.all()) > 0 })
	if err := out.close(); err != nil {
		t.Fatal(err)
	}
	if got, w := listDir(t, dir), warned.all(); !slices.Equal(got, []string{"x-00001.pcapng", "x-00002.pcapng"}) || len(w) != 1 || !strings.Contains(w[0], "it is whole now") {
		t.Errorf("%q; warned %q", got, w)
	}
	b, err = os.ReadFile(filepath.Join(dir, "x-00001.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	if _, packets, _ := blocks(t, b); len(packets) < flushed-1 {
		t.Errorf("%d packets in the whole file", len(packets))
	}
}

// What is not ours keeps its name, and nothing of it is lost.
func TestRecordingMendsOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x-00001.pcapng.part")
	if err := os.WriteFile(name, []byte("someone else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, warned := openTestRecording(t, File{Path: filepath.Join(dir, "x-%n.pcapng")})
	testnet.Eventually(t, "the file is looked at", func() bool { return len(warned.all()) > 0 })
	if err := out.close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if w := warned.all(); err != nil || string(b) != "someone else's" || len(w) != 1 || !strings.Contains(w[0], "no recording of ntap") {
		t.Errorf("%q, %v, warned %q", b, err, w)
	}
}

// A folder that goes away costs the frames that find no room until it is back,
// and no more. It used to cost all of them.
func TestRecordingFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out, warned := openTestRecording(t, File{Path: filepath.Join(dir, "x.pcapng"), Rotate: Rotation{Every: time.Hour}, Buffer: minQueue})
	account := new(OutputAccount)
	s, err := out.sink(0, account)
	if err != nil {
		t.Fatal(err)
	}
	account.add(s.Counts())
	put := func() {
		s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 100), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	put()
	set := s.(*pcapngSink).f
	set.tick(time.Now().Truncate(time.Hour).Add(time.Hour))
	allWritten(t, set)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	put()
	put()
	testnet.Eventually(t, "it is told", func() bool { return len(warned.all()) > 0 })
	given := uint64(3)
	for ; s.Counts().Full.Load() == 0; given++ {
		if s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 100_000), LinkType: 1}); given > 100 {
			t.Fatal("10 MB wait in a queue of 1 MiB")
		}
	}
	if w := warned.all(); len(w) != 2 || !strings.Contains(w[0], "no such file or directory: its frames wait until it works") || !strings.Contains(w[1], "no such file or directory: frames are dropped until") {
		t.Errorf("warned %q", w)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	allWritten(t, set)
	put()
	if err := errors.Join(s.Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	names, c, told := listDir(t, dir), s.Counts(), uint64(0)
	if c.Delivered.Load()+c.Full.Load() != given+1 || len(names) != 1 {
		t.Errorf("%d given, %d delivered, files %q", given+1, c.Delivered.Load(), names)
	}
	b, _ := os.ReadFile(filepath.Join(dir, names[0]))
	_, packets, _ := blocks(t, b)
	for i := range packets {
		told += packets[i].Dropped
	}
	if uint64(len(packets))+1 != c.Delivered.Load() || told != c.Full.Load() {
		t.Errorf("%d packets, which tell of %d that were dropped; %d delivered, %d without room", len(packets), told, c.Delivered.Load(), c.Full.Load())
	}
}

// Wrong rotations are refused, each with its cause.
func TestRecordingErrors(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		file File
		want string
	}{
		{File{Path: "x", Rotate: Rotation{Size: 1000}}, "too small"},
		{File{Path: "x", Rotate: Rotation{Every: time.Millisecond}}, "too short"},
		{File{Path: "x", Rotate: Rotation{Keep: -1, Size: 1 << 20}}, "-1 files"},
		{File{Path: "x", Rotate: Rotation{Keep: 3}}, "neither a size nor a time"},
		{File{Path: "-", Rotate: Rotation{Every: time.Hour}}, "one stream"},
		{File{Path: "%q"}, "after % comes"},
		{File{Path: filepath.Join(dir, "none", "x-%n")}, "no such file"},
		{File{Path: "x", Select: Selection{SnapLen: -1}}, "snap length"},
		{File{Path: "x", Select: Selection{Filter: "x y"}}, `not "x"`},
	} {
		_, err := c.file.spec()
		if err == nil {
			_, err = openFile(t.Context(), c.file, false, nil, nil)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.file, err, c.want)
		}
	}
}
