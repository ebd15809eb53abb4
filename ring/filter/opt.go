// SPDX-License-Identifier: Apache-2.0

package filter

// A step is one edge of the graph on the way to a node, with the steps that are
// on every way to it: what is known there. Outcome says which edge it was.
type step struct {
	n       *node
	outcome outcome
	up      *step
	depth   int
}

type outcome uint8

const (
	failed outcome = iota
	held
	either // both edges lead there: only that the values were computed is known
)

// Bounds of the work, chosen: what they cut off costs instructions, not
// meaning.
const (
	maxLook   = 1024 // steps back that are looked at for what is known
	maxPasses = 10
)

// common returns the steps that are on both ways.
func common(a, b *step) *step {
	for a != b {
		if a == nil || b == nil {
			return nil
		}
		switch {
		case a.depth > b.depth:
			a = a.up
		case b.depth > a.depth:
			b = b.up
		case a.n == b.n && a.up == b.up:
			return &step{a.n, either, a.up, a.depth}
		default:
			a, b = a.up, b.up
		}
	}
	return a
}

// safe reports whether v can be computed at this place without ending the
// program: it was computed before, or what it loads is within what was loaded.
func (s *step) safe(v *value) bool {
	if v == nil || !v.fails {
		return true
	}
	looked := 0
	for at := s; at != nil && looked < maxLook; at, looked = at.up, looked+1 {
		if at.n.a.covers(v) || at.n.b.covers(v) {
			return true
		}
	}
	switch v.op {
	case opLoad, opMSH:
		return false
	case opDiv, opMod:
		if v.b.op != opConst {
			return false
		}
	}
	return s.safe(v.a) && s.safe(v.b)
}

// covers reports whether v cannot fail where c was computed.
func (c *value) covers(v *value) bool {
	if c == nil || !c.fails {
		return false
	}
	if c == v {
		return true
	}
	if end, base, ok := v.extent(); ok { // and offsets do not begin again at 0
		if cend, cbase, ok := c.extent(); ok && cbase == base && end <= cend && (base == nil || uint64(base.max)+uint64(cend) < 1<<32) {
			return true
		}
	}
	return c.a.covers(v) || c.b.covers(v)
}

// extent says how far a load reaches beyond its base, bytes.
func (v *value) extent() (end uint32, base *value, ok bool) {
	switch v.op {
	case opLoad:
		return v.k + uint32(v.size), v.a, true
	case opMSH:
		return v.k + 1, nil, true
	}
	return 0, nil, false
}

// known is what is known of a value.
type known struct {
	low, high uint32
	not       []uint32 // it is none of these
	zero      uint32   // bits that are 0
	some      []uint32 // of the bits of each of these one is set
}

// about collects what is known of v at this place.
func (s *step) about(v *value) known {
	k := known{high: v.max, zero: ^ones(v.max)}
	if v.op == opConst {
		return known{low: v.k, high: v.k, zero: ^v.k}
	}
	looked := 0
	for at := s; at != nil && looked < maxLook; at, looked = at.up, looked+1 {
		if at.n.kind == nodeSet && v.op == opVar && at.n.n == v.k {
			if c := at.n.a; c.op == opConst {
				k.low, k.high = c.k, c.k
			}
			break
		}
		if at.n.kind == nodeTest && at.n.a == v && at.n.b.op == opConst && at.outcome != either {
			k.learn(at.n.rel, at.n.b.k, at.outcome == held)
		}
	}
	if k.low == k.high || v.b == nil || v.b.op != opConst || !foldable(v) {
		return k
	}
	if of := s.about(v.a); of.low == of.high {
		c := fold(v.op, of.low, v.b.k)
		k.low, k.high = c, c
	}
	return k
}

// foldable says that v is an operation that has a value for each of its first
// part.
func foldable(v *value) bool {
	switch v.op {
	case opAdd, opMul, opAnd, opOr, opXor, opShl, opShr, opDiv, opMod:
		return true
	}
	return false
}

func (k *known) learn(rel relation, c uint32, holds bool) {
	switch {
	case rel == relEQ && holds:
		k.low, k.high = max(k.low, c), min(k.high, c)
	case rel == relEQ:
		k.not = append(k.not, c)
		if k.low == c && c < 1<<32-1 {
			k.low++
		}
		if k.high == c && c > 0 {
			k.high--
		}
	case rel == relGT && holds:
		k.low = max(k.low, c+1) // c is not the greatest number: the test would not have been made
	case rel == relGT:
		k.high = min(k.high, c)
	case rel == relGE && holds:
		k.low = max(k.low, c)
	case rel == relGE:
		k.high = min(k.high, c-1)
	case holds:
		k.some = append(k.some, c)
	default:
		k.zero |= c
	}
}

