// SPDX-License-Identifier: Apache-2.0

package filter

// The words of the language, pcap-filter(7) and grammar of libpcap 1.10.

// protocolWords may stand alone, before an address or port, and before [.
var protocolWords = []string{
	"ether", "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "igrp", "pim", "vrrp", "carp",
	"ah", "esp", "atalk", "aarp", "decnet", "lat", "sca", "moprc", "mopdl", "iso", "esis", "isis", "clnp", "stp", "ipx",
	"netbeui", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp", "radio",
}

// otherWords begin something else, or go on with it.
var otherWords = []string{
	"src", "dst", "host", "net", "mask", "port", "portrange", "proto", "protochain", "gateway",
	"less", "greater", "byte", "broadcast", "multicast", "inbound", "outbound", "ifindex",
	"vlan", "mpls", "pppoed", "pppoes", "geneve", "vxlan", "llc", "len", "length",
	"and", "or", "not",
}

// foreign are the words about link types that are not captured, by what they
// are about. They are known so that they can be refused with a reason.
var foreign = map[string][]string{
	"802.11 (monitor mode)": {"type", "subtype", "direction", "dir", "addr1", "addr2", "addr3", "addr4", "address1", "address2", "address3", "address4", "ra", "ta"},
	"ATM":                   {"lane", "metac", "bcc", "sc", "ilmic", "oam", "oamf4", "oamf4ec", "oamf4sc", "oamf4e", "oamf4s", "connectmsg", "metaconnect", "vpi", "vci"},
	"the pf firewall of the BSDs": {
		"on", "ifname", "rset", "ruleset", "rnr", "rulenum", "srnr", "subrulenum", "reason", "action",
	},
	"SS7": {"fisu", "lssu", "lsu", "msu", "hfisu", "hlssu", "hmsu", "sio", "opc", "dpc", "sls", "hsio", "hopc", "hdpc", "hsls"},
}

// keywords are all of these; foreignTo says what a foreign one is about.
var keywords, foreignTo = func() (map[string]bool, map[string]string) {
	known, about := map[string]bool{}, map[string]string{}
	for _, words := range [][]string{protocolWords, otherWords} {
		for _, w := range words {
			known[w] = true
		}
	}
	for w := range sameWord {
		if wordByte(w[0]) {
			known[w] = true
		}
	}
	for what, words := range foreign {
		for _, w := range words {
			known[w], about[w] = true, what
		}
	}
	return known, about
}()

var isProtocol = func() map[string]bool {
	is := map[string]bool{}
	for _, w := range protocolWords {
		is[w] = true
	}
	return is
}()

// constants are names of numbers: offsets of header fields, and their values.
var constants = map[string]uint32{
	"icmptype": 0, "icmpcode": 1, "icmp6type": 0, "icmp6code": 1, "tcpflags": 13,

	"tcp-fin": 0x01, "tcp-syn": 0x02, "tcp-rst": 0x04, "tcp-push": 0x08,
	"tcp-ack": 0x10, "tcp-urg": 0x20, "tcp-ece": 0x40, "tcp-cwr": 0x80,

	// RFC 792, RFC 950, RFC 1256.
	"icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5, "icmp-echo": 8,
	"icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11, "icmp-paramprob": 12, "icmp-tstamp": 13,
	"icmp-tstampreply": 14, "icmp-ireq": 15, "icmp-ireqreply": 16, "icmp-maskreq": 17, "icmp-maskreply": 18,

	// https://www.iana.org/assignments/icmpv6-parameters
	"icmp6-destinationunreach": 1, "icmp6-packettoobig": 2, "icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4,
	"icmp6-echo": 128, "icmp6-echoreply": 129, "icmp6-multicastlistenerquery": 130,
	"icmp6-multicastlistenerreportv1": 131, "icmp6-multicastlistenerdone": 132, "icmp6-routersolicit": 133,
	"icmp6-routeradvert": 134, "icmp6-neighborsolicit": 135, "icmp6-neighboradvert": 136, "icmp6-redirect": 137,
	"icmp6-routerrenum": 138, "icmp6-nodeinformationquery": 139, "icmp6-nodeinformationresponse": 140,
	"icmp6-ineighbordiscoverysolicit": 141, "icmp6-ineighbordiscoveryadvert": 142,
	"icmp6-multicastlistenerreportv2": 143, "icmp6-homeagentdiscoveryrequest": 144,
	"icmp6-homeagentdiscoveryreply": 145, "icmp6-mobileprefixsolicit": 146, "icmp6-mobileprefixadvert": 147,
	"icmp6-certpathsolicit": 148, "icmp6-certpathadvert": 149, "icmp6-multicastrouteradvert": 151,
	"icmp6-multicastroutersolicit": 152, "icmp6-multicastrouterterm": 153,
}

// llcTypes are the types of LLC frames: the mask and value of the control
// byte. IEEE 802.2.
var llcTypes = map[string]struct{ mask, value uint32 }{
	"i": {0x01, 0x00}, "s": {0x03, 0x01}, "u": {0x03, 0x03},
	"rr": {0x0F, 0x01}, "rnr": {0x0F, 0x05}, "rej": {0x0F, 0x09},
	"ui": {0xEF, 0x03}, "ua": {0xEF, 0x63}, "disc": {0xEF, 0x43}, "sabme": {0xEF, 0x6F}, "test": {0xEF, 0xE3},
	"xid": {0xEF, 0xAF}, "frmr": {0xEF, 0x87},
}
