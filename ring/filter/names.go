// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of looking names up, chosen.
const (
	lookUpTime   = 5 * time.Second // for all names of one expression
	maxAddresses = 64              // of one name
)

// names looks up what an expression names, in files and in the DNS.
type names struct {
	lookup   func(ctx context.Context, host string) ([]netip.Addr, error)
	deadline time.Time
}

// host returns the addresses of a host.
func (n *names) host(name string) ([]netip.Addr, error) {
	if n.deadline.IsZero() {
		n.deadline = time.Now().Add(lookUpTime)
	}
	ctx, stop := context.WithDeadline(context.Background(), n.deadline)
	defer stop()
	lookup := n.lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := lookup(ctx, name)
	var dns *net.DNSError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no answer in %v", lookUpTime)
	case errors.As(err, &dns):
		return nil, errors.New(dns.Err)
	case err != nil:
		return nil, err
	case len(addrs) == 0:
		return nil, errors.New("it has no address")
	case len(addrs) > maxAddresses:
		return nil, fmt.Errorf("it has %d addresses, at most %d are taken", len(addrs), maxAddresses)
	}
	seen := make(map[netip.Addr]bool)
	out := addrs[:0:0]
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out, nil
}

// A table is a file of lines with a name, a value and other names, as in
// /etc/services.
type table struct {
	path string
	key  int // field of the value: 0 or 1
	once sync.Once
	rows map[string][]string // values of a name
}

var (
	servicesFile  = table{path: "/etc/services", key: 1}
	protocolsFile = table{path: "/etc/protocols", key: 1}
	networksFile  = table{path: "/etc/networks", key: 1}
	ethersFile    = table{path: "/etc/ethers", key: 0}
)

// find returns the values of a name; a file that is not there has none.
func (t *table) find(name string) []string {
	t.once.Do(func() {
		t.rows = map[string][]string{}
		f, err := os.Open(t.path)
		if err != nil {
			return
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			line, _, _ := strings.Cut(s.Text(), "#")
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			for i, n := range fields {
				if i != t.key {
					t.rows[n] = append(t.rows[n], fields[t.key])
				}
			}
		}
	})
	return t.rows[name]
}

// service returns the port of a service, and the protocol that has it: tcp,
// udp, or none if both have it.
func service(name string) (port uint32, proto string, ok bool) {
	values := servicesFile.find(name)
	if len(values) == 0 {
		values = fewServices[name]
	}
	ports := map[string]uint32{}
	for _, v := range values {
		number, of, _ := strings.Cut(v, "/")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			if _, have := ports[of]; !have {
				ports[of] = uint32(n)
			}
		}
	}
	tcp, isTCP := ports["tcp"]
	udp, isUDP := ports["udp"]
	switch {
	case isTCP && isUDP && tcp == udp:
		return tcp, "", true
	case isTCP:
		return tcp, "tcp", true
	case isUDP:
		return udp, "udp", true
	}
	return 0, "", false
}

// fewServices are for machines without /etc/services: small containers. They
// are as Debian's netbase has them.
var fewServices = map[string][]string{
	"ftp-data": {"20/tcp"}, "ftp": {"21/tcp"}, "ssh": {"22/tcp"}, "telnet": {"23/tcp"}, "smtp": {"25/tcp"},
	"domain": {"53/tcp", "53/udp"}, "bootps": {"67/udp"}, "bootpc": {"68/udp"}, "tftp": {"69/udp"}, "http": {"80/tcp"},
	"kerberos": {"88/tcp", "88/udp"}, "pop3": {"110/tcp"}, "sunrpc": {"111/tcp", "111/udp"}, "ntp": {"123/udp"},
	"imap2": {"143/tcp"}, "imap": {"143/tcp"}, "snmp": {"161/tcp", "161/udp"}, "snmp-trap": {"162/tcp", "162/udp"}, "bgp": {"179/tcp"},
	"ldap": {"389/tcp", "389/udp"}, "https": {"443/tcp", "443/udp"}, "syslog": {"514/udp"}, "ldaps": {"636/tcp", "636/udp"},
	"imaps": {"993/tcp"}, "pop3s": {"995/tcp"}, "openvpn": {"1194/tcp", "1194/udp"}, "nfs": {"2049/tcp", "2049/udp"},
	"mysql": {"3306/tcp"}, "postgresql": {"5432/tcp"}, "sip": {"5060/tcp", "5060/udp"}, "mdns": {"5353/udp"},
	"http-alt": {"8080/tcp", "8080/udp"},
}

// ipProtocol returns the number of an IP protocol.
func ipProtocol(name string) (uint32, bool) {
	for _, v := range protocolsFile.find(name) {
		if n, err := strconv.ParseUint(v, 10, 32); err == nil {
			return uint32(n), true
		}
	}
	n, ok := fewProtocols[name]
	return n, ok
}

// fewProtocols are for machines without /etc/protocols.
var fewProtocols = map[string]uint32{
	"icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44,
	"rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88,
	"ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}

// Link-layer protocols by name: Ethernet types, and the service access points
// of LLC.
const (
	etherIP       = 0x0800
	etherARP      = 0x0806
	etherRARP     = 0x8035
	etherIPv6     = 0x86DD
	etherAppleTlk = 0x809B
	etherAARP     = 0x80F3
	etherDECnet   = 0x6003
	etherIPX      = 0x8137
	etherVLAN     = 0x8100
	etherQinQ     = 0x88A8
	etherOldQinQ  = 0x9100
	etherMPLS     = 0x8847
	etherPPPoED   = 0x8863
	etherPPPoES   = 0x8864
	etherTEB      = 0x6558 // an Ethernet frame, in Geneve

	llcSTP     = 0x42
	llcIPX     = 0xE0
	llcNetBEUI = 0xF0
	llcISO     = 0xFE
)

var linkProtocols = map[string]uint32{
	"ip": etherIP, "ip6": etherIPv6, "arp": etherARP, "rarp": etherRARP, "atalk": etherAppleTlk, "aarp": etherAARP,
	"decnet": etherDECnet, "sca": 0x6007, "lat": 0x6004, "mopdl": 0x6001, "moprc": 0x6002, "loopback": 0x9000,
	"stp": llcSTP, "ipx": llcIPX, "netbeui": llcNetBEUI, "iso": llcISO,
}

// isoProtocols are the first bytes of OSI packets.
var isoProtocols = map[string]uint32{"clnp": 0x81, "esis": 0x82, "isis": 0x83}

// isisTypes are the types of IS-IS packets, ISO 10589.
var isisTypes = map[string][]uint32{
	"l1": {26, 24, 18, 15, 17}, "l2": {27, 25, 20, 16, 17}, "iih": {17, 15, 16}, "lsp": {18, 20}, "snp": {26, 27, 24, 25},
	"csnp": {24, 25}, "psnp": {26, 27},
}

// services lists names for proposals.
func services() []string {
	servicesFile.find("")
	var out []string
	for name := range servicesFile.rows {
		out = append(out, name)
	}
	for name := range fewServices {
		out = append(out, name)
	}
	return out
}
