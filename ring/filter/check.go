// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
)

// CheckLive says why the kernel would not take the program, of which it says no
// more than EINVAL: the first instruction that is wrong, by its number, which
// tcpdump -d prints too, and what is wrong with it (bpf_check_classic,
// net/core/filter.c). Nil: it takes it.
func (p Program) CheckLive() error {
	if err := p.check(true); err != nil {
		return err
	}
	return p.checkMemory()
}

func (p Program) check(live bool) error {
	if len(p) == 0 || len(p) > MaxInstructions {
		return fmt.Errorf("filter: a program of %d instructions: 1 to %d", len(p), MaxInstructions)
	}
	for i, in := range p {
		if err := verify(in, len(p)-i-1, live); err != nil {
			return p.wrong(i, err)
		}
	}
	return nil
}

// wrong says that an instruction is.
func (p Program) wrong(i int, err error) error {
	in := p[i]
	return fmt.Errorf("filter: instruction %d of the program (code %d, jt %d, jf %d, k %d): %w", i, in.Op, in.Jt, in.Jf, in.K, err)
}

// checkMemory checks that no word of memory is read before it was written, on
// any way: the kernel does not clear them (check_load_and_stores). The jumps
// have been checked: they lead forward.
func (p Program) checkMemory() error {
	written := make([]uint16, len(p)) // words, on all ways to an instruction
	for i := range written {
		written[i] = 1<<words - 1
	}
	written[0] = 0
	for i, in := range p {
		has := written[i]
		to := func(n int) { written[i+1+n] &= has }
		switch {
		case in.Op == classST || in.Op == classSTX:
			has |= 1 << in.K
		case (in.Op == classLD|modeMEM || in.Op == classLDX|modeMEM) && has>>in.K&1 == 0:
			return p.wrong(i, errUnset)
		}
		switch {
		case in.Op&7 == classRET:
		case in.Op == classJMP|jmpJA:
			to(int(in.K))
		case in.Op&7 == classJMP:
			to(int(in.Jt))
			to(int(in.Jf))
		default:
			to(0)
		}
	}
	return nil
}

var (
	errJump    = errors.New("it jumps beyond the program's end")
	errEnd     = errors.New("it is the last one, and no return")
	errCode    = errors.New("there is no such instruction")
	errWord    = errors.New("memory has 16 words")
	errLive    = errors.New("it looks at what only the kernel knows of a frame (a VLAN tag beside it, its direction, its interface): that is not in files; compile it for files, as tcpdump -ddd without -i does")
	errUnknown = errors.New("beside the frame there is nothing at that offset that the kernel knows of it (SKF_AD_, linux/filter.h)")
	errUnset   = errors.New("it reads a word of memory that was not written on every way to it")
	errZero    = errors.New("it divides by zero")
	errLong    = errors.New("it shifts by more than 31 bits")
)

// verify checks an instruction that n others follow.
func verify(in bpf.RawInstruction, n int, live bool) error {
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
			switch {
			case in.K < adBase:
			case !live:
				return errLive
			case in.K > adLast || in.K%4 != 0:
				return errUnknown
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
