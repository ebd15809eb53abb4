// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"slices"
	"strings"
)

// An expr is a part of an expression that is true or not.
type expr any

type (
	// chain is first, then and/or with each of rest, from left to right.
	chain struct {
		first expr
		rest  []link
	}
	link struct {
		and bool
		x   expr
	}
	negation struct{ x expr }
	// primitive is an address, port or protocol with what qualifies it.
	primitive struct {
		q    qualifiers
		id   token
		mask token // of a network: a tokNumber behind /, or the tokDotted behind mask
	}
	// protocol is a protocol's name alone.
	protocol struct{ name token }
	// special are the words that follow no pattern.
	special struct {
		word  token
		proto token // before broadcast and multicast; tokEnd: none
		arg   token // a number, or the type of llc; tokEnd: none
		op    token // of byte
	}
	// comparison is a op b.
	comparison struct {
		op   token
		a, b arithmetic
	}
)

// An arithmetic is a part of an expression that is a number.
type arithmetic any

type (
	number   struct{ v uint32 }
	length   struct{}
	minus    struct{ x arithmetic }
	computed struct {
		op   token
		a, b arithmetic
	}
	// field is proto[index:size].
	field struct {
		proto token
		index arithmetic
		size  uint8
	}
)

// qualifiers say what an ID is: which protocol's, in which direction, and what
// kind of thing.
type qualifiers struct {
	known bool  // false: nothing was said before
	proto token // tokEnd: any
	dir   direction
	kind  string // host, net, port, portrange, proto, protochain, gateway; "": host
	word  token  // the last of them, for messages
}

type direction uint8

const (
	dirAny direction = iota
	dirSrc
	dirDst
	dirBoth
)

// maxDepth bounds how deep parentheses, brackets and negations nest.
const maxDepth = 200

// A parser reads tokens by recursive descent.
type parser struct {
	text   string
	tokens []token
	at     int
	close  []int // for each ( the index of its )
	depth  int
}

// parse returns what an expression says; nil for an empty one.
func parse(text string) (expr, error) {
	tokens, err := split(text)
	if err != nil {
		return nil, err
	}
	p := &parser{text: text, tokens: tokens}
	if err := p.matchParentheses(); err != nil {
		return nil, err
	}
	if p.peek().kind == tokEnd {
		return nil, nil
	}
	x, _, err := p.expression(qualifiers{})
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != tokEnd {
		return nil, p.wanted("and, or, or the end", "and", "or")
	}
	return x, nil
}

func (p *parser) peek() *token { return &p.tokens[p.at] }

// ahead is the token n after the next.
func (p *parser) ahead(n int) *token { return &p.tokens[min(p.at+n, len(p.tokens)-1)] }

func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != tokEnd {
		p.at++
	}
	return t
}

func (p *parser) fail(t *token, format string, args ...any) error {
	return &Error{Expression: p.text, Offset: t.at, Length: t.size, Text: fmt.Sprintf(format, args...)}
}

// wanted says what is expected in place of the next token, and which of words
// is most like it.
func (p *parser) wanted(what string, words ...string) error {
	t := p.peek()
	if t.kind == tokEnd {
		return p.fail(t, "the expression ends here; expected %s", what)
	}
	if about := foreignTo[t.text]; about != "" && t.kind == tokWord {
		return p.fail(t, "%q is about %s, which is not captured", t.text, about)
	}
	text := p.text[t.at : t.at+t.size]
	hint := ""
	from, number, _ := strings.Cut(text, "-")
	switch {
	case t.kind == tokName && number != "" && isNumber(number) && (isNumber(from) || keywords[from]):
		hint = fmt.Sprintf("; for a subtraction put spaces around the minus: %s - %s", from, number)
	case t.kind == tokName || t.kind == tokWord:
		if near := nearest(text, words); len(near) > 0 {
			hint = "; did you mean " + list(near, "or") + "?"
		}
	case t.is("]") || t.is(")"):
		hint = "; nothing is open that it could close"
	}
	return p.fail(t, "expected %s, not %s%s", what, quoted(text), hint)
}

// matchParentheses finds the partner of each parenthesis and bracket.
func (p *parser) matchParentheses() error {
	p.close = make([]int, len(p.tokens))
	var open []int
	for i := range p.tokens {
		t := &p.tokens[i]
		switch {
		case t.among("(", "["):
			if len(open) == maxDepth {
				return p.fail(t, "more than %d parentheses and brackets are open here", maxDepth)
			}
			open = append(open, i)
		case t.among(")", "]"):
			if len(open) == 0 {
				return p.fail(t, "nothing is open that this %s could close", t.text)
			}
			from := &p.tokens[open[len(open)-1]]
			if from.is("(") != t.is(")") {
				return p.fail(t, "this %s cannot close the %s of column %d", t.text, from.text, from.at+1)
			}
			p.close[open[len(open)-1]] = i
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t := &p.tokens[open[len(open)-1]]
		return p.fail(t, "this %s is never closed", t.text)
	}
	return nil
}

// down goes one level deeper, and returns what comes up again.
func (p *parser) down() (up func(), err error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail(p.peek(), "more than %d levels of not, parentheses and brackets", maxDepth)
	}
	return func() { p.depth-- }, nil
}

