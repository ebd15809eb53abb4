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
