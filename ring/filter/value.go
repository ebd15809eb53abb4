// SPDX-License-Identifier: Apache-2.0

package filter

// A valueOp says how a value comes about.
type valueOp uint8

const (
	opConst valueOp = iota // k
	opLen                  // the frame's length on the wire
	opExt                  // what the kernel knows; k is the load's offset, size its size
	opVar                  // variable number k
	opLoad                 // size bytes at a + k; a may be nil
	opMSH                  // 4 * (byte at k & 0xf): the length of an IPv4 header
	opNeg                  // -a
	opAdd                  // a + b, and so on: all modulo 2^32
	opSub
	opMul
	opDiv
	opMod
	opAnd
	opOr
	opXor
	opShl
	opShr
)

// A value is a number that an expression computes from a frame. Equal values
// are one value: pointers can be compared.
type value struct {
	op   valueOp
	size uint8
	k    uint32
	a, b *value

	id     int
	max    uint32 // it is never more than that
	cost   int    // instructions to compute it, from nothing
	fails  bool   // computing it may end the program: a load beyond the frame's end, a division by 0
	never  bool   // computing it always does
	usesX  bool   // computing it takes the index register
	varied bool   // a variable is in it
}

type valueKey struct {
	op   valueOp
	size uint8
	k    uint32
	a, b *value
}

// maxVariable is more than the headers of all encapsulations that an expression
// can name, bytes.
const maxVariable = 1 << 24

// values makes values, and makes equal ones once.
type values struct {
	known map[valueKey]*value
}

func newValues() *values { return &values{known: make(map[valueKey]*value)} }

func (vs *values) get(v value) *value {
	key := valueKey{v.op, v.size, v.k, v.a, v.b}
	if old := vs.known[key]; old != nil {
		return old
	}
	for _, part := range []*value{v.a, v.b} {
		if part != nil {
			v.fails = v.fails || part.fails
			v.never = v.never || part.never
			v.varied = v.varied || part.varied
			v.usesX = v.usesX || part.usesX
			v.cost += part.cost
		}
	}
	v.id = len(vs.known)
	vs.known[key] = &v
	return &v
}

func (vs *values) constant(k uint32) *value {
	return vs.get(value{op: opConst, k: k, max: k, cost: 1})
}

func (vs *values) length() *value { return vs.get(value{op: opLen, max: 1<<32 - 1, cost: 1}) }

// variable is variable number n: where something begins in the frame, since the
// kernel or the header before it decides.
func (vs *values) variable(n uint32) *value {
	return vs.get(value{op: opVar, k: n, max: maxVariable, cost: 1, varied: true})
}

// ext is a load of what the kernel knows.
func (vs *values) ext(offset uint32, size uint8) *value {
	most := uint32(1<<32 - 1)
	switch offset {
	case adVLANTagPresent:
		most = 1
	case adVLANTag:
		most = 1<<16 - 1
	}
	return vs.get(value{op: opExt, k: offset, size: size, max: most, cost: 1})
}

// load is size bytes of the frame at base + k; a nil base is 0.
func (vs *values) load(base *value, k uint32, size uint8) *value {
	if base != nil && base.op == opConst { // as in the machine, addresses are modulo 2^32
		base, k = nil, base.k+k
	}
	if base != nil && base.op == opAdd && base.b.op == opConst && base.b.k <= maxOffset/4 && k <= maxOffset/4 &&
		base.a.max <= maxOffset/4 { // the sum is the same wherever it is made
		base, k = base.a, k+base.b.k
	}
	v := value{op: opLoad, size: size, k: k, a: base, max: 1<<(8*uint64(size)) - 1, cost: 1, fails: true}
	v.never = k > maxOffset
	if base != nil {
		v.usesX = true
		switch base.op {
		case opVar, opMSH:
		default:
			v.cost++ // tax
		}
	}
	return vs.get(v)
}

// headerLength is 4 * (byte at base + k & 0xf), plus base.
func (vs *values) headerLength(base *value, k uint32) *value {
	n := vs.binary(opShl, vs.binary(opAnd, vs.load(base, k, 1), vs.constant(0xF)), vs.constant(2))
	if base != nil {
		n = vs.binary(opAdd, n, base)
	}
	return n
}

