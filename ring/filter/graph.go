// SPDX-License-Identifier: Apache-2.0

package filter

// A relation is one that the machine can test.
type relation uint8

const (
	relEQ  relation = iota // a == b
	relGT                  // a > b
	relGE                  // a >= b
	relSET                 // a & b != 0
)

func (r relation) holds(a, b uint32) bool {
	switch r {
	case relEQ:
		return a == b
	case relGT:
		return a > b
	case relGE:
		return a >= b
	}
	return a&b != 0
}

// A formula is what an expression says of a frame, read from left to right: the
// second of two parts is not looked at if the first decides.
type formula struct {
	kind formulaKind
	kids []*formula // of all, any, not
	rel  relation
	a, b *value // of test; a: of set
	n    uint32 // variable of set
}

type formulaKind uint8

const (
	isTrue  formulaKind = iota
	isFalse             // and no load is made
	isTest              // a rel b
	isAll               // every one of kids
	isAny               // one of kids
	isNot               // not kids[0]
	isSet               // true: variable n becomes a
)

func allOf(kids ...*formula) *formula { return &formula{kind: isAll, kids: kids} }
func anyOf(kids ...*formula) *formula {
	return &formula{kind: isAny, kids: kids}
}
func not(f *formula) *formula { return &formula{kind: isNot, kids: []*formula{f}} }

func test(rel relation, a, b *value) *formula { return &formula{kind: isTest, rel: rel, a: a, b: b} }

func constantly(v bool) *formula {
	if v {
		return &formula{kind: isTrue}
	}
	return &formula{kind: isFalse}
}

// A node is a step of the program: a test with the nodes that follow it. Equal
// nodes are one node. There are no circles.
type node struct {
	kind nodeKind
	rel  relation
	n    uint32 // of set
	a, b *value // of test; a: of check and set
	t, f *node  // what follows a test that holds, and one that does not; t: what follows a check or set

	id int
}

type nodeKind uint8

const (
	nodeAccept nodeKind = iota
	nodeReject
	nodeTest
	nodeCheck
	nodeSet
)

type nodeKey struct {
	kind nodeKind
	rel  relation
	n    uint32
	a, b *value
	t, f *node
}

// maxNodes bounds what an expression may become before it is optimised: more
// than enough for what the kernel takes.
const maxNodes = 1 << 15

// A graph makes nodes, and makes equal ones once.
type graph struct {
	*values
	known          map[nodeKey]*node
	accept, reject *node
	count          int // nodes made since the graph was made
}

func newGraph(vs *values) *graph {
	g := &graph{values: vs, known: make(map[nodeKey]*node)}
	g.accept = g.node(nodeKey{kind: nodeAccept})
	g.reject = g.node(nodeKey{kind: nodeReject})
	return g
}

func (g *graph) node(key nodeKey) *node {
	if old := g.known[key]; old != nil {
		return old
	}
	n := &node{kind: key.kind, rel: key.rel, n: key.n, a: key.a, b: key.b, t: key.t, f: key.f, id: len(g.known)}
	g.known[key] = n
	g.count++
	return n
}

// build returns the first node of a program for f, which goes on at yes or no.
func (g *graph) build(f *formula, yes, no *node) *node {
	switch f.kind {
	case isTrue:
		return yes
	case isFalse:
		return no
	case isNot:
		return g.build(f.kids[0], no, yes)
	case isAll:
		for i := len(f.kids) - 1; i >= 0; i-- {
			yes = g.build(f.kids[i], yes, no)
		}
		return yes
	case isAny:
		for i := len(f.kids) - 1; i >= 0; i-- {
			no = g.build(f.kids[i], yes, no)
		}
		return no
	case isSet:
		return g.set(f.n, f.a, yes)
	}
	return g.test(f.rel, f.a, f.b, yes, no)
}

func (g *graph) set(n uint32, a *value, next *node) *node {
	if a.never || next == g.reject {
		return g.reject
	}
	return g.node(nodeKey{kind: nodeSet, n: n, a: a, t: next})
}