// expression reads terms with and and or between them. An ID alone after and or
// or takes the qualifiers of the term before it.
func (p *parser) expression(q qualifiers) (expr, qualifiers, error) {
	first, q, err := p.term(q)
	if err != nil {
		return nil, q, err
	}
	c := chain{first: first}
	for p.peek().among("and", "or") {
		and := p.take().is("and")
		var x expr
		if p.idFollows() && !p.isMistyped() {
			x, err = p.id(q)
		} else {
			x, q, err = p.term(q)
		}
		if err != nil {
			return nil, q, err
		}
		c.rest = append(c.rest, link{and, x})
	}
	if len(c.rest) == 0 {
		return first, q, nil
	}
	return c, q, nil
}

// idFollows reports whether what comes is an ID without words before it, or
// several in parentheses, rather than a term.
func (p *parser) idFollows() bool {
	open, i := 0, p.at
	for ; p.tokens[i].among("not", "("); i++ {
		if p.tokens[i].is("(") {
			open++
		}
	}
	t := &p.tokens[i]
	if t.kind != tokNumber {
		return t.isID()
	}
	for i++; open > 0 && p.tokens[i].is(")"); i++ {
		open--
	}
	return !isOperator(&p.tokens[i])
}

// isMistyped reports whether a name comes with another word right behind it: it
// is then no name, but a word of the language that is written wrong.
func (p *parser) isMistyped() bool {
	next := p.ahead(1)
	return p.peek().kind == tokName && (next.isID() || next.kind == tokWord && !next.among("and", "or", "mask"))
}

// isOperator reports whether t is one between numbers.
func isOperator(t *token) bool {
	return t.among("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>") || isComparison(t)
}

func isComparison(t *token) bool { return t.among("<", ">", "<=", ">=", "=", "!=") }

// id reads an ID with these qualifiers, or several in parentheses.
func (p *parser) id(q qualifiers) (expr, error) {
	up, err := p.down()
	if err != nil {
		return nil, err
	}
	defer up()
	t := p.peek()
	switch {
	case t.is("not"):
		p.take()
		x, err := p.id(q)
		return negation{x}, err
	case t.is("("):
		p.take()
		first, err := p.id(q)
		if err != nil {
			return nil, err
		}
		c := chain{first: first}
		for p.peek().among("and", "or") {
			and := p.take().is("and")
			x, err := p.id(q)
			if err != nil {
				return nil, err
			}
			c.rest = append(c.rest, link{and, x})
		}
		if !p.peek().is(")") {
			return nil, p.wanted("and, or or )", "and", "or")
		}
		p.take()
		return c, nil
	case !t.isID():
		what := idNames[q.kind]
		if t.kind == tokWord {
			return nil, p.fail(t, "expected %s after %q, not %s, which is a word of the language; for a name write \\%s",
				what, q.word.text, quoted(t.text), t.text)
		}
		return nil, p.wanted(what + " after " + quoted(q.word.text))
	case !q.known:
		return nil, p.fail(t, "nothing says what %s is: write host, net, port or another word before it", quoted(t.text))
	}
	out := primitive{q: q, id: p.take()}
	switch {
	case p.peek().is("/") && (t.kind == tokDotted || t.kind == tokIPv6):
		p.take()
		if p.peek().kind != tokNumber {
			return nil, p.wanted("the number of bits of the network")
		}
		out.mask = p.take()
	case p.peek().is("mask") && t.kind == tokDotted:
		p.take()
		if p.peek().kind != tokDotted {
			return nil, p.wanted("a netmask, as in 255.255.255.0")
		}
		out.mask = p.take()
	}
	return out, nil
}

// idNames says what is expected where an ID has to be.
var idNames = map[string]string{
	"": "an address or a host's name", "host": "an address or a host's name", "net": "a network", "port": "a port",
	"portrange": "two ports with a dash between them", "proto": "a protocol's number or name",
	"protochain": "a protocol's number or name", "gateway": "a host's name",
}