func (vs *values) neg(a *value) *value {
	if a.op == opConst {
		return vs.constant(-a.k)
	}
	return vs.get(value{op: opNeg, a: a, max: 1<<32 - 1, cost: 1})
}

// fold computes a op b. Division by 0 and long shifts are refused before.
func fold(op valueOp, a, b uint32) uint32 {
	switch op {
	case opAdd:
		return a + b
	case opSub:
		return a - b
	case opMul:
		return a * b
	case opDiv:
		return a / b
	case opMod:
		return a % b
	case opAnd:
		return a & b
	case opOr:
		return a | b
	case opXor:
		return a ^ b
	case opShl:
		return a << b
	case opShr:
		return a >> b
	}
	panic("filter: no such operation")
}

// ones is the least number 2^n - 1 that is not less than v.
func ones(v uint32) uint32 {
	for s := 1; s < 32; s *= 2 {
		v |= v >> s
	}
	return v
}

// binary is a op b, simplified where nothing that may fail is lost.
func (vs *values) binary(op valueOp, a, b *value) *value {
	if b.op == opConst && b.k == 0 && (op == opDiv || op == opMod) {
		return vs.get(value{op: op, a: a, b: b, cost: 1, fails: true, never: true})
	}
	if a.op == opConst && b.op == opConst {
		return vs.constant(fold(op, a.k, b.k))
	}
	switch op {
	case opAdd, opMul, opAnd, opOr, opXor:
		if a.op == opConst {
			a, b = b, a
		}
	case opSub:
		if b.op == opConst {
			op, b = opAdd, vs.constant(-b.k)
		}
	}
	v := value{op: op, a: a, b: b, max: 1<<32 - 1}
	if b.op == opConst {
		v.cost = 0 // that of b is the instruction
	} else {
		v.cost = 2 // op x, and what brings b there
		v.usesX = true
		v.fails = op == opDiv || op == opMod
		switch op {
		case opAnd:
			v.max = min(ones(a.max), ones(b.max))
		case opOr, opXor:
			v.max = max(ones(a.max), ones(b.max))
		}
		return vs.get(v)
	}
	k := b.k
	sameOp := a.op == op && a.b.op == opConst
	switch op {
	case opAdd:
		if k == 0 {
			return a
		}
		if sameOp {
			return vs.binary(opAdd, a.a, vs.constant(a.b.k+k))
		}
		if uint64(a.max)+uint64(k) < 1<<32 {
			v.max = a.max + k
		}
	case opMul:
		if k == 1 {
			return a
		}
		if uint64(a.max)*uint64(k) < 1<<32 {
			v.max = a.max * k
		}
	case opDiv:
		if k == 1 {
			return a
		}
		v.max = a.max / k
	case opMod:
		v.max = min(a.max, k-1)
	case opAnd:
		if sameOp {
			return vs.binary(opAnd, a.a, vs.constant(a.b.k&k))
		}
		if ones(a.max)&^k == 0 {
			return a
		}
		v.max = min(ones(a.max)&k, a.max)
	case opOr, opXor:
		if k == 0 {
			return a
		}
		v.max = ones(a.max | k)
	case opShl:
		if k == 0 {
			return a
		}
		if k == 2 && a.op == opAnd && a.b.op == opConst && a.b.k == 0xF && a.a.op == opLoad && a.a.size == 1 && a.a.a == nil {
			return vs.get(value{op: opMSH, k: a.a.k, max: 60, cost: 1, fails: true, never: a.a.never, usesX: true})
		}
		if uint64(a.max)<<k < 1<<32 {
			v.max = a.max << k
		}
	case opShr:
		if k == 0 {
			return a
		}
		v.max = a.max >> k
	}
	return vs.get(v)
}

// dependsOn reports whether variable n is in v.
func (v *value) dependsOn(n uint32) bool {
	if v == nil || !v.varied {
		return false
	}
	return v.op == opVar && v.k == n || v.a.dependsOn(n) || v.b.dependsOn(n)
}

// walk calls f with v and all its parts, parts first.
func (v *value) walk(f func(*value)) {
	if v == nil {
		return
	}
	v.a.walk(f)
	v.b.walk(f)
	f(v)
}