// decides says how a test of the value against c comes out, if that is known.
func (k *known) decides(rel relation, c uint32) (holds, ok bool) {
	if k.low == k.high {
		return rel.holds(k.low, c), true
	}
	switch rel {
	case relEQ:
		if c < k.low || c > k.high || c&k.zero != 0 {
			return false, true
		}
		for _, n := range k.not {
			if n == c {
				return false, true
			}
		}
		for _, bits := range k.some {
			if c&bits == 0 {
				return false, true
			}
		}
	case relGT:
		if k.low > c {
			return true, true
		}
		if k.high <= c {
			return false, true
		}
	case relGE:
		if k.low >= c {
			return true, true
		}
		if k.high < c {
			return false, true
		}
	case relSET:
		if c&^k.zero == 0 {
			return false, true
		}
		for _, bits := range k.some {
			if bits&^k.zero&^c == 0 {
				return true, true
			}
		}
	}
	return false, false
}

// An optimiser rebuilds a graph with what is known at each node: edges skip
// tests whose outcome is known, variables that are known become constants, and
// what then has nothing before it falls away. A test is skipped only where what
// it loads cannot fail: a frame that is too short is rejected by the same load
// as before.
type optimiser struct {
	*graph
	place   map[*node]*step // what is known at a node; nil for the first one too
	reached map[*node]bool
	next    map[*node][2]*node // edges of old nodes: where they lead now
	read    map[uint32]bool    // variables that are
}

// optimise returns a smaller program with the same meaning.
func (g *graph) optimise(root *node) *node {
	for range maxPasses {
		o := optimiser{graph: g, place: map[*node]*step{}, reached: map[*node]bool{}, next: map[*node][2]*node{}, read: map[uint32]bool{}}
		again := o.pass(root)
		if again == root {
			break
		}
		root = again
	}
	return root
}

func (o *optimiser) pass(root *node) *node {
	order := o.order(root)
	for _, n := range order {
		for _, v := range []*value{n.a, n.b} {
			v.walk(func(v *value) {
				if v.op == opVar {
					o.read[v.k] = true
				}
			})
		}
	}
	root = o.follow(nil, root)
	o.arrive(root, nil)
	for _, n := range order {
		if !o.reached[n] || n.t == nil {
			continue
		}
		up := o.place[n]
		depth := 1
		if up != nil {
			depth = up.depth + 1
		}
		yes := &step{n, held, up, depth}
		no := &step{n, failed, up, depth}
		if n.kind != nodeTest {
			yes.outcome = either
		}
		t := o.follow(yes, n.t)
		o.arrive(t, yes)
		var f *node
		if n.f != nil {
			f = o.follow(no, n.f)
			o.arrive(f, no)
		}
		o.next[n] = [2]*node{t, f}
	}
	made := make(map[*node]*node, len(order))
	for i := len(order) - 1; i >= 0; i-- {
		n := order[i]
		if !o.reached[n] {
			continue
		}
		made[n] = o.remake(n, made)
	}
	return made[root]
}

// arrive notes one more way to n.
func (o *optimiser) arrive(n *node, by *step) {
	if o.reached[n] {
		by = common(o.place[n], by)
	}
	o.reached[n] = true
	o.place[n] = by
}

// follow returns the node that an edge to n can as well lead to.
func (o *optimiser) follow(by *step, n *node) *node {
	for {
		switch n.kind {
		case nodeCheck:
			if n.t.kind == nodeReject {
				return n.t
			}
			if !by.safe(n.a) {
				return n
			}
			n = n.t
		case nodeTest:
			holds, ok := by.decides(n)
			if !ok || !by.safe(n.a) || !by.safe(n.b) {
				return n
			}
			if holds {
				n = n.t
			} else {
				n = n.f
			}
		default:
			return n
		}
	}
}

// decides says how a test comes out here, if that is known.
func (s *step) decides(n *node) (holds, ok bool) {
	if n.b.op == opConst {
		k := s.about(n.a)
		return k.decides(n.rel, n.b.k)
	}
	looked := 0
	for at := s; at != nil && looked < maxLook; at, looked = at.up, looked+1 {
		if at.n.kind == nodeTest && at.n.rel == n.rel && at.n.a == n.a && at.n.b == n.b && at.outcome != either {
			return at.outcome == held, true
		}
	}
	return false, false
}

// remake makes n anew, from what follows it now and what is known there.
func (o *optimiser) remake(n *node, made map[*node]*node) *node {
	if n.t == nil {
		return n
	}
	next, at := o.next[n], o.place[n]
	t := made[next[0]]
	a := o.resolve(n.a, at)
	switch {
	case n.kind == nodeCheck:
		return o.check(a, t)
	case n.kind == nodeSet && o.read[n.n]:
		return o.set(n.n, a, t)
	case n.kind == nodeSet:
		return o.check(a, t)
	}
	return o.test(n.rel, a, o.resolve(n.b, at), t, made[next[1]])
}

// resolve puts the variables that are known at a place into v.
func (o *optimiser) resolve(v *value, at *step) *value {
	if v == nil || !v.varied {
		return v
	}
	switch v.op {
	case opVar:
		if k := at.about(v); k.low == k.high {
			return o.constant(k.low)
		}
		return v
	case opLoad:
		return o.load(o.resolve(v.a, at), v.k, v.size)
	case opNeg:
		return o.neg(o.resolve(v.a, at))
	}
	return o.binary(v.op, o.resolve(v.a, at), o.resolve(v.b, at))
}