// term reads one term, and returns the qualifiers that an ID after it takes.
func (p *parser) term(q qualifiers) (expr, qualifiers, error) {
	up, err := p.down()
	if err != nil {
		return nil, q, err
	}
	defer up()
	switch t := p.peek(); {
	case t.is("not"):
		p.take()
		x, q, err := p.term(q)
		return negation{x}, q, err
	case t.is("(") && !isOperator(&p.tokens[p.close[p.at]+1]):
		p.take()
		x, _, err := p.expression(q)
		if err != nil {
			return nil, q, err
		}
		if !p.peek().is(")") {
			return nil, q, p.wanted("and, or or )", "and", "or")
		}
		p.take()
		return x, q, nil
	case t.kind == tokNumber || t.among("(", "-", "len") || isProtocol[t.text] && t.kind == tokWord && p.ahead(1).is("["):
		x, err := p.comparison()
		return x, qualifiers{}, err
	case t.among("broadcast", "multicast", "less", "greater", "byte", "inbound", "outbound", "ifindex",
		"vlan", "mpls", "pppoed", "pppoes", "geneve", "vxlan", "llc"):
		x, err := p.special(token{})
		return x, qualifiers{}, err
	case t.kind == tokWord && isProtocol[t.text]:
		proto := p.take()
		switch {
		case p.peek().among("broadcast", "multicast"):
			x, err := p.special(proto)
			return x, qualifiers{}, err
		case p.headFollows():
			return p.head(proto)
		}
		if n := p.peek(); n.isID() || n.kind == tokWord && !n.among("and", "or") && foreignTo[n.text] == "" {
			return nil, q, p.wanted("src, dst, host, net, port, portrange, proto, [, and, or, or the end after "+quoted(proto.text), headWords...)
		}
		return protocol{proto}, qualifiers{}, nil
	case p.headFollows():
		return p.head(token{})
	case t.isID() && t.kind != tokName:
		return nil, q, p.fail(t, "nothing says what %s is: write host, net, port or another word before it", quoted(t.text))
	}
	return nil, q, p.wanted("a protocol, src, dst, host, net, port or another word that begins a condition",
		append(slices.Clone(protocolWords), otherWords...)...)
}

var headWords = []string{"src", "dst", "host", "net", "port", "portrange", "proto", "protochain", "gateway", "broadcast", "multicast", "and", "or"}

// headFollows reports whether a word comes that qualifies an ID.
func (p *parser) headFollows() bool {
	return p.peek().among("src", "dst", "host", "net", "port", "portrange", "proto", "protochain", "gateway")
}

// head reads the qualifiers of an ID, and the ID.
func (p *parser) head(proto token) (expr, qualifiers, error) {
	q := qualifiers{known: true, proto: proto, word: *p.peek()}
	if t := p.peek(); t.among("src", "dst") {
		q.dir = dirSrc
		if p.take().is("dst") {
			q.dir = dirDst
		}
		if j := p.ahead(1); p.peek().among("and", "or") && j.among("src", "dst") && j.text != t.text {
			if q.dir = dirAny; p.take().is("and") {
				q.dir = dirBoth
			}
			q.word = p.take()
		}
		if p.peek().among("proto", "protochain", "gateway") {
			return nil, q, p.fail(p.peek(), "%q has no direction", p.peek().text)
		}
	}
	if p.headFollows() && !p.peek().among("src", "dst") {
		q.word = p.take()
		q.kind = q.word.text
	}
	x, err := p.id(q)
	return x, q, err
}

// special reads one of the words that follow no pattern.
func (p *parser) special(proto token) (expr, error) {
	s := special{word: p.take(), proto: proto}
	number := func(what string) error {
		if p.peek().kind != tokNumber {
			return p.wanted(what + " after " + quoted(s.word.text))
		}
		s.arg = p.take()
		return nil
	}
	switch s.word.text {
	case "less", "greater":
		return s, number("a number of bytes")
	case "ifindex":
		return s, number("the number of an interface")
	case "byte":
		if err := number("the offset of a byte"); err != nil {
			return nil, err
		}
		if !p.peek().among("=", "<", ">", "&", "|") {
			return nil, p.wanted("=, <, >, & or |")
		}
		s.op = p.take()
		index := s.arg
		if err := number("a number"); err != nil {
			return nil, err
		}
		s.proto = index
	case "vlan", "mpls", "pppoes", "geneve", "vxlan":
		if t := p.peek(); t.kind == tokNumber || t.is("(") {
			return s, p.inParentheses(&s.arg)
		}
	case "llc":
		if t := p.peek(); t.kind == tokName || t.is("rnr") {
			s.arg = p.take()
			if _, ok := llcTypes[s.arg.text]; !ok {
				p.at--
				var names []string
				for n := range llcTypes {
					names = append(names, n)
				}
				slices.Sort(names)
				return nil, p.wanted("a type of LLC frame ("+strings.Join(names, ", ")+")", names...)
			}
		}
	}
	return s, nil
}

// inParentheses reads a number that may be in parentheses.
func (p *parser) inParentheses(to *token) error {
	open := 0
	for ; p.peek().is("("); open++ {
		p.take()
	}
	if p.peek().kind != tokNumber {
		return p.wanted("a number")
	}
	*to = p.take()
	for ; open > 0; open-- {
		if !p.peek().is(")") {
			return p.wanted(")")
		}
		p.take()
	}
	return nil
}
