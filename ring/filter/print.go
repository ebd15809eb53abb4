// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

// String prints the program as tcpdump -d does: an instruction a line, with
// the numbers of those that jumps lead to.
func (p Program) String() string {
	var b strings.Builder
	for i, in := range p {
		name, operand := mnemonic(in, i)
		if in.Op&7 == classJMP && in.Op&0xF0 != jmpJA {
			fmt.Fprintf(&b, "(%03d) %-8s %-16s jt %d\tjf %d\n", i, name, operand, i+1+int(in.Jt), i+1+int(in.Jf))
		} else {
			fmt.Fprintf(&b, "(%03d) %-8s %s\n", i, name, operand)
		}
	}
	return b.String()
}

// C prints the program as tcpdump -dd does: as a part of a C program.
func (p Program) C() string {
	var b strings.Builder
	for _, in := range p {
		fmt.Fprintf(&b, "{ 0x%x, %d, %d, 0x%08x },\n", in.Op, in.Jt, in.Jf, in.K)
	}
	return b.String()
}

// Bytecode prints the program as tcpdump -ddd does: how many instructions there
// are, and then code, jt, jf and k of each, in decimal.
func (p Program) Bytecode() string {
	var b strings.Builder
	fmt.Fprintln(&b, len(p))
	for _, in := range p {
		fmt.Fprintln(&b, in.Op, in.Jt, in.Jf, in.K)
	}
	return b.String()
}

var (
	aluNames = map[uint16]string{
		aluADD: "add", aluSUB: "sub", aluMUL: "mul", aluDIV: "div", aluMOD: "mod", aluOR: "or", aluAND: "and", aluXOR: "xor",
		aluLSH: "lsh", aluRSH: "rsh", aluNEG: "neg",
	}
	jumpNames = map[uint16]string{jmpJA: "ja", jmpJEQ: "jeq", jmpJGT: "jgt", jmpJGE: "jge", jmpJSET: "jset"}
	sizeNames = map[uint16]string{sizeW: "", sizeH: "h", sizeB: "b"}
	extNames  = map[uint32]string{
		adProtocol: "proto", adPktType: "type", adIfIndex: "ifidx", adBase + 12: "nla", adBase + 16: "nlan", adBase + 20: "mark",
		adBase + 24: "queue", adBase + 28: "hatype", adBase + 32: "rxhash", adBase + 36: "cpu",
		adVLANTag: "vlan_tci", adVLANTagPresent: "vlanp", adBase + 52: "poff", adBase + 56: "random", adBase + 60: "vlan_tpid",
	}
)

// mnemonic returns the name and the operand of instruction number i.
func mnemonic(in bpf.RawInstruction, i int) (name, operand string) {
	decimal := "#" + strconv.Itoa(int(int32(in.K)))
	hex := fmt.Sprintf("#0x%x", in.K)
	switch class := in.Op & 7; class {
	case classRET:
		switch in.Op & 0x18 {
		case srcK:
			return "ret", decimal
		case srcA:
			return "ret", ""
		}
	case classLD, classLDX:
		name = map[uint16]string{classLD: "ld", classLDX: "ldx"}[class]
		size, ok := sizeNames[in.Op&0x18]
		switch mode := in.Op & 0xE0; {
		case !ok:
		case mode == modeIMM:
			return name, hex
		case mode == modeMEM:
			return name, fmt.Sprintf("M[%d]", in.K)
		case mode == modeLEN:
			return name, "#pktlen"
		case class == classLDX && mode == modeMSH:
			return "ldxb", fmt.Sprintf("4*([%d]&0xf)", int32(in.K))
		case class == classLD && mode == modeABS:
			if ext, ok := extNames[in.K]; ok {
				return name + size, "[" + ext + "]"
			}
			return name + size, fmt.Sprintf("[%d]", int32(in.K))
		case class == classLD && mode == modeIND:
			return name + size, fmt.Sprintf("[x + %d]", int32(in.K))
		}
	case classST, classSTX:
		return map[uint16]string{classST: "st", classSTX: "stx"}[class], fmt.Sprintf("M[%d]", in.K)
	case classALU:
		op := in.Op & 0xF0
		name, ok := aluNames[op]
		switch {
		case !ok:
		case op == aluNEG:
			return name, ""
		case in.Op&srcX != 0:
			return name, "x"
		case op == aluAND || op == aluOR || op == aluXOR:
			return name, hex
		default:
			return name, decimal
		}
	case classJMP:
		op := in.Op & 0xF0
		name, ok := jumpNames[op]
		switch {
		case !ok:
		case op == jmpJA:
			return name, strconv.FormatInt(int64(i)+1+int64(in.K), 10)
		case in.Op&srcX != 0:
			return name, "x"
		default:
			return name, hex
		}
	case classMISC:
		if in.Op&0xF8 == miscTXA {
			return "txa", ""
		}
		return "tax", ""
	}
	return "unimp", fmt.Sprintf("0x%x", in.Op)
}
