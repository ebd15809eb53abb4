// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"strconv"
	"strings"
)

// Link types that expressions can be compiled for: LINKTYPE_ of capture files,
// https://www.tcpdump.org/linktypes.html .
const (
	Ethernet  = 1
	Raw       = 101 // IPv4 or IPv6, no link-layer header
	LinuxSLL  = 113 // Linux "cooked"
	IPv4      = 228
	IPv6      = 229
	LinuxSLL2 = 276
)

// linkTypes are these by the names that tcpdump -y has for them.
var linkTypes = []struct {
	name   string
	number uint16
	dlt    []uint64 // other numbers of it, on some systems
	what   string
}{
	{"EN10MB", Ethernet, nil, "Ethernet"},
	{"RAW", Raw, []uint64{12, 14}, "raw IP"},
	{"LINUX_SLL", LinuxSLL, nil, "Linux cooked v1"},
	{"LINUX_SLL2", LinuxSLL2, nil, "Linux cooked v2"},
	{"IPV4", IPv4, nil, "raw IPv4"},
	{"IPV6", IPv6, nil, "raw IPv6"},
}

// LinkType returns the link type that tcpdump -y knows under this name, or
// number.
func LinkType(name string) (uint16, error) {
	n, err := strconv.ParseUint(name, 10, 16)
	var names []string
	for _, l := range linkTypes {
		if strings.EqualFold(name, l.name) || strings.EqualFold(name, "DLT_"+l.name) || err == nil && n == uint64(l.number) {
			return l.number, nil
		}
		for _, d := range l.dlt {
			if err == nil && n == d {
				return l.number, nil
			}
		}
		names = append(names, l.name)
	}
	return 0, fmt.Errorf("filter: link type %s: filters can be compiled for %s", quoted(name), list(names, "and"))
}

// LinkTypes returns the link types that expressions can be compiled for.
func LinkTypes() []uint16 {
	var out []uint16
	for _, l := range linkTypes {
		out = append(out, l.number)
	}
	return out
}

// Supported reports whether expressions can be compiled for a link type.
func Supported(linkType uint16) bool {
	_, err := LinkType(strconv.Itoa(int(linkType)))
	return err == nil
}

// Where the link-layer headers have what, bytes. Those of Linux cooked frames:
// https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html and SLL2.
const (
	etherTypeAt     = 12
	etherHeader     = 14
	maxLength8023   = 1500 // in the type field of Ethernet: more is a type, IEEE 802.3
	sllProtocolAt   = 14
	sllHeader       = 16
	sll2InterfaceAt = 4
	sll2TypeAt      = 10
	sll2Header      = 20

	// Protocols of cooked frames that are no Ethernet types.
	sllNovell = 1 // LINUX_SLL_P_802_3
	sllLLC    = 4 // LINUX_SLL_P_802_2
)

// Behind PPP's header in PPPoE; no link type of its own.
const linkPPP = 9

func linkName(linkType uint16) string {
	for _, l := range linkTypes {
		if l.number == linkType {
			return l.what
		}
	}
	return "PPP"
}

// An offset is a place in the frame: k bytes behind a variable, or behind the
// frame's beginning if there is none.
type offset struct {
	base *value
	k    uint32
}

func (o offset) plus(n uint32) offset { return offset{o.base, o.k + n} }

// at is a load of size bytes at o + n.
func (c *compiler) at(o offset, n uint32, size uint8) *value { return c.load(o.base, o.k+n, size) }

func (c *compiler) equals(v *value, k uint32) *formula { return test(relEQ, v, c.constant(k)) }

// masked is whether v has the bits of k where mask has ones. Where mask has
// none, nothing is looked at.
func (c *compiler) masked(v *value, k, mask uint32) *formula {
	if mask == 0 {
		return constantly(k == 0)
	}
	return c.equals(c.binary(opAnd, v, c.constant(mask)), k)
}

// layers are where the headers of a frame are, as far as the expression has
// looked.
type layers struct {
	link     uint16 // type of the link-layer header
	outer    uint16 // that of the frame itself
	header   offset // of the link-layer header
	typ      offset // of its field with the type of what follows
	payload  offset // behind the link-layer header
	network  offset // of the network header: the payload, or behind MPLS labels
	llc      uint32 // bytes of the LLC header before an OSI packet
	vlans    int    // that were named
	labels   int
	carried  bool // in another packet
	optional bool // the inner link-layer header may be missing
}

