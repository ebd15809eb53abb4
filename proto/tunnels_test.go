// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// tunnelKinds are the tunnels that a host may send into; gtp and "gre sum" are
// some that ntap does not look into.
var tunnelKinds = []string{"vxlan", "vxlan without sum", "vxlan tagged", "geneve", "gre", "gre key", "gre tap", "ip", "none", "gtp", "gre sum"}

// A tunnelled says what frame gopacket is to make: one that a host sends into a
// tunnel.
type tunnelled struct {
	kind             string
	outer6, inner6   bool
	udp              bool // inside, else TCP
	outerID, innerID uint16
	seq              uint32
	fin, psh, cwr    bool
	payload          []byte
}

func (f tunnelled) String() string {
	return fmt.Sprintf("%s, outer6=%v inner6=%v udp=%v, %d bytes", f.kind, f.outer6, f.inner6, f.udp, len(f.payload))
}

// known says whether ntap finds the inner headers.
func (f tunnelled) known() bool { return f.kind != "gtp" && f.kind != "gre sum" }

// l4 is the length of the inner transport header, bytes.
func (f tunnelled) l4() int {
	if f.udp {
		return udpLen
	}
	return 32
}

func ipLayer(six bool, id uint16, p layers.IPProtocol, net8 byte) (gopacket.NetworkLayer, gopacket.SerializableLayer, layers.EthernetType) {
	if six {
		ip := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: p, SrcIP: net.IP{0xFD, net8, 15: 1}, DstIP: net.IP{0xFD, net8, 15: 2}}
		return ip, ip, layers.EthernetTypeIPv6
	}
	ip := &layers.IPv4{Version: 4, TTL: 9, Id: id, Protocol: p, Flags: layers.IPv4DontFragment, SrcIP: net.IP{10, net8, 0, 1}, DstIP: net.IP{10, net8, 0, 2}}
	return ip, ip, layers.EthernetTypeIPv4
}

// inner returns the layers of the inner packet, with those that it is in.
func (f tunnelled) inner(outer []gopacket.SerializableLayer, ethernet bool) []gopacket.SerializableLayer {
	protocol := layers.IPProtocolTCP
	if f.udp {
		protocol = layers.IPProtocolUDP
	}
	ip, ipl, kind := ipLayer(f.inner6, f.innerID, protocol, 7)
	if ethernet {
		outer = append(outer, &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 7, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 7, 2}, EthernetType: kind})
	}
	if f.udp {
		l := &layers.UDP{SrcPort: 1000, DstPort: 2000}
		l.SetNetworkLayerForChecksum(ip)
		return append(outer, ipl, l, gopacket.Payload(f.payload))
	}
	l := &layers.TCP{SrcPort: 1000, DstPort: 2000, Seq: f.seq, Ack: 77, ACK: true, PSH: f.psh, FIN: f.fin, CWR: f.cwr, Window: 99,
		Options: []layers.TCPOption{{OptionType: 1}, {OptionType: 1}, {OptionType: 8, OptionLength: 10, OptionData: make([]byte, 8)}}}
	l.SetNetworkLayerForChecksum(ip)
	return append(outer, ipl, l, gopacket.Payload(f.payload))
}

// frame has gopacket make the frame that a wire sees.
func (f tunnelled) frame(t testing.TB) []byte {
	t.Helper()
	protocol, port := layers.IPProtocolUDP, layers.UDPPort(4789)
	inside := layers.EthernetTypeIPv4
	if f.inner6 {
		inside = layers.EthernetTypeIPv6
	}
	var tunnel []gopacket.SerializableLayer
	ethernet := false
	switch f.kind {
	case "vxlan", "vxlan without sum", "vxlan tagged":
		tunnel, ethernet = []gopacket.SerializableLayer{&layers.VXLAN{ValidIDFlag: true, VNI: 5}}, true
	case "geneve":
		tunnel, ethernet = []gopacket.SerializableLayer{&layers.Geneve{Protocol: layers.EthernetTypeTransparentEthernetBridging, VNI: 5,
			Options: []*layers.GeneveOption{{Class: 0x102, Type: 0x80, Data: []byte{1, 2, 3, 4}}, {Class: 0x103, Type: 1, Data: make([]byte, 8)}}}}, true
		port = geneve
	case "gtp":
		tunnel, port = []gopacket.SerializableLayer{&layers.GTPv1U{Version: 1, ProtocolType: 1, MessageType: 255, TEID: 9}}, 2152
	case "gre", "gre key", "gre tap", "gre sum":
		g := &layers.GRE{Protocol: inside, KeyPresent: f.kind == "gre key", Key: 1 << 30, ChecksumPresent: f.kind == "gre sum"}
		if ethernet = f.kind == "gre tap"; ethernet {
			g.Protocol = layers.EthernetTypeTransparentEthernetBridging
		}
		tunnel, protocol = []gopacket.SerializableLayer{g}, layers.IPProtocolGRE
	case "ip":
		if protocol = layers.IPProtocolIPv4; f.inner6 {
			protocol = layers.IPProtocolIPv6
		}
	}
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}}
	ls := []gopacket.SerializableLayer{eth}
	if f.kind == "none" {
		eth.EthernetType = inside
		ls = f.inner(ls, false)
	} else {
		ip, ipl, kind := ipLayer(f.outer6, f.outerID, protocol, 3)
		eth.EthernetType = kind
		if f.kind == "vxlan tagged" {
			eth.EthernetType = layers.EthernetTypeDot1Q
			ls = append(ls, &layers.Dot1Q{VLANIdentifier: 7, Type: kind})
		}
		ls = append(ls, ipl)
		if protocol == layers.IPProtocolUDP {
			udp := &layers.UDP{SrcPort: 50000, DstPort: port}
			udp.SetNetworkLayerForChecksum(ip)
			ls = append(ls, udp)
		}
		ls = f.inner(append(ls, tunnel...), ethernet)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatalf("%v: %v", f, err)
	}
	d := slices.Clone(b.Bytes())
	if f.kind == "vxlan without sum" {
		clear(d[f.outerL4()+6:][:2])
	}
	return d
}

