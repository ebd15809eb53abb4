// SPDX-License-Identifier: Apache-2.0

package filter

import "net/netip"

// Ports and parts of the headers of tunnels.
const (
	geneveUDP = 6081 // RFC 8926
	vxlanUDP  = 4789 // RFC 7348
	udpHeader = 8
	protoUDP  = 17
)

// special compiles the words that follow no pattern.
func (c *compiler) special(x special) (*formula, error) {
	number := x.arg.num
	limit := func(what string, most uint32) error {
		if number > most {
			return c.wrong(x.arg, "%s %d: 0 to %d", what, number, most)
		}
		return nil
	}
	has := x.arg.kind != tokEnd
	switch x.word.text {
	case "less":
		return not(test(relGT, c.graph.length(), c.constant(number))), nil
	case "greater":
		return test(relGE, c.graph.length(), c.constant(number)), nil
	case "byte":
		return c.byteAt(x), nil
	case "broadcast", "multicast":
		return c.many(x)
	case "inbound", "outbound":
		return c.way(x.word.text == "outbound")
	case "ifindex":
		return c.interfaceIndex(number)
	case "llc":
		return c.llc(x.arg)
	case "vlan":
		if err := limit("VLAN ID", 4095); err != nil {
			return nil, err
		}
		return c.vlan(number, has)
	case "mpls":
		if err := limit("MPLS label", 1<<20-1); err != nil {
			return nil, err
		}
		return c.mpls(number, has)
	case "pppoed":
		return c.carries(etherPPPoED)
	case "pppoes":
		if err := limit("PPPoE session", 65535); err != nil {
			return nil, err
		}
		return c.pppoe(number, has)
	}
	if err := limit("virtual network identifier", 1<<24-1); err != nil {
		return nil, err
	}
	if x.word.text == "geneve" {
		return c.geneve(number, has)
	}
	return c.vxlan(number, has)
}

func (c *compiler) byteAt(x special) *formula {
	v, k := c.load(nil, x.proto.num, 1), c.constant(x.arg.num)
	switch x.op.text {
	case "=":
		return test(relEQ, v, k)
	case "<":
		return not(test(relGE, v, k))
	case ">":
		return test(relGT, v, k)
	case "&":
		return test(relSET, v, k)
	}
	return not(c.equals(c.binary(opOr, v, k), 0))
}

// many compiles broadcast and multicast.
func (c *compiler) many(x special) (*formula, error) {
	broadcast := x.word.text == "broadcast"
	switch {
	case x.proto.kind == tokEnd || x.proto.is("ether"):
		if err := c.needEthernet(x.word.text + " addresses"); err != nil {
			return nil, err
		}
		if broadcast {
			return c.withHeader(c.isMAC(0, [6]byte{255, 255, 255, 255, 255, 255})), nil
		}
		return c.withHeader(test(relSET, c.at(c.l.header, 0, 1), c.constant(1))), nil
	case x.proto.is("ip"):
		ip, err := c.carries(etherIP)
		if err != nil {
			return nil, err
		}
		if !broadcast {
			return allOf(ip, test(relGE, c.at(c.l.network, ip4Destination, 1), c.constant(224))), nil
		}
		hosts := ^maskOf(c.o.Netmask)
		if hosts < 3 { // a network of one or two hosts has no broadcast address (RFC 3021): all of its own would be one
			hosts = ^uint32(0)
		}
		dst := c.at(c.l.network, ip4Destination, 4)
		return allOf(ip, anyOf(c.masked(dst, 0, hosts), c.masked(dst, hosts, hosts))), nil
	case x.proto.is("ip6") && !broadcast:
		ip6, err := c.carries(etherIPv6)
		if err != nil {
			return nil, err
		}
		return allOf(ip6, c.equals(c.at(c.l.network, ip6Destination, 1), 255)), nil
	}
	return nil, c.wrong(x.proto, "%s has no %s addresses of its own: ether, ip%s", x.proto.text, x.word.text,
		map[bool]string{true: "", false: ", ip6"}[broadcast])
}

func maskOf(a netip.Addr) (mask uint32) {
	if a = a.Unmap(); !a.Is4() {
		return 0
	}
	for _, b := range a.As4() {
		mask = mask<<8 | uint32(b)
	}
	return mask
}

