// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"strconv"
	"strings"
)

// primitive compiles an address, a port or a protocol with its qualifiers.
func (c *compiler) primitive(x primitive) (*formula, error) {
	if x.id.kind == tokMAC && !(x.q.proto.is("ether") && (x.q.kind == "" || x.q.kind == "host")) {
		return nil, c.refuse("an Ethernet address goes with ether host, ether src or ether dst")
	}
	if x.mask.kind != tokEnd && x.q.kind != "" && x.q.kind != "host" && x.q.kind != "net" {
		return nil, c.wrong(x.mask, "a mask goes with net")
	}
	switch x.q.kind {
	case "", "host", "net":
		return c.address(x)
	case "port", "portrange":
		return c.port(x)
	case "proto":
		return c.proto(x)
	case "protochain":
		return nil, c.wrong(x.q.word, "protochain would need a loop, which programs in the kernel may not have: name the offset, as in ip6[6] = 0 and ip6[40] = 6")
	}
	return nil, c.wrong(x.q.word, `gateway is not supported: write "ether host MAC and not host ADDRESS"`)
}

// eachWay combines the formulas for source and destination.
func eachWay(d direction, src, dst *formula) *formula {
	switch d {
	case dirSrc:
		return src
	case dirDst:
		return dst
	case dirBoth:
		return allOf(src, dst)
	}
	return anyOf(src, dst)
}

// address compiles a host or a network.
func (c *compiler) address(x primitive) (*formula, error) {
	name := x.q.proto.text
	switch {
	case x.q.proto.kind == tokEnd:
	case name == "ether":
		return c.etherHost(x)
	case name == "decnet":
		return c.decnetHost(x)
	case name != "ip" && name != "ip6" && name != "arp" && name != "rarp":
		return nil, c.wrong(x.q.proto, `%s has no addresses: write "%s and %s …"`, name, name, kindOf(x))
	}
	switch x.id.kind {
	case tokIPv6:
		return c.network6(x, x.id.addr, true)
	case tokName:
		if x.q.kind == "net" {
			return c.namedNetwork(x)
		}
		return c.namedHost(x)
	}
	addr, mask, err := c.network4(x)
	if err != nil {
		return nil, err
	}
	return c.host4(x, addr, mask)
}

func kindOf(x primitive) string {
	if x.q.kind == "" {
		return x.q.word.text
	}
	return x.q.kind
}

// network4 reads an IPv4 address or network, and its mask.
func (c *compiler) network4(x primitive) (addr, mask uint32, err error) {
	if x.id.kind == tokNumber {
		addr, mask = x.id.num, 1<<32-1
		for x.q.kind == "net" && addr != 0 && addr < 1<<24 { // net 10 is 10.0.0.0/8
			addr <<= 8
			mask <<= 8
		}
		return addr, mask, nil
	}
	addr, bits, err := c.dotted(x.id)
	if err != nil {
		return 0, 0, err
	}
	mask = 1<<32 - 1 // of 10.1: 255.255.0.0
	mask <<= 32 - bits
	switch x.mask.kind {
	case tokEnd:
		return addr, mask, nil
	case tokNumber:
		if x.mask.num > 32 {
			return 0, 0, c.wrong(x.mask, "an IPv4 network has 0 to 32 bits, not %d", x.mask.num)
		}
		mask = ^uint32(1<<(32-x.mask.num) - 1)
	case tokDotted:
		if mask, _, err = c.dotted(x.mask); err != nil {
			return 0, 0, err
		}
	}
	if addr&^mask != 0 {
		n := netip.AddrFrom4([4]byte{byte(addr & mask >> 24), byte(addr & mask >> 16), byte(addr & mask >> 8), byte(addr & mask)})
		return 0, 0, c.refuse("%s has bits outside of the mask: the network is %s", x.id.text, n)
	}
	if x.q.kind != "net" {
		return 0, 0, c.wrong(x.mask, "a mask goes with net, not with %s", kindOf(x))
	}
	return addr, mask, nil
}

// dotted reads 2 to 4 numbers; the address is filled up with zeros.
func (c *compiler) dotted(t token) (addr uint32, bits int, err error) {
	for part := range strings.SplitSeq(t.text, ".") {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return 0, 0, c.wrong(t, "in an IPv4 address each number is 0 to 255, not %s", part)
		}
		addr = addr<<8 | uint32(n)
		bits += 8
	}
	return addr << (32 - bits), bits, nil
}

