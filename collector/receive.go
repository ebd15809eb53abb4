// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"net/netip"
	"time"

	"github.com/ntap-project/ntap/batch"
)

// Chosen.
const (
	strangerShare = 3 // a third as much time as for known flows, while those leave none
	mostCredit    = 2 * time.Millisecond
	mostDebt      = 20 * time.Millisecond
	drainMost     = 1 << 17     // refused: as many as a buffer of 64 MiB holds, some 60 ms of work
	homeAgain     = time.Second // a stream heard from its flow has no other for so long
)

// A listener is a worker's end of the port: the socket for known flows, and the
// one for strangers; nil if all share the first.
type listener struct {
	home, strangers *batch.Receiver
	strange         bool          // the last batch was of strangers
	full            bool          // it was of known flows, and there are more
	credit          time.Duration // that strangers may take while there are more

	// Flows of this worker become known: what strangers sent before is taken
	// before what comes to the first socket.
	moving, moved uint64 // flows.made from which on the first and the last of them are known
	kept          int    // messages of the first socket, taken from there, that wait for that
	draining      bool
	patience      int // datagrams that may be refused meanwhile, in this second
}

// receive takes one batch of datagrams: of known flows, or, if there are none
// or those had their turn, of strangers. It waits for them, at most for
// pollWait. They are w.in's.
func (w *worker) receive() (n int, err error) {
	l := &w.listener
	if l.strangers == nil {
		w.in = l.home
		return l.home.Recv()
	}
	for {
		if l.kept > 0 {
			return w.drain()
		}
		looked := !l.full || l.credit > 0 && !l.strange
		atHome, strange := true, false
		if looked {
			if atHome, strange, err = batch.Wait(l.home, l.strangers, pollWait); err != nil {
				return 0, err
			}
		}
		if strange && (!atHome || !l.strange) {
			l.strange, w.in = true, l.strangers
			n, _, err = w.in.TryRecv()
			return n, err
		}
		if !atHome {
			return 0, nil
		}
		l.strange, w.in = false, l.home
		n, l.full, err = w.in.TryRecv()
		if n == 0 || l.moving == 0 || l.moving > w.flows.begun.Load() {
			return n, err
		}
		l.kept = n
	}
}

// drain takes one batch of what strangers sent before what was kept of the first
// socket; and if there is none, that. A flow's datagrams come to the first socket
// behind those that lie at the second, so whatever stands still meanwhile, this
// worker or the one that makes the program, they stay in order.
func (w *worker) drain() (n int, err error) {
	l := &w.listener
	made := w.flows.made.Load() // before the look
	if l.patience > 0 {
		l.strange, l.draining, w.in = true, true, l.strangers
		if n, _, err = w.in.TryRecv(); n > 0 || err != nil {
			return n, err
		}
	}
	if l.moving <= made { // nothing of theirs comes to the second socket any more
		if l.moving = 0; l.moved > made {
			l.moving = made + 1
		}
	}
	n, l.kept = l.kept, 0
	l.strange, l.draining, w.in = false, false, l.home
	return n, nil
}

// spent notes what the last batch took.
func (l *listener) spent(d time.Duration) {
	switch {
	case !l.full:
		l.credit = 0 // there was time for all
	case l.strange:
		l.credit = max(l.credit-d, -mostDebt)
	default:
		l.credit = min(l.credit+d/strangerShare, mostCredit)
	}
}

// refused notes that a datagram of this batch was not taken.
func (l *listener) refused() {
	if l.draining && l.strange {
		l.patience--
	}
}

// met notes that a datagram of s that a stranger sent has verified: from now on
// its flow is the stream's, unless the stream is heard from another.
func (w *worker) met(s *stream) {
	from := w.in.From()
	if w.flows == nil || s.from == from || s.from.IsValid() && w.now.Sub(s.heardHome) < homeAgain {
		return
	}
	if s.from.IsValid() {
		w.flows.remove(s.from)
	}
	s.from, s.heardHome = from, w.now
	w.moved = w.flows.add(from)
	if w.moving == 0 {
		w.moving = w.moved
	}
}

// parted gives up the flow of a stream that ends.
func (w *worker) parted(s *stream) {
	if w.flows != nil && s.from.IsValid() {
		w.flows.remove(s.from)
		s.from = netip.AddrPort{}
	}
}
