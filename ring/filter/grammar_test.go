// SPDX-License-Identifier: Apache-2.0

package filter

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
)

//go:embed testdata/expressions.txt
var expressionsFile string

// written are the expressions of testdata; where there is no /etc/services or
// /etc/protocols, tcpdump knows no names, and those with names are left out.
func written() []string {
	var out []string
	named := regexp.MustCompile(`http|domain|ssh|ftp|proto`)
	_, e1 := os.Stat("/etc/services")
	_, e2 := os.Stat("/etc/protocols")
	bare := e1 != nil || e2 != nil
	for line := range strings.Lines(expressionsFile) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && !(bare && named.MatchString(line)) {
			out = append(out, line)
		}
	}
	return out
}

// A writer writes expressions by the grammar, from a fixed seed.
type writer struct {
	maker
	encapsulations int // that may still be named
}

func newWriter(seed uint64) *writer {
	return &writer{maker: maker{rand.New(rand.NewPCG(seed, 28))}}
}

// expressions returns n of them.
func (w *writer) expressions(n int) []string {
	out := make([]string, n)
	for i := range out {
		w.encapsulations = w.IntN(4)
		out[i] = w.expression(w.IntN(4))
	}
	return out
}

func (w *writer) pick(from ...string) string { return from[w.IntN(len(from))] }

func (w *writer) expression(depth int) string {
	s := w.term(depth)
	for range w.IntN(depth + 1) {
		s += w.pick(" and ", " or ", " && ", " || ", " and ") + w.term(depth)
	}
	return s
}

func (w *writer) term(depth int) string {
	switch n := w.IntN(12); {
	case n == 0:
		return w.pick("not ", "! ", "!") + w.term(depth)
	case n < 3 && depth > 0:
		return "(" + w.expression(depth-1) + ")"
	case n < 5:
		return w.comparison()
	case n < 6 && w.encapsulations > 0:
		w.encapsulations--
		return w.encapsulation()
	case n < 8:
		return w.word()
	}
	return w.primitive()
}

func (w *writer) encapsulation() string {
	s := w.pick("vlan", "vlan", "vlan", "mpls", "pppoes", "geneve")
	if w.IntN(2) == 0 {
		s += w.pick(" 5", " 100", " 0", " 6", " 0x27", " 11")
	}
	return s + w.pick(" and ", " and ", " and ", " or ") + w.primitive()
}

func (w *writer) word() string {
	if w.IntN(3) > 0 {
		return w.pick("ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "sctp", "rarp", "igmp", "pim", "vrrp")
	}
	return w.pick("esp", "ah", "carp", "igrp", "atalk", "aarp", "decnet", "iso", "stp", "ipx", "netbeui", "lat", "moprc", "mopdl",
		"sca", "clnp", "esis", "isis", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp", "pppoed", "llc", "llc u", "llc s", "llc i",
		"broadcast", "multicast", "ether broadcast", "ether multicast", "ip multicast", "ip6 multicast", "ip broadcast",
		"less 80", "greater 90", "ether proto 0x88cc", "ether proto 5", "ether proto \\arp", "decnet host 1.2", "byte 13 = 6", "byte 0 > 1")
}

func (w *writer) direction() string {
	return w.pick("", "", "", "src ", "dst ", "src or dst ", "src and dst ", "dst or src ")
}

// ids are one ID, or more with the same qualifiers.
func (w *writer) ids(one func() string) string {
	switch w.IntN(8) {
	case 0:
		return one() + w.pick(" or ", " and ", " or not ") + one()
	case 1:
		return "(" + one() + " or " + one() + ")"
	}
	return one()
}

func (w *writer) primitive() string {
	port := func() string { return fmt.Sprint(pick(w.maker, ports)) }
	switch w.IntN(9) {
	case 0, 1:
		return w.pick("", "", "ip ", "arp ", "rarp ", "ip ") + w.direction() + "host " + w.ids(func() string { return pick(w.maker, hosts4) })
	case 2:
		return w.pick("", "ip6 ") + w.direction() + "host " + w.ids(func() string { return pick(w.maker, hosts6) })
	case 3, 4:
		return w.pick("", "tcp ", "udp ", "sctp ") + w.direction() + "port " + w.ids(port)
	case 5:
		return w.pick("", "tcp ", "udp ") + w.direction() + fmt.Sprintf("portrange %s-%s", port(), port())
	case 6:
		return w.pick("", "ip ", "arp ") + w.direction() + "net " + w.pick("10.0.0.0/24", "10", "10.0.0", "192.168.0.0/16", "224.0.0.0/4", "10.0.0.0/30", "0.0.0.0/0")
	case 7:
		return w.direction() + "net " + w.pick("2001:db8::/32", "2001:db8::/33", "fe80::/10", "ff00::/8", "::/0", "::1/128", "2001:db8::/96")
	}
	if w.IntN(2) == 0 {
		return "ether " + w.pick("src ", "dst ", "host ", "src or dst ") + w.ids(func() string { return pick(w.maker, macs) })
	}
	return w.pick("", "ip ", "ip6 ") + "proto " + w.ids(func() string { return w.pick("6", "17", "58", "1", "132", "44", "0") })
}

func (w *writer) comparison() string {
	return w.number(2) + w.pick(" = ", " != ", " > ", " < ", " >= ", " <= ", "==", "=") + w.number(1)
}

func (w *writer) number(depth int) string {
	switch n := w.IntN(10); {
	case n < 2 || depth == 0:
		return w.pick("0", "1", "2", "4", "6", "0x11", "64", "80", "0xff", "0x800", "0x4000", "1500", "100", "tcp-syn", "icmp-echo")
	case n < 7:
		return w.field(depth)
	case n < 8:
		return w.pick("len", "length", "- 1", "-(2)", "len")
	case n < 9:
		return "(" + w.number(depth-1) + w.operator() + w.number(depth-1) + ")"
	}
	return w.number(depth-1) + w.operator() + w.number(depth-1)
}

func (w *writer) operator() string {
	return w.pick(" + ", " - ", " * ", " & ", " | ", " & ", "&", "|", " << ", " >> ", " / ", " % ", " ^ ")
}

func (w *writer) field(depth int) string {
	proto := w.pick("ip", "ip", "tcp", "tcp", "udp", "ether", "ether", "ip6", "icmp", "icmp6", "arp", "sctp", "igmp", "link", "pim")
	index := w.pick("0", "1", "2", "4", "6", "8", "9", "12", "13", "16", "20", "tcpflags", "icmptype")
	if w.IntN(6) == 0 {
		index = w.number(depth - 1)
	}
	return proto + w.pick("[", "[", " [ ") + index + w.pick("", "", ":1", ":2", ":4", ":2") + "]"
}

// damage changes a word of an expression, takes it out or doubles it: mostly
// that is wrong, and sometimes it means something else.
func (w *writer) damage(s string) string {
	words := strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", "[", " [ ", "]", " ] ").Replace(s))
	if len(words) == 0 {
		return s
	}
	i := w.IntN(len(words))
	switch w.IntN(4) {
	case 0:
		words = append(words[:i:i], words[i+1:]...)
	case 1:
		words[i] += " " + words[i]
	case 2:
		words[i] = w.pick("and", "or", "not", "(", ")", "tcp", "ip", "port", "host", "80", "10.0.0.1", "src", "vlan", "=", "[", "]", "+", "len", "proto")
	case 3:
		j := w.IntN(len(words))
		words[i], words[j] = words[j], words[i]
	}
	return strings.Join(words, " ")
}
