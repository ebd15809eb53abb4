// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"sync/atomic"
	"time"
)

// A pace says how much is written at once: little at the end, and where writing is
// slow, so that what makes progress is not taken for stalled, see queueStall.
type pace struct {
	slow   bool         // the write before was
	ending *atomic.Bool // what there is is all
}

// paceLeast is the least speed, in bytes per second, at which a gathered write or one
// of a directFile takes little of queueStall: a second and a half for the longest,
// directBuffer.
const paceLeast = directBuffer * 2 / 3

// most returns how many of n bytes are to be written at once: a multiple of
// directAlign, or n.
func (p *pace) most(n int) int {
	if p.careful() {
		return min(n, queueSlice)
	}
	return n
}

func (p *pace) careful() bool { return p.slow || p.ending.Load() }

// took notes how long the write of n bytes took.
func (p *pace) took(n int, d time.Duration) { p.slow = d.Seconds()*paceLeast > float64(n) }

// once returns how many of n bytes of a buffer are to be written at once.
func (q *queue) once(n int) int {
	if n = min(n, q.slice); q.many > 1 { // else it is little, or has to end with a whole block: directFile
		n = q.pace.most(n)
	}
	return n
}

// A mover has progress besides that of its writes, which may take long.
type mover interface{ moved() uint64 } // bytes
