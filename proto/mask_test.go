// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/internal/testnet"
)

// made is a frame that gopacket made, and where its payload begins.
type made struct {
	name   string
	link   LinkType
	data   []byte
	end    int
	masked Masking
}

// makeFrames has gopacket make frames of every kind with a payload, checksums
// and lengths computed by it.
func makeFrames(t testing.TB, payload []byte) (all []made) {
	eth := func(kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: kind}
	}
	v4 := func(p layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 9, Id: 77, Protocol: p, SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 9, 8, 7}, Options: []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}}
	}
	v6 := func(p layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: p, SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("2001:db8::7")}
	}
	type transport struct {
		name  string
		proto layers.IPProtocol
		layer func(ip gopacket.NetworkLayer) gopacket.SerializableLayer
	}
	ports := func(l interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}, ip gopacket.NetworkLayer) gopacket.SerializableLayer {
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return l.(gopacket.SerializableLayer)
	}
	transports := []transport{
		{"tcp", layers.IPProtocolTCP, func(ip gopacket.NetworkLayer) gopacket.SerializableLayer {
			return ports(&layers.TCP{SrcPort: 80, DstPort: 4711, Seq: 1, ACK: true, Window: 99, Options: []layers.TCPOption{{OptionType: 1}, {OptionType: 1}, {OptionType: 8, OptionLength: 10, OptionData: make([]byte, 8)}}}, ip)
		}},
		{"udp", layers.IPProtocolUDP, func(ip gopacket.NetworkLayer) gopacket.SerializableLayer {
			return ports(&layers.UDP{SrcPort: 53, DstPort: 4711}, ip)
		}},
		{"icmp", layers.IPProtocolICMPv4, func(gopacket.NetworkLayer) gopacket.SerializableLayer {
			return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 3, Seq: 4}
		}},
		{"sctp", layers.IPProtocolSCTP, func(gopacket.NetworkLayer) gopacket.SerializableLayer {
			return &layers.SCTP{SrcPort: 1, DstPort: 2, VerificationTag: 3}
		}},
		{"gre", layers.IPProtocolGRE, nil},
	}
	put := func(name string, link LinkType, ls ...gopacket.SerializableLayer) {
		with := func(payload []byte) []byte {
			b := gopacket.NewSerializeBuffer()
			if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(slices.Clone(ls), gopacket.Payload(payload))...); err != nil {
				t.Fatal(name, err)
			}
			return slices.Clone(b.Bytes())
		}
		m := made{name: name, link: link, data: with(payload), end: len(with(make([]byte, 100))) - 100, masked: Masked}
		if len(m.data) == m.end { // short frames are padded to 60 bytes, which counts as payload
			m.masked = Unmasked
		}
		all = append(all, m)
	}
	for _, tr := range transports {
		for _, six := range []bool{false, true} {
			p := tr.proto
			if six && p == layers.IPProtocolICMPv4 {
				continue
			}
			var ip gopacket.NetworkLayer = v4(p)
			kind := layers.EthernetTypeIPv4
			if six {
				ip, kind = v6(p), layers.EthernetTypeIPv6
			}
			ls := []gopacket.SerializableLayer{ip.(gopacket.SerializableLayer)}
			if tr.layer != nil {
				ls = append(ls, tr.layer(ip))
			}
			name := fmt.Sprint(tr.name, " six=", six)
			put(name, LinkTypeEthernet, append([]gopacket.SerializableLayer{eth(kind)}, ls...)...)
			put(name+" raw", LinkTypeRaw, ls...)
			put(name+" vlan", LinkTypeEthernet, append([]gopacket.SerializableLayer{eth(layers.EthernetTypeQinQ),
				&layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 8, Type: kind}}, ls...)...)
			put(name+" mpls", LinkTypeEthernet, append([]gopacket.SerializableLayer{eth(layers.EthernetTypeMPLSUnicast),
				&layers.MPLS{Label: 100}, &layers.MPLS{Label: 200, StackBottom: true}}, ls...)...)
		}
	}
	ip := v6(layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
	icmp.SetNetworkLayerForChecksum(ip)
	put("icmp6", LinkTypeEthernet, eth(layers.EthernetTypeIPv6), ip, icmp, &layers.ICMPv6Echo{Identifier: 1, SeqNumber: 2})
	return all
}

