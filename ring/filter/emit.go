// SPDX-License-Identifier: Apache-2.0

package filter

import "golang.org/x/net/bpf"

// registers are what the machine holds at some place, on every way there.
type registers struct {
	a, x *value
	m    [words]*value
}

// meet keeps what both hold.
func (r *registers) meet(s *registers) {
	if r.a != s.a {
		r.a = nil
	}
	if r.x != s.x {
		r.x = nil
	}
	for i := range r.m {
		if r.m[i] != s.m[i] {
			r.m[i] = nil
		}
	}
}

// forget drops all that variable n is in.
func (r *registers) forget(n uint32) {
	if r.a.dependsOn(n) {
		r.a = nil
	}
	if r.x.dependsOn(n) {
		r.x = nil
	}
	for i := range r.m {
		if r.m[i].dependsOn(n) {
			r.m[i] = nil
		}
	}
}

// An emitter writes the instructions of nodes.
type emitter struct {
	*values
	slots  map[*value]int // words of scratch memory that variables and values used again are kept in
	loaded map[*value]int // how often they were taken from there,
	stored map[*value]int // and put there
	now    registers
	out    []bpf.RawInstruction
	deep   bool // more words were needed than there are
	lost   bool // a variable was needed that was not kept
}

func (e *emitter) put(op uint16, k uint32) {
	e.out = append(e.out, bpf.RawInstruction{Op: op, K: k})
}

var jumpOps = [...]uint16{relEQ: jmpJEQ, relGT: jmpJGT, relGE: jmpJGE, relSET: jmpJSET}

var aluOps = [...]uint16{
	opAdd: aluADD, opSub: aluSUB, opMul: aluMUL, opDiv: aluDIV, opMod: aluMOD, opAnd: aluAND,
	opOr: aluOR, opXor: aluXOR, opShl: aluLSH, opShr: aluRSH,
}

// node writes the code of one node.
func (e *emitter) node(n *node) chunk {
	switch n.kind {
	case nodeCheck:
		if n.a.op == opMSH {
			e.toX(n.a)
		} else {
			e.toA(n.a)
		}
		return chunk{t: n.t}
	case nodeSet:
		e.setVariable(n)
		return chunk{t: n.t}
	}
	c := chunk{jump: classJMP | jumpOps[n.rel], t: n.t, f: n.f}
	if n.b.op == opConst {
		e.toA(n.a)
		c.k = n.b.k
		return c
	}
	a, b := n.a, n.b
	if e.atHand(a) && !e.atHand(b) || e.now.a == b {
		switch a, b = b, a; n.rel {
		case relGT: // b > a is not a >= b
			c.jump, c.t, c.f = classJMP|jmpJGE, n.f, n.t
		case relGE:
			c.jump, c.t, c.f = classJMP|jmpJGT, n.f, n.t
		}
	}
	e.both(a, b)
	c.jump |= srcX
	return c
}

func (e *emitter) setVariable(n *node) {
	v := e.variable(n.n)
	slot, kept := e.slots[v]
	inX := e.atHand(n.a)
	op := uint16(classST)
	if inX {
		e.toX(n.a)
		op = classSTX
	} else {
		e.toA(n.a)
	}
	e.now.forget(n.n)
	if kept {
		e.put(op, uint32(slot))
		e.stored[v]++
		e.now.m[slot] = v
	}
	if inX {
		e.now.x = v
	} else {
		e.now.a = v
	}
}

// atHand reports whether v is in X, or gets there without the accumulator.
func (e *emitter) atHand(v *value) bool { return e.now.x == v || e.direct(v) }

// direct reports whether one instruction brings v into X.
func (e *emitter) direct(v *value) bool {
	switch v.op {
	case opConst, opMSH, opLen:
		return true
	}
	_, ok := e.inMemory(v)
	return ok
}

func (e *emitter) inMemory(v *value) (slot int, ok bool) {
	if slot, ok = e.slots[v]; ok {
		ok = e.now.m[slot] == v
	}
	return slot, ok
}

// keepsX reports whether computing v into A leaves X as it is.
func (e *emitter) keepsX(v *value) bool {
	if !v.usesX || e.now.a == v {
		return true
	}
	if _, ok := e.inMemory(v); ok {
		return true
	}
	if v.op == opLoad {
		return e.now.x == v.a
	}
	return v.op >= opNeg && (v.b == nil || v.b.op == opConst) && e.keepsX(v.a)
}

