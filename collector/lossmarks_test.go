// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