// Masked frames are those that gopacket makes of the same headers with zeros
// behind them: checksums are right.
func TestMaskAgainstGopacket(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 3, 7, 64, 999, 1000, 1400} {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		full, zero := makeFrames(t, payload), makeFrames(t, make([]byte, n))
		for i, f := range full {
			r := Record{Data: slices.Clone(f.data), OrigLen: uint32(len(f.data)), LinkType: f.link}
			if got := r.Mask(); got != f.masked || !bytes.Equal(r.Data, zero[i].data) {
				t.Errorf("%s with %d bytes: %d\n%x, not\n%x", f.name, n, got, r.Data, zero[i].data)
			}
			r = Record{Data: slices.Clone(f.data), OrigLen: uint32(len(f.data)), LinkType: f.link}
			if cut := r.SliceHeaders(); cut != (f.masked == Masked) || len(r.Data) != f.end || int(r.OrigLen) != len(f.data) || !bytes.Equal(r.Data, f.data[:f.end]) {
				t.Errorf("%s with %d bytes: %d bytes left, not %d", f.name, n, len(r.Data), f.end)
			}
		}
	}
}

// However a frame is cut, no byte of a payload stays, no header is read beyond
// its end, and what is left is a prefix.
func TestMaskTruncated(t *testing.T) {
	payload := bytes.Repeat([]byte{0xA5}, 40)
	for _, f := range makeFrames(t, payload) {
		for n := range len(f.data) {
			d := slices.Clone(f.data[:n:n])
			r := Record{Data: d, OrigLen: uint32(len(f.data)), LinkType: f.link}
			r.Mask()
			if bytes.Contains(r.Data, payload[:4]) {
				t.Errorf("%s cut to %d: payload is left: %x", f.name, n, r.Data)
			}
			d = slices.Clone(f.data[:n:n])
			r = Record{Data: d, LinkType: f.link}
			r.SliceHeaders()
			if len(r.Data) > f.end || !bytes.HasPrefix(f.data, r.Data) {
				t.Errorf("%s cut to %d: %d bytes left of %d of headers", f.name, n, len(r.Data), f.end)
			}
		}
	}
}

// fragment makes an IPv4 frame a fragment.
func fragment(f []byte, flags uint16) []byte {
	f = slices.Clone(f)
	binary.BigEndian.PutUint16(f[14+6:], flags)
	binary.BigEndian.PutUint16(f[14+10:], 0)
	binary.BigEndian.PutUint16(f[14+10:], ^fold(checksum(f[14:14+int(f[14]&0xF)*4], 0)))
	return f
}

