// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/binary"
	"slices"
)

// Lists of hosts and ports become chains of tests: each that holds leads to the
// same place, each that does not to the next. In between, the source and the
// destination are loaded again and again.

// sortChains puts the tests of chains in an order in which each value is loaded
// once, where no load among them can fail: there the order has no meaning.
func (g *graph) sortChains(root *node) *node {
	order := g.order(root)
	ways := make(map[*node]int, len(order))
	place := make(map[*node]*step, len(order))
	for _, n := range order {
		for i, next := range []*node{n.t, n.f} {
			if next == nil {
				continue
			}
			ways[next]++
			by := &step{n: n, outcome: either, up: place[n], depth: 1}
			if n.kind == nodeTest {
				by.outcome = [2]outcome{held, failed}[i]
			}
			if by.up != nil {
				by.depth = by.up.depth + 1
			}
			if ways[next] > 1 {
				by = common(place[next], by)
			}
			place[next] = by
		}
	}
	// Whatever follows a node is made before it.
	made := make(map[*node]*node, len(order))
	linked := make(map[*node]bool) // nodes inside of a chain that was sorted
	chains := make(map[*node][]*node)
	for _, n := range order {
		if linked[n] {
			continue
		}
		chain := []*node{n}
		for isLink(n) && isLink(n.f) && n.f.t == n.t && ways[n.f] == 1 {
			n = n.f
			chain = append(chain, n)
			linked[n] = true
		}
		chains[chain[0]] = chain
	}
	for _, n := range slices.Backward(order) {
		chain := chains[n]
		if linked[n] {
			continue
		}
		if len(chain) < 3 {
			for _, n := range slices.Backward(chain) {
				made[n] = g.copyOf(n, made)
			}
			continue
		}
		last := chain[len(chain)-1]
		t, f := made[last.t], made[last.f]
		for _, n := range slices.Backward(sorted(chain, place)) {
			f = g.test(n.rel, n.a, n.b, t, f)
		}
		made[n] = f
	}
	return made[root]
}

// isLink says that n can be part of a chain.
func isLink(n *node) bool { return n != nil && n.kind == nodeTest && n.b.op == opConst }

// sorted groups the tests of a chain by their value, as far as that is safe.
func sorted(chain []*node, place map[*node]*step) []*node {
	var out []*node
	for len(chain) > 0 {
		// A run begins with a test that may fail; those behind it are safe.
		n := 1
		for n < len(chain) && place[chain[0]].safeBehind(chain[0], chain[n].a) {
			n++
		}
		run := slices.Clone(chain[:n])
		var last *value
		if len(out) > 0 {
			last = out[len(out)-1].a
		}
		if !place[chain[0]].safe(chain[0].a) { // it stays first
			out = append(out, run[0])
			last, run = run[0].a, run[1:]
		}
		for len(run) > 0 {
			v := run[0].a
			if slices.ContainsFunc(run, func(n *node) bool { return n.a == last }) {
				v = last
			}
			for _, n := range run {
				if n.a == v {
					out = append(out, n)
				}
			}
			run = slices.DeleteFunc(run, func(n *node) bool { return n.a == v })
		}
		chain = chain[n:]
	}
	return out
}

// safeBehind reports whether v is safe once n was computed here.
func (s *step) safeBehind(n *node, v *value) bool {
	return (&step{n: n, outcome: either, up: s}).safe(v)
}

// copyOf makes n again, in front of what follows it now.
func (g *graph) copyOf(n *node, made map[*node]*node) *node {
	switch n.kind {
	case nodeTest:
		return g.test(n.rel, n.a, n.b, made[n.t], made[n.f])
	case nodeCheck:
		return g.check(n.a, made[n.t])
	case nodeSet:
		return g.set(n.n, n.a, made[n.t])
	}
	return n
}

// mergeTails keeps one of the nodes that have the same code and the same code
// behind it: whatever the machine holds there, both would do the same with it.
// It returns the nodes that are left, and changes code so that they lead to each
// other.
func mergeTails(order []*node, code map[*node]chunk) (left []*node) {
	type tail struct {
		text string
		t, f *node
	}
	standsFor := make(map[*node]*node, len(order))
	known := make(map[tail]*node, len(order))
	for _, n := range slices.Backward(order) { // what stands for others comes behind all that leads to them
		c, ok := code[n]
		if !ok {
			standsFor[n] = n
			continue
		}
		c.t, c.f = standsFor[c.t], standsFor[c.f]
		code[n] = c
		var text []byte
		for _, i := range c.code {
			text = binary.BigEndian.AppendUint16(text, i.Op)
			text = binary.BigEndian.AppendUint32(text, i.K)
		}
		text = binary.BigEndian.AppendUint16(text, c.jump)
		text = binary.BigEndian.AppendUint32(text, c.k)
		key := tail{string(text), c.t, c.f}
		if old := known[key]; old != nil {
			standsFor[n] = old
			continue
		}
		known[key] = n
		standsFor[n] = n
	}
	// What is not reached any more falls away.
	reached := map[*node]bool{standsFor[order[0]]: true}
	for _, n := range order {
		if !reached[n] || standsFor[n] != n {
			continue
		}
		left = append(left, n)
		if c, ok := code[n]; ok {
			reached[c.t] = true
			if c.f != nil {
				reached[c.f] = true
			}
		}
	}
	return left
}
