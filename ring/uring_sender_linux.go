// SPDX-License-Identifier: Apache-2.0

package ring

import "golang.org/x/sys/unix"

// What batch.Sender needs of an io_uring, with either backend.

// SendMsg queues a PrepSendMsg, and says whether there was room.
func (u *Uring) SendMsg(fd int, m *unix.Msghdr, id uint64) bool {
	s := u.GetSQE()
	if s == nil {
		return false
	}
	s.PrepSendMsg(fd, m, 0)
	s.UserData = id
	return true
}

// SendZC queues a PrepSendZC of b, which lies in registered buffer 0, and says
// whether there was room.
func (u *Uring) SendZC(fd int, b []byte, id uint64) bool {
	s := u.GetSQE()
	if s == nil {
		return false
	}
	s.PrepSendZC(fd, b, 0)
	s.UserData = id
	return true
}

// Completion takes the oldest completion; ok is false if there is none.
func (u *Uring) Completion() (id uint64, res int32, flags uint32, ok bool) {
	c := u.PeekCQE()
	if c == nil {
		return 0, 0, 0, false
	}
	id, res, flags = c.UserData, c.Res, c.Flags
	u.CQAdvance(1)
	return id, res, flags, true
}