// outerL4 is where the header behind the outer IP header is.
func (f tunnelled) outerL4() int {
	at := 14 + 20
	if f.outer6 {
		at = 14 + 40
	}
	if f.kind == "vxlan tagged" {
		at += 4
	}
	return at
}

// record returns the frame as it is captured where it is sent, with the checksum
// of the inner packet left for the card, and cut by it if gso is not 0.
func (f tunnelled) record(t testing.TB, gso int) *Record {
	t.Helper()
	d := f.frame(t)
	l4 := len(d) - len(f.payload) - f.l4()
	addresses := d[l4-8 : l4]
	r := &Record{LinkType: LinkTypeEthernet, Data: d, OrigLen: uint32(len(d)), NeedsCsum: true, CsumStart: uint16(l4), CsumOffset: tcpSum}
	protocol, kind := protoTCP, byte(gsoTCPv4)
	if f.inner6 {
		addresses, kind = d[l4-32:l4], gsoTCPv6
	}
	if f.udp {
		protocol, kind, r.CsumOffset = protoUDP, gsoUDP, udpSum
	}
	binary.BigEndian.PutUint16(d[l4+int(r.CsumOffset):], fold(checksum(addresses, uint64(protocol)+uint64(len(d)-l4))))
	if gso > 0 {
		r.GSOType, r.GSOSize = kind, uint16(gso)
	}
	return r
}

// segments has gopacket make the frames that a wire sees of it.
func (f tunnelled) segments(t testing.TB, gso int) (all [][]byte) {
	t.Helper()
	if gso == 0 {
		return [][]byte{f.frame(t)}
	}
	for i := 0; i*gso < len(f.payload); i++ {
		s, last := f, (i+1)*gso >= len(f.payload)
		s.payload = f.payload[i*gso : min((i+1)*gso, len(f.payload))]
		s.seq, s.outerID, s.innerID = f.seq+uint32(i*gso), f.outerID+uint16(i), f.innerID+uint16(i)
		s.fin, s.psh, s.cwr = f.fin && last, f.psh && last, f.cwr && i == 0
		all = append(all, s.frame(t))
	}
	return all
}

// eachTunnelled calls do with frames of all kinds, cut by the card or not.
func eachTunnelled(do func(f tunnelled, gso int)) {
	payload := make([]byte, 5103) // gopacket pads frames of less than 60 bytes, inner ones too
	for i := range payload {
		payload[i] = byte(i*7+i>>8) | 1 // none of them is 0
	}
	for i, kind := range tunnelKinds {
		for bits := range 8 {
			f := tunnelled{kind: kind, outer6: bits&1 > 0, inner6: bits&2 > 0, udp: bits&4 > 0,
				outerID: 0xFFFE, innerID: 0x1234, seq: 0xFFFFFF00 + uint32(i), fin: true, psh: true, cwr: true, payload: payload[:700+i]}
			do(f, 0)
			f.payload = payload
			do(f, 1000)
		}
	}
}

// finish returns what the wire saw of r, and whether that could be made.
func finish(c *Cutter, r *Record) (all []Record, ok bool) {
	if !r.Unfinished() {
		return []Record{*r}, true
	}
	n := c.Finish(r, func(f *Record) { all = append(all, *f) }, nil)
	if n == 0 {
		return []Record{*r}, false
	}
	return all, true
}

