// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// ipHeader returns a header of IP between two hosts, before a payload.
func ipHeader(v6 bool, protocol, src, dst byte, payload []byte) []byte {
	if v6 {
		h := make([]byte, 40)
		h[0], h[6], h[7], h[8], h[23], h[24], h[39] = 0x60, protocol, 64, 0xfd, src, 0xfd, dst
		binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
		return append(h, payload...)
	}
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, src, 10, 0, 0, dst}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	return append(h, payload...)
}

// udpHeader returns a header of UDP before a payload.
func udpHeader(from, to uint16, payload []byte) []byte {
	h := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	return append(append(binary.BigEndian.AppendUint16(h, uint16(8+len(payload))), 0, 0), payload...)
}

func ether(ip []byte) []byte {
	return slices.Concat([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8}, [][]byte{{8, 0}, {0x86, 0xDD}}[ip[0]>>4&2>>1], ip)
}

// tunnels are the ways in which a frame is carried between two hosts: each
// returns a packet of IP. back is the other direction.
var tunnels = map[string]func(frame []byte, v6, back bool, source uint16) []byte{
	"VXLAN":       overUDP(VXLANPort, AppendVXLAN(nil, 77), false),
	"VXLAN, 8472": overUDP(vxlanBefore, AppendVXLAN(nil, 78), false),
	"Geneve":      overUDP(geneve, []byte{0, 0, 0x65, 0x58, 0, 0, 7, 0}, false),
	"Geneve with options, of IP": func(frame []byte, v6, back bool, source uint16) []byte {
		head := []byte{2, 0, frame[12], frame[13], 0, 0, 7, 0, 1, 2, 3, 1, 0, 0, 0, 0}
		return overUDP(geneve, head, true)(frame, v6, back, source)
	},
	"GRE": func(frame []byte, v6, back bool, _ uint16) []byte {
		return overIP(protoGRE, append([]byte{0, 0, frame[12], frame[13]}, frame[14:]...), v6, back)
	},
	"GRE with all of it": func(frame []byte, v6, back bool, _ uint16) []byte {
		return overIP(protoGRE, append(append([]byte{0xB0, 0, 0x65, 0x58}, make([]byte, 12)...), frame...), v6, back)
	},
	"IP": func(frame []byte, v6, back bool, _ uint16) []byte {
		protocol := byte(protoIPv4)
		if frame[14]>>4 == 6 {
			protocol = protoIPv6
		}
		return overIP(protocol, frame[14:], v6, back)
	},
}

func overUDP(port uint16, head []byte, raw bool) func([]byte, bool, bool, uint16) []byte {
	return func(frame []byte, v6, back bool, source uint16) []byte {
		if raw {
			frame = frame[14:]
		}
		return overIP(protoUDP, udpHeader(source, port, append(bytes.Clone(head), frame...)), v6, back)
	}
}

func overIP(protocol byte, payload []byte, v6, back bool) []byte {
	if back {
		return ipHeader(v6, protocol, 202, 201, payload)
	}
	return ipHeader(v6, protocol, 201, 202, payload)
}

// A flow in a tunnel, and in a tunnel in a tunnel, is one flow in both
// directions, and that which it is outside: the source ports of VXLAN and
// Geneve, which differ by direction, parted them.
func TestFlowHashInTunnels(t *testing.T) {
	for name, tunnel := range tunnels {
		for name2, second := range tunnels {
			for v := range 4 {
				there, back := flowFrame(v&1 != 0, 0, 1, 2, 1000, 53), flowFrame(v&1 != 0, 0, 2, 1, 53, 1000)
				want := FlowHash(there)
				one, other := ether(tunnel(there, v&2 != 0, false, 50001)), ether(tunnel(back, v&2 != 0, true, 60002))
				if a, b := FlowHash(one), FlowHash(other); a != want || b != want {
					t.Errorf("%s, %d: %08x there, %08x back, %08x outside", name, v, a, b, want)
				}
				if a, b := FlowHashIP(second(one, v&2 == 0, true, 50003)), FlowHashIP(second(other, v&2 == 0, false, 60004)); a != want || b != want {
					t.Errorf("%s in %s, %d: %08x there, %08x back, %08x outside", name, name2, v, a, b, want)
				}
			}
		}
	}
}

