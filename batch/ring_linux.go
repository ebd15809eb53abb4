// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// RingFlights is how many flights a Sender with a Ring hands over in one system
// call. Chosen: docs/TUNING.md, "System calls"; more are no faster.
const RingFlights = 4

// A Ring is an io_uring, as a Sender uses it: *ring.Uring is one. It belongs to
// the thread that made it.
type Ring interface {
	// SendMsg queues a sendmsg(2), and says whether there was room. What m
	// names stays until its completion.
	SendMsg(fd int, m *unix.Msghdr, id uint64) bool
	// SubmitAndWait submits, and waits for n completions or as many as can come.
	SubmitAndWait(n uint32) (int, error)
	// Completion takes the oldest completion; ok is false if there is none.
	Completion() (id uint64, res int32, flags uint32, ok bool)
	// Discard takes back what was queued and not submitted.
	Discard() int
}

// An Inbox receives the messages of a socket, as a Receiver uses it:
// *ring.Inbox is one. It belongs to the thread that made it.
type Inbox interface {
	// Recv waits for messages, for at most d, and returns how many came.
	Recv(d time.Duration) (int, error)
	// Message returns one of them, lent until the next Recv.
	Message(i int) (name, control, payload []byte, flags int32)
}

// UseRing has flights go by an io_uring from now on, or with nil no longer. The
// calling goroutine is locked to the thread that made it, and ends its use
// there. Nothing may be queued.
func (s *Sender) UseRing(r Ring) error {
	want := flightBytes
	if r != nil {
		want *= RingFlights
	}
	arena, err := NewArena(want)
	if err != nil {
		if r == nil {
			s.ring, s.under, s.mem = nil, 0, s.arena.Bytes()[:flightBytes] // it has room enough
			return nil
		}
		return err
	}
	old := s.arena
	s.ring, s.arena, s.mem, s.under = r, arena, arena.Bytes()[:flightBytes], 0
	return old.Close()
}

// queue puts a flight into the ring, and takes the next one's memory.
func (s *Sender) queue(f *flight) {
	if !s.ring.SendMsg(s.fd, &f.hdr, uint64(s.under)) {
		s.submit()
		s.account(s.send(f)) // cannot be: the ring has room for all flights
		return
	}
	if s.under++; s.under == RingFlights {
		s.submit()
		return
	}
	s.mem = s.arena.Bytes()[s.under*flightBytes : (s.under+1)*flightBytes]
}

// submit hands the queued flights over and waits for them. What the kernel
// refused that way goes by system calls, which know what to do about each
// error; flights behind it have overtaken it then, which only happens where an
// earlier datagram was refused, or the path has changed.
func (s *Sender) submit() {
	n, size := s.under, s.size
	s.under, s.mem = 0, s.arena.Bytes()[:flightBytes]
	var refused [RingFlights]bool
	left := n
	for tries := 0; left > 0; tries++ {
		_, err := s.ring.SubmitAndWait(uint32(left))
		for {
			id, res, _, ok := s.ring.Completion()
			if !ok {
				break
			}
			left--
			if f := &s.flights[id]; res == int32(f.bytes) {
				s.sent(f.n, f.bytes)
			} else {
				refused[id] = true
			}
		}
		busy := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY)
		if err != nil && (!busy || tries > sendTries) {
			s.ring.Discard()
			s.fatal = fmt.Errorf("batch: %s %v: %d flights: %w", s.what, s.to, left, err)
			break
		}
	}
	lost := left * s.slots // never heard of again; at most as many
	for i := range n {
		switch f := &s.flights[i]; {
		case !refused[i]:
		case s.size != size:
			lost += f.n // of the size before the path's MTU fell
		default:
			lost += s.send(f)
		}
	}
	s.account(lost)
}
