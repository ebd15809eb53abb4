// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ordinary are frames with names, for expressions whose meaning can be told
// without a judge.
var ordinary = func() map[string][]byte {
	a4, b4 := []byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}
	a6, b6 := netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice()
	ip4 := func(proto byte, fragment uint16, src, dst, payload []byte) []byte {
		return join([]byte{0x45, 0}, be16(uint16(20+len(payload))), be16(1), be16(fragment), []byte{64, proto, 0, 0}, src, dst, payload)
	}
	ip6 := func(next byte, payload []byte) []byte {
		return join([]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{next, 64}, a6, b6, payload)
	}
	tcp := func(src, dst uint16, flags byte) []byte {
		return join(be16(src), be16(dst), make([]byte, 8), []byte{0x50, flags, 0, 0, 0, 0, 0, 0})
	}
	udp := func(src, dst uint16, payload []byte) []byte {
		return join(be16(src), be16(dst), be16(uint16(8+len(payload))), be16(0), payload)
	}
	tag := func(tpid, vid, typ uint16, payload []byte) []byte {
		return ether(tpid, join(be16(vid), be16(typ), payload))
	}
	syn := ip4(6, 0, a4, b4, tcp(40000, 80, 2))
	arp := join(be16(1), be16(0x800), []byte{6, 4, 0, 1}, mustMAC(macs[0]), a4, make([]byte, 6), b4)
	inner := ether(0x0800, syn)
	return map[string][]byte{
		"syn":       ether(0x0800, syn),
		"ack":       ether(0x0800, ip4(6, 0x4000, b4, a4, tcp(80, 40000, 0x10))),
		"https":     ether(0x0800, ip4(6, 0, a4, []byte{192, 168, 1, 7}, tcp(40001, 443, 0x18))),
		"dns":       ether(0x0800, ip4(17, 0, a4, []byte{8, 8, 8, 8}, udp(5353, 53, make([]byte, 200)))),
		"dns6":      ether(0x86DD, ip6(17, udp(40000, 53, nil))),
		"syn6":      ether(0x86DD, ip6(6, tcp(40000, 443, 2))),
		"ping":      ether(0x0800, ip4(1, 0, a4, b4, []byte{8, 0, 0, 0, 0, 0, 0, 0})),
		"unreach":   ether(0x0800, ip4(1, 0, b4, a4, []byte{3, 1, 0, 0, 0, 0, 0, 0})),
		"ping6":     ether(0x86DD, ip6(58, []byte{128, 0, 0, 0, 0, 0, 0, 0})),
		"sctp":      ether(0x0800, ip4(132, 0, a4, b4, udp(40000, 80, nil))),
		"fragment":  ether(0x0800, ip4(6, 0x00B9, a4, b4, tcp(40000, 80, 2))),
		"first":     ether(0x0800, ip4(6, 0x2000, a4, b4, tcp(40000, 80, 2))),
		"options":   ether(0x0800, join([]byte{0x46, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0}, a4, b4, []byte{1, 1, 1, 1}, tcp(40000, 80, 2))),
		"arp":       join(mustMAC(macs[2]), mustMAC(macs[0]), be16(0x0806), arp),
		"vlan5":     tag(0x8100, 5, 0x0800, syn),
		"vlan6":     tag(0x8100, 0x2006, 0x86DD, ip6(6, tcp(40000, 80, 2))),
		"qinq":      tag(0x88A8, 5, 0x8100, join(be16(6), be16(0x0800), syn)),
		"mpls":      ether(0x8847, join(be32(1024<<12|0x100), syn)),
		"pppoe":     ether(0x8864, join([]byte{0x11, 0}, be16(7), be16(2), be16(0x21), syn)),
		"geneve":    ether(0x0800, ip4(17, 0, a4, b4, udp(50000, 6081, join([]byte{1, 0, 0x65, 0x58}, be32(11<<8), be32(0), inner)))),
		"geneve-ip": ether(0x86DD, ip6(17, udp(50000, 6081, join([]byte{0, 0, 8, 0}, be32(12<<8), syn)))),
		"vxlan":     ether(0x0800, ip4(17, 0, a4, b4, udp(50000, 4789, join([]byte{8, 0, 0, 0}, be32(11<<8), inner)))),
		"vxlan6":    ether(0x86DD, ip6(17, udp(50000, 4789, join([]byte{8, 0, 0, 0}, be32(12<<8), ether(0x86DD, ip6(17, udp(1, 53, nil))))))),
		"stp":       join(mustMAC("01:80:c2:00:00:00"), mustMAC(macs[0]), be16(38), []byte{0x42, 0x42, 3}, make([]byte, 35)),
		"lldp":      join(mustMAC("01:80:c2:00:00:0e"), mustMAC(macs[0]), be16(0x88CC), make([]byte, 46)),
		"multicast": join(mustMAC(macs[3]), mustMAC(macs[0]), be16(0x0800), ip4(2, 0, a4, []byte{224, 0, 0, 5}, make([]byte, 8))),
		"esp":       ether(0x0800, ip4(50, 0, a4, b4, make([]byte, 16))),
	}
}()

