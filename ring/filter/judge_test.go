// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A frame is what a program is run on, with what the kernel knows beside it.
type frame struct {
	data    []byte
	length  uint32 // on the wire
	name    string
	tag     bool // a VLAN tag was taken out
	tci     uint32
	pktType uint32
	ifindex uint32
}

// judge runs a program as the kernel does. It shares nothing with Machine, and
// has the loads of what the kernel knows.
func judge(p []bpf.RawInstruction, f *frame) uint32 {
	v, _ := verdict(p, f)
	return v
}

// verdict also says whether the program was ended by a load beyond the frame's
// end, or a division by zero.
func verdict(p []bpf.RawInstruction, f *frame) (v uint32, ended bool) {
	v, end := trace(p, f)
	return v, end != returned
}

// returned says of a program that it came to its end.
const returned = -1

// trace also says which instruction ended the program.
func trace(p []bpf.RawInstruction, f *frame) (v uint32, end int) {
	var acc, idx uint32
	var mem [16]uint32
	field := func(at uint64, size int) (v uint32, ok bool) {
		if at+uint64(size) > uint64(len(f.data)) {
			return 0, false
		}
		for _, b := range f.data[at : at+uint64(size)] {
			v = v<<8 | uint32(b)
		}
		return v, true
	}
	for i := 0; i < len(p); i++ {
		in := p[i]
		size := 4 >> (in.Op & 0x18 >> 3)
		operand := in.K
		if in.Op&8 != 0 && (in.Op&7 == 4 || in.Op&7 == 5) {
			operand = idx
		}
		var ok = true
		switch in.Op & 7 {
		case 0: // ld
			switch in.Op & 0xE0 {
			case 0x00:
				acc = in.K
			case 0x20:
				switch in.K {
				case 0xFFFFF000 + 4:
					acc = f.pktType
				case 0xFFFFF000 + 8:
					acc = f.ifindex
				case 0xFFFFF000 + 44:
					acc = f.tci
				case 0xFFFFF000 + 48:
					if acc = 0; f.tag {
						acc = 1
					}
				default:
					acc, ok = field(uint64(in.K), size)
				}
			case 0x40:
				acc, ok = field(uint64(in.K+idx), size)
			case 0x60:
				acc = mem[in.K]
			case 0x80:
				acc = f.length
			}
		case 1: // ldx
			switch in.Op & 0xE0 {
			case 0x00:
				idx = in.K
			case 0x60:
				idx = mem[in.K]
			case 0x80:
				idx = f.length
			case 0xA0:
				var v uint32
				v, ok = field(uint64(in.K), 1)
				idx = v & 15 << 2
			}
		case 2:
			mem[in.K] = acc
		case 3:
			mem[in.K] = idx
		case 4:
			switch in.Op & 0xF0 {
			case 0x00:
				acc += operand
			case 0x10:
				acc -= operand
			case 0x20:
				acc *= operand
			case 0x30, 0x90:
				if ok = operand != 0; !ok {
				} else if in.Op&0xF0 == 0x30 {
					acc /= operand
				} else {
					acc %= operand
				}
			case 0x40:
				acc |= operand
			case 0x50:
				acc &= operand
			case 0x60:
				acc <<= operand % 32
			case 0x70:
				acc >>= operand % 32
			case 0x80:
				acc = -acc
			case 0xA0:
				acc ^= operand
			}
		case 5:
			holds := false
			switch in.Op & 0xF0 {
			case 0x00:
				i += int(in.K)
				continue
			case 0x10:
				holds = acc == operand
			case 0x20:
				holds = acc > operand
			case 0x30:
				holds = acc >= operand
			case 0x40:
				holds = acc&operand != 0
			}
			if holds {
				i += int(in.Jt)
			} else {
				i += int(in.Jf)
			}
		case 6:
			if in.Op&0x18 == 0x10 {
				return acc, returned
			}
			return in.K, returned
		case 7:
			if in.Op&0x80 != 0 {
				acc = idx
			} else {
				idx = acc
			}
		}
		if !ok {
			return 0, i
		}
	}
	panic("no return")
}

// A refusal is what tcpdump says of an expression that it does not compile.
type refusal string

func (r refusal) Error() string { return string(r) }

// byTcpdump compiles an expression with tcpdump: for a link type, or for a live
// interface; optimised or not.
func byTcpdump(expression string, optimised bool, where ...string) ([]bpf.RawInstruction, error) {
	args := append(where, "-ddd")
	if !optimised {
		args = append(args, "-O")
	}
	var out, errs bytes.Buffer
	ctx, stop := context.WithTimeout(context.Background(), testnet.Patience)
	defer stop()
	cmd := exec.CommandContext(ctx, "tcpdump", append(args, "--", expression)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(errs.String())
		if strings.Contains(text, "rejects all packets") {
			return []bpf.RawInstruction{{Op: 6}}, nil // what the program would be
		}
		if i := strings.LastIndex(text, "tcpdump: "); i >= 0 {
			return nil, refusal(text[i+len("tcpdump: "):])
		}
		return nil, fmt.Errorf("tcpdump %q: %w: %s", expression, err, text)
	}
	return ParseBytecode(out.String())
}

// The judge agrees with the machine of the package, where both can run a
// program.
func agree(t *testing.T, p Program, frames []*frame) {
	t.Helper()
	m, err := NewMachine(p)
	if err != nil {
		t.Fatalf("%v\n%v", err, p)
	}
	for _, f := range frames {
		if got, want := m.Run(f.data, f.length), judge(p, f); got != want {
			t.Fatalf("the machine says %d, the judge %d, of %s: %x\n%v", got, want, f.name, f.data, p)
		}
	}
}