// What comes of frames in tunnels is what gopacket makes of the same: lengths,
// IP IDs, sequence, flags, and the checksums inside and outside.
func TestCutsTunnels(t *testing.T) {
	var c Cutter
	eachTunnelled(func(f tunnelled, gso int) {
		c.Reset()
		got, ok := finish(&c, f.record(t, gso))
		if ok != (f.known() || gso == 0) {
			t.Fatalf("%v: it was finished: %v", f, ok)
		}
		if !ok {
			return
		}
		want := f.segments(t, gso)
		if len(got) != len(want) {
			t.Fatalf("%v: %d frames, not %d", f, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Data, want[i]) || int(got[i].OrigLen) != len(want[i]) {
				t.Fatalf("%v, frame %d of %d:\n%x, not\n%x", f, i, len(want), got[i].Data, want[i])
			}
		}
	})
}

// Masked where it is captured and finished later, a frame that this host sends
// into a tunnel is what gopacket makes of the same headers and zeros: cut, and
// with right checksums inside and outside. Of a tunnel that ntap does not know
// all is zeros. It used to lose its inner headers, and came out as one frame of
// 64 KB, or with a wrong checksum outside.
func TestMaskTunnels(t *testing.T) {
	var c Cutter
	eachTunnelled(func(f tunnelled, gso int) {
		c.Reset()
		r := f.record(t, gso)
		if got := r.Mask(); got != Masked {
			t.Fatalf("%v: %d", f, got)
		}
		if bytes.Contains(r.Data, f.payload[:4]) || bytes.Contains(r.Data, f.payload[len(f.payload)-4:]) {
			t.Fatalf("%v: payload is left: %x", f, r.Data)
		}
		got, ok := finish(&c, r)
		if !f.known() {
			maskedUnknown(t, f, gso, got, ok)
			return
		}
		f.payload = make([]byte, len(f.payload))
		want := f.segments(t, gso)
		if !ok || len(got) != len(want) {
			t.Fatalf("%v: %d frames, not %d", f, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Data, want[i]) {
				t.Fatalf("%v, frame %d of %d:\n%x, not\n%x", f, i, len(want), got[i].Data, want[i])
			}
		}
	})
}

// maskedUnknown checks a masked frame of a tunnel that ntap does not know.
func maskedUnknown(t *testing.T, f tunnelled, gso int, got []Record, ok bool) {
	t.Helper()
	want := f.frame(t)
	end := f.outerL4()
	if f.kind == "gtp" {
		end += udpLen
	}
	clear(want[end:])
	if ok != (gso == 0) || len(got) != 1 || len(got[0].Data) != len(want) {
		t.Fatalf("%v: %d frames, finished: %v", f, len(got), ok)
	}
	if f.kind == "gtp" && gso == 0 {
		ip := want[14+12 : end-udpLen]
		if f.outer6 {
			ip = want[14+8 : end-udpLen]
		}
		clear(want[end-2 : end])
		putSum(want[end-2:], fold(checksum(want[end-udpLen:], checksum(ip, uint64(protoUDP)+uint64(len(want)-end+udpLen)))), true)
	}
	if !bytes.Equal(got[0].Data, want) {
		t.Fatalf("%v:\n%x, not\n%x", f, got[0].Data, want)
	}
}

// Of a frame that is cut behind its headers where it is captured come the
// headers of all that the wire saw, with the lengths that they had there, and
// with right checksums of IP's headers.
func TestSliceHeadersOfTunnels(t *testing.T) {
	var c Cutter
	eachTunnelled(func(f tunnelled, gso int) {
		if !f.known() {
			return
		}
		c.Reset()
		r := f.record(t, gso)
		whole := r.Data
		l4 := int(r.CsumStart) // finishing changes it
		end := l4 + f.l4()
		if !r.SliceHeaders() || !bytes.Equal(r.Data, whole[:end]) {
			t.Fatalf("%v: %d bytes, not %d", f, len(r.Data), end)
		}
		got, ok := finish(&c, r)
		want := f.segments(t, gso)
		if !ok || len(got) != len(want) {
			t.Fatalf("%v: %d frames, not %d", f, len(got), len(want))
		}
		for i, w := range want {
			// What covers the payload cannot be known.
			for _, d := range [][]byte{w, got[i].Data} {
				clear(d[l4:][map[bool]int{true: udpSum, false: tcpSum}[f.udp]:][:2])
				if f.kind == "vxlan" || f.kind == "vxlan tagged" || f.kind == "geneve" {
					clear(d[f.outerL4()+udpSum:][:2])
				}
			}
			if !bytes.Equal(got[i].Data, w[:end]) || int(got[i].OrigLen) != len(w) {
				t.Fatalf("%v, frame %d of %d, %d bytes:\n%x, not\n%x", f, i, len(want), got[i].OrigLen, got[i].Data, w[:end])
			}
		}
	})
}