// toA computes v into the accumulator.
func (e *emitter) toA(v *value) {
	if e.now.a == v {
		return
	}
	if e.now.x == v {
		e.put(classMISC|miscTXA, 0)
		e.now.a = v
		return
	}
	if slot, ok := e.inMemory(v); ok {
		e.put(classLD|modeMEM, uint32(slot))
		e.loaded[v]++
		e.now.a = v
		return
	}
	switch v.op {
	case opConst:
		e.put(classLD|modeIMM, v.k)
	case opLen:
		e.put(classLD|sizeW|modeLEN, 0)
	case opExt:
		e.put(classLD|sizeOf(v)|modeABS, v.k)
	case opLoad:
		if v.a == nil {
			e.put(classLD|sizeOf(v)|modeABS, v.k)
			break
		}
		e.toX(v.a)
		e.put(classLD|sizeOf(v)|modeIND, v.k)
	case opMSH:
		e.toX(v)
		e.put(classMISC|miscTXA, 0)
	case opNeg:
		e.toA(v.a)
		e.put(classALU|aluNEG, 0)
	case opVar:
		e.lost = true
	default:
		if v.b.op != opConst {
			a, b := v.a, v.b
			if commutes(v.op) && !e.atHand(b) && (e.atHand(a) || e.now.a == b || !e.keepsX(a) && e.keepsX(b)) {
				a, b = b, a
			}
			e.both(a, b)
			e.put(classALU|aluOps[v.op]|srcX, 0)
			break
		}
		e.toA(v.a)
		op, k := aluOps[v.op], v.b.k
		if v.op == opAdd && k > maxOffset {
			op, k = aluSUB, -k
		}
		e.put(classALU|op, k)
	}
	e.now.a = v
	e.store(v, classST)
}

func commutes(op valueOp) bool {
	switch op {
	case opAdd, opMul, opAnd, opOr, opXor:
		return true
	}
	return false
}

// store keeps v, which op stores, if it is one to be kept.
func (e *emitter) store(v *value, op uint16) {
	slot, ok := e.slots[v]
	if !ok || e.now.m[slot] == v {
		return
	}
	e.put(op, uint32(slot))
	e.stored[v]++
	e.now.m[slot] = v
}

func sizeOf(v *value) uint16 {
	switch v.size {
	case 1:
		return sizeB
	case 2:
		return sizeH
	}
	return sizeW
}

// toX computes v into the index register; the accumulator may be lost.
func (e *emitter) toX(v *value) {
	if e.now.x == v {
		return
	}
	if slot, ok := e.inMemory(v); ok && e.now.a != v {
		e.put(classLDX|modeMEM, uint32(slot))
		e.loaded[v]++
		e.now.x = v
		return
	}
	switch {
	case e.now.a == v:
		e.put(classMISC|miscTAX, 0)
	case v.op == opConst:
		e.put(classLDX|modeIMM, v.k)
	case v.op == opMSH:
		e.put(classLDX|sizeB|modeMSH, v.k)
	case v.op == opLen:
		e.put(classLDX|sizeW|modeLEN, 0)
	default:
		e.toA(v)
		e.put(classMISC|miscTAX, 0)
	}
	e.now.x = v
}

// both computes a into A and b into X.
func (e *emitter) both(a, b *value) {
	switch {
	case e.now.x == b && e.keepsX(a):
		e.toA(a)
	case e.direct(b):
		e.toA(a)
		e.toX(b)
	default:
		e.toA(b)
		before := e.now.x
		if e.now.x = b; e.keepsX(a) { // it would, if b were there
			e.now.x = before
			e.toX(b)
			e.toA(a)
			return
		}
		e.now.x = before
		slot := e.free()
		e.put(classST, uint32(slot))
		e.now.m[slot] = b
		held, had := e.slots[b]
		e.slots[b] = slot // until it is taken: what is computed in between takes others
		e.toA(a)
		e.put(classLDX|modeMEM, uint32(slot))
		e.now.x = b
		if delete(e.slots, b); had {
			e.slots[b] = held
		}
		e.now.m[slot] = nil
	}
}

// free returns a word that nothing is kept in.
func (e *emitter) free() int {
	var used [words]bool
	for _, s := range e.slots {
		used[s] = true
	}
	for s := words - 1; s >= 0; s-- {
		if !used[s] {
			return s
		}
	}
	e.deep = true
	return 0
}
