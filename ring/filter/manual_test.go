// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"compress/gzip"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

// manual are the primitives of pcap-filter(7), libpcap 1.10.3, as its headings
// have them: an expression of that kind among those that TestMeaning compares
// with tcpdump, or what refuses it and the words of docs/FILTER.md about that.
var manual = []struct{ heading, compared, refused, says, documented string }{
	{heading: "dst host hostnameaddr", compared: `^dst host`},
	{heading: "src host hostnameaddr", compared: `^src host`},
	{heading: "host hostnameaddr", compared: `^host`},
	{heading: "ether dst ethernameaddr", compared: `^ether dst`},
	{heading: "ether src ethernameaddr", compared: `^ether src`},
	{heading: "ether host ethernameaddr", compared: `^ether host`},
	{heading: "gateway host", refused: "gateway foo", says: "gateway is not supported", documented: "`gateway`"},
	{heading: "dst net netnameaddr", compared: `^dst net \d+`},
	{heading: "src net netnameaddr", compared: `^src net`},
	{heading: "net netnameaddr", compared: `^net \d+$`},
	{heading: "net netaddr mask netmask", compared: `net \S+ mask `},
	{heading: "net netaddr/len", compared: `^net \S+/\d+`},
	{heading: "dst port portnamenum", compared: `^dst port`},
	{heading: "src port portnamenum", compared: `^src port`},
	{heading: "port portnamenum", compared: `^port`},
	{heading: "dst portrange portnamenum1-portnamenum2", compared: `dst portrange`},
	{heading: "src portrange portnamenum1-portnamenum2", compared: `src portrange`},
	{heading: "portrange portnamenum1-portnamenum2", compared: `^portrange`},
	{heading: "less length", compared: `\bless \d`},
	{heading: "greater length", compared: `\bgreater \d`},
	{heading: "ip proto protocol", compared: `ip proto \\tcp`},
	{heading: "icmp", compared: `^icmp$`},
	{heading: "ip6 proto protocol", compared: `ip6 proto`},
	{heading: "icmp6", compared: `^icmp6$`},
	{heading: "proto protocol", compared: `^proto`},
	{heading: "ah, esp, pim, sctp, tcp, udp", compared: `^(ah|esp|pim|sctp|tcp|udp)$`},
	{heading: "ip6 protochain protocol", refused: "ip6 protochain 6", says: "protochain would need a loop", documented: "`protochain`"},
	{heading: "ip protochain protocol", refused: "ip protochain 6", says: "protochain would need a loop", documented: "`protochain`"},
	{heading: "protochain protocol", refused: "protochain 6", says: "protochain would need a loop", documented: "`protochain`"},
	{heading: "ether broadcast", compared: `ether broadcast`},
	{heading: "ip broadcast", compared: `ip broadcast`},
	{heading: "ether multicast", compared: `ether multicast`},
	{heading: "ip multicast", compared: `ip multicast`},
	{heading: "ip6 multicast", compared: `ip6 multicast`},
	{heading: "ether proto protocol", compared: `ether proto \\`},
	{heading: "ip, ip6, arp, rarp, atalk, aarp, decnet, iso, stp, ipx, netbeui", compared: `^(ip|ip6|arp|rarp|atalk|aarp|decnet|iso|stp|ipx|netbeui)$`},
	{heading: "lat, moprc, mopdl", compared: `^(lat|moprc|mopdl)$`},
	{heading: "decnet src decnetaddr", compared: `decnet src`},
	{heading: "decnet dst decnetaddr", compared: `decnet dst`},
	{heading: "decnet host decnetaddr", compared: `decnet host`},
	{heading: "llc", compared: `^llc$`},
	{heading: "llc type", compared: `^llc (i|s|u|rr|rnr|rej|ui|ua|disc|sabme|test|xid|frmr)$`},
	{heading: "inbound", refused: "inbound", says: "only live capture has", documented: "`inbound`"},
	{heading: "outbound", refused: "outbound", says: "only live capture has", documented: "`outbound`"},
	{heading: "ifname interface", refused: "ifname eth0", says: "pf firewall", documented: "pf"},
	{heading: "on interface", refused: "on eth0", says: "pf firewall", documented: "pf"},
	{heading: "rnr num", refused: "rnr 5", says: "pf firewall", documented: "pf"},
	{heading: "rulenum num", refused: "rulenum 5", says: "pf firewall", documented: "pf"},
	{heading: "reason code", refused: "reason match", says: "pf firewall", documented: "pf"},
	{heading: "rset name", refused: "rset x", says: "pf firewall", documented: "pf"},
	{heading: "ruleset name", refused: "ruleset x", says: "pf firewall", documented: "pf"},
	{heading: "srnr num", refused: "srnr 5", says: "pf firewall", documented: "pf"},
	{heading: "subrulenum num", refused: "subrulenum 5", says: "pf firewall", documented: "pf"},
	{heading: "action act", refused: "action pass", says: "pf firewall", documented: "pf"},
	{heading: "wlan ra ehost", refused: "wlan ra 02:00:00:00:00:01", says: "802.11", documented: "802.11"},
	{heading: "wlan ta ehost", refused: "wlan ta 02:00:00:00:00:01", says: "802.11", documented: "802.11"},
	{heading: "wlan addr1 ehost", refused: "wlan addr1 02:00:00:00:00:01", says: "802.11", documented: "802.11"},
	{heading: "wlan addr2 ehost", refused: "wlan addr2 02:00:00:00:00:01", says: "802.11", documented: "802.11"},
	{heading: "wlan addr3 ehost", refused: "wlan addr3 02:00:00:00:00:01", says: "802.11", documented: "802.11"},
	{heading: "wlan addr4 ehost", refused: "wlan addr4 02:00:00:00:00:01", says: "802.11", documented: "802.11"},
	{heading: "type wlan_type", refused: "type mgt", says: "802.11", documented: "802.11"},
	{heading: "type wlan_type subtype wlan_subtype", refused: "type mgt subtype beacon", says: "802.11", documented: "802.11"},
	{heading: "subtype wlan_subtype", refused: "subtype beacon", says: "802.11", documented: "802.11"},
	{heading: "dir direction", refused: "dir tods", says: "802.11", documented: "802.11"},
	{heading: "vlan [vlan_id]", compared: `^vlan( 5)?$`},
	{heading: "mpls [label_num]", compared: `^mpls( \d+)?$`},
	{heading: "pppoed", compared: `^pppoed$`},
	{heading: "pppoes [session_id]", compared: `^pppoes( 0x27)?$`},
	{heading: "geneve [vni]", compared: `^geneve( 0xb)?$`},
	{heading: "iso proto protocol", compared: `^iso proto`},
	{heading: "clnp, esis, isis", compared: `^(clnp|esis|isis)$`},
	{heading: "l1, l2, iih, lsp, snp, csnp, psnp", compared: `^(l1|l2|iih|lsp|snp|csnp|psnp)$`},
	{heading: "vpi n", refused: "vpi 5", says: "ATM", documented: "ATM"},
	{heading: "vci n", refused: "vci 5", says: "ATM", documented: "ATM"},
	{heading: "lane", refused: "lane", says: "ATM", documented: "ATM"},
	{heading: "oamf4s", refused: "oamf4s", says: "ATM", documented: "ATM"},
	{heading: "oamf4e", refused: "oamf4e", says: "ATM", documented: "ATM"},
	{heading: "oamf4", refused: "oamf4", says: "ATM", documented: "ATM"},
	{heading: "oam", refused: "oam", says: "ATM", documented: "ATM"},
	{heading: "metac", refused: "metac", says: "ATM", documented: "ATM"},
	{heading: "bcc", refused: "bcc", says: "ATM", documented: "ATM"},
	{heading: "sc", refused: "sc", says: "ATM", documented: "ATM"},
	{heading: "ilmic", refused: "ilmic", says: "ATM", documented: "ATM"},
	{heading: "connectmsg", refused: "connectmsg", says: "ATM", documented: "ATM"},
	{heading: "metaconnect", refused: "metaconnect", says: "ATM", documented: "ATM"},
	{heading: "expr1 relop expr2", compared: `^\S+\[.*\] (=|==|!=|<|>|<=|>=) `},
}

