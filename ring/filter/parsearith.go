// SPDX-License-Identifier: Apache-2.0

package filter

// maxArithmetic bounds how many numbers and operators one comparison has.
const maxArithmetic = 1000

// comparison reads two numbers and how they compare.
func (p *parser) comparison() (expr, error) {
	left := maxArithmetic
	a, err := p.arithmetic(&left)
	if err != nil {
		return nil, err
	}
	if !isComparison(p.peek()) {
		return nil, p.wanted("=, !=, <, >, <=, >= or an operator")
	}
	c := comparison{op: p.take(), a: a}
	c.b, err = p.arithmetic(&left)
	if err == nil && isComparison(p.peek()) {
		return nil, p.fail(p.peek(), "a second comparison: put and between two of them")
	}
	return c, err
}

// precedence of operators. Those without one, % and ^, are as libpcap's grammar
// has them: they take all that follows as their right side, and whatever is
// before them takes them first.
var precedence = map[string]int{"|": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "/": 5}

// arithmetic reads operands with operators between them.
func (p *parser) arithmetic(left *int) (arithmetic, error) {
	up, err := p.down()
	if err != nil {
		return nil, err
	}
	defer up()
	var operands []arithmetic
	var operators []token
	reduce := func() {
		n := len(operands)
		op := operators[len(operators)-1]
		operands = append(operands[:n-2], computed{op, operands[n-2], operands[n-1]})
		operators = operators[:len(operators)-1]
	}
	for {
		if *left--; *left < 0 {
			return nil, p.fail(p.peek(), "more than %d numbers in one comparison", maxArithmetic)
		}
		x, err := p.operand(left)
		if err != nil {
			return nil, err
		}
		operands = append(operands, x)
		t := p.peek()
		if !isOperator(t) || isComparison(t) {
			break
		}
		next, binds := precedence[t.text]
		for binds && len(operators) > 0 {
			last, ok := precedence[operators[len(operators)-1].text]
			if !ok || last < next {
				break
			}
			reduce()
		}
		operators = append(operators, p.take())
	}
	for len(operators) > 0 {
		reduce()
	}
	return operands[0], nil
}

// operand reads a number, a field of a header, or something in parentheses.
func (p *parser) operand(left *int) (arithmetic, error) {
	switch t := p.peek(); {
	case t.kind == tokNumber:
		return number{p.take().num}, nil
	case t.is("len"):
		p.take()
		return length{}, nil
	case t.is("-"):
		up, err := p.down()
		if err != nil {
			return nil, err
		}
		defer up()
		p.take()
		x, err := p.operand(left)
		if _, binds := precedence[p.peek().text]; err == nil && !binds && isOperator(p.peek()) && !isComparison(p.peek()) {
			op := p.take() // one that takes what is before it, and all that follows
			rest, err := p.arithmetic(left)
			return minus{computed{op, x, rest}}, err
		}
		return minus{x}, err
	case t.is("("):
		p.take()
		x, err := p.arithmetic(left)
		if err != nil {
			return nil, err
		}
		if !p.peek().is(")") {
			return nil, p.wanted("an operator or )")
		}
		p.take()
		return x, nil
	case t.kind == tokWord && isProtocol[t.text]:
		return p.field(left)
	}
	return nil, p.wanted("a number, len, or a field as in ip[0]", append([]string{"len"}, protocolWords...)...)
}

// field reads proto[index:size].
func (p *parser) field(left *int) (arithmetic, error) {
	f := field{proto: p.take(), size: 1}
	if !p.peek().is("[") {
		return nil, p.wanted("[ after " + quoted(f.proto.text))
	}
	p.take()
	var err error
	if f.index, err = p.arithmetic(left); err != nil {
		return nil, err
	}
	if p.peek().is(":") {
		p.take()
		t := p.peek()
		if t.kind != tokNumber {
			return nil, p.wanted("a number of bytes: 1, 2 or 4")
		}
		if t.num != 1 && t.num != 2 && t.num != 4 {
			return nil, p.fail(t, "a field has 1, 2 or 4 bytes, not %s", quoted(t.text))
		}
		f.size = uint8(p.take().num)
	}
	if !p.peek().is("]") {
		return nil, p.wanted("an operator, : or ]")
	}
	p.take()
	return f, nil
}
