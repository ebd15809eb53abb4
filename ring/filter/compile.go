// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Options say what an expression is compiled for.
type Options struct {
	LinkType uint16     // of the frames: Ethernet, Raw, LinuxSLL, LinuxSLL2, IPv4 or IPv6
	Live     bool       // the program is attached to a packet socket: VLAN tags are not in the frame but beside it
	SnapLen  uint32     // what the program returns for a frame that matches; 0: 262144, as tcpdump's do
	Netmask  netip.Addr // of the interface, IPv4, for "ip broadcast"; not valid: only 0.0.0.0 and 255.255.255.255 are broadcast

	// LookUp returns the addresses of a host that the expression names; nil
	// stands for the system's resolver. For all names of an expression it gets
	// 5 seconds.
	LookUp func(ctx context.Context, host string) ([]netip.Addr, error)
}

// A Program is classic BPF: it returns how many bytes of a frame are taken, 0
// if the frame does not match.
type Program []bpf.RawInstruction

// Compile returns the program of an expression in the language of
// pcap-filter(7), as docs/FILTER.md has it. An empty expression matches every
// frame. What is wrong with an expression is told by an *Error.
func Compile(expression string, o Options) (Program, error) {
	o.SnapLen = cmp.Or(o.SnapLen, defaultReturn)
	if !Supported(o.LinkType) {
		_, err := LinkType(fmt.Sprint(o.LinkType))
		return nil, err
	}
	x, err := parse(expression)
	if err != nil {
		return nil, err
	}
	c := &compiler{graph: newGraph(newValues()), text: expression, o: o, l: layersOf(o.LinkType)}
	c.names.lookup = o.LookUp
	root := c.accept
	if x != nil {
		f, err := c.formula(x)
		if err != nil {
			return nil, err
		}
		if root, err = c.start(f); err != nil {
			return nil, err
		}
	}
	program, err := c.generate(root, o.SnapLen)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	if len(program) > MaxInstructions {
		return nil, fmt.Errorf("filter: the program has %d instructions, and the kernel takes %d: name networks instead of hosts, port ranges instead of ports, or split the capture",
			len(program), MaxInstructions)
	}
	return program, nil
}

// MatchesNothing reports whether the program rejects every frame, whatever is
// in it.
func (p Program) MatchesNothing() bool {
	for _, i := range p {
		if i.Op&7 == classRET && (i.Op != classRET|srcK || i.K != 0) {
			return false
		}
	}
	return true
}

// A compiler makes a formula of an expression.
type compiler struct {
	*graph
	text  string
	o     Options
	l     layers
	names names
	vars  uint32
	word  token // what is being compiled, for messages
}

// start makes the graph of f, optimised.
func (c *compiler) start(f *formula) (*node, error) {
	if n := f.size(); n > maxNodes {
		return nil, fmt.Errorf("filter: the expression makes %d tests, and %d are allowed: name networks instead of hosts, or split the capture", n, maxNodes)
	}
	root := c.optimise(c.build(f, c.accept, c.reject))
	return c.optimise(c.sortChains(root)), nil
}

func (f *formula) size() int {
	n := 1
	for _, k := range f.kids {
		n += k.size()
	}
	return n
}

// refuse says what is wrong with the word that is being compiled.
func (c *compiler) refuse(format string, args ...any) error { return c.wrong(c.word, format, args...) }

func (c *compiler) wrong(t token, format string, args ...any) error {
	return &Error{Expression: c.text, Offset: t.at, Length: t.size, Text: fmt.Sprintf(format, args...)}
}

// newVariable returns a variable that nothing has used yet.
func (c *compiler) newVariable() (n uint32, v *value) {
	c.vars++
	return c.vars - 1, c.variable(c.vars - 1)
}

func set(n uint32, v *value) *formula { return &formula{kind: isSet, n: n, a: v} }

// formula compiles x. Words like vlan say where the headers behind them are for
// all that follows in the text, so parts are compiled in that order.
func (c *compiler) formula(x expr) (*formula, error) {
	switch x := x.(type) {
	case chain:
		return c.chain(x)
	case negation:
		f, err := c.formula(x.x)
		if err != nil {
			return nil, err
		}
		return not(f), nil
	case primitive:
		c.word = x.id
		return c.primitive(x)
	case protocol:
		c.word = x.name
		return c.protocol(x.name)
	case special:
		c.word = x.word
		return c.special(x)
	case comparison:
		c.word = x.op
		return c.comparison(x)
	}
	panic(fmt.Sprintf("filter: no such part: %T", x))
}