// way compiles inbound and outbound: known live, and in cooked frames.
func (c *compiler) way(out bool) (*formula, error) {
	var typ *value
	switch {
	case c.l.outer == LinuxSLL:
		typ = c.load(nil, 0, 2)
	case c.l.outer == LinuxSLL2:
		typ = c.load(nil, sll2TypeAt, 1)
	case c.o.Live:
		typ = c.ext(adPktType, 2)
	default:
		return nil, c.refuse("files of %s do not have the direction of frames; only live capture has", linkName(c.l.outer))
	}
	f := c.equals(typ, packetOutgoing)
	if !out {
		f = not(f)
	}
	return f, nil
}

func (c *compiler) interfaceIndex(n uint32) (*formula, error) {
	switch {
	case c.l.outer == LinuxSLL2:
		return c.equals(c.load(nil, sll2InterfaceAt, 4), n), nil
	case c.o.Live:
		return c.equals(c.ext(adIfIndex, 4), n), nil
	}
	return nil, c.refuse("files of %s do not have the interface's index; only live capture has", linkName(c.l.outer))
}

// llc compiles llc and its types.
func (c *compiler) llc(arg token) (*formula, error) {
	if err := c.needEthernet("LLC frames"); err != nil {
		return nil, err
	}
	f := allOf(c.isLLC(), not(c.equals(c.at(c.l.payload, 0, 2), 0xFFFF))) // that would be Novell's
	if arg.kind != tokEnd {
		t := llcTypes[arg.text]
		f.kids = append(f.kids, c.masked(c.at(c.l.payload, 2, 1), t.value, t.mask))
	}
	return f, nil
}

// vlan compiles vlan, and moves what follows behind the tag. Live, the kernel
// has taken the outer tag out of the frame, mostly: then it is beside the frame,
// and nothing moves.
func (c *compiler) vlan(id uint32, has bool) (*formula, error) {
	if c.l.labels > 0 {
		return nil, c.refuse("VLAN tags do not follow MPLS labels")
	}
	if err := c.needEthernet("VLAN tags"); err != nil {
		return nil, err
	}
	typ := c.at(c.l.typ, 0, 2)
	isTag := anyOf(c.equals(typ, etherVLAN), c.equals(typ, etherQinQ), c.equals(typ, etherOldQinQ))
	isID := c.masked(c.at(c.l.payload, 0, 2), id, 0xFFF)
	f := allOf(isTag)
	if c.o.Live && c.l.vlans == 0 && !c.l.carried {
		present := c.equals(c.ext(adVLANTagPresent, 1), 1)
		n, moved := c.newVariable()
		f = allOf(anyOf(present, allOf(set(n, c.constant(4)), isTag)))
		isID = anyOf(
			allOf(present, c.masked(c.ext(adVLANTag, 1), id, 0xFFF)),
			allOf(not(present), isID))
		c.l.typ.base, c.l.payload.base, c.l.network.base = moved, moved, moved
	} else {
		c.l.payload.k += 4
		c.l.network.k += 4
		c.l.typ = offset{c.l.payload.base, c.l.payload.k - 2} // the tag's: right behind Geneve's header it is not 4 after the one before
	}
	if has {
		f.kids = append(f.kids, isID)
	}
	c.l.vlans++
	return f, nil
}

// mpls compiles mpls, and moves what follows behind the label.
func (c *compiler) mpls(label uint32, has bool) (*formula, error) {
	var f *formula
	if c.l.labels > 0 {
		before := offset{c.l.network.base, c.l.network.k - 4}
		f = allOf(c.masked(c.at(before, 2, 1), 0, 1)) // not the last label
	} else {
		if c.l.link != Ethernet && c.l.link != linkPPP {
			return nil, c.refuse("there are no MPLS labels in %s", linkName(c.l.link))
		}
		is, err := c.carries(etherMPLS)
		if err != nil {
			return nil, err
		}
		f = allOf(is)
	}
	if has {
		f.kids = append(f.kids, c.masked(c.at(c.l.network, 0, 4), label<<12, 0xFFFFF000))
	}
	c.l.network.k += 4
	c.l.labels++
	return f, nil
}