// Fragments: of later ones all is payload; of a first one TCP's checksum cannot
// be known, UDP's can, since its header has the length.
func TestMaskFragments(t *testing.T) {
	payload := bytes.Repeat([]byte{0xA5}, 64)
	frames := makeFrames(t, payload)
	find := func(name string) []byte {
		i := slices.IndexFunc(frames, func(m made) bool { return m.name == name })
		return slices.Clone(frames[i].data)
	}
	for _, c := range []struct {
		name  string
		flags uint16
		want  Masking
		end   int // of what stays
		sum   int // where the checksum is; 0: none
	}{
		{"tcp six=false", 0x2000, MaskedMark, 14 + 24 + 32, 14 + 24 + 16},
		{"udp six=false", 0x2000, Masked, 14 + 24 + 8, 0},
		{"tcp six=false", 0x0005, Masked, 14 + 24, 0},
		{"udp six=false", 0x2005, Masked, 14 + 24, 0},
	} {
		r := Record{Data: fragment(find(c.name), c.flags), LinkType: LinkTypeEthernet}
		if got := r.Mask(); got != c.want || bytes.IndexFunc(r.Data[c.end:], func(b rune) bool { return b != 0 }) >= 0 {
			t.Errorf("%s %04x: %d, %x", c.name, c.flags, got, r.Data)
		}
		if c.sum > 0 && binary.BigEndian.Uint16(r.Data[c.sum:]) != 0 {
			t.Errorf("%s %04x: a checksum of %x", c.name, c.flags, r.Data[c.sum:c.sum+2])
		}
	}
	// A UDP datagram in two fragments, masked each by itself and put together
	// again, has the checksum of zeros.
	whole := find("udp six=false")
	first := fragment(whole[:14+24+8+32], 0x2000)
	r := Record{Data: first, LinkType: LinkTypeEthernet}
	r.Mask()
	zero := makeFrames(t, make([]byte, 64))
	want := zero[slices.IndexFunc(zero, func(m made) bool { return m.name == "udp six=false" })].data
	if !bytes.Equal(first[14+24:], want[14+24:14+24+8+32]) {
		t.Errorf("%x, not %x", first[14+24:], want[14+24:14+24+8+32])
	}
	// No checksum stays no checksum.
	whole[14+24+6], whole[14+24+7] = 0, 0
	if r = (Record{Data: whole, LinkType: LinkTypeEthernet}); r.Mask() != Masked || whole[14+24+6] != 0 || whole[14+24+7] != 0 {
		t.Error("a checksum was made where there was none")
	}
}

// What ntap does not know is payload, and neighbour discovery and ARP are none.
func TestHeadersOfOthers(t *testing.T) {
	eth := func(kind uint16, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, kind), rest...)
	}
	v6 := func(next byte, rest ...byte) []byte {
		ip := make([]byte, 40)
		ip[0], ip[5], ip[6] = 0x60, byte(len(rest)), next
		return eth(0x86DD, append(ip, rest...)...)
	}
	for name, c := range map[string]struct {
		link  LinkType
		frame []byte
		end   int
	}{
		"lldp":                 {1, eth(0x88CC, 1, 2, 3), 14},
		"arp":                  {1, eth(0x0806, make([]byte, 46)...), 14 + 28},
		"wifi":                 {105, make([]byte, 99), 0},
		"cooked":               {113, append([]byte{0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0x08, 0}, 0x45, 0, 0, 30, 0, 0, 0, 0, 9, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 10, 0, 0, 1, 2), 16 + 28},
		"cooked 2":             {276, append([]byte{0x86, 0xDD, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0}, v6(17, 0, 1, 0, 2, 0, 9, 0, 0, 1)[14:]...), 20 + 48},
		"neighbours":           {1, v6(58, append([]byte{135, 0, 0, 0}, make([]byte, 28)...)...), 14 + 40 + 32},
		"hop-by-hop":           {1, v6(0, append([]byte{17, 0, 0, 0, 0, 0, 0, 0}, 0, 1, 0, 2, 0, 9, 0, 0, 1)...), 14 + 40 + 8 + 8},
		"ah":                   {1, v6(51, append([]byte{6, 4}, make([]byte, 22+20+3)...)...), 14 + 40 + 24 + 20},
		"later fragment":       {1, v6(44, 17, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9), 14 + 40 + 8},
		"first fragment":       {1, v6(44, 17, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9), 14 + 40 + 8 + 8},
		"extension headers":    {1, v6(0, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0}, 12)...), 14 + 40 + 64},
		"pppoe":                {1, eth(0x8864, append([]byte{0x11, 0, 0, 1, 0, 22, 0, 0x57}, v6(17, 0, 1, 0, 2, 0, 9, 0, 0, 1)[14:]...)...), 14 + 8 + 48},
		"mpls without bottom":  {1, eth(0x8847, bytes.Repeat([]byte{0, 0, 0x10, 9}, 12)...), 14 + 4*maxLabels},
		"tags without end":     {1, eth(0x8100, bytes.Repeat([]byte{0, 1, 0x81, 0}, 12)...), 14 + 4*maxTags},
		"ip with a wrong size": {1, eth(0x0800, append([]byte{0x42}, make([]byte, 40)...)...), 14 + 20},
		"raw of no version":    {101, []byte{0x12, 3}, 0},
		"empty":                {1, nil, 0},
	} {
		if l := Headers(c.link, c.frame); l.End != c.end {
			t.Errorf("%s: headers end at %d, not %d", name, l.End, c.end)
		}
	}
}

