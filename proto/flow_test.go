// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/internal/testnet"
)

// flowFrame returns a frame of a UDP or TCP flow, with tags before its EtherType.
func flowFrame(v6 bool, tags int, src, dst byte, from, to uint16) []byte {
	f := []byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src}
	for range tags {
		f = append(f, 0x81, 0, 0, 5)
	}
	var ip []byte
	if v6 {
		f = append(f, 0x86, 0xDD)
		ip = make([]byte, 40)
		ip[0], ip[6], ip[8], ip[23], ip[24], ip[39] = 0x60, protoTCP, 0xfd, src, 0xfd, dst
	} else {
		f = append(f, 0x08, 0)
		ip = []byte{0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, protoUDP, 0, 0, 10, 0, 0, src, 10, 0, 0, dst}
	}
	ip = binary.BigEndian.AppendUint16(ip, from)
	ip = binary.BigEndian.AppendUint16(ip, to)
	return append(append(f, ip...), make([]byte, 20)...)
}

// Both directions of a flow have one hash, and other flows have others.
func TestFlowHashIsSymmetric(t *testing.T) {
	seen := map[uint32]string{}
	for _, v6 := range []bool{false, true} {
		for tags := range maxTags + 1 {
			for n := range byte(20) {
				there, back := flowFrame(v6, tags, 1, 2+n, 1000, 53), flowFrame(v6, tags, 2+n, 1, 53, 1000)
				h := FlowHash(there)
				if other := FlowHash(back); h != other {
					t.Errorf("v6 %v, %d tags, %d: %08x there, %08x back", v6, tags, n, h, other)
				}
				if tags == 0 {
					for what, f := range map[string][]byte{
						"port": flowFrame(v6, 0, 1, 2+n, 1001, 53), "ports crossed": flowFrame(v6, 0, 1, 2+n, 53, 1000), "this": there,
					} {
						if was := seen[FlowHash(f)]; was != "" {
							t.Errorf("v6 %v, %d, %s: the hash of %s", v6, n, what, was)
						}
						seen[FlowHash(f)] = fmt.Sprint(v6, n, what)
					}
				} else if h != FlowHash(flowFrame(v6, 0, 1, 2+n, 1000, 53)) {
					t.Errorf("v6 %v: %d tags make another flow of it", v6, tags)
				}
			}
		}
	}
}

