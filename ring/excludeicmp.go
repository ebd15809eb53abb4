// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// Bytes of the headers of ICMP errors and of UDP, and the least of an IP header.
const (
	icmpHeader = 8
	udpHeader  = 8
	ip4Header  = 20
	ip6Header  = 40
)

// other goes on with a packet at offset at that is ICMP, with X where its
// header is in the frame. The accumulator is the protocol.
func (b *builder) other(at uint32, v4 bool) {
	if !v4 {
		b.want(58) // ICMPv6
		b.load(bpf.LoadConstant{Dst: bpf.RegX, Val: at + ip6Header})
		return
	}
	b.want(1) // ICMP
	b.load(bpf.LoadAbsolute{Off: at + 6, Size: 2})
	b.load(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x3FFF}) // more fragments, and offset
	b.want(0)
	b.load(bpf.LoadMemShift{Off: at})
	b.load(bpf.TXA{})
	b.load(bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: at})
	b.load(bpf.TAX{})
}

// icmpError drops an ICMP error at X that quotes a datagram to the collector's
// address and port. Where nobody listens, each datagram is answered by one:
// captured and sent in a datagram, it would have the next one come.
//
// Tap ID and session are not looked at: many routers quote no more than the
// headers (RFC 792: 8 bytes behind that of IP), and two taps of one host would
// have each other's errors come in turn. VXLAN, whose port is anybody's, has to
// have the source ports and, where that is quoted, the VNI.
func (b *builder) icmpError(own Own) {
	quote, header := uint32(icmpHeader), uint32(ip6Header)
	if own.Collector.Addr().Is4() {
		header = ip4Header
	}
	least := icmpHeader + header + udpHeader
	b.load(bpf.LoadExtension{Num: bpf.ExtLen})
	b.atLeast(header + least) // so that no subtraction goes below 0
	b.reaches(least)
	words := func(off uint32, bytes []byte) {
		for i := 0; i < len(bytes); i += 4 {
			b.field(off+uint32(i), 4, binary.BigEndian.Uint32(bytes[i:]))
		}
	}
	b.load(bpf.LoadIndirect{Off: 0, Size: 1})
	if own.Collector.Addr().Is4() {
		// 3 to 5, and 11 and 12: those that quote (RFC 792).
		b.atLeast(3)
		b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 6, SkipTrue: 2})
		b.within(11, 13)
		b.load(bpf.LoadIndirect{Off: quote, Size: 1})
		b.within(0x45, 0x50)
		b.field(quote+9, 1, 17)
		a := own.Collector.Addr().As4()
		words(quote+16, a[:])
		b.load(bpf.LoadIndirect{Off: quote + 6, Size: 2})
		b.load(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x1FFF}) // a later fragment has no ports
		b.want(0)
		// Options of the quote: X is moved by the whole length of its header.
		b.load(bpf.LoadIndirect{Off: quote, Size: 1})
		b.load(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x0F})
		b.load(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2})
		b.load(bpf.ALUOpX{Op: bpf.ALUOpAdd})
		b.load(bpf.TAX{})
		b.reaches(quote + udpHeader)
	} else {
		b.ins = append(b.ins, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 128, SkipFalse: toUser}) // RFC 4443, section 2.1
		b.load(bpf.LoadIndirect{Off: quote, Size: 1})
		b.within(0x60, 0x70)
		b.field(quote+6, 1, 17)
		a := own.Collector.Addr().As16()
		words(quote+24, a[:])
		quote += header
	}
	b.ports(quote, own)
	if own.VXLAN != nil {
		b.load(bpf.LoadExtension{Num: bpf.ExtLen})
		b.load(bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: quote + own.looked()})
		b.ins = append(b.ins, bpf.JumpIfX{Cond: bpf.JumpGreaterOrEqual, SkipTrue: 1}, bpf.RetConstant{Val: 0})
		b.payload(quote, own)
	}
	b.load(bpf.RetConstant{Val: 0})
}

// reaches goes on if the frame has n bytes from X on, and to the user's program
// if not. It has to have n bytes in all.
func (b *builder) reaches(n uint32) {
	b.load(bpf.LoadExtension{Num: bpf.ExtLen})
	b.load(bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: n})
	b.ins = append(b.ins, bpf.JumpIfX{Cond: bpf.JumpGreaterOrEqual, SkipFalse: toUser})
}