// Of all frames of the captures, headers end where gopacket has the payload of
// TCP and UDP begin.
func TestHeadersOfCaptures(t *testing.T) {
	compared := 0
	for _, file := range testnet.Captures(t) {
		all, err := testnet.ReadGopacket(file)
		if err != nil {
			continue
		}
		for i, p := range all {
			link := LinkType(p.LinkType)
			if link != LinkTypeEthernet && link != LinkTypeSLL {
				continue
			}
			first := layers.LayerTypeEthernet
			if link == LinkTypeSLL {
				first = layers.LayerTypeLinuxSLL
			}
			decoded := gopacket.NewPacket(p.Data, first, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
			ls, at := decoded.Layers(), 0
			if decoded.ErrorLayer() != nil {
				continue
			}
			for n, one := range ls {
				at += len(one.LayerContents())
				kind := one.LayerType()
				if kind == layers.LayerTypeGRE || kind == layers.LayerTypeIPv4 && n > 0 && (ls[n-1].LayerType() == layers.LayerTypeIPv4 || ls[n-1].LayerType() == layers.LayerTypeIPv6) ||
					kind == layers.LayerTypePPP {
					break // a tunnel, or of another length than gopacket says
				}
				if kind != layers.LayerTypeTCP && kind != layers.LayerTypeUDP {
					continue
				}
				if l := Headers(link, p.Data); l.End != at {
					t.Errorf("%s, frame %d: headers end at %d, gopacket says %d", file, i+1, l.End, at)
				}
				compared++
				break
			}
		}
	}
	if compared < 1000 {
		t.Errorf("%d frames were compared", compared)
	}
}

func FuzzMask(f *testing.F) {
	for _, m := range makeFrames(f, []byte("payload")) {
		f.Add(uint16(m.link), m.data, uint8(0))
	}
	f.Fuzz(func(t *testing.T, link uint16, d []byte, cut uint8) {
		l := Headers(LinkType(link), d)
		if l.End < 0 || l.End > len(d) || (l.V4 || l.V6) && l.IP > len(d) {
			t.Fatalf("%+v of %d bytes", l, len(d))
		}
		r := Record{Data: slices.Clone(d), OrigLen: uint32(len(d)), LinkType: LinkType(link)}
		r.Mask()
		if len(r.Data) != len(d) || !bytes.Equal(r.Data[l.End:], make([]byte, len(d)-l.End)) {
			t.Fatalf("masked: %x", r.Data)
		}
		again := slices.Clone(r.Data)
		if r.Mask(); !bytes.Equal(again, r.Data) {
			t.Fatalf("masked again it is another frame: %x, %x", again, r.Data)
		}
	})
}

func TestMaskAllocatesNothing(t *testing.T) {
	frames := makeFrames(t, make([]byte, 700))
	if n := testing.AllocsPerRun(100, func() {
		for i := range frames {
			r := Record{Data: frames[i].data, LinkType: frames[i].link}
			r.Mask()
			r.SliceHeaders()
		}
	}); n != 0 {
		t.Errorf("%v objects", n)
	}
}

func BenchmarkMask(b *testing.B) {
	for _, n := range []int{0, 240, 1240} {
		frames := makeFrames(b, make([]byte, n))
		b.Run(fmt.Sprint(len(frames[0].data)), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				r := Record{Data: frames[0].data, LinkType: LinkTypeEthernet}
				r.Mask()
			}
		})
	}
}
