// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/proto"
)

// What the kernel of a remote dropped of an interface is in a later file of a
// recording also if no frame of it comes any more; it was in none. Over the files
// each frame is told once, no file is larger than it may be, and an interface of which
// nothing was dropped gets no block.
func TestRecordingTellsDropsOfQuietInterfaces(t *testing.T) {
	for name, pattern := range map[string]string{"of all taps": "x.pcapng", "of each tap": "tap%t.pcapng"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out, _ := openTestRecording(t, File{Path: filepath.Join(dir, pattern), Rotate: Rotation{Size: minRotation}, Buffer: 64 << 20})
			s, err := out.sink(0, new(OutputAccount))
			if err != nil {
				t.Fatal(err)
			}
			o := newCounting(7, time.Now(), false)
			o.say(0, proto.InterfaceCount{1, 0}, proto.InterfaceCount{1, 0})
			o.frame(t, s, 1)
			const turns = 20
			for n := range uint64(turns) {
				if n == turns/2 {
					o.say(0, proto.InterfaceCount{1000 * n, 0}, proto.InterfaceCount{100, 40})
				} else if n == turns-1 {
					o.say(0, proto.InterfaceCount{1000 * turns, 0}, proto.InterfaceCount{150, 60})
				}
				for range 1000 { // half a file
					s.Write(o.Origin, &proto.Record{Data: make([]byte, 200), LinkType: 1})
				}
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(s.Close(), out.close()); err != nil {
				t.Fatal(err)
			}
			var told []string
			files := listDir(t, dir)
			for _, name := range files {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if len(b) > minRotation {
					t.Errorf("%s: %d bytes", name, len(b))
				}
				interfaces, _, stats := blocks(t, b)
				for id, st := range stats {
					if strings.HasSuffix(interfaces[id].Comment, "interface 1") {
						told = append(told, fmt.Sprintf("%s %d %d %d", interfaces[id].Name, st.Received, st.Dropped, st.Accepted))
					}
				}
			}
			if got := strings.Join(told, ", "); len(files) < 5 || got != "eth1 1 0 1, eth1 99 40 0, eth1 50 20 0" {
				t.Errorf("%d files tell %q", len(files), got)
			}
		})
	}
}

// quietTable returns the table of a recording's next file, which has a frame of the
// first interface of o, as number interfaces had in the one before.
func quietTable(o counting, number int) (*pcapngTable, *periods) {
	p := &periods{opened: time.Now().Add(-time.Hour)}
	var t *pcapngTable
	for _, n := range []int{number, 1} {
		t = &pcapngTable{periods: p, ids: make(map[pcapngKey]uint32)}
		for i := range n {
			t.number(nil, pcapngSource{pcapngKey{tap: o.Tap, session: o.Session, number: uint32(i)}, o.Announce(), o.tally}, 0)
		}
		if n == number {
			t.statistics(nil, time.Now().UnixNano(), nil)
			p.leave(t.stats)
		}
	}
	return t, p
}

// counts returns the same count of many interfaces.
func counts(n int, c ...uint64) (all []proto.InterfaceCount) {
	for range n {
		all = append(all, c)
	}
	return all
}

// Quiet interfaces are told as far as a file has room, the others with the next one;
// there are no more than maxQuiet, and that some were given up stands in the statistics.
func TestQuietInterfacesAreBounded(t *testing.T) {
	o := newCounting(7, time.Now(), false)
	const many = maxQuiet + 10
	o.say(0, counts(many, 10, 0)...)
	table, p := quietTable(o, many)
	if len(p.quiet) != maxQuiet || p.left != 10 {
		t.Errorf("%d are looked after, %d are not", len(p.quiet), p.left)
	}
	o.say(0, counts(many, 20, 3)...)
	const room = 10 << 10
	head := table.quiet(nil, 0, room)
	first := len(table.stats) - 1
	if took := len(head) + first*statistics; first < 2 || took > room || took < room-2*statistics {
		t.Errorf("%d interfaces take %d bytes of %d", first, took, room)
	}
	now := time.Now().UnixNano()
	if b := table.statistics(nil, now, nil); !strings.Contains(string(b), "10 interfaces of earlier files") || len(b) > len(table.stats)*statistics {
		t.Errorf("%d bytes of statistics say nothing of those that were given up", len(b))
	}
	p.leave(table.stats)
	next := &pcapngTable{periods: p, ids: make(map[pcapngKey]uint32)}
	if next.quiet(nil, 0, 1<<20); len(next.stats) != maxQuiet-first {
		t.Errorf("%d interfaces in the first file, %d in the next, of %d", first, len(next.stats), maxQuiet)
	}
}

// An interface of a session that ended is looked after until its last drops are told,
// however it ended.
func TestQuietInterfacesEnd(t *testing.T) {
	for name, end := range map[string]func(o counting, a *proto.Announce){
		"it said so": func(o counting, a *proto.Announce) { a.Bye = true; o.tally.learn(a) },
		"it is gone": func(o counting, a *proto.Announce) { o.tally.learn(a); o.tally.gone.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newCounting(7, time.Now(), false)
			o.say(0, counts(3, 10, 0)...)
			table, p := quietTable(o, 3)
			end(o, &proto.Announce{Captured: []proto.InterfaceCount{{20, 0}, {20, 0}, {20, 5}}})
			if p.leave(table.stats); len(p.quiet) != 1 || p.quiet[0].key.number != 2 {
				t.Errorf("%d are looked after", len(p.quiet))
			}
			table.quiet(nil, 0, 1<<20)
			table.statistics(nil, time.Now().UnixNano(), nil)
			if p.leave(table.stats); len(table.stats) != 2 || len(p.quiet) != 0 {
				t.Errorf("%d are in the file, %d are looked after then", len(table.stats), len(p.quiet))
			}
		})
	}
}

// Drops of a ring that interfaces have in common stand with one of them, once in a
// file: with one that has frames there, if there is one.
func TestQuietInterfacesOfOneRing(t *testing.T) {
	o := newCounting(7, time.Now(), false)
	o.say(0, counts(3, 10)...)
	table, p := quietTable(o, 3)
	o.say(9, counts(3, 10)...)
	if table.quiet(nil, 0, 1<<20); len(table.stats) != 1 {
		t.Errorf("%d interfaces tell what the first does", len(table.stats))
	}
	alone := &pcapngTable{periods: p, ids: make(map[pcapngKey]uint32)}
	if alone.quiet(nil, 0, 1<<20); len(alone.stats) != 1 {
		t.Errorf("%d interfaces tell of one ring", len(alone.stats))
	}
}