// host4 is an IPv4 host or network, over what the qualifiers say.
func (c *compiler) host4(x primitive, addr, mask uint32) (*formula, error) {
	one := func(proto, src, dst uint32) (*formula, error) {
		is, err := c.carries(proto)
		if err != nil {
			return nil, err
		}
		way := func(at uint32) *formula { return allOf(is, c.masked(c.at(c.l.network, at, 4), addr, mask)) }
		return eachWay(x.q.dir, way(src), way(dst)), nil
	}
	protos := []string{"ip", "arp", "rarp"}
	switch {
	case x.q.proto.is("ip6"):
		return nil, c.refuse("%s is an IPv4 address: ip6 wants an IPv6 one", x.id.text)
	case x.q.proto.kind != tokEnd:
		protos = []string{x.q.proto.text}
	case c.l.labels > 0:
		protos = []string{"ip"}
	}
	list := anyOf()
	for _, p := range protos {
		src, dst := uint32(arpSource), uint32(arpDestination)
		if p == "ip" {
			src, dst = ip4Source, ip4Destination
		}
		f, err := one(linkProtocols[p], src, dst)
		if err != nil {
			return nil, err
		}
		list.kids = append(list.kids, f)
	}
	return list, nil
}

// network6 is an IPv6 host or network. Only the bits of the network are looked
// at.
func (c *compiler) network6(x primitive, addr netip.Addr, literal bool) (*formula, error) {
	if x.q.proto.kind != tokEnd && !x.q.proto.is("ip6") {
		return nil, c.refuse("%s is an IPv6 address: %s wants an IPv4 one", x.id.text, x.q.proto.text)
	}
	bits := 128
	if literal && x.mask.kind == tokNumber {
		if x.mask.num > 128 {
			return nil, c.wrong(x.mask, "an IPv6 network has 0 to 128 bits, not %d", x.mask.num)
		}
		bits = int(x.mask.num)
		if n := netip.PrefixFrom(addr, bits).Masked().Addr(); addr.Is6() && !addr.Is4In6() && n != addr {
			return nil, c.refuse("%s has bits outside of the mask: the network is %s", x.id.text, n)
		}
		if x.q.kind != "net" && bits != 128 {
			return nil, c.wrong(x.mask, "a mask goes with net, not with %s", kindOf(x))
		}
	}
	is, err := c.carries(etherIPv6)
	if err != nil {
		return nil, err
	}
	words := addressWords(addr)
	way := func(at uint32) *formula {
		f := allOf(is)
		for i, w := range words {
			mask := uint32(1<<32 - 1)
			if n := bits - 32*i; n <= 0 {
				break
			} else if n < 32 {
				mask <<= 32 - n
			}
			f.kids = append(f.kids, c.masked(c.at(c.l.network, at+4*uint32(i), 4), w&mask, mask))
		}
		return f
	}
	return eachWay(x.q.dir, way(ip6Source), way(ip6Destination)), nil
}

// namedHost looks a host up; each of its addresses will do.
func (c *compiler) namedHost(x primitive) (*formula, error) {
	addrs, err := c.names.host(x.id.text)
	if err != nil {
		return nil, c.refuse("the host %s is not known: %v", quoted(x.id.text), err)
	}
	list := anyOf()
	v4, v6 := !x.q.proto.is("ip6"), x.q.proto.kind == tokEnd || x.q.proto.is("ip6")
	for _, a := range addrs {
		var f *formula
		switch {
		case a.Is4() && v4:
			b := a.As4()
			f, err = c.host4(x, uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3]), 1<<32-1)
		case a.Is6() && v6:
			f, err = c.network6(x, a, false)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		list.kids = append(list.kids, f)
	}
	if len(list.kids) == 0 {
		return nil, c.refuse("the host %s has no address that goes with %s", quoted(x.id.text), x.q.proto.text)
	}
	return list, nil
}

