// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fakeRing sends at once, by write(2), and tells what a kernel would as the
// test wants it. The real one has its tests in package remote.
type fakeRing struct {
	copies bool       // it copies all the same
	keeps  bool       // memory does not come back
	enter  unix.Errno // of every SubmitAndGetEvents
	result unix.Errno // of every send
	mute   bool       // it never says what became of a send
	queued func() fakeCQE
	cqes   []fakeCQE
}

type fakeCQE struct {
	id    uint64
	res   int32
	flags uint32
}

func (r *fakeRing) RegisterBuffers([][]byte) error { return nil }

func (r *fakeRing) SendZC(fd int, b []byte, id uint64) bool {
	r.queued = func() fakeCQE {
		if r.result != 0 {
			return fakeCQE{id, -int32(r.result), cqeMore}
		}
		n, _ := unix.Write(fd, b)
		return fakeCQE{id, int32(n), cqeMore}
	}
	return true
}

func (r *fakeRing) SubmitAndGetEvents() (int, error) {
	if r.enter != 0 {
		return 0, r.enter
	}
	if r.queued == nil {
		return 0, nil
	}
	c := r.queued()
	if r.queued = nil; r.mute {
		return 1, nil
	}
	if r.cqes = append(r.cqes, c); !r.keeps {
		n := fakeCQE{c.id, 0, cqeNotif}
		if r.copies || c.res < 0 { // a failed send used no memory without a copy, so that is what a kernel says
			n.res = zcCopied
		}
		r.cqes = append(r.cqes, n)
	}
	return 1, nil
}

func (r *fakeRing) Completion() (id uint64, res int32, flags uint32, ok bool) {
	if len(r.cqes) == 0 {
		return 0, 0, 0, false
	}
	c := r.cqes[0]
	r.cqes = r.cqes[1:]
	return c.id, c.res, c.flags, true
}

func (r *fakeRing) Discard() int {
	if r.queued == nil {
		return 0
	}
	r.queued = nil
	return 1
}

// zeroCopySender returns a Sender that uses r, towards a socket that is drained
// by what it returns besides, and a function that sends n flights of a datagram.
func zeroCopySender(t *testing.T, r *fakeRing) (s *Sender, send func(n int)) {
	t.Helper()
	in := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	s = sender(t, SenderConfig{To: in.Addr().String(), MTU: 1500})
	if err := s.UseZeroCopy(r); err != nil {
		t.Fatal(err)
	}
	next := 0
	return s, func(n int) {
		t.Helper()
		want := next
		for ; n > 0; n -= 100 {
			for range min(n, 100) {
				fill(s, next, 100) // shorter than a full one: it ends its flight
				next++
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			for want < next {
				k, err := in.Recv()
				if k == 0 || err != nil {
					t.Fatalf("%d datagrams, %v, after %d of %d", k, err, want, next)
				}
				for d, ok := in.Next(); ok; d, ok = in.Next() {
					if len(d) != 100 || d[99] != byte(want+99) {
						t.Fatalf("datagram %d: %d bytes, %x", want, len(d), d[:4])
					}
					want++
				}
			}
		}
	}
}

// A kernel that copies all the same is soon asked no more, but now and then;
// once it no longer copies, all goes without a copy again.
func TestZeroCopyRests(t *testing.T) {
	r := &fakeRing{copies: true}
	s, send := zeroCopySender(t, r)
	st := s.Stats()
	send(mostCopied - 1)
	if s.Copying() {
		t.Error("copying, after one flight less than says so")
	}
	send(1 + copiedRest)
	if st.Lent.Load() != mostCopied || st.Copied.Load() != mostCopied || !s.Copying() {
		t.Errorf("%d flights lent, %d copied, %v", st.Lent.Load(), st.Copied.Load(), s.Copying())
	}
	send(1) // is tried
	if st.Lent.Load() != mostCopied+1 || !s.Copying() {
		t.Errorf("after the rest %d flights lent, %v", st.Lent.Load(), s.Copying())
	}
	r.copies = false
	send(copiedRest)
	send(100)
	if st.Lent.Load() != mostCopied+1+100 || st.Copied.Load() != mostCopied+1 || s.Copying() || st.NoneFree.Load() != 0 || st.Unsent.Load() != 0 {
		t.Errorf("then %d flights lent, %d copied, %v, %d times none free", st.Lent.Load(), st.Copied.Load(), s.Copying(), st.NoneFree.Load())
	}
}

// What goes wrong with the ring, or is refused there, goes plainly: nothing is
// lost, no memory gets lost, and failures do not count as copies.
func TestZeroCopyInTrouble(t *testing.T) {
	for _, e := range []unix.Errno{unix.ENOBUFS, unix.EAGAIN, unix.EPERM, unix.ECONNREFUSED} {
		r := &fakeRing{result: e}
		s, send := zeroCopySender(t, r)
		send(100)
		if st := s.Stats(); st.Lent.Load()+st.Copied.Load()+st.NoneFree.Load()+st.Unsent.Load() != 0 || st.Datagrams.Load() != 100 || e == unix.ECONNREFUSED && st.Refused.Load() != 100 {
			t.Errorf("%v: %d flights lent, %d copied, %d times none free, %d unsent", e, st.Lent.Load(), st.Copied.Load(), st.NoneFree.Load(), st.Unsent.Load())
		}
		r.result = 0
		send(100)
		if n := s.Stats().Lent.Load(); n != 100 {
			t.Errorf("after %v: %d flights lent of 100", e, n)
		}
	}
	for _, e := range []unix.Errno{unix.EBUSY, unix.EBADF} {
		r := &fakeRing{enter: e}
		s, send := zeroCopySender(t, r)
		send(100)
		r.enter = 0
		send(100)
		if st := s.Stats(); st.Lent.Load() != 100 || st.NoneFree.Load()+st.Unsent.Load() != 0 {
			t.Errorf("io_uring_enter, %v: %d flights lent, %d times none free, %d unsent", e, st.Lent.Load(), st.NoneFree.Load(), st.Unsent.Load())
		}
	}
}

// Memory that does not come back is not taken: flights are copied then, and the
// end waits for it no longer than it says.
func TestZeroCopyMemoryIsKept(t *testing.T) {
	r := &fakeRing{keeps: true}
	s, send := zeroCopySender(t, r)
	send(100)
	st := s.Stats()
	if st.Lent.Load() != ZeroCopyFlights || st.NoneFree.Load() != 100-ZeroCopyFlights+1 {
		t.Errorf("%d flights lent, %d times none free", st.Lent.Load(), st.NoneFree.Load())
	}
	if err := s.UseZeroCopy(nil); err != nil {
		t.Fatal(err)
	}
	send(100) // plainly
	// A kernel that never says what became of a send: it goes once more. The
	// first copy may have gone too; a collector refuses the second.
	r = &fakeRing{mute: true}
	in := listen(t, ListenConfig{Addr: "127.0.0.1:0", Poll: time.Second})[0]
	s = sender(t, SenderConfig{To: in.Addr().String(), MTU: 1500})
	if err := s.UseZeroCopy(r); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		fill(s, n, 100)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Datagrams.Load() != 100 || st.Lent.Load() != 0 || st.NoneFree.Load() != 100-ZeroCopyFlights+1 {
		t.Errorf("%d datagrams of 100, %d lent, %d times none free", st.Datagrams.Load(), st.Lent.Load(), st.NoneFree.Load())
	}
}
