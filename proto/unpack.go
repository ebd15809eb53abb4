// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed says that a plaintext is not what WIRE.md allows. Only a remote
// that holds the key can have sent it.
var ErrMalformed = errors.New("proto: malformed plaintext")

// An Unpacker turns the plaintexts of one shard's data datagrams, in their
// order, back into records:
//
//	err := u.Start(plaintext, gap)
//	for r, ok := u.Next(); ok; r, ok = u.Next() { … }
//
// Records lie in the plaintext or, where a datagram's end cut them, in the
// Assembly; both must stay as they are until the records are done with.
type Unpacker struct {
	asm  *Assembly
	p    []byte // the plaintext
	at   int    // where in p the next record begins
	time int64  // of the record before it, ns
	rec  Record // what Next returns

	// A record that was cut: part has what is there of its data, with room
	// for all of it.
	cut    Record
	part   []byte
	need   int    // bytes of it that are missing
	ready  bool   // part is complete and not yet returned
	listed bool   // known to asm as lying in its memory
	own    []byte // memory for a part that outlives the batch
	err    error
}

// NewUnpacker returns an unpacker that joins cut records in asm. Unpackers of
// one goroutine share one Assembly.
func NewUnpacker(asm *Assembly) *Unpacker { return &Unpacker{asm: asm} }

// Start begins with the next plaintext. gap says that datagrams between the
// last one and this one did not come: then the record that was under way is
// dropped, and reading starts with the first record that begins here.
func (u *Unpacker) Start(plaintext []byte, gap bool) error {
	u.p, u.at, u.ready, u.err = nil, 0, false, nil
	if len(plaintext) < prologueLen {
		return u.fail()
	}
	u.time = int64(binary.BigEndian.Uint64(plaintext))
	first := int(binary.BigEndian.Uint16(plaintext[8:]))
	u.p, u.at = plaintext, prologueLen
	if first != noRecord && (first < prologueLen || first >= len(plaintext)) {
		return u.fail()
	}
	if gap || u.need == 0 && first != prologueLen {
		// Out of step: go to where a record begins.
		u.need = 0
		if u.at = first; first == noRecord {
			u.at = len(plaintext)
		}
		return nil
	}
	if u.need > 0 {
		n := min(u.need, len(plaintext)-prologueLen)
		u.part = append(u.part, plaintext[prologueLen:prologueLen+n]...)
		u.need -= n
		u.at += n
		u.ready = u.need == 0
		if first != noRecord && (first != u.at || !u.ready) || first == noRecord && !zero(plaintext[u.at:]) {
			u.ready = false
			return u.fail()
		}
	}
	return nil
}

// zero says that b is padding.
func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// fail drops the rest of the plaintext and what was under way.
func (u *Unpacker) fail() error {
	u.need, u.at = 0, len(u.p)
	u.err = ErrMalformed
	return u.err
}

// Err returns ErrMalformed if the plaintext given to Start turned out, by
// now, not to be what WIRE.md allows. The records returned before it are good.
func (u *Unpacker) Err() error { return u.err }

// Next returns the next whole record; ok is false after the last. The Record
// is the unpacker's until the next call; its data is good until the Assembly's
// Reset and for as long as the plaintext is.
func (u *Unpacker) Next() (r *Record, ok bool) {
	ok = u.Into(&u.rec)
	return &u.rec, ok
}

// Into is Next with a Record of the caller's, which means nothing where it
// returns false.
func (u *Unpacker) Into(r *Record) bool {
	if u.ready {
		u.ready = false
		*r = u.cut
		r.Data = u.part
		return true
	}
	if u.at >= len(u.p) {
		return false
	}
	b := u.p[u.at:]
	flags := b[0]
	if flags&flagRecord == 0 {
		if !zero(b) {
			u.fail()
		}
		u.at = len(u.p)
		return false
	}
	length, n := uvarint(b[1:])
	if n == 0 || length > MaxFrame {
		u.fail()
		return false
	}
	i := 1 + n
	delta, n := uvarint(b[i:])
	if n == 0 {
		u.fail()
		return false
	}
	i += n
	u.time += unzigzag(delta)
	*r = Record{
		Time:      u.time,
		OrigLen:   uint32(length),
		LinkType:  LinkTypeEthernet,
		Direction: Direction(flags & flagDirection >> directionShift),
	}
	if flags&^(flagRecord|flagDirection) != 0 || flags&flagDirection == flagDirection {
		var ok bool
		if i, ok = u.optional(r, b, i, flags, length); !ok {
			u.fail()
			return false
		}
	}
	if rest := len(b) - i; rest < int(length) {
		u.begin(r, b[i:], int(length))
		return false
	}
	end := i + int(length)
	r.Data = b[i:end:end]
	u.at += end
	return true
}

