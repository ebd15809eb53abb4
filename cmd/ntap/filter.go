// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/remote"
	"github.com/ntap-project/ntap/ring"
)

// maxFilter is BPF_MAXINSNS, linux/bpf_common.h.
const maxFilter = 4096

// compileFilter returns the filter of the command line as bytecode, or nil if
// there is none. Until ntap has a compiler of its own, the installed tcpdump
// compiles expressions: with -i it knows that the kernel takes VLAN tags out.
func compileFilter(cfg *remote.Config, bytecode string) ([]bpf.RawInstruction, error) {
	switch {
	case bytecode != "" && cfg.FilterText != "":
		return nil, usagef("--filter-bytecode and a filter expression exclude each other")
	case bytecode != "":
		text, err := os.ReadFile(bytecode)
		if err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
		cfg.FilterText = "bytecode of " + bytecode
		return parseBytecode(bytecode, string(text))
	case cfg.FilterText == "":
		return nil, nil
	case cfg.File != "":
		return nil, usagef("a filter is for live capture (-i); for a file: tcpdump -r FILE -w - 'EXPRESSION' | ntap remote -r - …")
	}
	if err := sameLinkType(cfg.Interfaces); err != nil {
		return nil, err
	}
	// After -- an expression that begins with a dash is no flag.
	out, err := exec.Command("tcpdump", "-i", cfg.Interfaces[0], "-ddd", "--", cfg.FilterText).Output()
	var exit *exec.ExitError
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("filter: expressions are compiled by tcpdump, which is not installed: apt-get install tcpdump; or give --filter-bytecode a file made by tcpdump -ddd elsewhere")
	} else if errors.As(err, &exit) && bytes.Contains(exit.Stderr, []byte("permission")) {
		return nil, fmt.Errorf("filter: tcpdump, which compiles it, may not look at %s (%s): run as root, or give --filter-bytecode a file made by tcpdump -ddd as root",
			cfg.Interfaces[0], bytes.TrimSpace(exit.Stderr))
	} else if errors.As(err, &exit) {
		return nil, usagef("filter %q: %s", cfg.FilterText, bytes.TrimSpace(exit.Stderr))
	} else if err != nil {
		return nil, fmt.Errorf("filter: tcpdump: %w", err)
	}
	return parseBytecode("tcpdump -ddd", string(out))
}

// sameLinkType refuses one program for interfaces whose frames begin
// differently.
func sameLinkType(names []string) error {
	var first ring.Interface
	for i, name := range names {
		iface, err := ring.LookUp(name)
		if err != nil {
			return err
		}
		if i == 0 {
			first = iface
		} else if iface.LinkType != first.LinkType {
			return usagef("filter: %s and %s have different link types (%d and %d), so no one program fits both: start a remote for each, with --tap IDs of their own",
				first.Name, iface.Name, first.LinkType, iface.LinkType)
		}
	}
	return nil
}

// parseBytecode reads what tcpdump -ddd prints: the number of instructions,
// and code, jt, jf and k of each, in decimal.
func parseBytecode(from, text string) ([]bpf.RawInstruction, error) {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) == 0 {
		return nil, fmt.Errorf("filter: %s: empty; want what tcpdump -ddd prints", from)
	}
	n, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || n < 1 || n > maxFilter || n != len(lines)-1 {
		return nil, fmt.Errorf("filter: %s: line 1 is %q, and %d lines follow: it has to be their number, 1 to %d", from, lines[0], len(lines)-1, maxFilter)
	}
	program := make([]bpf.RawInstruction, n)
	for i, line := range lines[1:] {
		fields := strings.Fields(line)
		var v [4]uint64
		bits := [4]int{16, 8, 8, 32}
		for k := range v {
			if len(fields) != 4 {
				return nil, fmt.Errorf("filter: %s: line %d has %d numbers; want code, jt, jf and k", from, i+2, len(fields))
			}
			if v[k], err = strconv.ParseUint(fields[k], 10, bits[k]); err != nil {
				return nil, fmt.Errorf("filter: %s: line %d: %w", from, i+2, err)
			}
		}
		program[i] = bpf.RawInstruction{Op: uint16(v[0]), Jt: uint8(v[1]), Jf: uint8(v[2]), K: uint32(v[3])}
	}
	return program, nil
}