// chain compiles terms with and and or between them, which bind alike, from
// left to right.
func (c *compiler) chain(x chain) (*formula, error) {
	f, err := c.formula(x.first)
	if err != nil {
		return nil, err
	}
	for _, l := range x.rest {
		g, err := c.formula(l.x)
		if err != nil {
			return nil, err
		}
		kind := isAny
		if l.and {
			kind = isAll
		}
		if f.kind == kind && f.n == chained { // one list, not a tower
			f.kids = append(f.kids, g)
			continue
		}
		f = &formula{kind: kind, kids: []*formula{f, g}, n: chained}
	}
	return f, nil
}

// chained marks formulas that chain made, which it may add to.
const chained = 1

// protocol compiles a protocol's name alone.
func (c *compiler) protocol(t token) (*formula, error) {
	if proto, ok := linkProtocols[t.text]; ok {
		return c.carries(proto)
	}
	if n, ok := overBoth[t.text]; ok {
		return c.overIP(n)
	}
	if n, ok := overIPv4[t.text]; ok {
		return c.overIPv4(n)
	}
	if n, ok := isoProtocols[t.text]; ok {
		return c.overISO(n)
	}
	if types, ok := isisTypes[t.text]; ok {
		list := anyOf()
		for _, n := range types {
			f, err := c.overISIS(n)
			if err != nil {
				return nil, err
			}
			list.kids = append(list.kids, f)
		}
		return list, nil
	}
	switch t.text {
	case "icmp6":
		return c.overIPv6(58)
	case "radio":
		return nil, c.refuse("radio headers are those of 802.11 (monitor mode), which is not captured")
	}
	return nil, c.refuse("%s alone says nothing: host, proto, broadcast, multicast or [ has to follow", t.text)
}

// Protocols by name, over IPv4 alone and over both.
var (
	overIPv4 = map[string]uint32{"icmp": 1, "igmp": 2, "igrp": 9, "vrrp": 112, "carp": 112}
	overBoth = map[string]uint32{"tcp": 6, "udp": 17, "sctp": 132, "pim": 103, "ah": 51, "esp": 50}
)

// Fields of the IP headers, bytes from their beginning.
const (
	ip4Fragment    = 6
	ip4Protocol    = 9
	ip4Source      = 12
	ip4Destination = 16
	fragmentOffset = 0x1FFF
	ip6Next        = 6
	ip6Source      = 8
	ip6Destination = 24
	ip6Header      = 40
	ip6Fragment    = 44 // as next header
	arpSource      = 14
	arpDestination = 24
)

func (c *compiler) overIPv4(proto uint32) (*formula, error) {
	ip, err := c.carries(etherIP)
	if err != nil {
		return nil, err
	}
	return allOf(ip, c.equals(c.at(c.l.network, ip4Protocol, 1), proto)), nil
}

// overIPv6 looks at the next header, and behind a fragment header, but not down
// the whole chain.
func (c *compiler) overIPv6(proto uint32) (*formula, error) {
	ip6, err := c.carries(etherIPv6)
	if err != nil {
		return nil, err
	}
	next := c.at(c.l.network, ip6Next, 1)
	return allOf(ip6, anyOf(c.equals(next, proto),
		allOf(c.equals(next, ip6Fragment), c.equals(c.at(c.l.network, ip6Header, 1), proto)))), nil
}

func (c *compiler) overIP(proto uint32) (*formula, error) {
	v4, err := c.overIPv4(proto)
	if err != nil {
		return nil, err
	}
	v6, err := c.overIPv6(proto)
	return anyOf(v4, v6), err
}

func (c *compiler) overISO(proto uint32) (*formula, error) {
	iso, err := c.carries(llcISO)
	if err != nil {
		return nil, err
	}
	return allOf(iso, c.equals(c.at(c.l.payload, c.l.llc, 1), proto)), nil
}

func (c *compiler) overISIS(typ uint32) (*formula, error) {
	isis, err := c.overISO(isoProtocols["isis"])
	if err != nil {
		return nil, err
	}
	return allOf(isis, c.equals(c.at(c.l.payload, c.l.llc+4, 1), typ)), nil
}

// firstFragment says that an IPv4 packet is whole, or its first fragment.
func (c *compiler) firstFragment() *formula {
	return not(test(relSET, c.at(c.l.network, ip4Fragment, 2), c.constant(fragmentOffset)))
}

