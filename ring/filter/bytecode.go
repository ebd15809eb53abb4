// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

// IsBytecode says that a text is meant for ParseBytecode, rather than an
// expression: it begins with a number alone.
func IsBytecode(text string) bool {
	first, _, more := strings.Cut(strings.ReplaceAll(strings.TrimSpace(text), ",", "\n"), "\n")
	return more && isNumber(strings.TrimSpace(first))
}

// ParseBytecode reads what Program.Bytecode and tcpdump -ddd print: the number
// of instructions, and code, jt, jf and k of each, in decimal; there may be
// commas for newlines. It does not check that they make a program: CheckLive
// does, and NewMachine.
func ParseBytecode(text string) (Program, error) {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == ',' })
	if len(lines) == 0 {
		return nil, fmt.Errorf("empty; want what tcpdump -ddd prints")
	}
	n, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || n < 1 || n > MaxInstructions || n != len(lines)-1 {
		return nil, fmt.Errorf("line 1 is %s, and %d lines follow: it has to be their number, 1 to %d", quoted(lines[0]), len(lines)-1, MaxInstructions)
	}
	program := make(Program, n)
	for i, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			return nil, fmt.Errorf("line %d has %d numbers; want code, jt, jf and k", i+2, len(fields))
		}
		var v [4]uint64
		for k, bits := range [4]int{16, 8, 8, 32} {
			if v[k], err = strconv.ParseUint(fields[k], 10, bits); err != nil {
				return nil, fmt.Errorf("line %d: %w", i+2, err)
			}
		}
		program[i] = bpf.RawInstruction{Op: uint16(v[0]), Jt: uint8(v[1]), Jf: uint8(v[2]), K: uint32(v[3])}
	}
	return program, nil
}
