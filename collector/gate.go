// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/netip"
	"time"
)

// A gate bounds what a worker spends on datagrams that may be nobody's: of
// sessions that it does not know, and with counters that claim a run through
// many epochs. Each such datagram costs a key derivation before its tag can be
// looked at, some 20 µs; what is refused here costs about 50 ns.
//
// A token is taken for each attempt, and given back if the tag verified: who
// has the key is not held up by his own datagrams. There is a bucket for each
// tap and source address, one for each tap, and two for all: for taps that were
// heard before, and for others. So
//
//   - a flood for one tap leaves the others theirs;
//   - a flood for one tap from some addresses leaves that tap's remote, at
//     another address, its own;
//   - a flood for taps that do not exist leaves those that do theirs.
//
// The buckets are found by a hash with a secret seed, so nobody can choose whom
// he shares one with; and their number is fixed, so nobody can make them many.
// A gate belongs to one worker.
type gate struct {
	seed  maphash.Seed
	begin time.Time
	pairs [4096]bucket // of a tap and a source
	taps  [1024]bucket // of a tap
	all   [2]bucket    // of taps never heard, and of taps heard before
	jumps bucket       // of epochs to run through
	turns bucket       // of known flows to another key
	looks bucket       // at datagrams of old sessions
	lines bucket       // in the log, about streams
}

// Chosen: attempts a second and in a burst. All together they are some 8 % of a
// CPU; a remote needs one.
var (
	pairLimit = limit{rate: 20, burst: 100}
	tapLimit  = limit{rate: 100, burst: 400}
	allLimit  = limit{rate: 2000, burst: 4000}
	// A run through an epoch is about a microsecond: 2 % of a CPU, and at
	// most half a second in one go.
	jumpLimit = limit{rate: 20_000, burst: 1 << 19}
	lookLimit = limit{rate: 5, burst: 5}
	lineLimit = limit{rate: 20, burst: 5000}
)

func newGate(now time.Time) *gate { return &gate{seed: maphash.MakeSeed(), begin: now} }

// A limit is a rate, in tokens a second, and how many may be taken at once.
type limit struct{ rate, burst int64 }

// cost returns how long n tokens take to come back. It never overflows.
func (l limit) cost(n uint64) int64 {
	return int64(min(n, math.MaxInt64/uint64(second)/4)) * int64(second) / l.rate
}

// A bucket is a token bucket, written as the time at which it will be full
// again, ns since the gate was made: 8 bytes, and none to begin with.
type bucket int64

// has says whether n tokens are there at time now.
func (b *bucket) has(now int64, l limit, n uint64) bool {
	return max(int64(*b)-now, 0)+l.cost(n) <= l.cost(uint64(l.burst))
}

// take takes n tokens, whether or not they are there.
func (b *bucket) take(now int64, l limit, n uint64) {
	*b = bucket(max(int64(*b), now) + l.cost(n))
}

// give gives n tokens back.
func (b *bucket) give(l limit, n uint64) { *b -= bucket(l.cost(n)) }

// A ticket says what an attempt took, to give it back.
type ticket struct {
	pair, tap, all *bucket
	tokens         uint64
}

// admit takes n tokens for an attempt to open a datagram of tap that came from
// source; known says that the tap was heard before. ok is false if they are not
// all there: then none is taken. An attempt of one token costs some 20 µs.
func (g *gate) admit(at time.Time, tap uint32, source netip.Addr, known bool, n uint64) (t ticket, ok bool) {
	var key [12]byte
	binary.NativeEndian.PutUint32(key[:], tap)
	if source.Is4() {
		a := source.As4()
		copy(key[4:], a[:])
	} else {
		a := source.As16()
		copy(key[4:], a[:8]) // who has one address of a /64 has all
	}
	now := int64(at.Sub(g.begin))
	t = ticket{
		pair:   &g.pairs[maphash.Bytes(g.seed, key[:])%uint64(len(g.pairs))],
		tap:    &g.taps[maphash.Bytes(g.seed, key[:4])%uint64(len(g.taps))],
		all:    &g.all[0],
		tokens: n,
	}
	if known {
		t.all = &g.all[1]
	}
	if !t.pair.has(now, pairLimit, n) || !t.tap.has(now, tapLimit, n) || !t.all.has(now, allLimit, n) {
		return ticket{}, false
	}
	t.pair.take(now, pairLimit, n)
	t.tap.take(now, tapLimit, n)
	t.all.take(now, allLimit, n)
	return t, true
}

// refund gives back what an attempt took: its tag verified. What starts a new
// session is not free to its own tap, so that a stolen remote does not start
// them without end.
func (g *gate) refund(t ticket, start bool) {
	t.all.give(allLimit, t.tokens)
	if !start && t.pair != nil {
		t.pair.give(pairLimit, t.tokens)
		t.tap.give(tapLimit, t.tokens)
	}
}

// look says whether one more datagram of an old session may be looked into.
func (g *gate) look(at time.Time) bool { return g.one(&g.looks, at, lookLimit) }

// line says whether there may be one more line in the log about a stream.
func (g *gate) line(at time.Time) bool { return g.one(&g.lines, at, lineLimit) }

func (g *gate) one(b *bucket, at time.Time, l limit) bool {
	now := int64(at.Sub(g.begin))
	if !b.has(now, l, 1) {
		return false
	}
	b.take(now, l, 1)
	return true
}

// turn takes a token for a datagram of a known flow under another key.
func (g *gate) turn(at time.Time) (t ticket, ok bool) {
	now := int64(at.Sub(g.begin))
	if !g.turns.has(now, allLimit, 1) {
		return ticket{}, false
	}
	g.turns.take(now, allLimit, 1)
	return ticket{all: &g.turns, tokens: 1}, true
}

// jump says whether a run through that many epochs is to be had now, for a
// datagram of which nothing is proven yet.
func (g *gate) jump(at time.Time, epochs uint64) bool {
	now := int64(at.Sub(g.begin))
	if !g.jumps.has(now, jumpLimit, epochs) {
		return false
	}
	g.jumps.take(now, jumpLimit, epochs)
	return true
}

// reach says the same for epochs that something proven calls for: such a run
// may be long, and others wait the longer for it.
func (g *gate) reach(at time.Time, epochs uint64) bool {
	now := int64(at.Sub(g.begin))
	if !g.jumps.has(now, jumpLimit, 1) || epochs > maxReach {
		return false
	}
	g.jumps.take(now, jumpLimit, epochs)
	return true
}

// Chosen: the longest run, some 2 s. A shard that seals a million datagrams a
// second comes so far in a year.
const maxReach = 1 << 21