// A client that has the port of a tunnel has one flow with its server all the
// same: by their addresses.
func TestFlowHashOfTunnelPorts(t *testing.T) {
	for _, port := range []uint16{VXLANPort, vxlanBefore, geneve} {
		for _, text := range []string{"", "\x0a\x0b\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org", "\x08 flags of VXLAN, and then nothing of the kind"} {
			there := ipHeader(false, protoUDP, 1, 2, udpHeader(port, 53, []byte(text)))
			back := ipHeader(false, protoUDP, 2, 1, udpHeader(53, port, []byte("an answer that is nothing of the kind either")))
			if a, b := FlowHashIP(there), FlowHashIP(back); a != b {
				t.Errorf("port %d, %q: %08x and %08x", port, text, a, b)
			}
		}
	}
}

// plainFlow is FlowHash the slow way: it says in words which flow a frame
// belongs to.
func plainFlow(frame []byte) string {
	if len(frame) < 14 {
		return "none"
	}
	if kind, ip, ok := plainIP(frame); ok {
		return plainFlowIP(kind, ip, 0)
	}
	kind, _, _ := plainIP(frame)
	return plainEnds(fmt.Sprintf("%x", frame[:6]), fmt.Sprintf("%x", frame[6:12]), fmt.Sprintf("type %x", kind&0xFF)) // of which the hash has no more
}

// plainIP finds the packet of IP in an Ethernet frame.
func plainIP(frame []byte) (kind int, ip []byte, ok bool) {
	at := 12
	for tags := 0; ; tags++ {
		kind = int(binary.BigEndian.Uint16(frame[at:]))
		if tags == 4 || kind != 0x8100 && kind != 0x88A8 && kind != 0x9100 || len(frame) < at+6 {
			break
		}
		at += 4
	}
	ip = frame[at+2:]
	return kind, ip, kind == 0x0800 && len(ip) >= 20 || kind == 0x86DD && len(ip) >= 40
}

func plainEnds(a, b, kind string) string {
	if a > b {
		a, b = b, a
	}
	return a + " " + b + " " + kind
}

func plainFlowIP(kind int, ip []byte, depth int) string {
	var src, dst []byte
	var protocol, n int
	fragment := false
	switch version := ip[0] >> 4; {
	case version == 4:
		src, dst, protocol, n = ip[12:16], ip[16:20], int(ip[9]), int(ip[0]&15)*4
		fragment = ip[6]&0x3F != 0 || ip[7] != 0
	case version == 6 && len(ip) >= 40:
		src, dst, protocol, n = ip[8:24], ip[24:40], int(ip[6]), 40
		for range 8 {
			if protocol != 0 && protocol != 43 && protocol != 60 || len(ip) < n+2 {
				break
			}
			protocol, n = int(ip[n]), n+8+int(ip[n+1])*8
		}
	default:
		return "none"
	}
	from, to := 0, 0
	if !fragment && len(ip) >= n+4 && (protocol == 6 || protocol == 17 || protocol == 132 || protocol == 136) {
		from, to = int(binary.BigEndian.Uint16(ip[n:])), int(binary.BigEndian.Uint16(ip[n+2:]))
	}
	if tunnel := plainTunnel(protocol, from, to); tunnel != "" && !fragment {
		from, to = 0, 0
		if depth < 2 && n <= len(ip) {
			if kind, in := plainInner(tunnel, protocol, ip[n:]); kind == 0x0800 && len(in) >= 20 && in[0]>>4 == 4 || kind == 0x86DD && len(in) >= 40 && in[0]>>4 == 6 {
				return plainFlowIP(kind, in, depth+1)
			}
		}
	}
	return plainEnds(fmt.Sprintf("%x:%d", src, from), fmt.Sprintf("%x:%d", dst, to), fmt.Sprintf("IP %d", protocol))
}

func plainTunnel(protocol, from, to int) string {
	is := func(port int) bool { return protocol == 17 && (from == port || to == port) }
	switch {
	case protocol == 4, protocol == 41:
		return "IP"
	case protocol == 47:
		return "GRE"
	case is(6081):
		return "Geneve"
	case is(4789), is(8472):
		return "VXLAN"
	}
	return ""
}

