// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// Datagrams that were lost are told in a comment on the next frame, once.
func TestPcapngLossMarks(t *testing.T) {
	var out bytes.Buffer
	f, _ := testFile(t, &out)
	s, o, other := f.sink(nil), origin(7, nil), origin(8, nil)
	o.lost = 5 // before its first frame
	for n, lost := range []uint64{0, 0, 3, 0, 0, 70000, 0} {
		o.lost += lost
		s.Write(o, &proto.Record{Data: []byte{byte(n)}, Interface: uint32(n % 2), LinkType: 1})
		s.Write(other, &proto.Record{Data: []byte{100}, LinkType: 1})
	}
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, packets, _ := blocks(t, out.Bytes())
	for _, p := range packets {
		want := map[byte]string{2: "ntap: 3 datagrams of tap 7, shard 0, were lost before this frame", 5: "ntap: 70000 datagrams of tap 7, shard 0, were lost before this frame"}[p.Data[0]]
		if string(p.Comment) != want {
			t.Errorf("frame %d: %q, want %q", p.Data[0], p.Comment, want)
		}
	}
	if len(packets) != 14 {
		t.Errorf("%d packets", len(packets))
	}
}

// A mark whose frame finds no room is told with the next one that does, and what
// was lost after the last frame with the statistics. Both used to be lost.
func TestPcapngLossMarksStay(t *testing.T) {
	g := newReaderGate()
	q, f, _ := behind(t, g, 4<<10)
	s, o, other := f.sink(nil), origin(7, nil), origin(8, nil)
	put := func(o *Origin) {
		s.Write(o, &proto.Record{Data: make([]byte, 500), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	put(o)
	for s.Counts().Full.Load() == 0 {
		put(other)
	}
	o.lost = 3
	put(o)
	o.lost = 5
	put(o)
	g.set(func() { g.open = true })
	allWritten(t, f)
	put(o)
	put(other)
	o.lost = 9
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	q.close(0, nil)
	testnet.RequireTool(t, "capinfos")
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(path, g.buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := testnet.Command(t, "capinfos", path).CombinedOutput(); err != nil || strings.Contains(string(out), "appears") {
		t.Errorf("capinfos: %v\n%s", err, out)
	}
	_, packets, stats := blocks(t, g.buf.Bytes())
	p := packets[len(packets)-2]
	if string(p.Comment) != "ntap: 5 datagrams of tap 7, shard 0, were lost before this frame" || p.Dropped != 2 {
		t.Errorf("the frame with room says %q, and that %d were dropped", p.Comment, p.Dropped)
	}
	if want := "ntap: 4 datagrams of tap 7, shard 0, were lost after its last frame"; stats[0].Comment != want || stats[1].Comment != "" {
		t.Errorf("the end says %q and %q, want %q", stats[0].Comment, stats[1].Comment, want)
	}
}

// What was lost after the last frame is told where frames are merged, too: of every
// worker, also when the output goes while they run on. It used to be told of outputs
// alone that are not merged.
func TestMergedLossAfterLastFrame(t *testing.T) {
	for _, window := range []time.Duration{time.Millisecond, time.Minute} {
		var buf bytes.Buffer
		f, _ := testFile(t, &buf)
		var bare output
		bare.of(f)
		out := merged(bare, &Config{Merge: window})
		account := new(OutputAccount)
		var origins []*Origin
		for worker := range 3 {
			s, err := out.sink(worker, account)
			if err != nil {
				t.Fatal(err)
			}
			for shard := range uint16(2) {
				o := origin(uint32(worker), nil)
				o.Shard = shard
				origins = append(origins, o)
				o.lost = 7 // before its first frame
				s.Write(o, &proto.Record{Data: []byte{1}, LinkType: 1})
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if worker > 0 {
				origins[2*worker].lost += uint64(worker)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			origins[2*worker].lost += 100 // the worker goes on without this output
		}
		if err := out.close(); err != nil {
			t.Fatal(err)
		}
		_, packets, stats := blocks(t, buf.Bytes())
		if len(packets) != len(origins) || len(stats) != 3 {
			t.Fatalf("%d packets, %d interfaces", len(packets), len(stats))
		}
		interfaces, _, _ := blocks(t, buf.Bytes())
		for id, st := range stats {
			want := map[string]string{
				"tap 1": "ntap: 1 datagrams of tap 1, shard 0, were lost after its last frame",
				"tap 2": "ntap: 2 datagrams of tap 2, shard 0, were lost after its last frame",
			}[interfaces[id].Description]
			if st.Comment != want {
				t.Errorf("window %v: %s: the end says %q, want %q", window, interfaces[id].Description, st.Comment, want)
			}
		}
	}
}

// A stream that is joined again within its session, as when its key is good again,
// counts its losses anew, and so do the marks. They used to tell of 2^64 less what
// was told before.
func TestPcapngLossMarksJoinedAgain(t *testing.T) {
	var out bytes.Buffer
	f, _ := testFile(t, &out)
	s, before, again := f.sink(nil), origin(7, nil), origin(7, nil)
	put := func(o *Origin, lost uint64) {
		o.lost += lost
		s.Write(o, &proto.Record{Data: []byte{1}, LinkType: 1})
	}
	put(before, 0)
	put(before, 5)
	put(again, 0)
	put(again, 2)
	again.lost += 3
	if err := errors.Join(s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, packets, stats := blocks(t, out.Bytes())
	for i, n := range []int{0, 5, 0, 2} {
		want := ""
		if n > 0 {
			want = fmt.Sprintf("ntap: %d datagrams of tap 7, shard 0, were lost before this frame", n)
		}
		if string(packets[i].Comment) != want {
			t.Errorf("frame %d says %q, want %q", i, packets[i].Comment, want)
		}
	}
	if want := "ntap: 3 datagrams of tap 7, shard 0, were lost after its last frame"; stats[0].Comment != want {
		t.Errorf("the end says %q, want %q", stats[0].Comment, want)
	}
}

// What was lost after the last frame is told in the last file of a recording though
// the tap has no frame there, and of any number of shards. Such losses used to be
// told nowhere, and those of two shards at the most.
func TestRecordingTellsLossAtEnd(t *testing.T) {
	dir := t.TempDir()
	out, _ := openTestRecording(t, File{Path: filepath.Join(dir, "x.pcapng"), Rotate: Rotation{Size: minRotation}})
	s, err := out.sink(0, new(OutputAccount))
	if err != nil {
		t.Fatal(err)
	}
	put := func(o *Origin, n int) {
		for range n {
			s.Write(o, &proto.Record{Data: make([]byte, 1000), LinkType: 1})
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	gone := origin(8, nil)
	put(gone, 1)
	gone.lost = 4
	var shards []*Origin
	for n := range uint16(9) {
		o := origin(7, nil)
		o.Shard = n
		put(o, 100) // more than a file has
		shards = append(shards, o)
	}
	for _, o := range shards {
		o.lost = 3
	}
	if err := errors.Join(s.Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	files := listDir(t, dir)
	for i, name := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		_, packets, stats := blocks(t, b)
		want := ""
		if i == len(files)-1 {
			want = "ntap: 27 datagrams of tap 7, 9 shards, were lost after their last frames\nntap: 4 datagrams of tap 8, shard 0, were lost after its last frame"
		}
		if len(files) < 2 || len(stats) == 0 || stats[0].Comment != want {
			t.Errorf("%s, %d packets: %+v, want %q", name, len(packets), stats, want)
		}
	}
}