// check computes a, and goes on.
func (g *graph) check(a *value, next *node) *node {
	switch {
	case a == nil || !a.fails:
		return next
	case a.never || next == g.reject: // a frame that is too short is rejected too
		return g.reject
	}
	// Only the loads count.
	switch a.op {
	case opNeg:
		return g.check(a.a, next)
	case opDiv, opMod:
		if a.b.op == opConst {
			return g.check(a.a, next)
		}
	case opAdd, opSub, opMul, opAnd, opOr, opXor, opShl, opShr:
		return g.check(a.a, g.check(a.b, next))
	}
	return g.node(nodeKey{kind: nodeCheck, a: a, t: next})
}

// test is the node for a rel b, in the simplest form.
func (g *graph) test(rel relation, a, b *value, t, f *node) *node {
	if a.never || b.never {
		return g.reject
	}
	if a.op == opConst && b.op == opConst {
		if rel.holds(a.k, b.k) {
			return t
		}
		return f
	}
	if a.op == opConst {
		switch a, b = b, a; rel {
		case relGT: // b > a is not a >= b
			return g.test(relGE, a, b, f, t)
		case relGE:
			return g.test(relGT, a, b, f, t)
		}
	}
	if t == f {
		return g.check(a, g.check(b, t))
	}
	if b.op != opConst {
		return g.node(nodeKey{kind: nodeTest, rel: rel, a: a, b: b, t: t, f: f})
	}
	k := b.k
	switch rel {
	case relEQ:
		return g.equal(a, k, t, f)
	case relSET:
		if a.op == opAnd && a.b.op == opConst {
			return g.test(relSET, a.a, g.constant(a.b.k&k), t, f)
		}
		if ones(a.max)&k == 0 {
			return g.check(a, f)
		}
		if ones(a.max)&^k == 0 { // all bits that there may be
			return g.equal(a, 0, f, t)
		}
	case relGE:
		if k == 0 {
			return g.check(a, t)
		}
		if a.max < k {
			return g.check(a, f)
		}
	case relGT:
		if a.max <= k {
			return g.check(a, f)
		}
	}
	return g.node(nodeKey{kind: nodeTest, rel: rel, a: a, b: b, t: t, f: f})
}

// equal is the node for a == k.
func (g *graph) equal(a *value, k uint32, t, f *node) *node {
	if a.max < k {
		return g.check(a, f)
	}
	switch {
	case a.op == opNeg:
		return g.test(relEQ, a.a, g.constant(-k), t, f)
	case a.op == opSub && k == 0:
		return g.test(relEQ, a.a, a.b, t, f)
	case a.b == nil || a.b.op != opConst:
	case a.op == opAdd:
		return g.test(relEQ, a.a, g.constant(k-a.b.k), t, f)
	case a.op == opXor:
		return g.test(relEQ, a.a, g.constant(k^a.b.k), t, f)
	case a.op == opAnd && k&^a.b.k != 0:
		return g.check(a, f)
	case a.op == opAnd && k == 0:
		return g.test(relSET, a.a, a.b, f, t)
	case a.op == opAnd && k == a.b.k && k&(k-1) == 0:
		return g.test(relSET, a.a, a.b, t, f)
	case a.op == opOr && a.b.k&^k != 0:
		return g.check(a, f)
	}
	return g.node(nodeKey{kind: nodeTest, rel: relEQ, a: a, b: g.constant(k), t: t, f: f})
}

// order returns the nodes that can be reached from root, each before those that
// follow it; what follows a test that holds comes right behind it if it can.
func (g *graph) order(root *node) []*node {
	seen := make([]bool, len(g.known))
	var out []*node
	var visit func(*node)
	visit = func(n *node) {
		if n == nil || seen[n.id] {
			return
		}
		seen[n.id] = true
		visit(n.f)
		visit(n.t)
		out = append(out, n)
	}
	visit(root)
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