// Fragments of a datagram are of one flow, the first among them, and not told
// by what stands where ports would be.
func TestFlowHashOfFragments(t *testing.T) {
	first, later := flowFrame(false, 0, 1, 2, 1000, 53), flowFrame(false, 0, 1, 2, 0xABCD, 0xEF01)
	first[14+6], later[14+6], later[14+7] = 0x20, 0, 185
	if FlowHash(first) != FlowHash(later) || FlowHash(first) == FlowHash(flowFrame(false, 0, 1, 2, 1000, 53)) {
		t.Error("IPv4")
	}
	with := func(next byte, header ...byte) []byte {
		f := flowFrame(true, 0, 1, 2, 1000, 53)
		f[14+6] = next
		return slices.Concat(f[:54], header, f[54:])
	}
	if FlowHash(with(44, protoTCP, 0, 0, 1, 0, 0, 0, 1)) != FlowHash(with(44, protoTCP, 0, 5, 0x28, 0, 0, 0, 1, 0xAB, 0xCD)) {
		t.Error("IPv6")
	}
	// Headers that are no fragment header lead to the ports.
	for _, f := range [][]byte{
		with(0, protoTCP, 0, 1, 4, 0, 0, 0, 0), with(60, protoTCP, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		with(0, 43, 0, 1, 4, 0, 0, 0, 0, protoTCP, 0, 0, 0, 0, 0, 0, 0),
	} {
		if FlowHash(f) != FlowHash(flowFrame(true, 0, 1, 2, 1000, 53)) {
			t.Errorf("%x is of another flow", f[54:])
		}
	}
}

// Frames of real captures that gopacket says are of one flow have one hash,
// also with their ends exchanged.
func TestFlowHashAgainstGopacket(t *testing.T) {
	flows, packets := map[[2]uint64]uint32{}, 0
	for _, file := range testnet.Captures(t) {
		all, err := testnet.ReadGopacket(file)
		if err != nil {
			continue
		}
		for i, p := range all {
			if p.LinkType != 1 {
				continue
			}
			d := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
			ls := d.Layers()
			at := 1
			for at < len(ls) && at <= maxTags && ls[at].LayerType() == layers.LayerTypeDot1Q {
				at++
			}
			if at+1 >= len(ls) {
				continue
			}
			ip, ok := ls[at].(gopacket.NetworkLayer)
			transport, ok2 := ls[at+1].(gopacket.TransportLayer)
			if v4, is4 := ls[at].(*layers.IPv4); !ok || !ok2 || is4 && (v4.FragOffset != 0 || v4.Flags&layers.IPv4MoreFragments != 0) {
				continue
			}
			if k := ls[at+1].LayerType(); k != layers.LayerTypeTCP && k != layers.LayerTypeUDP {
				continue
			}
			packets++
			h := FlowHash(p.Data)
			key := [2]uint64{ip.NetworkFlow().FastHash() ^ uint64(ls[at+1].LayerType()), transport.TransportFlow().FastHash()}
			if was, known := flows[key]; known && was != h {
				t.Errorf("%s, packet %d: %08x, the flow has %08x", file, i+1, h, was)
			}
			flows[key] = h
			if swapped := exchange(p.Data, ls, at); FlowHash(swapped) != h {
				t.Errorf("%s, packet %d: %08x, exchanged %08x", file, i+1, h, FlowHash(swapped))
			}
		}
	}
	if packets < 500 || len(flows) < 100 {
		t.Errorf("only %d packets of %d flows", packets, len(flows))
	}
}

// exchange returns a copy of a frame in which source and destination have
// changed places.
func exchange(frame []byte, ls []gopacket.Layer, at int) []byte {
	f := bytes.Clone(frame)
	swap := func(from, n int) {
		a, b := bytes.Clone(f[from:from+n]), f[from+n:from+2*n]
		copy(f[from:], b)
		copy(f[from+n:], a)
	}
	n := 14 + 4*(at-1)
	swap(0, 6)
	if ls[at].LayerType() == layers.LayerTypeIPv4 {
		swap(n+12, 4)
	} else {
		swap(n+8, 16)
	}
	swap(n+len(ls[at].LayerContents()), 2)
	return f
}

// Flows that differ little are spread evenly over a few places.
func TestFlowHashSpreads(t *testing.T) {
	for _, places := range []uint64{16, 10, 64} {
		for name, frame := range map[string]func(n int) []byte{
			"ports":        func(n int) []byte { return flowFrame(false, 0, 1, 2, uint16(n), 53) },
			"even ports":   func(n int) []byte { return flowFrame(true, 0, 1, 2, uint16(2*n), 443) },
			"addresses":    func(n int) []byte { return flowFrame(false, 0, byte(n), byte(n>>8), 1000, 53) },
			"v6 addresses": func(n int) []byte { return flowFrame(true, 0, byte(n), byte(n>>8), 1000, 53) },
			"MACs": func(n int) []byte {
				f := flowFrame(false, 0, byte(n), byte(n>>8), 0, 0)
				f[12], f[13] = 0x88, 0xB5
				return f
			},
		} {
			count := make([]int, places)
			const flows = 16384
			for n := range flows {
				count[uint64(FlowHash(frame(n)))*places>>32]++
			}
			even := flows / int(places)
			for p, n := range count {
				if n < even*7/10 || n > even*13/10 {
					t.Errorf("%s: %d of %d flows in place %d of %d", name, n, flows, p, places)
				}
			}
		}
	}
}

// Whatever a frame holds and wherever it was cut, there is a hash, and none
// of the memory behind the frame is read.
func FuzzFlowHash(f *testing.F) {
	f.Add(flowFrame(false, 1, 1, 2, 3, 4))
	f.Add(flowFrame(true, 2, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, frame []byte) {
		exact := bytes.Clone(frame)
		if FlowHash(exact[:len(exact):len(exact)]) != FlowHash(frame) {
			t.Error("two hashes of one frame")
		}
	})
}

func BenchmarkFlowHash(b *testing.B) {
	for name, f := range map[string][]byte{"IPv4": flowFrame(false, 0, 1, 2, 3, 4), "IPv6": flowFrame(true, 0, 1, 2, 3, 4)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				FlowHash(f)
			}
		})
	}
}
