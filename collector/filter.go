// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/proto"
)

// maxFilter is BPF_MAXINSNS, linux/bpf_common.h.
const maxFilter = 4096

// A frameFilter says how many bytes of a frame match, 0 if it does not. It
// belongs to one goroutine.
type frameFilter interface {
	Run(frame []byte) (int, error)
}

// A filterText is a filter as users write it. Here is the one place where text
// becomes a program: for now it is bytecode as tcpdump -ddd prints it for
// Ethernet, its lines ended by newlines or commas.
type filterText string

// check says what is wrong with the text.
func (t filterText) check() error {
	if t == "" {
		return nil
	}
	_, err := t.compile(proto.LinkTypeEthernet)
	return err
}

// compile returns the filter for frames of a link type; nil: none of those
// matches.
func (t filterText) compile(link proto.LinkType) (frameFilter, error) {
	raw, err := parseBytecode(string(t))
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", clip(string(t)), err)
	}
	if link != proto.LinkTypeEthernet {
		return nil, nil
	}
	program := make([]bpf.Instruction, len(raw))
	for i, in := range raw {
		program[i] = in.Disassemble()
		if ext, ok := program[i].(bpf.LoadExtension); ok && ext.Num != bpf.ExtLen {
			return nil, fmt.Errorf("filter %q: instruction %d looks at what only the kernel knows of a frame (a VLAN tag beside it, its interface): compile it for files, as tcpdump -y EN10MB -ddd without -i does", clip(string(t)), i)
		}
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", clip(string(t)), err)
	}
	return vm, nil
}

// clip shortens a text for a message.
func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}

// parseBytecode reads what tcpdump -ddd prints: the number of instructions,
// and code, jt, jf and k of each, in decimal.
func parseBytecode(text string) ([]bpf.RawInstruction, error) {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == ',' })
	if len(lines) == 0 {
		return nil, errors.New("empty; want what tcpdump -y EN10MB -ddd prints")
	}
	n, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || n < 1 || n > maxFilter || n != len(lines)-1 {
		return nil, fmt.Errorf("not the bytecode that tcpdump -y EN10MB -ddd prints: it begins with %q and %d instructions follow, where it has to be their number, 1 to %d",
			clip(lines[0]), len(lines)-1, maxFilter)
	}
	program := make([]bpf.RawInstruction, n)
	for i, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			return nil, fmt.Errorf("instruction %d has %d numbers; want code, jt, jf and k", i, len(fields))
		}
		var v [4]uint64
		for k, bits := range [4]int{16, 8, 8, 32} {
			if v[k], err = strconv.ParseUint(fields[k], 10, bits); err != nil {
				return nil, fmt.Errorf("instruction %d: %w", i, err)
			}
		}
		program[i] = bpf.RawInstruction{Op: uint16(v[0]), Jt: uint8(v[1]), Jf: uint8(v[2]), K: uint32(v[3])}
	}
	return program, nil
}