// What people write means what they mean. The one cgo-free compiler that there
// was got half of such expressions wrong.
func TestOrdinaryExpressions(t *testing.T) {
	const over4 = "syn ack https fragment first options"
	for expression, want := range map[string]string{
		"":                             "*",
		"ip":                           over4 + " dns ping unreach sctp geneve vxlan multicast esp",
		"ip6":                          "dns6 syn6 ping6 geneve-ip vxlan6",
		"arp":                          "arp",
		"tcp":                          over4 + " syn6",
		"udp":                          "dns dns6 geneve geneve-ip vxlan vxlan6",
		"icmp":                         "ping unreach",
		"icmp6":                        "ping6",
		"host 10.0.0.2":                "syn ack ping unreach sctp fragment first options arp geneve vxlan esp",
		"src host 10.0.0.2":            "ack unreach",
		"dst 10.0.0.2":                 "syn ping sctp fragment first options arp geneve vxlan esp",
		"net 192.168.0.0/16":           "https",
		"net 224.0.0.0/4":              "multicast",
		"dst net 8":                    "dns",
		"host 2001:db8::2":             "dns6 syn6 ping6 geneve-ip vxlan6",
		"net 2001:db8::/32":            "dns6 syn6 ping6 geneve-ip vxlan6",
		"port 80":                      "syn ack sctp first options",
		"tcp port 80":                  "syn ack first options",
		"tcp dst port 80":              "syn first options",
		"tcp src port 80":              "ack",
		"port 80 or 443":               "syn ack https sctp first options syn6",
		"port 53":                      "dns dns6",
		"udp port 53 and ip6":          "dns6",
		"portrange 50-60":              "dns dns6",
		"udp portrange 6000-7000":      "geneve geneve-ip",
		"tcp[tcpflags] & tcp-syn != 0": "syn first options",
		"tcp[13] = 2":                  "syn first options",
		"tcp[tcpflags] & (tcp-syn|tcp-ack) == 16":         "ack https",
		"icmp[icmptype] = icmp-echo":                      "ping",
		"icmp[icmptype] != icmp-echo":                     "unreach",
		"icmp6[icmp6type] = icmp6-echo":                   "ping6",
		"ip[6:2] & 0x1fff != 0":                           "fragment",
		"ip[0] & 0xf > 5":                                 "options",
		"greater 200":                                     "dns",
		"less 40 and not arp":                             "",
		"len > 200 and udp":                               "dns",
		"vlan":                                            "vlan5 vlan6 qinq",
		"vlan 5":                                          "vlan5 qinq",
		"vlan 6 and ip6":                                  "vlan6",
		"vlan and tcp port 80":                            "vlan5 vlan6",
		"vlan 5 and vlan 6 and tcp dst port 80":           "qinq",
		"mpls 1024 and tcp port 80":                       "mpls",
		"pppoes 7 and host 10.0.0.1":                      "pppoe",
		"geneve":                                          "geneve geneve-ip",
		"geneve 11 and tcp port 80":                       "geneve",
		"geneve 12 and tcp port 80":                       "geneve-ip",
		"geneve and ether src 02:00:00:00:00:01":          "geneve",
		"vxlan":                                           "vxlan vxlan6",
		"vxlan 11":                                        "vxlan",
		"vxlan and tcp dst port 80":                       "vxlan",
		"vxlan 12 and udp port 53 and ip6":                "vxlan6",
		"vxlan and ether dst 02:00:00:00:00:02":           "vxlan vxlan6",
		"vxlan and host 10.0.0.2":                         "vxlan",
		"ether host 02:00:00:00:00:01 and arp":            "arp",
		"broadcast":                                       "arp",
		"multicast and not broadcast":                     "stp lldp multicast",
		"ip multicast":                                    "multicast",
		"ether proto 0x88cc":                              "lldp",
		"stp":                                             "stp",
		"sctp":                                            "sctp",
		"ip proto 50":                                     "esp",
		"esp or igmp":                                     "esp multicast",
		"not ip and not ip6 and not arp":                  "vlan5 vlan6 qinq mpls pppoe stp lldp",
		"icmp or arp and host 10.0.0.1":                   "ping unreach arp",
		"icmp or (arp and host 10.0.0.9)":                 "ping unreach",
		"host 10.0.0.1 and not (port 80 or icmp)":         "https dns arp fragment geneve vxlan multicast esp",
		"src host 10.0.0.1 and dst host 10.0.0.2 and udp": "geneve vxlan",
		"ip[2:2] = len - 14":                              over4 + " dns ping unreach sctp geneve vxlan multicast esp",
		"ip and tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) = 0)": "syn ack first options",
	} {
		program, err := Compile(expression, Options{LinkType: Ethernet})
		if err != nil {
			t.Errorf("%q: %v", expression, err)
			continue
		}
		m, err := NewMachine(program)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for name, f := range ordinary {
			if n := m.Run(f, uint32(len(f))); n != 0 {
				got = append(got, name)
				if n != defaultReturn {
					t.Errorf("%q returns %d", expression, n)
				}
			}
		}
		wanted := strings.Fields(want)
		if want == "*" {
			wanted = nil
			for name := range ordinary {
				wanted = append(wanted, name)
			}
		}
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("%q matches %v, want %v\n%v", expression, got, wanted, program)
		}
	}
}