// plainInner returns what a tunnel carries, and its EtherType.
func plainInner(tunnel string, protocol int, b []byte) (kind int, in []byte) {
	cut := func(n int) bool {
		if len(b) < n {
			return false
		}
		b = b[n:]
		return true
	}
	switch tunnel {
	case "IP":
		kind = 0x0800
		if len(b) > 0 && b[0]>>4 == 6 {
			kind = 0x86DD
		}
		return kind, b
	case "GRE":
		if len(b) < 4 || b[0]&0x4F != 0 || b[1] != 0 {
			return 0, nil
		}
		flags := b[0]
		kind = int(b[2])<<8 | int(b[3])
		if !cut(4) || flags&0x80 != 0 && !cut(4) || flags&0x20 != 0 && !cut(4) || flags&0x10 != 0 && !cut(4) {
			return 0, nil
		}
	case "Geneve":
		if !cut(8) || len(b) < 8 || b[0]>>6 != 0 {
			return 0, nil
		}
		kind = int(b[2])<<8 | int(b[3])
		if !cut(8 + int(b[0]&0x3F)*4) {
			return 0, nil
		}
	case "VXLAN":
		if !cut(8) || len(b) < 8 || b[0]&8 == 0 || !cut(8) {
			return 0, nil
		}
		kind = 0x6558
	}
	if kind != 0x6558 {
		return kind, b
	}
	if len(b) < 14 {
		return 0, nil
	}
	kind, in, _ = plainIP(b)
	return kind, in
}

// flowsSeen holds FlowHash against plainFlow: frames of one flow have one hash.
type flowsSeen map[string]uint32

func (s flowsSeen) see(t *testing.T, frame []byte) {
	t.Helper()
	flow, hash := plainFlow(frame), FlowHash(frame[:len(frame):len(frame)])
	if was, seen := s[flow]; seen && was != hash {
		t.Errorf("%x is of %s: %08x, which was %08x", frame, flow, hash, was)
	}
	s[flow] = hash
}

// Frames in tunnels, cut at every length and with a byte that is another one,
// and those of real captures, are of the flows that the slow way finds; and flows
// that are others have, but for a few, others.
func TestFlowHashAgainstPlain(t *testing.T) {
	s := flowsSeen{}
	random := rand.New(rand.NewPCG(1, 2))
	for _, first := range tunnels {
		for _, second := range tunnels {
			for v := range 4 {
				inside := ether(second(flowFrame(v&1 != 0, 1, 1, 2, 1000, 53)[4:], v&1 == 0, false, 50001))
				if v == 3 { // and a third
					inside = ether(overUDP(VXLANPort, AppendVXLAN(nil, 5), false)(inside, true, false, 50009))
				}
				frame := ether(first(inside, v&2 != 0, true, 60001))
				for n := range len(frame) + 1 {
					s.see(t, frame[:n])
				}
				for range 50 {
					other := bytes.Clone(frame)
					other[random.IntN(len(other))] = byte(random.Uint32())
					s.see(t, other)
				}
			}
		}
	}
	made := len(s)
	for _, file := range testnet.Captures(t) {
		all, err := testnet.ReadGopacket(file)
		if err != nil {
			continue
		}
		for _, p := range all {
			if p.LinkType == 1 {
				s.see(t, p.Data)
			}
		}
	}
	if made < 200 || len(s) < made+500 {
		t.Errorf("only %d flows in tunnels, and %d of captures", made, len(s)-made)
	}
	hashes := map[uint32]bool{}
	for _, h := range s {
		hashes[h] = true
	}
	if len(hashes) < len(s)*99/100 {
		t.Errorf("%d hashes of %d flows", len(hashes), len(s))
	}
}

// What is inside a tunnel costs no allocation.
func TestFlowHashAllocates(t *testing.T) {
	frame := ether(tunnels["VXLAN"](ether(tunnels["GRE"](flowFrame(true, 0, 1, 2, 3, 4), false, false, 5)), true, false, 6))
	if n := testing.AllocsPerRun(100, func() { FlowHash(frame) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
