// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
)

// isOwnError is the plain twin of icmpError, of an IP packet.
func isOwnError(f []byte, own Own) bool {
	to := own.Collector.Addr().Unmap()
	if to.Is6() {
		if len(f) < 96 || f[6] != 58 || f[40] >= 128 {
			return false
		}
		quote := f[48:]
		return quote[0]>>4 == 6 && quote[6] == 17 && [16]byte(quote[24:]) == to.As16() && isOwnQuote(quote[40:], own)
	}
	if len(f) < 56 || f[9] != 1 || binary.BigEndian.Uint16(f[6:])&0x3FFF != 0 {
		return false
	}
	n := int(f[0]&0xF) * 4
	if len(f) < n+36 || !slices.Contains([]byte{3, 4, 5, 11, 12}, f[n]) {
		return false
	}
	quote := f[n+8:]
	if quote[0]>>4 != 4 || quote[0]&0xF < 5 || quote[9] != 17 || [4]byte(quote[16:]) != to.As4() || binary.BigEndian.Uint16(quote[6:])&0x1FFF != 0 {
		return false
	}
	n = int(quote[0]&0xF) * 4
	return len(quote) >= n+8 && isOwnQuote(quote[n:], own)
}

// isOwnQuote looks at quoted UDP: at the payload only of VXLAN, if there is
// enough of it.
func isOwnQuote(udp []byte, own Own) bool {
	return hasOwnPorts(udp, own) && (own.VXLAN == nil || len(udp) < int(own.looked()) || hasOwnPayload(udp, own))
}

// ownErrors returns ICMP errors about one of the tap's own datagrams: that quote
// all of it and its UDP header alone, of each type, and with IP options outside
// and inside.
func ownErrors(f []byte, own Own) (forms [][]byte) {
	datagram := f[14:]
	quotes := [][]byte{datagram, datagram[:len(datagram)-16], datagram[:len(datagram)-3]}
	if own.Collector.Addr().Unmap().Is6() {
		for _, kind := range []byte{1, 2, 3, 4} {
			for _, quote := range quotes {
				e := slices.Concat(f[:14], make([]byte, 40), []byte{kind, 4, 0, 0, 0, 0, 0, 0}, quote)
				e[14], e[14+6] = 0x60, 58
				forms = append(forms, e)
			}
		}
		return forms
	}
	ip := func(header []byte, words int) []byte { // with so many words of options
		out := slices.Concat(header[:20], bytes.Repeat([]byte{1}, 4*words), header[20:])
		out[0] = 0x45 + byte(words)
		return out
	}
	outer := slices.Concat(f[14:34], []byte{3, 3, 0, 0, 0, 0, 0, 0})
	outer[9] = 1
	copy(outer[16:], []byte{10, 0, 0, 1}) // to the remote
	for _, quote := range quotes {
		for _, kind := range []byte{3, 4, 5, 11, 12} {
			e := slices.Concat(f[:14], outer, quote)
			e[14+20] = kind
			forms = append(forms, e)
		}
		for _, words := range [][2]int{{1, 0}, {10, 0}, {0, 1}, {0, 10}, {6, 7}} {
			forms = append(forms, slices.Concat(f[:14], ip(outer, words[0]), ip(quote, words[1])))
		}
	}
	return forms
}

// An ICMP error about a datagram to the tap's collector is not captured: each
// datagram to a host where nobody listened had the next one come, 830 a second on
// a quiet lo. One about another host or port is, and about another VNI.
func TestExcludeErrors(t *testing.T) {
	for _, to := range []string{"192.0.2.9:5678", "[2001:db8::9]:5678"} {
		own := Own{Collector: netip.MustParseAddrPort(to), Tap: 7, Session: 0x6925e2c080004d2b, LinkType: linkEthernet}
		tunnel := own
		tunnel.VXLAN = &OwnVXLAN{VNI: 7, FirstPort: 12340, Ports: 16}
		others := map[string]Own{"another session": own, "another port": own, "another host": own, "another VNI": tunnel}
		change := func(name string, f func(*Own)) {
			o := others[name]
			f(&o)
			others[name] = o
		}
		change("another session", func(o *Own) { o.Session++; o.Tap++ })
		change("another port", func(o *Own) { o.Collector = netip.AddrPortFrom(o.Collector.Addr(), 5679) })
		change("another host", func(o *Own) { o.Collector = netip.AddrPortFrom(o.Collector.Addr().Next(), 5678) })
		change("another VNI", func(o *Own) { o.VXLAN = &OwnVXLAN{VNI: 8, FirstPort: 12340, Ports: 16} })
		for name, other := range others {
			of := own
			if other.VXLAN != nil {
				of = tunnel
			}
			for i, e := range ownErrors(ownForms(of)[0], of) {
				if n, err := machine(t, nil, of).Run(e); err != nil || n != 0 {
					t.Errorf("%s: error %d was captured: %x, %v", to, i, e, err)
				}
				quoted := bytes.Contains(e, []byte{8, 0, 0, 0, 0, 0, 7, 0}) // the VNI
				left := name == "another session" || name == "another VNI" && !quoted
				if n, err := machine(t, nil, other).Run(e); err != nil || (n == 0) != left {
					t.Errorf("%s: %s: error %d: %d, %v: %x", to, name, i, n, err, e)
				}
			}
		}
	}
}

// What leaves out the tap's own costs a frame of TCP 13 instructions, return
// included, and one of UDP to another host 14. They were 15 and, in IPv4, 17 before
// ICMP was looked at, since the version came ahead of the protocol.
func TestExcludeCost(t *testing.T) {
	for _, c := range []struct {
		to       string
		tcp, udp int
	}{
		{"192.0.2.9:5678", 13, 14},
		{"[2001:db8::9]:5678", 13, 14},
	} {
		own := Own{Collector: netip.MustParseAddrPort(c.to), Tap: 7, Session: 1, LinkType: linkEthernet}
		f := ownForms(own)[0]
		f = append(f, make([]byte, 100)...)
		at := 14 + 9
		if own.Collector.Addr().Is6() {
			at = 14 + 6
		}
		other := bytes.Clone(f)
		other[14+16]++ // the collector's address in IPv4,
		other[14+24]++ // and in IPv6
		tcp := bytes.Clone(other)
		tcp[at] = 6
		if n := executed(t, tcp, own); n > c.tcp {
			t.Errorf("%s: %d instructions for TCP, more than %d", c.to, n, c.tcp)
		}
		if n := executed(t, other, own); n > c.udp {
			t.Errorf("%s: %d instructions for UDP to another host, more than %d", c.to, n, c.udp)
		}
	}
}

// executed returns how many instructions of the filter a frame goes through, its
// return with it: those that, made another return, are what the program returns.
func executed(t *testing.T, f []byte, own Own) (n int) {
	t.Helper()
	raw, err := Exclude(nil, own)
	if err != nil {
		t.Fatal(err)
	}
	const here = 12345
	for i := range raw {
		changed := slices.Clone(raw)
		changed[i] = bpf.RawInstruction{Op: bpfReturn, K: here}
		ins, _ := bpf.Disassemble(changed)
		vm, err := bpf.NewVM(ins)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := vm.Run(f); err != nil {
			t.Fatal(err)
		} else if got == here {
			n++
		}
	}
	return n
}
