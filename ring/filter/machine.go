// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
)

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
	if len(p) == 0 || len(p) > MaxInstructions {
		return nil, fmt.Errorf("filter: a program of %d instructions: 1 to %d", len(p), MaxInstructions)
	}
	for i, in := range p {
		if err := verify(in, len(p)-i-1); err != nil {
			return nil, fmt.Errorf("filter: instruction %d of the program: %w", i, err)
		}
	}
	return &Machine{program: p}, nil
}

var (
	errJump = errors.New("it jumps beyond the program's end")
	errEnd  = errors.New("it is the last one, and no return")
	errCode = errors.New("there is no such instruction")
	errWord = errors.New("memory has 16 words")
	errLive = errors.New("it looks at what only the kernel knows of a frame (a VLAN tag beside it, its direction, its interface): that is not in files; compile it for files, as tcpdump -ddd without -i does")
	errZero = errors.New("it divides by zero")
	errLong = errors.New("it shifts by more than 31 bits")
)

// verify checks an instruction that n others follow.
func verify(in bpf.RawInstruction, n int) error {
	class := in.Op & 7
	if class != classRET && n == 0 {
		return errEnd
	}
	switch class {
	case classRET:
		if in.Op != classRET|srcK && in.Op != classRET|srcA {
			return errCode
		}
	case classLD:
		switch in.Op &^ 0x18 {
		case classLD | modeABS:
			if in.Op&0x18 == 0x18 {
				return errCode
			}
			if in.K >= adBase {
				return errLive
			}
			return nil
		case classLD | modeIND:
			if in.Op&0x18 == 0x18 {
				return errCode
			}
			return nil
		}
		return verifyWord(in, classLD|modeIMM, classLD|modeLEN, classLD|modeMEM)
	case classLDX:
		if in.Op == classLDX|sizeB|modeMSH {
			return nil
		}
		return verifyWord(in, classLDX|modeIMM, classLDX|modeLEN, classLDX|modeMEM)
	case classST:
		return verifyWord(in, 0xFFFF, 0xFFFF, classST)
	case classSTX:
		return verifyWord(in, 0xFFFF, 0xFFFF, classSTX)
	case classALU:
		op := in.Op & 0xF0
		if op > aluXOR || in.Op > 0xFF || op == aluNEG && in.Op&srcX != 0 {
			return errCode
		}
		if in.Op&srcX == 0 {
			switch {
			case (op == aluDIV || op == aluMOD) && in.K == 0:
				return errZero
			case (op == aluLSH || op == aluRSH) && in.K > 31:
				return errLong
			}
		}
	case classJMP:
		if in.Op == classJMP|jmpJA {
			if uint64(in.K) >= uint64(n) {
				return errJump
			}
			return nil
		}
		if in.Op > 0xFF || in.Op&0xF0 > jmpJSET || in.Op&0xF0 == jmpJA {
			return errCode
		}
		if int(in.Jt) >= n || int(in.Jf) >= n {
			return errJump
		}
	case classMISC:
		if in.Op != classMISC|miscTAX && in.Op != classMISC|miscTXA {
			return errCode
		}
	}
	return nil
}

// verifyWord checks an instruction of one of three codes, the last of which
// goes to memory.
func verifyWord(in bpf.RawInstruction, imm, length, mem uint16) error {
	switch in.Op {
	case imm, length:
		return nil
	case mem:
		if in.K >= words {
			return errWord
		}
		return nil
	}
	return errCode
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
