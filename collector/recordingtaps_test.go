// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/ntap-project/ntap/proto"
)

// A worker that has met more taps than it remembers as refused still has one end of
// each recording. It used to make another one for each run of a tap's frames, whose
// accounts and memory stayed.
func TestRecordingEndsAreBounded(t *testing.T) {
	out, _ := openTestRecording(t, File{Path: filepath.Join(t.TempDir(), "%t.pcapng")})
	account := new(OutputAccount)
	var ends [2]sink
	for i := range ends {
		var err error
		if ends[i], err = out.sink(i, account); err != nil {
			t.Fatal(err)
		}
		account.add(ends[i].Counts())
	}
	given := uint64(0)
	write := func(s sink, tap int) {
		s.Write(origin(uint32(tap), nil), &proto.Record{Data: make([]byte, 60), LinkType: 1})
		given++
	}
	for tap := range maxRecordings {
		write(ends[0], tap)
	}
	for tap := range 2 * maxRecordings {
		write(ends[1], maxRecordings+tap)
	}
	before := len(account.workers)
	for range 10 {
		write(ends[1], 1)
		write(ends[1], 2)
	}
	if n := len(account.workers) - before; n != 2 {
		t.Errorf("%d more ends for the frames of two taps", n)
	}
	if err := errors.Join(ends[0].Close(), ends[1].Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	if sum := account.Sum(); sum.Delivered != maxRecordings+20 || sum.Refused != 2*maxRecordings || given != sum.Delivered+sum.Refused {
		t.Errorf("%d frames given, %+v", given, sum)
	}
}

// Frames of several taps in turn, as they come where frames are merged, are not written
// one by one: each recording gets them in one piece. It used to be flushed each time
// that the tap was another one, which took three times as long.
func TestRecordingTapsInTurn(t *testing.T) {
	out, _ := openTestRecording(t, File{Path: filepath.Join(t.TempDir(), "%t.pcapng")})
	end, err := out.sink(0, new(OutputAccount))
	if err != nil {
		t.Fatal(err)
	}
	s, all := end.(*recordingSink), []*Origin{origin(1, nil), origin(2, nil), origin(1+pcapngPlaces, nil)}
	r := &proto.Record{Data: make([]byte, 60), LinkType: 1}
	const frames = 300
	for n := range frames {
		s.Write(all[n%len(all)], r)
	}
	for _, o := range all {
		if p := s.taps[o.Tap]; p.frames != frames/uint64(len(all)) || p.counts.Delivered.Load() != 0 {
			t.Errorf("tap %d: %d frames wait to be written, %d were", o.Tap, p.frames, p.counts.Delivered.Load())
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	for n := range 10 * recordingOpen {
		s.Write(origin(uint32(n), nil), r)
	}
	if held := len(s.open) + len(s.free); held != recordingOpen {
		t.Errorf("%d buffers for %d taps", held, 10*recordingOpen)
	}
	if err := errors.Join(s.Close(), out.close()); err != nil {
		t.Fatal(err)
	}
	sum := s.counts.Refused.Load()
	for _, p := range s.taps {
		sum += p.counts.Delivered.Load()
	}
	if sum != frames+10*recordingOpen {
		t.Errorf("%d frames of %d are accounted for", sum, frames+10*recordingOpen)
	}
}