// comparedWithTcpdump are the expressions of TestMeaning for Ethernet that
// compile.
func comparedWithTcpdump(t *testing.T) (out []string) {
	t.Helper()
	if _, err := os.Stat("/etc/protocols"); err != nil {
		testnet.Missing(t, err.Error()+": those with names are left out (install netbase)")
	}
	for _, e := range append(written(), newWriter(Ethernet).expressions(3000)...) {
		if _, err := Compile(e, Options{LinkType: Ethernet, LookUp: noHosts}); err == nil {
			out = append(out, e)
		}
	}
	return out
}

// Every primitive of the manual page is compared with tcpdump, in each of its
// forms, or refused with a reason that the docs have.
func TestManualPage(t *testing.T) {
	docs, err := os.ReadFile("../../docs/FILTER.md")
	if err != nil {
		t.Fatal(err)
	}
	compared := comparedWithTcpdump(t)
	for _, m := range manual {
		if m.refused != "" {
			_, err := Compile(m.refused, Options{LinkType: Ethernet, LookUp: noHosts})
			if err == nil || !strings.Contains(err.Error(), m.says) {
				t.Errorf("%s: %q: %v; want something with %q", m.heading, m.refused, err, m.says)
			}
			if !strings.Contains(string(docs), m.documented) {
				t.Errorf("%s: FILTER.md has nothing about %s", m.heading, m.documented)
			}
			continue
		}
		re := regexp.MustCompile(m.compared)
		if !slices.ContainsFunc(compared, re.MatchString) {
			t.Errorf("%s: no expression like %s is compared", m.heading, m.compared)
		}
	}
	headings, names := manualPage(t)
	if headings == nil {
		t.Log("there is no pcap-filter(7) of libpcap 1.10.3 here to hold the table against")
		return
	}
	for _, h := range headings {
		if !slices.ContainsFunc(manual, func(m struct{ heading, compared, refused, says, documented string }) bool { return m.heading == h }) {
			t.Errorf("the manual page has %q", h)
		}
	}
	if len(headings) != len(manual) {
		t.Errorf("%d headings, and %d in the table", len(headings), len(manual))
	}
	for _, n := range names {
		if _, ok := constants[n]; !ok {
			t.Errorf("the manual page has %q", n)
		}
	}
	if len(names) != len(constants) {
		t.Errorf("%d names of numbers, and %d are known", len(names), len(constants))
	}
}

