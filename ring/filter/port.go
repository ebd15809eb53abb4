// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"strconv"
	"strings"
)

// transports are the protocols that have ports, in the order in which they are
// looked for, as libpcap's programs do.
var transports = []string{"sctp", "tcp", "udp"}

// port compiles a port or a range of ports.
func (c *compiler) port(x primitive) (*formula, error) {
	protos := transports
	if p := x.q.proto; p.kind != tokEnd {
		if p.text != "tcp" && p.text != "udp" && p.text != "sctp" {
			return nil, c.wrong(p, "%s has no ports: tcp, udp and sctp have", p.text)
		}
		protos = []string{p.text}
	}
	low, high, only, err := c.ports(x)
	if err != nil {
		return nil, err
	}
	if only != "" {
		if len(protos) == 1 && protos[0] != only {
			return nil, c.refuse("%s is a service of %s, not of %s", quoted(x.id.text), only, protos[0])
		}
		protos = []string{only}
	}
	match := func(base offset) *formula {
		one := func(at uint32) *formula {
			v := c.at(base, at, 2)
			if x.q.kind == "port" {
				return c.equals(v, low)
			}
			return allOf(test(relGE, v, c.constant(low)), not(test(relGT, v, c.constant(high))))
		}
		return eachWay(x.q.dir, one(0), one(2))
	}
	v6, err := c.carries(etherIPv6)
	if err != nil {
		return nil, err
	}
	v4, err := c.carries(etherIP)
	if err != nil {
		return nil, err
	}
	any6, any4 := anyOf(), anyOf()
	for _, p := range protos {
		n := overBoth[p]
		any6.kids = append(any6.kids, allOf(c.equals(c.at(c.l.network, ip6Next, 1), n), match(c.l.network.plus(ip6Header))))
		any4.kids = append(any4.kids, allOf(c.equals(c.at(c.l.network, ip4Protocol, 1), n), c.firstFragment(), match(c.transport())))
	}
	return anyOf(allOf(v6, any6), allOf(v4, any4)), nil
}

// ports reads a port or a range: by number, or by service, which may be of one
// protocol only.
func (c *compiler) ports(x primitive) (low, high uint32, only string, err error) {
	if x.mask.kind != tokEnd {
		return 0, 0, "", c.wrong(x.mask, "a mask goes with net")
	}
	if x.id.kind == tokNumber {
		if x.id.num > 65535 {
			return 0, 0, "", c.refuse("a port is 0 to 65535, not %d", x.id.num)
		}
		return x.id.num, x.id.num, "", nil
	}
	if x.id.kind != tokName {
		return 0, 0, "", c.refuse("%s is no port: a number, or a service of /etc/services", quoted(x.id.text))
	}
	name := x.id.text
	if x.q.kind == "port" {
		if low, only, err = c.onePort(name); err != nil && strings.Contains(name, "-") {
			if _, _, _, e := c.portRange(name); e == nil {
				err = c.refuse("%s are several ports: write portrange %s", quoted(name), name)
			}
		}
		return low, low, only, err
	}
	low, high, only, err = c.portRange(name)
	return min(low, high), max(low, high), only, err
}

func (c *compiler) onePort(name string) (uint32, string, error) {
	if isNumber(name) {
		n, err := strconv.ParseUint(name, 10, 16)
		if err != nil {
			return 0, "", c.refuse("a port is 0 to 65535, not %s", name)
		}
		return uint32(n), "", nil
	}
	n, only, ok := service(name)
	if !ok {
		hint := ""
		if near := nearest(name, services()); len(near) > 0 {
			hint = fmt.Sprintf("; did you mean %s?", list(near, "or"))
		}
		return 0, "", c.refuse("the service %s is not in /etc/services%s", quoted(name), hint)
	}
	return n, only, nil
}

// portRange reads two ports with a dash between them. Names of services may
// have dashes too.
func (c *compiler) portRange(name string) (low, high uint32, only string, err error) {
	dashes := strings.Count(name, "-")
	parts := strings.Split(name, "-")
	for i := 1; i <= dashes && i <= 8; i++ {
		var of string
		if low, only, err = c.onePort(strings.Join(parts[:i], "-")); err != nil {
			continue
		}
		if high, of, err = c.onePort(strings.Join(parts[i:], "-")); err == nil {
			if of != only {
				only = ""
			}
			return low, high, only, nil
		}
	}
	if n, of, e := c.onePort(name); e == nil {
		return n, n, of, nil
	}
	if err == nil {
		err = c.refuse("%s is no range: two ports with a dash between them, as in 6000-6008", quoted(name))
	}
	return 0, 0, "", err
}

// proto compiles a protocol by number or name, over what the qualifiers say.
func (c *compiler) proto(x primitive) (*formula, error) {
	over := x.q.proto.text
	if x.q.proto.kind == tokEnd {
		over = "ip or ip6"
	}
	var known map[string]uint32
	switch over {
	case "ip", "ip6", "ip or ip6":
	case "ether":
		known = linkProtocols
	case "iso":
		known = isoProtocols
	case "isis":
	default:
		return nil, c.wrong(x.q.proto, "%s carries no other protocol: ether, ip, ip6, iso and isis do", over)
	}
	n := x.id.num
	switch {
	case x.id.kind == tokNumber:
	case x.id.kind != tokName:
		return nil, c.refuse("%s is no protocol: a number, or a name", quoted(x.id.text))
	default:
		var ok bool
		if n, ok = known[x.id.text]; !ok && known == nil && over != "isis" {
			n, ok = ipProtocol(x.id.text)
		}
		if !ok {
			hint := ""
			names := fewProtocols
			if known != nil {
				names = known
			}
			var all []string
			for name := range names {
				all = append(all, name)
			}
			if near := nearest(x.id.text, all); len(near) > 0 {
				hint = "; did you mean " + list(near, "or") + "?"
			}
			return nil, c.refuse("no protocol %s over %s is known%s", quoted(x.id.text), over, hint)
		}
	}
	switch over {
	case "ether":
		return c.carries(n)
	case "ip":
		return c.overIPv4(n)
	case "ip6":
		return c.overIPv6(n)
	case "iso":
		return c.overISO(n)
	case "isis":
		return c.overISIS(n)
	}
	return c.overIP(n)
}