// Names of hosts are looked up, and each address of one will do.
func TestHostNames(t *testing.T) {
	lookUp := func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "both.example":
			return []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("::ffff:10.0.0.2"), netip.MustParseAddr("2001:db8::1")}, nil
		case "many.example":
			return make([]netip.Addr, 65), nil
		case "slow.example":
			return nil, context.DeadlineExceeded
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	o := Options{LinkType: Ethernet, LookUp: lookUp}
	for named, numbered := range map[string]string{
		"host both.example":             "host 10.0.0.2 or host 2001:db8::1",
		"ip host both.example":          "ip host 10.0.0.2",
		"ip6 dst host both.example":     "ip6 dst host 2001:db8::1",
		"not src both.example":          "not (src host 10.0.0.2 or src host 2001:db8::1)",
		"host both.example or 10.0.0.1": "host 10.0.0.2 or host 2001:db8::1 or host 10.0.0.1",
	} {
		a, err := Compile(named, o)
		b, err2 := Compile(numbered, o)
		if err != nil || err2 != nil || !slices.Equal(a, b) {
			t.Errorf("%q, %v:\n%v%q, %v:\n%v", named, err, a, numbered, err2, b)
		}
	}
	for expression, want := range map[string]string{
		"host nobody.example":        `column 6: the host "nobody.example" is not known: no such host`,
		"ip and src many.example":    "it has 65 addresses, at most 64",
		"host slow.example":          "deadline exceeded",
		"host nobody.example/24":     `column 20: expected`,
		"port 80 or host -x.example": "column 17",
	} {
		if _, err := Compile(expression, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want something with %q", expression, err, want)
		}
	}
	// A resolver that never answers does not hang the compiler.
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		_, err := Compile("host a.example or host b.example", Options{LinkType: Ethernet, LookUp: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		if err == nil || !strings.Contains(err.Error(), "no answer in 5s") || time.Since(begun) != lookUpTime {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// The netmask says what is broadcast.
func TestIPBroadcast(t *testing.T) {
	p, err := Compile("ip broadcast", Options{LinkType: Ethernet, Netmask: netip.MustParseAddr("255.255.255.0")})
	if err != nil {
		t.Fatal(err)
	}
	q, err := Compile("ip and (ip[16:4] & 0xff = 0 or ip[16:4] & 0xff = 0xff)", Options{LinkType: Ethernet})
	if err != nil || !slices.Equal(p, q) {
		t.Errorf("%v, %v, %v", err, p, q)
	}
}

// Networks of one or two hosts have no broadcast address. All that is sent to
// any host used to be taken for broadcast there, as by tcpdump.
func TestIPBroadcastOfFewHosts(t *testing.T) {
	want, err := Compile("ip broadcast", Options{LinkType: Ethernet})
	if err != nil {
		t.Fatal(err)
	}
	for mask, same := range map[string]bool{"255.255.255.255": true, "255.255.255.254": true, "255.255.255.252": false} {
		p, err := Compile("ip broadcast", Options{LinkType: Ethernet, Netmask: netip.MustParseAddr(mask)})
		if err != nil || slices.Equal(p, want) != same {
			t.Errorf("%s: %v, %v", mask, err, p)
		}
	}
}

func TestSnapLength(t *testing.T) {
	p, err := Compile("ip", Options{LinkType: Ethernet, SnapLen: 96})
	if err != nil || judge(p, &frame{data: ordinary["syn"]}) != 96 {
		t.Errorf("%v, %v", p, err)
	}
}

// That one load is within the frame says nothing of one before it from the same
// computed place: offsets are modulo 2^32, so byte 8 is, and byte 2^32 - 6 is
// not. The second was left out.
func TestOffsetsBeginAgain(t *testing.T) {
	p, err := Compile("ip[ip[8] - 70] >= 0 and ether[ip[8] - 70] >= 0", Options{LinkType: Ethernet})
	if err != nil {
		t.Fatal(err)
	}
	data := ordinary["syn"] // its TTL is 64
	if n := judge(p, &frame{data: data, length: uint32(len(data))}); n != 0 {
		t.Errorf("%d\n%v", n, p)
	}
}

func TestMatchesNothing(t *testing.T) {
	for expression, want := range map[string]bool{
		"": false, "ip": false, "1 = 2": true, "ip and ip6": true, "tcp and udp and ip6 and not ip6": true, "greater 100 and less 50": true,
	} {
		p, err := Compile(expression, Options{LinkType: Ethernet})
		if err != nil || p.MatchesNothing() != want {
			t.Errorf("%q: %v, %v", expression, err, p)
		}
	}
}

func TestLinkTypes(t *testing.T) {
	for name, want := range map[string]uint16{
		"EN10MB": 1, "en10mb": 1, "1": 1, "RAW": 101, "12": 101, "14": 101, "101": 101, "LINUX_SLL": 113, "DLT_LINUX_SLL2": 276, "IPV4": 228, "229": 229,
	} {
		if got, err := LinkType(name); err != nil || got != want || !Supported(got) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "IEEE802_11", "105", "-1", "70000"} {
		if got, err := LinkType(name); err == nil || !strings.Contains(err.Error(), "EN10MB, RAW") {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, link := range []uint16{0, 105} {
		if _, err := Compile("ip", Options{LinkType: link}); err == nil {
			t.Errorf("link type %d compiles", link)
		}
	}
}

// Jumps over more than 255 instructions mean what short ones mean.
func TestLongJumps(t *testing.T) {
	for _, o := range []Options{{LinkType: Ethernet}, {LinkType: Ethernet, Live: true}, {LinkType: Raw}} {
		var parts []string
		var programs []Program
		prefix := ""
		if o.Live {
			prefix = "vlan and "
		}
		one := func(format string, args ...any) {
			e := fmt.Sprintf(format, args...)
			p, err := Compile(prefix+e, o)
			if err != nil {
				t.Fatal(err)
			}
			parts, programs = append(parts, e), append(programs, p)
		}
		for i := range 250 {
			one("tcp dst port %d", 2*i+1)
			if i%10 == 0 {
				one("ip[%d:2] - ip[2:2] = tcp[%d:2]", i%20, i%16)
				one("net 172.%d.0.0/16", 16+i/10)
			}
		}
		one("udp port 53")
		one("icmp")
		p, err := Compile(prefix+"("+strings.Join(parts, " or ")+")", o)
		if err != nil {
			t.Fatal(err)
		}
		negated, err := Compile(prefix+"not ("+strings.Join(parts, " or ")+")", o)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) < 700 {
			t.Errorf("%d instructions have no long jumps", len(p))
		}
		frames := asLink(o.LinkType, etherFrames(3, 800, 400, 0))
		if o.Live {
			frames = stripped(frames)
		}
		matched := 0
		for _, f := range frames {
			want, ended := uint32(0), false
			for _, one := range programs {
				if want, ended = verdict(one, f); want != 0 || ended {
					break
				}
			}
			if got := judge(p, f); got != want {
				t.Fatalf("%d, want %d, of %s: %x", got, want, f.name, f.data)
			}
			if want != 0 {
				matched++
			}
			tagged := uint32(defaultReturn)
			if o.Live {
				v, _ := Compile("vlan", o)
				tagged = judge(v, f)
			}
			if not := judge(negated, f); !ended && tagged != 0 && (not == 0) != (want != 0) || not != 0 && want != 0 {
				t.Fatalf("not: %d of %s: %x", not, f.name, f.data)
			}
		}
		if matched < 5 {
			t.Errorf("%d matches", matched)
		}
	}
}

// What is too much is refused with its numbers and a way out.
func TestTooLong(t *testing.T) {
	list := func(format string, n int, op string) string {
		var parts []string
		for i := range n {
			parts = append(parts, fmt.Sprintf(format, i))
		}
		return strings.Join(parts, op)
	}
	for expression, want := range map[string]string{
		list("net 2001:db8:%x::/48", 500, " or "):                  "instructions, and the kernel takes 4096: name networks",
		list("port %d", 5000, " or "):                              "tests, and 32768 are allowed",
		list("host 10.0.0.1 and tcp port %d", 20000, " or "):       "bytes, 262144 are allowed",
		strings.Repeat("(", 201) + "ip" + strings.Repeat(")", 201): "column 201: more than 200 parentheses",
		strings.Repeat("not ", 201) + "ip":                         "more than 200 levels of not",
		strings.Repeat("!", 5000) + "ip":                           "more than 200 levels of not",
		"port " + strings.Repeat("not ", 201) + "80":               "more than 200 levels of not",
		strings.Repeat("- ", 201) + "1 = 1":                        "more than 200 levels",
		"ip[" + strings.Repeat("ip[", 199) + "0" + strings.Repeat("]", 199) + "] = 1 or " + strings.Repeat("(", 201) + strings.Repeat(")", 201): "more than 200",
		list("ip[%d]", 1001, " + ") + " = 1": "more than 1000 numbers in one comparison",
		list("geneve %d", 20, " and "):       "too many encapsulations",
	} {
		begun := time.Now()
		if _, err := Compile(expression, Options{LinkType: Ethernet}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v; want something with %q", expression, err, want)
		}
		if d := time.Since(begun); d > 30*time.Second {
			t.Errorf("%.40q: %v", expression, d)
		}
	}
	// As deep as it may be.
	for _, expression := range []string{
		strings.Repeat("(", 150) + "ip" + strings.Repeat(")", 150),
		strings.Repeat("not ", 150) + "ip",
		strings.Repeat("ip[", 90) + "0" + strings.Repeat("]", 90) + " = 1",
		list("ip[%d]", 450, " + ") + " = 1",
	} {
		if _, err := Compile(expression, Options{LinkType: Ethernet}); err != nil {
			t.Errorf("%.40q: %v", expression, err)
		}
	}
	var e *Error
	if _, err := Compile(strings.Repeat("(", 300), Options{LinkType: Ethernet}); !errors.As(err, &e) {
		t.Errorf("%v", err)
	}
}

// Arithmetic that needs more memory than there is, is refused; what fits works.
func TestDeepArithmetic(t *testing.T) {
	tree := "ip[0]"
	for depth := range 12 {
		tree = fmt.Sprintf("((%s) - (ip[%d] - (%s)))", tree, depth, tree)
		_, err := Compile(tree+" = 1", Options{LinkType: Ethernet})
		if err != nil {
			if depth < 4 || !strings.Contains(err.Error(), "16") && !strings.Contains(err.Error(), "more than") {
				t.Errorf("depth %d: %v", depth, err)
			}
			return
		}
	}
}
