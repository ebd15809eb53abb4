// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"slices"

	"golang.org/x/net/bpf"
)

// maxSkip is how many instructions a conditional jump can pass over: it has 8
// bits for that. Only JA has 32.
const maxSkip = 255

// A layout is written from the program's end to its beginning: where a jump
// leads is then known when it is written.
type layout struct {
	out  []bpf.RawInstruction // the last instruction first
	at   map[*node]int        // index in out of the first instruction of a node
	near map[*node]int        // of the nearest instruction that goes on at the node: itself, or a trampoline
	snap uint32
	mem  bool // the program takes words from memory
}

// layOut puts the code of nodes in order, with jumps between them. A jump that
// is too far gets a trampoline right behind it, which later jumps before it
// share.
func layOut(order []*node, code map[*node]chunk, snap uint32) []bpf.RawInstruction {
	l := layout{at: map[*node]int{}, near: map[*node]int{}, snap: snap}
	for _, c := range code {
		l.mem = l.mem || slices.ContainsFunc(c.code, func(i bpf.RawInstruction) bool { return i.Op&7 < classST && i.Op&0xE0 == modeMEM })
	}
	for _, kind := range []nodeKind{nodeReject, nodeAccept} {
		for _, n := range order {
			if n.kind == kind {
				l.out = append(l.out, l.end(n))
				l.begin(n)
			}
		}
	}
	for _, n := range slices.Backward(order) {
		c, ok := code[n]
		if !ok {
			continue
		}
		if c.jump != 0 {
			l.jump(c)
		} else if l.at[c.t] != len(l.out)-1 {
			l.out = append(l.out, l.goTo(c.t))
		}
		for _, i := range slices.Backward(c.code) {
			l.out = append(l.out, i)
		}
		l.begin(n)
	}
	slices.Reverse(l.out)
	return l.out
}

// begin notes that n begins with the instruction written last.
func (l *layout) begin(n *node) {
	l.at[n] = len(l.out) - 1
	l.near[n] = l.at[n]
}

func (l *layout) end(n *node) bpf.RawInstruction {
	i := bpf.RawInstruction{Op: classRET | srcK}
	if n.kind == nodeAccept {
		i.K = l.snap
	}
	return i
}

// goTo is an instruction that goes on at n, whatever the distance. To the end
// that is a return, but not where memory is used: the kernel takes what is
// stored on the way to a return for what is stored on the way to the next
// instruction (check_load_and_stores, net/core/filter.c).
func (l *layout) goTo(n *node) bpf.RawInstruction {
	if n.t == nil && !l.mem {
		return l.end(n)
	}
	return bpf.RawInstruction{Op: classJMP | jmpJA, K: uint32(l.skip(l.at[n]))}
}

// skip is the distance to the instruction at an index of out, for the
// instruction written next.
func (l *layout) skip(to int) int { return len(l.out) - 1 - to }

// jump writes a conditional jump, and trampolines before it.
func (l *layout) jump(c chunk) {
	for _, n := range []*node{c.t, c.f, c.t} { // the second may have made the first too far
		if l.skip(l.near[n]) > maxSkip {
			l.out = append(l.out, l.goTo(n))
			l.near[n] = len(l.out) - 1
		}
	}
	l.out = append(l.out, bpf.RawInstruction{
		Op: c.jump, Jt: uint8(l.skip(l.near[c.t])), Jf: uint8(l.skip(l.near[c.f])), K: c.k,
	})
}
