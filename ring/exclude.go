// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Own says how a remote knows its own datagrams.
type Own struct {
	Mark      uint32         // SO_MARK of its sockets; 0: none
	Collector netip.AddrPort // where they go; if it is not valid, only the mark is looked at
	Tap       uint32
	Session   uint64
	LinkType  uint16    // of the interface; on others than Ethernet (1) and raw IP (101) only the mark is looked at
	VXLAN     *OwnVXLAN // nil: they are ntap's own, with tap ID and session
}

// OwnVXLAN says how a remote knows its own datagrams that are VXLAN, which has
// no place for a session.
type OwnVXLAN struct {
	VNI       uint32
	FirstPort uint16 // the lowest of their source ports
	Ports     uint16 // how many those are, side by side
	Fragments bool   // they may be IP fragments: then all those of UDP to the VTEP's address are left out
}

// Where the clear header of a datagram has tap ID and session, bytes of UDP
// payload (WIRE.md, section 2).
const (
	ownTap     = 4
	ownSession = 8
)

// vxlanFlags is the first word of a VXLAN datagram (RFC 7348, section 5), and
// vxlanVNI is where its second word, VNI and a zero byte, is.
const (
	vxlanFlags = 0x08000000
	vxlanVNI   = 4
)

// Exclude returns the filter user with a part before it that drops the
// remote's own datagrams, what ICMP says of datagrams to the collector, and
// nothing else: by their mark and, where marks do not get to (another network
// namespace, a bridge port, behind a NAT of the source), as UDP datagrams to
// the collector's address and port that carry this tap ID and session in their
// clear header; or, if they are VXLAN, that come from one of these source ports
// and carry this VNI. Of ICMP, icmpError says more. Nil for user stands for the
// filter that takes everything.
//
// Seen are frames without a VLAN tag, those whose tag the kernel has taken
// out, and those with one tag in the payload; IPv4 with any options, and IPv6
// without extension headers, which is how a remote sends; no fragments, unless
// it says that it sends such.
func Exclude(user []bpf.RawInstruction, own Own) ([]bpf.RawInstruction, error) {
	if len(user) == 0 {
		user = []bpf.RawInstruction{{Op: bpfReturn, K: 1<<32 - 1}}
	}
	own.Collector = netip.AddrPortFrom(own.Collector.Addr().Unmap(), own.Collector.Port())
	var b builder
	if own.Mark != 0 {
		b.load(bpf.LoadExtension{Num: bpf.ExtMark})
		b.drop(own.Mark)
	}
	switch {
	case !own.Collector.IsValid():
	case own.LinkType == linkEthernet:
		b.ethernet(own)
	case own.LinkType == linkRaw:
		b.ip(0, own)
		b.icmpError(own)
	}
	raw, err := b.assemble()
	if err != nil {
		return nil, fmt.Errorf("ring: self-exclusion: %w", err)
	}
	return append(raw, user...), nil
}

// bpfReturn is BPF_RET | BPF_K, linux/bpf_common.h.
const bpfReturn = 0x06

// Where a jump of a builder leads when what it tests does not hold: to the end
// of the part, which is the user's program, or to where a packet is looked at
// that is not UDP.
const (
	toUser  = 255
	toOther = 254
)

// A builder collects instructions whose failing tests all lead to the user's
// program, behind its last instruction.
type builder struct{ ins []bpf.Instruction }

func (b *builder) load(i bpf.Instruction) { b.ins = append(b.ins, i) }

// want goes on if the accumulator is v, and to the user's program if not.
func (b *builder) want(v uint32) {
	b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: toUser})
}

// atLeast goes on if the accumulator is n or more, and to the user's program if
// not.
func (b *builder) atLeast(n uint32) {
	b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: n, SkipFalse: toUser})
}

// drop drops the frame if the accumulator is v, and goes on if not.
func (b *builder) drop(v uint32) {
	b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: 1}, bpf.RetConstant{Val: 0})
}

// ethernet tests a frame with an Ethernet header. A tag in the payload moves
// all by four bytes: that is a second copy of the tests, but of those of ICMP.
func (b *builder) ethernet(own Own) {
	etherType := uint32(0x0800)
	if own.Collector.Addr().Is6() {
		etherType = 0x86DD
	}
	var plain, tagged builder
	tagged.load(bpf.LoadExtension{Num: bpf.ExtLen})
	tagged.atLeast(18)
	plain.load(bpf.LoadAbsolute{Off: 12, Size: 2})
	plain.want(etherType)
	plain.ip(14, own)
	tagged.load(bpf.LoadAbsolute{Off: 16, Size: 2})
	tagged.want(etherType)
	tagged.ip(18, own)
	tagged.load(bpf.Jump{Skip: uint32(len(plain.ins))})

	b.load(bpf.LoadExtension{Num: bpf.ExtLen})
	b.atLeast(14)
	b.load(bpf.LoadAbsolute{Off: 12, Size: 2})
	b.ins = append(b.ins,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x8100, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x88A8, SkipTrue: uint8(len(tagged.ins))})
	b.ins = append(b.ins, tagged.ins...)
	b.ins = append(b.ins, plain.ins...)
	b.icmpError(own)
}

