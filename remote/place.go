// SPDX-License-Identifier: Apache-2.0

package remote

// A place says that frames of the interface of an index are those of this
// number in the announce's list.
type place struct {
	index int32
	at    uint32
}

// A placeTable finds places. It does not change: shards look at it for each
// run of frames of one interface.
type placeTable struct {
	slots []place // open addressing; index 0: free
	shift uint
}

func newPlaceTable(places []place) *placeTable {
	bits := uint(3)
	for 1<<bits < 2*len(places) {
		bits++
	}
	t := &placeTable{slots: make([]place, 1<<bits), shift: 32 - bits}
	for _, p := range places {
		i := t.slot(p.index)
		for t.slots[i].index != 0 && t.slots[i].index != p.index {
			i = (i + 1) % uint32(len(t.slots))
		}
		t.slots[i] = p
	}
	return t
}

// slot is where the search begins: Fibonacci hashing (Knuth, The Art of
// Computer Programming, volume 3, section 6.4).
func (t *placeTable) slot(index int32) uint32 { return uint32(index) * 2654435769 >> t.shift }

func (t *placeTable) find(index int32) (at uint32, ok bool) {
	for i := t.slot(index); t.slots[i].index != 0; i = (i + 1) % uint32(len(t.slots)) {
		if t.slots[i].index == index {
			return t.slots[i].at, true
		}
	}
	return 0, false
}

func (t *placeTable) all() (out []place) {
	for _, p := range t.slots {
		if p.index != 0 {
			out = append(out, p)
		}
	}
	return out
}
