// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// ZeroCopyFlights is how many flights of a Sender the kernel may hold at a time
// to send them without a copy: 1 MiB, which 10 Gbit/s carry in 0.8 ms.
// ZeroCopyMemory are the bytes that are pinned for them.
const (
	ZeroCopyFlights = 16
	ZeroCopyMemory  = ZeroCopyFlights * flightBytes
)

// Chosen.
const (
	mostCopied = 8                      // flights in a row that the kernel copied all the same: then they go plainly,
	copiedRest = 1 << 14                // that many, before one more is tried: up to 1 GiB
	drainFor   = 100 * time.Millisecond // the longest that the end waits for memory that is lent
)

// A ZeroCopyRing is an io_uring, as a Sender uses it to send without a copy:
// *ring.Uring is one, with room for ZeroCopyFlights requests. It belongs to the
// thread that made it.
type ZeroCopyRing interface {
	// RegisterBuffers pins memory.
	RegisterBuffers(buffers [][]byte) error
	// SendZC queues a send of b, which lies in that memory, and says whether
	// there was room. It does not wait for the socket. b is lent to the kernel
	// until a completion says that it is free.
	SendZC(fd int, b []byte, id uint64) bool
	// SubmitAndGetEvents submits, and has completions come that are due.
	SubmitAndGetEvents() (int, error)
	// Completion takes the oldest completion; ok is false if there is none.
	Completion() (id uint64, res int32, flags uint32, ok bool)
	// Discard takes back what was queued and not submitted.
	Discard() int
}

// A zeroCopy is the memory of flights that the kernel reads where it lies: each
// is lent with its send, and comes back with a notification, once the card has
// read it. There is one flight more, which is always copied: it is filled when
// all others are lent, so that nobody waits.
type zeroCopy struct {
	ring   ZeroCopyRing           // nil: there is none
	free   [ZeroCopyFlights]uint8 // flights that are the sender's; the one that came back last, whose memory is in the cache, is taken first
	n      int                    // of them
	at     int                    // the flight being filled; ZeroCopyFlights: the one that is copied
	sent   bool                   // the kernel said what became of at,
	result int32                  // which is this: bytes, or -errno
	failed [ZeroCopyFlights]bool  // it was not sent: its notification says nothing of copies
	copied int                    // flights in a row that the kernel copied all the same
	rest   int                    // flights that are still to go plainly
}

// UseZeroCopy has flights go without a copy from now on, or with nil no longer:
// then it waits, for a moment, for those that are lent. The calling goroutine is
// locked to the thread that made the ring, and ends its use there. Nothing may
// be queued.
func (s *Sender) UseZeroCopy(r ZeroCopyRing) error {
	z := &s.zero
	if r == nil {
		z.drain(&s.stats)
		z.ring, z.at = nil, ZeroCopyFlights
		s.mem = s.arena.Bytes()[ZeroCopyMemory:] // those still lent are left alone; the kernel has them pinned
		return nil
	}
	arena, err := NewArena(ZeroCopyMemory + flightBytes)
	if err != nil {
		return err
	}
	if err := r.RegisterBuffers([][]byte{arena.Bytes()[:ZeroCopyMemory]}); err != nil {
		return errors.Join(err, arena.Close())
	}
	old := s.arena
	s.arena, s.zero = arena, zeroCopy{ring: r, n: ZeroCopyFlights}
	for i := range z.free {
		z.free[i] = uint8(i)
	}
	s.take()
	return old.Close()
}

// Copying says that the kernel copies flights that are sent without a copy, so
// that few still are.
func (s *Sender) Copying() bool { return s.zero.copied >= mostCopied }

// lend sends the flight being filled, takes the memory of another one, and
// returns how many datagrams did not go. What the kernel refuses goes plainly,
// which knows what to do about each error: both only read the memory.
func (s *Sender) lend(f *flight) (left int) {
	z := &s.zero
	switch res := z.submit(s.fd, f.mem[:f.bytes], &s.stats); res {
	case int32(f.bytes):
		s.stats.Lent.Add(1)
		s.sent(f.n, f.bytes)
	case -int32(unix.ECONNREFUSED):
		s.told() // of an earlier one
		left = s.send(f)
	default:
		left = s.send(f)
	}
	s.take()
	return left
}

// submit has b, of the flight being filled, sent without a copy, and returns
// what came of it: bytes, or -errno.
func (z *zeroCopy) submit(fd int, b []byte, stats *SenderStats) int32 {
	if z.at == ZeroCopyFlights {
		return -int32(unix.ENOBUFS)
	}
	z.sent = false
	if z.ring.SendZC(fd, b, uint64(z.at)) {
		for range sendTries {
			_, err := z.ring.SubmitAndGetEvents()
			z.reap(stats)
			if z.sent {
				return z.result
			}
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EBUSY) {
				break
			}
		}
		if z.ring.Discard() == 0 {
			return -int32(unix.EBUSY) // never heard of: it comes back, or not
		}
	}
	z.give(uint64(z.at))
	return -int32(unix.EBUSY)
}

// reap takes the completions that are there: what became of sends, and memory
// that is free again.
func (z *zeroCopy) reap(stats *SenderStats) {
	for {
		id, res, flags, ok := z.ring.Completion()
		if !ok {
			return
		}
		if flags&cqeNotif == 0 {
			z.failed[id] = res < 0
			if id == uint64(z.at) {
				z.sent, z.result = true, res
			}
			if flags&cqeMore == 0 {
				z.give(id) // no notification comes
			}
			continue
		}
		z.give(id)
		switch {
		case z.failed[id]:
		case res&zcCopied == 0:
			z.copied = 0
		default:
			stats.Copied.Add(1)
			if z.copied++; z.copied >= mostCopied {
				z.rest = copiedRest
			}
		}
	}
}

// give takes a flight's memory back.
func (z *zeroCopy) give(id uint64) {
	z.free[z.n] = uint8(id)
	z.n++
}

// take takes the memory of the next flight to be filled.
func (s *Sender) take() {
	z := &s.zero
	z.at = ZeroCopyFlights
	if z.n == 0 {
		_, _ = z.ring.SubmitAndGetEvents() // nothing is submitted: it tells what came back
		z.reap(&s.stats)
	}
	switch {
	case z.rest > 0:
		z.rest--
	case z.n == 0:
		s.stats.NoneFree.Add(1)
	default:
		z.n--
		z.at = int(z.free[z.n])
	}
	s.mem = s.arena.Bytes()[z.at*flightBytes : (z.at+1)*flightBytes]
}

// drain waits for the memory that is lent.
func (z *zeroCopy) drain(stats *SenderStats) {
	want := ZeroCopyFlights
	if z.at < ZeroCopyFlights {
		want-- // that is the sender's
	}
	for end := time.Now().Add(drainFor); ; time.Sleep(time.Millisecond) {
		_, _ = z.ring.SubmitAndGetEvents()
		if z.reap(stats); z.n >= want || time.Now().After(end) {
			return
		}
	}
}
