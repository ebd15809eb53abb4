// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"cmp"
	"errors"
	"slices"

	"golang.org/x/net/bpf"
)

// A chunk is the code of one node, without its jump.
type chunk struct {
	code []bpf.RawInstruction
	jump uint16 // op of the conditional jump; 0: it goes on at t
	k    uint32
	t, f *node
}

var errDeep = errors.New("the arithmetic needs more words of memory than the 16 that a filter has: use fewer parentheses")

// generate writes the program that begins at root and returns snap for frames
// that it accepts. Values used more than once are kept in scratch memory where
// that makes the program shorter.
func (g *graph) generate(root *node, snap uint32) ([]bpf.RawInstruction, error) {
	order := g.order(root)
	keep := candidates(order)
	if len(keep) == maxKept && keep[maxKept-1].op == opVar {
		return nil, errors.New("too many encapsulations in one expression")
	}
	var best []bpf.RawInstruction
	for {
		code, e := g.emit(order, keep)
		if e.lost {
			return best, nil
		}
		kept := len(keep)
		if e.deep {
			keep = slices.DeleteFunc(keep, func(v *value) bool { return v.op != opVar })
			if len(keep) == kept {
				return nil, errDeep
			}
			continue
		}
		left := mergeTails(order, code)
		if program := layOut(left, code, snap); best == nil || len(program) < len(best) {
			best = program
		}
		// What is not taken from memory often enough to pay for putting it
		// there is computed again instead.
		keep = slices.DeleteFunc(keep, func(v *value) bool {
			if v.op == opVar {
				return e.loaded[v] == 0
			}
			return e.loaded[v]*(v.cost-1) <= e.stored[v]
		})
		if len(keep) == kept {
			return best, nil
		}
	}
}

// candidates lists the values that may be worth keeping: first the variables,
// then those that cost most.
func candidates(order []*node) []*value {
	uses := map[*value]int{}
	var found []*value
	for _, n := range order {
		here := map[*value]bool{}
		for _, v := range []*value{n.a, n.b} {
			v.walk(func(v *value) {
				if (v.op == opVar || v.cost > 1) && !here[v] {
					if here[v] = true; uses[v] == 0 {
						found = append(found, v)
					}
					uses[v]++
				}
			})
		}
	}
	found = slices.DeleteFunc(found, func(v *value) bool { return v.op != opVar && uses[v] < 2 })
	slices.SortStableFunc(found, func(a, b *value) int {
		if a, b := a.op == opVar, b.op == opVar; a != b {
			if a {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.cost*uses[b], a.cost*uses[a])
	})
	return found[:min(len(found), maxKept)]
}

// maxKept leaves words for what is computed in between.
const maxKept = words - 6

// emit writes the code of each node.
func (g *graph) emit(order []*node, keep []*value) (map[*node]chunk, *emitter) {
	e := &emitter{values: g.values, slots: map[*value]int{}, loaded: map[*value]int{}, stored: map[*value]int{}}
	for i, v := range keep {
		e.slots[v] = i
	}
	in := make(map[*node]*registers, len(order))
	first := &registers{}
	in[order[0]] = first
	prologue := e.clearVariables(order, first)
	code := make(map[*node]chunk, len(order))
	for _, n := range order {
		if n.t == nil {
			continue
		}
		e.now, e.out = *in[n], nil
		c := e.node(n)
		if n == order[0] {
			e.out = append(prologue, e.out...)
		}
		c.code = e.out
		code[n] = c
		for _, next := range []*node{n.t, n.f} {
			if next == nil {
				continue
			}
			if r := in[next]; r != nil {
				r.meet(&e.now)
			} else {
				r := e.now
				in[next] = &r
			}
		}
	}
	return code, e
}

// clearVariables writes what sets variables to 0 that may be read before they
// are set: the kernel refuses programs that do that.
func (e *emitter) clearVariables(order []*node, first *registers) []bpf.RawInstruction {
	set := make(map[*node]map[uint32]bool, len(order)) // on every way to the node
	set[order[0]] = map[uint32]bool{}
	var unset []uint32
	for _, n := range order {
		have := set[n]
		for _, v := range []*value{n.a, n.b} {
			v.walk(func(v *value) {
				if v.op == opVar && !have[v.k] && !slices.Contains(unset, v.k) {
					unset = append(unset, v.k)
				}
			})
		}
		after := have
		if n.kind == nodeSet && !have[n.n] {
			after = map[uint32]bool{n.n: true}
			for k := range have {
				after[k] = true
			}
		}
		for _, next := range []*node{n.t, n.f} {
			switch {
			case next == nil:
			case set[next] == nil:
				set[next] = after
			default:
				both := map[uint32]bool{}
				for k := range set[next] {
					if after[k] {
						both[k] = true
					}
				}
				set[next] = both
			}
		}
	}
	if len(unset) == 0 {
		return nil
	}
	e.out = nil
	e.put(classLDX|modeIMM, 0)
	for _, n := range unset {
		first.x = e.variable(n)
		if slot, ok := e.slots[first.x]; ok {
			e.put(classSTX, uint32(slot))
			e.stored[first.x]++
			first.m[slot] = first.x
		}
	}
	return e.out
}