// transport is where the header behind that of IPv4 begins, from its base.
func (c *compiler) transport() offset {
	n := c.l.network
	return offset{c.headerLength(n.base, n.k), n.k}
}

// comparison compiles a op b. The protocols of fields are told first.
func (c *compiler) comparison(x comparison) (*formula, error) {
	a, isA, err := c.number(x.a)
	if err != nil {
		return nil, err
	}
	b, isB, err := c.number(x.b)
	if err != nil {
		return nil, err
	}
	var f *formula
	switch x.op.text {
	case "=":
		f = test(relEQ, a, b)
	case "!=":
		f = not(test(relEQ, a, b))
	case ">":
		f = test(relGT, a, b)
	case ">=":
		f = test(relGE, a, b)
	case "<":
		f = not(test(relGE, a, b))
	case "<=":
		f = not(test(relGT, a, b))
	}
	return allOf(isA, isB, f), nil
}

var arithmeticOps = map[string]valueOp{
	"+": opAdd, "-": opSub, "*": opMul, "/": opDiv, "%": opMod, "&": opAnd, "|": opOr, "^": opXor, "<<": opShl, ">>": opShr,
}

// number compiles a number, and the condition under which it is one.
func (c *compiler) number(x arithmetic) (*value, *formula, error) {
	switch x := x.(type) {
	case number:
		return c.constant(x.v), constantly(true), nil
	case length:
		return c.graph.length(), constantly(true), nil
	case minus:
		v, is, err := c.number(x.x)
		if err != nil {
			return nil, nil, err
		}
		return c.neg(v), is, nil
	case computed:
		a, is, err := c.number(x.a)
		if err != nil {
			return nil, nil, err
		}
		// As in libpcap, what is left of an operator decides whether the frame
		// has these fields.
		b, _, err := c.number(x.b)
		if err != nil {
			return nil, nil, err
		}
		if b.op == opConst {
			switch {
			case b.k == 0 && (x.op.text == "/" || x.op.text == "%"):
				return nil, nil, c.wrong(x.op, "division by zero")
			case b.k > 31 && (x.op.text == "<<" || x.op.text == ">>"):
				return nil, nil, c.wrong(x.op, "a shift by %d bits: numbers have 32, 0 to 31 are allowed", b.k)
			}
		}
		return c.binary(arithmeticOps[x.op.text], a, b), is, nil
	case field:
		return c.field(x)
	}
	panic(fmt.Sprintf("filter: no such number: %T", x))
}

// field compiles proto[index:size].
func (c *compiler) field(x field) (*value, *formula, error) {
	index, is, err := c.number(x.index)
	if err != nil {
		return nil, nil, err
	}
	c.word = x.proto
	name := x.proto.text
	var at offset
	var here *formula
	_, overV4 := overIPv4[name]
	switch name {
	case "ether":
		at, here = c.l.header, constantly(true)
	case "ip", "ip6", "arp", "rarp", "atalk", "decnet", "lat", "sca", "mopdl", "moprc":
		at = c.l.network
		here, err = c.carries(linkProtocols[name])
	case "icmp6":
		at = c.l.network.plus(ip6Header)
		if here, err = c.carries(etherIPv6); err == nil {
			here = allOf(here, c.equals(c.at(c.l.network, ip6Next, 1), 58))
		}
	default:
		if n, ok := overBoth[name]; ok && name != "ah" && name != "esp" || overV4 {
			var ip, proto *formula
			if ip, err = c.carries(etherIP); err != nil {
				return nil, nil, err
			}
			if overV4 {
				proto, err = c.overIPv4(overIPv4[name])
			} else {
				proto, err = c.overIP(n)
			}
			at, here, is = c.transport(), allOf(ip, is, proto, c.firstFragment()), constantly(true)
			break
		}
		return nil, nil, c.refuse("fields of %s cannot be named; those of ether, ip, ip6, arp, rarp, tcp, udp, sctp, icmp, icmp6, igmp, igrp, pim, vrrp, carp and some old link protocols can", name)
	}
	if err != nil {
		return nil, nil, err
	}
	base := index
	if at.base != nil {
		base = c.binary(opAdd, index, at.base)
	}
	return c.load(base, at.k, x.size), allOf(is, here), nil
}

// addressWords are the four words of an IPv6 address.
func addressWords(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return w
}
