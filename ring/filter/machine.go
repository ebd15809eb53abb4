// SPDX-License-Identifier: Apache-2.0

package filter

import "encoding/binary"

// A Machine runs a program on frames that are in memory, as the kernel runs it
// on those that come. It belongs to one goroutine.
type Machine struct {
	program Program
	m       [words]uint32
}

// NewMachine returns a machine for a program that it has checked: jumps lead
// forward, into the program, all ways end with a return, and only what is in
// the frame is looked at, not what the kernel knows beside it.
func NewMachine(p Program) (*Machine, error) {
	if err := p.check(false); err != nil {
		return nil, err
	}
	return &Machine{program: p}, nil
}

// Run returns how many bytes of a frame the program takes, 0 if the frame does
// not match. Length is that on the wire. As in the kernel, a load beyond the
// frame's end and a division by zero end the program with 0, a shift is by the
// last 5 bits of the count, and offsets are modulo 2^32. Runs make no garbage.
func (m *Machine) Run(frame []byte, length uint32) uint32 {
	var a, x uint32
	m.m = [words]uint32{}
	for pc := 0; ; pc++ {
		in := &m.program[pc]
		switch in.Op {
		case classRET | srcK:
			return in.K
		case classRET | srcA:
			return a
		case classLD | sizeW | modeABS, classLD | sizeW | modeIND, classLD | sizeH | modeABS, classLD | sizeH | modeIND,
			classLD | sizeB | modeABS, classLD | sizeB | modeIND:
			at := in.K
			if in.Op&0xE0 == modeIND {
				at += x // modulo 2^32, as in the kernel
			}
			if uint64(at) >= uint64(len(frame)) {
				return 0
			}
			switch b := frame[at:]; in.Op & 0x18 {
			case sizeB:
				a = uint32(b[0])
			case sizeH:
				if len(b) < 2 {
					return 0
				}
				a = uint32(binary.BigEndian.Uint16(b))
			default:
				if len(b) < 4 {
					return 0
				}
				a = binary.BigEndian.Uint32(b)
			}
		case classLDX | sizeB | modeMSH:
			if uint64(in.K) >= uint64(len(frame)) {
				return 0
			}
			x = uint32(frame[in.K]&0xF) * 4
		case classLD | modeIMM:
			a = in.K
		case classLDX | modeIMM:
			x = in.K
		case classLD | modeLEN:
			a = length
		case classLDX | modeLEN:
			x = length
		case classLD | modeMEM:
			a = m.m[in.K]
		case classLDX | modeMEM:
			x = m.m[in.K]
		case classST:
			m.m[in.K] = a
		case classSTX:
			m.m[in.K] = x
		case classMISC | miscTAX:
			x = a
		case classMISC | miscTXA:
			a = x
		case classJMP | jmpJA:
			pc += int(in.K)
		default:
			k := in.K
			if in.Op&srcX != 0 {
				k = x
			}
			if in.Op&7 == classJMP {
				if jumps(in.Op, a, k) {
					pc += int(in.Jt)
				} else {
					pc += int(in.Jf)
				}
				continue
			}
			if op := in.Op & 0xF0; k == 0 && (op == aluDIV || op == aluMOD) {
				return 0
			}
			a = compute(in.Op, a, k)
		}
	}
}

func jumps(op uint16, a, k uint32) bool {
	switch op & 0xF0 {
	case jmpJEQ:
		return a == k
	case jmpJGT:
		return a > k
	case jmpJGE:
		return a >= k
	}
	return a&k != 0
}

// compute is one operation; k is not 0 where it divides.
func compute(op uint16, a, k uint32) uint32 {
	switch op & 0xF0 {
	case aluADD:
		return a + k
	case aluSUB:
		return a - k
	case aluMUL:
		return a * k
	case aluDIV:
		return a / k
	case aluMOD:
		return a % k
	case aluOR:
		return a | k
	case aluAND:
		return a & k
	case aluXOR:
		return a ^ k
	case aluLSH:
		return a << (k & 31) // as in the kernel; in libpcap's machine it is 0 if it is by more than 31 bits
	case aluRSH:
		return a >> (k & 31)
	}
	return -a
}
