// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/remote"
)

// "ip", as tcpdump -ddd prints it.
const bytecodeIP = "4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n"

// printBytecode is the reverse of parseBytecode.
func printBytecode(program []bpf.RawInstruction) string {
	var b strings.Builder
	fmt.Fprintln(&b, len(program))
	for _, i := range program {
		fmt.Fprintln(&b, i.Op, i.Jt, i.Jf, i.K)
	}
	return b.String()
}

func TestBytecodeFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ip")
	if err := os.WriteFile(file, []byte(bytecodeIP), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := remote.Config{Interfaces: []string{"lo"}}
	program, err := compileFilter(&cfg, file)
	if err != nil || printBytecode(program) != bytecodeIP {
		t.Errorf("%v, %v", program, err)
	}
	if cfg.FilterText != "bytecode of "+file {
		t.Errorf("announced as %q", cfg.FilterText)
	}
}

func TestBadBytecodeIsRefused(t *testing.T) {
	for what, c := range map[string]struct{ text, want string }{
		"empty":         {"", "empty"},
		"only newlines": {"\n\n", "empty"},
		"text":          {"tcpdump: syntax error", "line 1"},
		"too few lines": {"4\n40 0 0 12\n", "1 lines follow"},
		"too many":      {"1\n6 0 0 0\n6 0 0 0\n", "2 lines follow"},
		"none":          {"0\n", "line 1"},
		"negative":      {"-1\n", "line 1"},
		"too long":      {"4097\n" + strings.Repeat("6 0 0 0\n", 4097), "1 to 4096"},
		"three numbers": {"1\n6 0 0\n", "line 2 has 3 numbers"},
		"five numbers":  {"1\n6 0 0 0 0\n", "line 2 has 5 numbers"},
		"op too big":    {"1\n65536 0 0 0\n", "line 2"},
		"jump too big":  {"1\n21 256 0 0\n", "line 2"},
		"k too big":     {"1\n6 0 0 4294967296\n", "line 2"},
		"hexadecimal":   {"1\n0x6 0 0 0\n", "line 2"},
	} {
		if _, err := parseBytecode("f", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want something with %q", what, err, c.want)
		}
	}
}

// What is taken is printed as what was taken.
func FuzzBytecode(f *testing.F) {
	f.Add(bytecodeIP)
	f.Add("1\r\n6 0 0 0\r\n")
	f.Add("2\n6 0 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		program, err := parseBytecode("f", text)
		if err != nil {
			return
		}
		again, err := parseBytecode("f", printBytecode(program))
		if err != nil || !slices.Equal(program, again) {
			t.Errorf("%q became %v, and that %v, %v", text, program, again, err)
		}
	})
}