func layersOf(linkType uint16) layers {
	l := layers{link: linkType, outer: linkType}
	put := func(typ, payload uint32) {
		l.typ, l.payload = offset{k: typ}, offset{k: payload}
	}
	switch linkType {
	case Ethernet:
		put(etherTypeAt, etherHeader)
		l.llc = 3
	case LinuxSLL:
		put(sllProtocolAt, sllHeader)
		l.llc = 3
	case LinuxSLL2:
		put(0, sll2Header)
		l.llc = 3
	}
	l.network = l.payload
	return l
}

// isLLC says that what follows is an LLC header.
func (c *compiler) isLLC() *formula {
	typ := c.at(c.l.typ, 0, 2)
	if c.l.link == Ethernet {
		return not(test(relGT, typ, c.constant(maxLength8023)))
	}
	return c.equals(typ, sllLLC)
}

// snap says that what follows is a SNAP header with this organisation and
// type.
func (c *compiler) snap(organisation, typ uint32) *formula {
	return allOf(
		c.equals(c.at(c.l.payload, 4, 4), organisation<<16|typ),
		c.equals(c.at(c.l.payload, 0, 4), 0xAAAA0300|organisation>>16))
}

// pppProtocols are the numbers of link protocols in PPP,
// https://www.iana.org/assignments/ppp-numbers .
var pppProtocols = map[uint32]uint32{
	etherIP: 0x21, etherIPv6: 0x57, etherDECnet: 0x27, etherAppleTlk: 0x29, 0x0600: 0x25,
	llcISO: 0x23, llcSTP: 0x31, llcIPX: 0x2B, etherMPLS: 0x281,
}

// carries says that the payload is of a link protocol: an Ethernet type, or an
// LLC service access point.
func (c *compiler) carries(proto uint32) (*formula, error) {
	if c.l.labels > 0 {
		return c.carriesMPLS(proto)
	}
	switch c.l.link {
	case Raw:
		switch proto {
		case etherIP:
			return c.version(4), nil
		case etherIPv6:
			return c.version(6), nil
		}
		return constantly(false), nil
	case IPv4:
		return constantly(proto == etherIP), nil
	case IPv6:
		return constantly(proto == etherIPv6), nil
	case linkPPP:
		if p, ok := pppProtocols[proto]; ok {
			proto = p
		}
		return c.equals(c.at(c.l.typ, 0, 2), proto), nil
	}
	typ := c.equals(c.at(c.l.typ, 0, 2), proto)
	switch {
	case proto == llcISO || proto == llcNetBEUI: // commands and responses: both access points
		return allOf(c.isLLC(), c.equals(c.at(c.l.payload, 0, 2), proto<<8|proto)), nil
	case proto == llcIPX:
		return c.carriesIPX(), nil
	case proto == etherAppleTlk:
		return anyOf(typ, allOf(c.isLLC(), c.snap(0x080007, proto))), nil
	case proto == etherAARP:
		return anyOf(typ, allOf(c.isLLC(), c.snap(0, proto))), nil
	case proto <= maxLength8023:
		return allOf(c.isLLC(), c.equals(c.at(c.l.payload, 0, 1), proto)), nil
	}
	return typ, nil
}

// version says that an IP packet of that version comes next.
func (c *compiler) version(v uint32) *formula {
	return c.masked(c.at(c.l.network, 0, 1), v<<4, 0xF0)
}

// carriesIPX knows the four ways that IPX is carried.
func (c *compiler) carriesIPX() *formula {
	typ := c.at(c.l.typ, 0, 2)
	sap := c.equals(c.at(c.l.payload, 0, 1), llcIPX)
	if c.l.link == Ethernet {
		return anyOf(c.equals(typ, etherIPX), allOf(c.isLLC(), anyOf(
			c.snap(0, etherIPX), sap, c.equals(c.at(c.l.payload, 0, 2), 0xFFFF))))
	}
	return anyOf(c.equals(typ, etherIPX), c.equals(typ, sllNovell), allOf(c.isLLC(), anyOf(sap, c.snap(0, etherIPX))))
}

// carriesMPLS knows what follows labels only by looking at it: there is no
// type. The last label says that it is the last.
func (c *compiler) carriesMPLS(proto uint32) (*formula, error) {
	label := offset{c.l.network.base, c.l.network.k - 4}
	last := c.masked(c.at(label, 2, 1), 1, 1)
	switch proto {
	case etherIP:
		return allOf(last, c.version(4)), nil
	case etherIPv6:
		return allOf(last, c.version(6)), nil
	}
	return nil, c.refuse("after mpls only IP packets can be told: put the other conditions before it")
}
