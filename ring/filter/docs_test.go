// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

var update = flag.Bool("update", false, "write docs/FILTER-PROGRAMS.md anew")

const programsFile = "../../docs/FILTER-PROGRAMS.md"

// usual are the expressions that people use most.
var usual = []string{
	"ip", "ip6", "arp", "tcp", "udp", "icmp", "host 10.0.0.1", "src host 10.0.0.1", "host 2001:db8::1", "net 10.0.0.0/8", "net 2001:db8::/32",
	"port 80", "tcp port 443", "udp port 53", "tcp dst port 22", "portrange 8000-8999", "port 80 or port 443", "not port 22",
	"host 10.0.0.1 and tcp port 80", "host 10.0.0.1 and not port 22", "tcp[tcpflags] & tcp-syn != 0", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
	"icmp[icmptype] == icmp-echo", "ip[6:2] & 0x3fff != 0", "greater 1000", "ether host 02:00:00:00:00:01", "ether proto 0x88cc", "broadcast", "multicast",
	"ip multicast", "vlan", "vlan 100", "vlan 100 and tcp port 80", "mpls and ip", "pppoes and tcp port 80", "src net 10.0.0.0/8 and dst net 192.168.0.0/16",
}

// beside prints programs in two columns.
func beside(ours, theirs string) string {
	var b strings.Builder
	left, right := strings.Split(strings.TrimRight(ours, "\n"), "\n"), strings.Split(strings.TrimRight(theirs, "\n"), "\n")
	for i := range max(len(left), len(right)) {
		l, r := "", ""
		if i < len(left) {
			l = strings.ReplaceAll(left[i], "\t", " ")
		}
		if i < len(right) {
			r = strings.ReplaceAll(right[i], "\t", " ")
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("    %-50s %s", l, r), " ") + "\n")
	}
	return b.String()
}

// The programs in the docs are those that ntap and tcpdump print.
func TestDocumentedPrograms(t *testing.T) {
	version, err := testnet.Command(t, "tcpdump", "--version").CombinedOutput()
	asDocumented := err == nil && strings.Contains(string(version), "libpcap version 1.10.3")
	old, err := os.ReadFile(programsFile)
	if err != nil && !*update {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`<!-- SPDX-License-Identifier: Apache-2.0 -->
# Programs of the usual expressions

What ` + "`ntap filter -d EXPRESSION`" + ` prints, and beside it what ` + "`tcpdump -d EXPRESSION`" + ` prints (libpcap 1.10.3, Ethernet). Made by
` + "`go test ./ring/filter -run DocumentedPrograms -update`" + `, and held against both by the same test.
`)
	ours, theirs := 0, 0
	sections := strings.Split(string(old), "\n## ")
	for i, e := range usual {
		p, err := Compile(e, Options{LinkType: Ethernet})
		if err != nil {
			t.Fatal(err)
		}
		text := "## `" + e + "`\n\n"
		if asDocumented {
			out, err := testnet.Command(t, "tcpdump", "-y", "EN10MB", "-d", "--", e).Output()
			if err != nil {
				t.Fatal(err)
			}
			text += beside(p.String(), string(out))
			ours, theirs = ours+len(p), theirs+strings.Count(string(out), "\n")
			b.WriteString("\n" + text)
		}
		if *update {
			continue
		}
		if len(sections) != len(usual)+1 {
			t.Fatalf("%d expressions in %s, want %d", len(sections)-1, programsFile, len(usual))
		}
		if asDocumented && "## "+strings.TrimRight(sections[i+1], "\n") != strings.TrimRight(text, "\n") {
			t.Errorf("%s has of %q\n%s\nnow it is\n%s", programsFile, e, sections[i+1], text)
		}
		for _, line := range strings.Split(strings.TrimRight(p.String(), "\n"), "\n") {
			if !strings.Contains(sections[i+1], strings.TrimRight(strings.ReplaceAll(line, "\t", " "), " ")) {
				t.Errorf("%s lacks of %q: %s", programsFile, e, line)
			}
		}
	}
	if *update && asDocumented {
		if err := os.WriteFile(programsFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d instructions, tcpdump's %d", ours, theirs)
}
