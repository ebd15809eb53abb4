// SPDX-License-Identifier: Apache-2.0

package collector

// A held datagram came before one that it has to follow.
type held struct {
	counter   uint64
	plaintext []byte // from the worker's pool; nil: the place is free
}

// Chosen: what a worker may hold in all. Beyond it gaps are given up at once.
const holdBytes = 32 << 20

// A holdPool is the memory of a worker for datagrams that are held.
type holdPool struct {
	free  [][]byte
	used  [][]byte // free at the end of the batch: records may alias them
	spare int      // bytes that may still be allocated
}

// get returns a copy of b, or nil when the pool is at its bound.
func (p *holdPool) get(b []byte) []byte {
	if n := len(p.free); n > 0 && cap(p.free[n-1]) >= len(b) {
		m := p.free[n-1]
		p.free = p.free[:n-1]
		return append(m[:0], b...)
	}
	size := max(2048, len(b))
	if p.spare < size {
		return nil
	}
	p.spare -= size
	return append(make([]byte, 0, size), b...)
}

func (p *holdPool) put(b []byte) { p.used = append(p.used, b) }

// recycle ends a batch: nothing refers to what was put back. Where sizes are
// mixed, small pieces go, so that the pool comes to hold large ones.
func (p *holdPool) recycle() {
	for _, b := range p.used {
		if n := len(p.free); n > 0 && cap(p.free[n-1]) != cap(b) {
			if cap(p.free[n-1]) > cap(b) {
				p.spare += cap(b)
				continue
			}
			for _, f := range p.free {
				p.spare += cap(f)
			}
			p.free = p.free[:0]
		}
		p.free = append(p.free, b)
	}
	clear(p.used)
	p.used = p.used[:0]
}

// hold keeps a data datagram that came too early until those before it have
// come, or have been given up. One that came too late is dropped: its place in
// the order has passed.
func (w *worker) hold(s *stream, counter uint64, plaintext []byte) error {
	if counter < s.next {
		return DropLate
	}
	if s.places == nil {
		s.places = make([]held, w.reorder)
	}
	window := uint64(len(s.places))
	for counter-s.next >= window { // too far ahead to wait for all before it
		if s.held == 0 {
			s.skip(counter - s.next)
		} else {
			w.skipToHeld(s)
		}
		if counter == s.next {
			return w.pass(s, plaintext)
		}
	}
	copied := w.pool.get(plaintext)
	if copied == nil {
		w.giveUp(s)
		if counter > s.next {
			s.skip(counter - s.next)
		}
		return w.pass(s, plaintext)
	}
	s.places[counter%window] = held{counter, copied}
	s.held++
	w.wait(s)
	return nil
}

// pass unpacks the datagram that is next, and those that were held behind it.
func (w *worker) pass(s *stream, plaintext []byte) error {
	err := w.unpack(s, plaintext)
	if s.held > 0 {
		w.follow(s)
	}
	return err
}

// wait has expire look after s.
func (w *worker) wait(s *stream) {
	if !s.waiting {
		s.waiting = true
		s.since = w.now
		w.waiting = append(w.waiting, s)
	}
}

// follow delivers the held datagrams that are next now.
func (w *worker) follow(s *stream) {
	for s.held > 0 {
		place := &s.places[s.next%uint64(len(s.places))]
		if place.plaintext == nil || place.counter != s.next {
			s.since = w.now // another gap: it gets its own time
			return
		}
		p := place.plaintext
		place.plaintext = nil
		s.held--
		w.pool.put(p)
		if w.unpack(s, p) != nil {
			w.account.Accepted.Set(w.account.Accepted.Load() - 1)
			w.account.Drops[DropMalformed].Add(1)
		}
	}
}

// skipToHeld gives up the datagrams before the first that is held, and
// delivers that one and those that follow.
func (w *worker) skipToHeld(s *stream) {
	n := uint64(1)
	for window := uint64(len(s.places)); n < window; n++ {
		if p := &s.places[(s.next+n)%window]; p.plaintext != nil && p.counter == s.next+n {
			break
		}
	}
	s.skip(n)
	w.follow(s)
}

// giveUp delivers all that is held, whatever is missing between, and counts as
// lost what the remote has reported as sent.
func (w *worker) giveUp(s *stream) {
	for s.held > 0 {
		w.skipToHeld(s)
	}
	if s.behind() {
		s.skip(s.report.NextData - s.next)
	}
}

// expire gives up gaps that have been waited for long enough.
func (w *worker) expire() {
	if len(w.waiting) == 0 {
		return
	}
	keep := w.waiting[:0]
	for _, s := range w.waiting {
		if w.now.Sub(s.since) > w.reorderWait {
			if s.held > 0 {
				w.skipToHeld(s)
				s.since = w.now
			} else {
				w.giveUp(s)
			}
		}
		if s.held > 0 || s.behind() {
			keep = append(keep, s)
		} else {
			s.waiting = false
		}
	}
	clear(w.waiting[len(keep):])
	w.waiting = keep
}

// skip gives up n datagrams.
func (s *stream) skip(n uint64) {
	s.gap = true
	s.origin.lost += n
	s.account.lostDatagrams.Add(n)
	s.advance(n)
}
