// SPDX-License-Identifier: Apache-2.0

package batch

// A Lazy is an Arena that is mapped when it is first needed: by the thread that
// needs it, hence near to it. The zero value is ready.
type Lazy struct{ arena *Arena }

// Bytes returns n bytes, the same each time: n does not change. Nil: the kernel
// gave no memory, and is asked again the next time. It is good until Close.
func (l *Lazy) Bytes(n int) []byte {
	if l.arena == nil {
		a, err := NewArena(n)
		if err != nil {
			return nil
		}
		l.arena = a
	}
	return l.arena.Bytes()
}

// Close gives the memory back, if there is any.
func (l *Lazy) Close() error {
	if l.arena == nil {
		return nil
	}
	err := l.arena.Close()
	l.arena = nil
	return err
}