// optional reads the fields that flags announce, from b[i:], and returns where
// the data begins. A field that says what its absence would say is refused:
// there is one encoding of each record.
func (u *Unpacker) optional(r *Record, b []byte, i int, flags byte, length uint64) (int, bool) {
	good := flags&flagDirection != flagDirection
	field := func(most uint64) uint64 {
		v, n := uvarint(b[i:])
		good = good && n > 0 && v <= most
		i += n
		return v
	}
	if flags&flagInterface != 0 {
		r.Interface = uint32(field(1<<32 - 1))
		good = good && r.Interface != 0
	}
	if flags&flagLinkType != 0 {
		r.LinkType = LinkType(field(1<<16 - 1))
		good = good && r.LinkType != LinkTypeEthernet
	}
	if flags&flagOrigLen != 0 {
		r.OrigLen = uint32(field(1<<32 - 1))
		good = good && uint64(r.OrigLen) != length
	}
	if flags&flagCsum != 0 {
		r.NeedsCsum = true
		r.CsumStart = uint16(field(1<<16 - 1))
		r.CsumOffset = uint16(field(1<<16 - 1))
	}
	if flags&flagGSO != 0 {
		if i >= len(b) {
			return 0, false
		}
		r.GSOType = b[i]
		i++
		r.GSOSize = uint16(field(1<<16 - 1))
		good = good && r.GSOType != 0
	}
	return i, good
}

// begin keeps what is there of a record that the datagram's end cuts.
func (u *Unpacker) begin(r *Record, there []byte, length int) {
	u.cut = *r
	u.part = append(u.asm.room(u, length), there...)
	u.need = length - len(there)
	u.at = len(u.p)
}

// An Assembly is the memory in which one goroutine's unpackers join records
// that were cut by the end of a datagram. It is filled from the front, and
// emptied at the end of each batch.
type Assembly struct {
	mem   []byte
	used  int
	live  []*Unpacker // with a part in mem, perhaps
	spare int         // bytes that unpackers may still have of their own
}

// Chosen: enough for a thousand shards that are each in the middle of a GSO
// frame.
const assemblySpare = 64 << 20 // bytes

// NewAssembly returns an Assembly over mem, which should be a little longer
// than what is received in a batch.
func NewAssembly(mem []byte) *Assembly {
	return &Assembly{mem: mem, spare: assemblySpare}
}

// room returns length bytes for a part of u's, of length 0.
func (a *Assembly) room(u *Unpacker, length int) []byte {
	if a.used+length > len(a.mem) {
		return make([]byte, 0, length) // not in steady state: mem holds a batch
	}
	b := a.mem[a.used : a.used : a.used+length]
	a.used += length
	if !u.listed {
		u.listed = true
		a.live = append(a.live, u)
	}
	return b
}

// Reset ends the batch: no record that was joined before is used any more.
// Parts still under way are moved out of the way.
func (a *Assembly) Reset() {
	if a.used == 0 {
		return
	}
	for i, u := range a.live {
		a.live[i] = nil
		u.listed = false
		if u.need > 0 {
			a.keep(u)
		}
	}
	a.live = a.live[:0]
	a.used = 0
}

// keep moves u's part to memory of its own. Beyond the bound the part is
// dropped: its frame counts as lost, as if its datagram were.
func (a *Assembly) keep(u *Unpacker) {
	if cap(u.own) < cap(u.part) {
		if a.spare < cap(u.part)-cap(u.own) {
			u.need, u.part = 0, nil
			return
		}
		a.spare -= cap(u.part) - cap(u.own)
		u.own = make([]byte, 0, cap(u.part))
	}
	u.part = append(u.own[:0:cap(u.own)], u.part...)
}

// Forget gives back what u keeps: its shard is gone.
func (a *Assembly) Forget(u *Unpacker) {
	a.spare += cap(u.own)
	u.own, u.part, u.need = nil, nil, 0
}