// pppoe compiles pppoes, and moves what follows behind the headers of PPPoE and
// PPP.
func (c *compiler) pppoe(session uint32, has bool) (*formula, error) {
	is, err := c.carries(etherPPPoES)
	if err != nil {
		return nil, err
	}
	f := allOf(is)
	if has {
		f.kids = append(f.kids, c.masked(c.at(c.l.payload, 0, 4), session, 0xFFFF))
	}
	header := c.l.payload.plus(6)
	c.l = layers{link: linkPPP, outer: c.l.outer, header: header, typ: header, payload: header.plus(2), network: header.plus(2), carried: true}
	return f, nil
}

// inUDP is a UDP datagram to a port, whose payload passes f; the header behind
// that of UDP then begins at the returned offset.
func (c *compiler) inUDP(port uint32, f func(payload offset) *formula) (*formula, offset, error) {
	v4, err := c.carries(etherIP)
	if err != nil {
		return nil, offset{}, err
	}
	v6, err := c.carries(etherIPv6)
	if err != nil {
		return nil, offset{}, err
	}
	n, begin := c.newVariable()
	// The variable is where the payload begins, less what both have.
	t4, t6 := c.transport(), c.l.network.plus(ip6Header)
	var length6 *value
	if t6.base == nil {
		length6 = c.constant(ip6Header)
	} else {
		length6 = c.binary(opAdd, t6.base, c.constant(ip6Header))
	}
	inner := offset{begin, c.l.network.k + udpHeader}
	toPort := func(t offset) *formula { return c.equals(c.at(t, 2, 2), port) }
	return anyOf(
		allOf(v4, c.equals(c.at(c.l.network, ip4Protocol, 1), protoUDP), c.firstFragment(), toPort(t4), f(t4.plus(udpHeader)), set(n, t4.base)),
		allOf(v6, c.equals(c.at(c.l.network, ip6Next, 1), protoUDP), toPort(t6), f(t6.plus(udpHeader)), set(n, length6)),
	), inner, nil
}

// geneve compiles geneve, and moves what follows to the packet that it carries:
// an Ethernet frame, or what its type says.
func (c *compiler) geneve(id uint32, has bool) (*formula, error) {
	udp, header, err := c.inUDP(geneveUDP, func(at offset) *formula {
		f := allOf(c.masked(c.at(at, 0, 1), 0, 0xC0)) // version 0
		if has {
			f.kids = append(f.kids, c.masked(c.at(at, 4, 4), id<<8, 0xFFFFFF00))
		}
		return f
	})
	if err != nil {
		return nil, err
	}
	nHeader, inner := c.newVariable()
	nType, typ := c.newVariable()
	nPayload, payload := c.newVariable()
	// 8 bytes, and options in units of 4.
	options := c.binary(opShl, c.binary(opAnd, c.at(header, 0, 1), c.constant(0x3F)), c.constant(2))
	end := c.binary(opAdd, c.binary(opAdd, options, c.constant(header.k+8)), header.base)
	f := allOf(udp, set(nHeader, end), anyOf(
		allOf(c.equals(c.at(header, 2, 2), etherTEB),
			set(nType, c.binary(opAdd, inner, c.constant(etherTypeAt))),
			set(nPayload, c.binary(opAdd, inner, c.constant(etherHeader)))),
		allOf(set(nType, c.binary(opAdd, header.base, c.constant(header.k+2))), set(nPayload, inner))))
	c.l = layers{
		link: Ethernet, outer: c.l.outer, llc: 3, carried: true, optional: true,
		header: offset{inner, 0}, typ: offset{typ, 0}, payload: offset{payload, 0}, network: offset{payload, 0},
	}
	return f, nil
}

// vxlan compiles vxlan, and moves what follows to the Ethernet frame that it
// carries.
func (c *compiler) vxlan(id uint32, has bool) (*formula, error) {
	udp, header, err := c.inUDP(vxlanUDP, func(at offset) *formula {
		f := allOf(c.masked(c.at(at, 0, 1), 8, 8)) // there is an identifier
		if has {
			f.kids = append(f.kids, c.masked(c.at(at, 4, 4), id<<8, 0xFFFFFF00))
		}
		return f
	})
	if err != nil {
		return nil, err
	}
	inner := header.plus(8)
	c.l = layers{
		link: Ethernet, outer: c.l.outer, llc: 3, carried: true,
		header: inner, typ: inner.plus(etherTypeAt), payload: inner.plus(etherHeader), network: inner.plus(etherHeader),
	}
	return udp, nil
}
