// SPDX-License-Identifier: Apache-2.0

package collector

import "os"

// Chosen. benchmarks/README.md, "pcapng to disk", has figures.
const (
	aheadLeast = 1 << 20  // bytes of a file that are allocated at once, at the least
	aheadMost  = 64 << 20 // at the most
)

// An ahead allocates the blocks of a file before they are written
// (fallocate(2)), and not its length, which readers see. ext4 else looks for each
// page on its own whether there is room, which takes longer than to copy it.
// What is allocated at once grows with the file, so that small ones, of which
// there may be one for each tap, take little of a disk. It is given back when
// the file is cut at its end.
type ahead struct {
	file *os.File // nil: nothing is allocated
	most int64    // bytes that the file will not be longer than; 0: nobody knows
	end  int64    // of what is allocated
}

// reach says that the file is about to be written up to end.
func (a *ahead) reach(end int64) {
	if a.file == nil || end <= a.end {
		return
	}
	from := a.end
	a.end = end + min(max(end, aheadLeast), aheadMost)
	if a.most > 0 {
		a.end = max(min(a.end, a.most), end)
	}
	if !allocate(a.file, from, a.end-from) {
		a.file = nil
	}
}