// manualPage returns the headings of primitives in the manual page, and the
// names of offsets and values, if it is here.
func manualPage(t *testing.T) (headings, names []string) {
	f, err := os.Open("/usr/share/man/man7/pcap-filter.7.gz")
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	if !strings.Contains(page, "geneve") || strings.Contains(page, "vxlan") {
		return nil, nil // another version's
	}
	_, primitives, _ := strings.Cut(page, "Allowable primitives are:")
	font := regexp.MustCompile(`\\f[A-Z]|\\%`)
	primitives = font.ReplaceAllString(primitives, "")
	for _, m := range regexp.MustCompile(`(?m)^\.IP +"?(.*?)"?$`).FindAllStringSubmatch(primitives, -1) {
		headings = append(headings, strings.TrimSpace(strings.ReplaceAll(m[1], `\-`, "-")))
	}
	seen := map[string]bool{}
	for _, n := range regexp.MustCompile(`\b(icmp6?(type|code)|tcpflags|icmp6?-[a-z0-9]+|tcp-(fin|syn|rst|push|ack|urg|ece|cwr))\b`).FindAllString(primitives, -1) {
		if !seen[n] {
			seen[n] = true
			names = append(names, n)
		}
	}
	return headings, names
}

// Names of offsets and values are the numbers that they are to tcpdump.
func TestNamesOfNumbers(t *testing.T) {
	testnet.RequireTool(t, "tcpdump")
	for name, v := range constants {
		p, err := byTcpdump("len = "+name, true, "-y", "EN10MB")
		if err != nil {
			t.Error(err)
			continue
		}
		if i := slices.IndexFunc(p, func(i bpf.RawInstruction) bool { return i.Op == classJMP|jmpJEQ }); i < 0 || p[i].K != v {
			t.Errorf("%s is %d, to tcpdump not:\n%v", name, v, Program(p))
		}
	}
}

// Every word of the language is in an expression that is compared with tcpdump,
// but for those that are refused, or that libpcap 1.10.3 does not know.
func TestEveryWordIsCompared(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range comparedWithTcpdump(t) {
		tokens, err := split(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range tokens {
			seen[e[x.at:x.at+x.size]] = true
		}
	}
	// TestMeaningLive has inbound, outbound and ifindex.
	for _, w := range []string{"protochain", "gateway", "radio", "vxlan", "inbound", "outbound", "ifindex"} {
		seen[w] = true
	}
	words := slices.Concat(protocolWords, otherWords)
	for w := range sameWord {
		if about := foreignTo[sameWord[w]]; about == "" && wordByte(w[0]) {
			words = append(words, w)
		}
	}
	for n := range llcTypes {
		words = append(words, n)
	}
	slices.Sort(words)
	for _, w := range words {
		if !seen[w] {
			t.Errorf("no expression has %q", w)
		}
	}
}