// ip tests an IP packet at offset at: UDP, not a fragment, to the collector,
// with what makes it the remote's own; such a one is dropped. With one that is
// ICMP it goes on behind its last instruction, with X where that begins. The
// protocol is looked at first: it is all that TCP costs. A load beyond the
// frame's end would end the program and drop the frame whatever it is, so there
// are tests for the length.
func (b *builder) ip(at uint32, own Own) {
	udp := own.looked()
	fragments := own.VXLAN != nil && own.VXLAN.Fragments
	v4, header := own.Collector.Addr().Is4(), uint32(40)
	if v4 {
		header = 20
	}
	b.load(bpf.LoadExtension{Num: bpf.ExtLen})
	if fragments {
		b.atLeast(at + header + 8) // a fragment has 8 bytes, or a header for fragments
	} else {
		b.atLeast(at + header + udp)
	}
	words := func(off uint32, bytes []byte) {
		for i := 0; i < len(bytes); i += 4 {
			b.load(bpf.LoadAbsolute{Off: off + uint32(i), Size: 4})
			b.want(binary.BigEndian.Uint32(bytes[i:]))
		}
	}
	from := len(b.ins)
	// X is the length of the IP header.
	if v4 {
		b.load(bpf.LoadAbsolute{Off: at + 9, Size: 1})
		b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 17, SkipFalse: toOther})
		a := own.Collector.Addr().As4()
		words(at+16, a[:])
		b.load(bpf.LoadAbsolute{Off: at, Size: 1})
		b.within(0x45, 0x50) // version 4, 5 to 15 words
		b.load(bpf.LoadAbsolute{Off: at + 6, Size: 2})
		b.load(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x3FFF}) // more fragments, and offset
		if fragments {
			b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, bpf.RetConstant{Val: 0})
			b.load(bpf.LoadExtension{Num: bpf.ExtLen})
			b.atLeast(at + header + udp)
		} else {
			b.want(0)
		}
		// With options the header is longer than the 20 bytes counted above.
		// The constant is subtracted, not X: X may be more than the length, and
		// the accumulator has no sign.
		b.load(bpf.LoadMemShift{Off: at}) // X = 4 × IHL
		b.load(bpf.LoadExtension{Num: bpf.ExtLen})
		b.load(bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: at + udp})
		b.ins = append(b.ins, bpf.JumpIfX{Cond: bpf.JumpGreaterOrEqual, SkipFalse: toUser})
	} else {
		b.load(bpf.LoadAbsolute{Off: at + 6, Size: 1})
		if fragments {
			b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 44, SkipTrue: 1})
		}
		b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 17, SkipFalse: toOther})
		a := own.Collector.Addr().As16()
		words(at+24, a[:])
		b.load(bpf.LoadAbsolute{Off: at, Size: 1})
		b.within(0x60, 0x70)
		if fragments {
			b.load(bpf.LoadAbsolute{Off: at + 6, Size: 1})
			b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 44, SkipTrue: 3}) // RFC 8200, section 4.5
			b.load(bpf.LoadAbsolute{Off: at + 40, Size: 1})
			b.drop(17)
			b.want(17)
			b.load(bpf.LoadExtension{Num: bpf.ExtLen})
			b.atLeast(at + header + udp)
		}
		b.load(bpf.LoadConstant{Dst: bpf.RegX, Val: header})
	}
	b.ports(at, own)
	b.payload(at, own)
	b.load(bpf.RetConstant{Val: 0})
	for i, in := range b.ins[from:] {
		if j, ok := in.(bpf.JumpIf); ok && j.SkipFalse == toOther {
			j.SkipFalse = uint8(len(b.ins) - from - i - 1)
			b.ins[from+i] = j
		}
	}
	b.other(at, v4)
}

// looked returns the bytes of UDP that are looked at, header included.
func (own *Own) looked() uint32 {
	if own.VXLAN != nil {
		return 8 + vxlanVNI + 4
	}
	return 8 + ownSession + 8
}

// ports tests the header of UDP at X + at.
func (b *builder) ports(at uint32, own Own) {
	b.field(at+2, 2, uint32(own.Collector.Port()))
	if x := own.VXLAN; x != nil {
		b.load(bpf.LoadIndirect{Off: at, Size: 2})
		b.within(uint32(x.FirstPort), uint32(x.FirstPort)+uint32(x.Ports))
	}
}

// payload tests the payload of UDP at X + at.
func (b *builder) payload(at uint32, own Own) {
	if x := own.VXLAN; x != nil {
		b.field(at+8, 4, vxlanFlags)
		b.field(at+8+vxlanVNI, 4, x.VNI<<8)
		return
	}
	b.field(at+8+ownTap, 4, own.Tap)
	b.field(at+8+ownSession, 4, uint32(own.Session>>32))
	b.field(at+8+ownSession+4, 4, uint32(own.Session))
}

// field goes on if size bytes at X + off are v, and to the user's program if not.
func (b *builder) field(off uint32, size int, v uint32) {
	b.load(bpf.LoadIndirect{Off: off, Size: size})
	b.want(v)
}

// within goes on if the accumulator is from first to before end, and to the
// user's program if not.
func (b *builder) within(first, end uint32) {
	b.atLeast(first)
	b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: end, SkipFalse: toUser})
}

// assemble resolves the jumps to the user's program.
func (b *builder) assemble() ([]bpf.RawInstruction, error) {
	if len(b.ins) >= toUser {
		return nil, fmt.Errorf("%d instructions: too far to jump", len(b.ins))
	}
	for i, in := range b.ins {
		end := uint8(len(b.ins) - i - 1)
		switch j := in.(type) {
		case bpf.JumpIf:
			if j.SkipFalse == toUser {
				j.SkipFalse = end
				b.ins[i] = j
			}
		case bpf.JumpIfX:
			if j.SkipFalse == toUser {
				j.SkipFalse = end
				b.ins[i] = j
			}
		}
	}
	return bpf.Assemble(b.ins)
}