// namedNetwork looks a network up.
func (c *compiler) namedNetwork(x primitive) (*formula, error) {
	for _, v := range networksFile.find(x.id.text) {
		if !isDotted(v) && !isNumber(v) {
			continue
		}
		addr, mask := uint32(0), uint32(1<<32-1)
		for part := range strings.SplitSeq(v, ".") {
			n, err := strconv.ParseUint(part, 10, 8)
			if err != nil {
				return nil, c.refuse("the network %s is %s in /etc/networks, which is no address", quoted(x.id.text), v)
			}
			addr = addr<<8 | uint32(n)
		}
		for addr != 0 && addr < 1<<24 {
			addr <<= 8
			mask <<= 8
		}
		return c.host4(x, addr, mask)
	}
	return nil, c.refuse("the network %s is not in /etc/networks: write it as 192.0.2.0/24", quoted(x.id.text))
}

// etherHost compiles ether host, src and dst.
func (c *compiler) etherHost(x primitive) (*formula, error) {
	switch {
	case x.q.kind == "net":
		return nil, c.wrong(x.q.word, "there are no networks of Ethernet addresses: ether host, src or dst")
	case x.id.kind == tokName:
		mac, ok := [6]byte{}, false
		for _, v := range ethersFile.find(x.id.text) {
			mac, ok = parseMAC(v)
		}
		if !ok {
			return nil, c.refuse("the Ethernet host %s is not in /etc/ethers: write its address, as in 02:00:5e:10:00:01", quoted(x.id.text))
		}
		x.id.mac = mac
	case x.id.kind != tokMAC:
		return nil, c.refuse("%s is no Ethernet address: those look like 02:00:5e:10:00:01", x.id.text)
	}
	if err := c.needEthernet("Ethernet addresses"); err != nil {
		return nil, err
	}
	return c.withHeader(eachWay(x.q.dir, c.isMAC(6, x.id.mac), c.isMAC(0, x.id.mac))), nil
}

// isMAC compares the six bytes at an offset of the link-layer header.
func (c *compiler) isMAC(at uint32, mac [6]byte) *formula {
	return allOf(
		c.equals(c.at(c.l.header, at+2, 4), uint32(mac[2])<<24|uint32(mac[3])<<16|uint32(mac[4])<<8|uint32(mac[5])),
		c.equals(c.at(c.l.header, at, 2), uint32(mac[0])<<8|uint32(mac[1])))
}

func (c *compiler) needEthernet(what string) error {
	if c.l.link != Ethernet {
		return c.refuse("there are no %s in %s", what, linkName(c.l.link))
	}
	return nil
}

// withHeader is f where there is a link-layer header, which Geneve may leave
// out.
func (c *compiler) withHeader(f *formula) *formula {
	if !c.l.optional {
		return f
	}
	return allOf(not(test(relEQ, c.place(c.l.header), c.place(c.l.payload))), f)
}

// place is the offset itself.
func (c *compiler) place(o offset) *value {
	if o.base == nil {
		return c.constant(o.k)
	}
	return c.binary(opAdd, o.base, c.constant(o.k))
}

// decnetHost compiles an address of DECnet phase IV: area.node, 6 and 10 bits,
// the low byte first. There are long and short headers, with and without a byte
// before them.
func (c *compiler) decnetHost(x primitive) (*formula, error) {
	area, node, _ := strings.Cut(x.id.text, ".")
	a, errA := strconv.ParseUint(area, 10, 6)
	n, errN := strconv.ParseUint(node, 10, 10)
	if x.id.kind != tokDotted || errA != nil || errN != nil || x.mask.kind != tokEnd {
		return nil, c.refuse("%s is no DECnet address: AREA.NODE, 0.0 to 63.1023", quoted(x.id.text))
	}
	is, err := c.carries(etherDECnet)
	if err != nil {
		return nil, err
	}
	addr := uint32(a<<10 | n)
	addr = addr&0xFF<<8 | addr>>8
	way := func(short, long uint32) *formula {
		field := func(at uint32) *formula { return c.equals(c.at(c.l.network, at, 2), addr) }
		flags := func(size uint8, mask, v uint32) *formula { return c.masked(c.at(c.l.network, 2, size), v, mask) }
		return allOf(is, anyOf(
			allOf(flags(1, 0x07, 2), field(short)), allOf(flags(2, 0xFF07, 0x8102), field(short+1)),
			allOf(flags(1, 0x07, 6), field(long)), allOf(flags(2, 0xFF07, 0x8106), field(long+1))))
	}
	return eachWay(x.q.dir, way(5, 17), way(3, 9)), nil
}
