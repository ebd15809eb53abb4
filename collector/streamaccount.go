// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"sync/atomic"

	"github.com/ntap-project/ntap/perf"
)

// A streamAccount is the part of a stream that others read.
type streamAccount struct {
	unpacked      perf.Counter // frames
	lostDatagrams perf.Counter
	datagrams     perf.Counter // data datagrams passed in order

	settled atomic.Pointer[settlement] // replaced whole: what it says belongs together; nil: no report yet
	final   atomic.Bool                // that report was the last
}

// A settlement is the account of a stream as of the newest report whose datagrams have
// all passed. It is never changed.
type settlement struct {
	captured, kernelDrops, tooLong, shed, unsent, sealed uint64

	covered uint64 // unpacked by then
	before  uint64 // sealed before the stream was joined
}

// asOf returns what holds since the newest report.
func (a *streamAccount) asOf() settlement {
	if s := a.settled.Load(); s != nil {
		return *s
	}
	return settlement{}
}

// add adds the account of one stream; ended says that its session said bye.
func (t *TapTotal) add(a *streamAccount, ended bool) {
	r := a.asOf()
	unpacked := a.unpacked.Load() // after that: not less than it covers
	t.Captured += r.captured
	t.KernelDrops += r.kernelDrops
	t.TooLong += r.tooLong
	t.Shed += r.shed
	t.Unsent += r.unsent
	t.Sealed += r.sealed
	t.Before += r.before
	t.Lost += r.sealed - r.before - r.covered
	t.Unpacked += unpacked
	t.LostDatagrams += a.lostDatagrams.Load()
	t.Datagrams += a.datagrams.Load()
	t.Unreported += unpacked - r.covered
	if ended {
		t.unexplained += unpacked - r.covered
	}
}

// settle makes the account that of the newest report, which was made at this
// place in the order.
func (s *stream) settle() {
	s.pending = false
	a, r := s.account, &s.report
	next := &settlement{
		captured: r.Captured, kernelDrops: r.KernelDrops, tooLong: r.TooLong, shed: r.Shed, unsent: r.Unsent, sealed: r.Sealed,
		covered: a.unpacked.Load(), before: a.asOf().before,
	}
	if s.late {
		s.late = false
		next.before = r.Sealed - min(r.Sealed, next.covered)
	}
	a.settled.Store(next)
	if r.Final {
		a.final.Store(true)
	}
}
