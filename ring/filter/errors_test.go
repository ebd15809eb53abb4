// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// noHosts is a resolver that knows nobody.
func noHosts(_ context.Context, host string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Errors point at the word that is wrong, say what was expected, and propose
// the word that was meant.
func TestErrorsPointAtTheWord(t *testing.T) {
	for _, c := range []struct{ expression, pointed, want string }{
		{"tcp prot 80", "    ^^^^", `column 5: expected src, dst, host, net, port, portrange, proto, [, and, or, or the end after "tcp", not "prot"; did you mean port or proto?`},
		{"tpc port 80", "^^^", `column 1: expected a protocol, src, dst, host, net, port or another word that begins a condition, not "tpc"; did you mean tcp?`},
		{"TCP port 80", "^^^", "did you mean tcp?"},
		{"tcp port 80 adn host 10.0.0.1", "            ^^^", `expected and, or, or the end, not "adn"; did you mean and?`},
		{"tcp port 80 or ucp port 53", "               ^^^", `not "ucp"; did you mean tcp or udp?`},
		{"tcp port 80 443", "            ^^^", `expected and, or, or the end, not "443"`},
		{"tcp port", "        ^", `column 9: the expression ends here; expected a port after "port"`},
		{"tcp port and udp", "         ^^^", `expected a port after "port", not "and", which is a word of the language; for a name write \and`},
		{"tcp and", "       ^", "the expression ends here; expected a protocol"},
		{"(tcp or udp", "^", "column 1: this ( is never closed"},
		{"tcp)", "   ^", "nothing is open that this ) could close"},
		{"ip[0)", "    ^", "this ) cannot close the [ of column 3"},
		{"ip[0", "  ^", "this [ is never closed"},
		{"ip[0] = 1 = 2", "          ^", "a second comparison: put and between"},
		{"ip[0]", "     ^", "the expression ends here; expected =, !=, <, >, <=, >= or an operator"},
		{"ip[0:3] = 1", "     ^", `a field has 1, 2 or 4 bytes, not "3"`},
		{"tcp[12-4] = 1", "    ^^^^", `not "12-4"; for a subtraction put spaces around the minus: 12 - 4`},
		{"len-5 > 3", "^^^^^", "for a subtraction put spaces around the minus: len - 5"},
		{"10.0.0.1", "^^^^^^^^", `nothing says what "10.0.0.1" is: write host, net, port`},
		{"tcp or 80", "       ^^", `nothing says what "80" is`},
		{"host 10.0.0.256", "     ^^^^^^^^^^", "each number is 0 to 255, not 256"},
		{"net 10.0.0.1/24", "    ^^^^^^^^", "10.0.0.1 has bits outside of the mask: the network is 10.0.0.0"},
		{"net 10.0.0.0/33", "             ^^", "0 to 32 bits, not 33"},
		{"net 2001:db8::1/32", "    ^^^^^^^^^^^", "the network is 2001:db8::"},
		{"net 2001:db8::/129", "               ^^^", "0 to 128 bits"},
		{"host 10.0.0.0/24", "              ^^", "a mask goes with net, not with host"},
		{"host 2001:db8:::1", "     ^^^^^^^^^^^^", "neither an IPv6 nor an Ethernet address"},
		{"host 02:00:00:00:00:01", "     ^^^^^^^^^^^^^^^^^", "an Ethernet address goes with ether host"},
		{"ether host 10.0.0.1", "           ^^^^^^^^", "is no Ethernet address: those look like"},
		{"ether host nobody", "           ^^^^^^", "not in /etc/ethers"},
		{"tcp host 10.0.0.1", "^^^", `tcp has no addresses: write "tcp and host …"`},
		{"ip6 host 10.0.0.1", "         ^^^^^^^^", "is an IPv4 address: ip6 wants an IPv6 one"},
		{"ip host ::1", "        ^^^", "is an IPv6 address: ip wants an IPv4 one"},
		{"ip port 80", "^^", "ip has no ports: tcp, udp and sctp have"},
		{"port 65536", "     ^^^^^", "a port is 0 to 65535, not 65536"},
		{"port htps", "     ^^^^", "not in /etc/services; did you mean"},
		{"port 80-90", "     ^^^^^", "are several ports: write portrange 80-90"},
		{"udp port ssh", "         ^^^", "is a service of tcp, not of udp"},
		{"portrange http", "", ""},
		{"portrange x-y", "          ^^^", "is not in /etc/services"},
		{"ip proto tcpp", "         ^^^^", `no protocol "tcpp" over ip is known; did you mean tcp?`},
		{"ether proto ipp", "            ^^^", "did you mean ip"},
		{"ip proto tcp", "         ^^^", `for a name write \tcp`},
		{"arp proto 1", "^^^", "arp carries no other protocol"},
		{"src proto 6", "    ^^^^^", `"proto" has no direction`},
		{"ip6 protochain 6", "    ^^^^^^^^^^", "protochain would need a loop"},
		{"gateway foo", "^^^^^^^", "gateway is not supported: write"},
		{"vlan 4096", "     ^^^^", "VLAN ID 4096: 0 to 4095"},
		{"mpls 1048576", "     ^^^^^^^", "MPLS label 1048576: 0 to 1048575"},
		{"pppoes 65536", "       ^^^^^", "PPPoE session"},
		{"geneve 16777216", "       ^^^^^^^^", "0 to 16777215"},
		{"mpls and arp", "         ^^^", "after mpls only IP packets can be told"},
		{"mpls and vlan", "         ^^^^", "VLAN tags do not follow MPLS labels"},
		{"pppoes and ether broadcast", "                 ^^^^^^^^^", "there are no broadcast addresses in PPP"},
		{"inbound", "^^^^^^^", "files of Ethernet do not have the direction of frames; only live capture has"},
		{"ifindex 3", "^^^^^^^", "only live capture has"},
		{"type mgt", "^^^^", `"type" is about 802.11 (monitor mode), which is not captured`},
		{"ip and lane", "       ^^^^", "is about ATM"},
		{"on eth0", "^^", "the pf firewall of the BSDs"},
		{"radio[0] = 1", "^^^^^", "fields of radio cannot be named"},
		{"esp[0] = 1", "^^^", "fields of esp cannot be named"},
		{"ether", "^^^^^", "ether alone says nothing"},
		{"ip[0] / 0 = 1", "      ^", "division by zero"},
		{"ip[0] << 32 = 1", "      ^^", "a shift by 32 bits"},
		{"len = 08", "      ^^", "octal"},
		{"len = 4294967296", "      ^^^^^^^^^^", "does not fit 32 bits"},
		{"ip broadcast and arp broadcast", "                 ^^^", "arp has no broadcast addresses of its own: ether, ip"},
		{"llc foo", "    ^^^", "expected a type of LLC frame (disc, frmr, i, "},
		{"tcp && ; udp", "       ^", `";" has no meaning here`},
		{"host münchen.example", "      ^", `"ü" has no meaning here`},
		{"tcp \\ port", "    ^", "a name has to follow the backslash"},
		{"decnet host 64.1", "            ^^^^", "AREA.NODE"},
		{"net nowhere", "    ^^^^^^^", "not in /etc/networks: write it as"},
		{"less x", "     ^", `expected a number of bytes after "less"`},
		{"byte 3 ! 4", "       ^", "expected =, <, >, & or |"},
		{"port 1.2", "     ^^^", "is no port"},
	} {
		_, err := Compile(c.expression, Options{LinkType: Ethernet, LookUp: noHosts})
		if c.want == "" {
			if err != nil {
				t.Errorf("%q: %v", c.expression, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want something with %q", c.expression, err, c.want)
			continue
		}
		if !strings.HasPrefix(err.Error(), "filter: column ") {
			t.Errorf("%q: %v: no column", c.expression, err)
		}
		if want := c.expression + "\n" + c.pointed; e.Pointer() != want {
			t.Errorf("%q: %v points at\n%s\nwant\n%s", c.expression, err, e.Pointer(), want)
		}
	}
}

// In a file the line is said too, and a long line is shown around the word.
func TestErrorsInFiles(t *testing.T) {
	_, err := Compile("tcp port 80\nor udp prot 53\n", Options{LinkType: Ethernet})
	var e *Error
	if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "filter: line 2, column 8: ") || e.Pointer() != "or udp prot 53\n       ^^^^" {
		t.Errorf("%v\n%s", err, e.Pointer())
	}
	_, err = Compile(strings.Repeat("tcp or ", 30)+"udp prot 53"+strings.Repeat(" or tcp", 30), Options{LinkType: Ethernet})
	if !errors.As(err, &e) || !strings.HasPrefix(e.Pointer(), "…") || !strings.Contains(e.Pointer(), "…\n") || len(e.Pointer()) > 300 {
		t.Errorf("%v\n%s", err, e.Pointer())
	}
	lines := strings.Split(e.Pointer(), "\n")
	if at := strings.Index(lines[1], "^"); string([]rune(lines[0])[at:at+4]) != "prot" {
		t.Errorf("%s", e.Pointer())
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"prot": "port proto", "hsot": "host", "tpc": "tcp", "vlann": "vlan", "x": "", "ip": "ip", "ipx6": "ip6 ipx", "broadcats": "broadcast", "zzzz": "",
		strings.Repeat("long", 20): "",
	} {
		all := append([]string{}, protocolWords...)
		if got := strings.Join(nearest(word, append(all, otherWords...)), " "); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}
