// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Programs are printed as tcpdump prints them.
func TestPrintAsTcpdump(t *testing.T) {
	testnet.RequireTool(t, "tcpdump")
	expressions := newWriter(3).expressions(200)
	n := 0
	for _, e := range expressions {
		program, err := byTcpdump(e, n%2 == 0, "-y", "EN10MB")
		if err != nil || len(program) < 2 {
			continue
		}
		for flag, print := range map[string]func(Program) string{"-d": Program.String, "-dd": Program.C, "-ddd": Program.Bytecode} {
			args := []string{"-y", "EN10MB", flag, "--", e}
			if n%2 != 0 {
				args = append([]string{"-O"}, args...)
			}
			want, err := testnet.Command(t, "tcpdump", args...).Output()
			if err != nil {
				t.Fatalf("%q: %v", e, err)
			}
			if got := print(program); got != string(want) {
				t.Errorf("%s %q:\n%q\nwant\n%q", flag, e, got, want)
			}
		}
		if n++; n == 80 {
			break
		}
	}
	if n < 80 {
		t.Errorf("only %d programs", n)
	}
}

// Instructions that no compiler writes are printed too.
func TestPrintAnything(t *testing.T) {
	for op := range uint16(0x200) {
		text := Program{{Op: op, Jt: 1, Jf: 2, K: 0xFFFFFFFE}}.String()
		if !strings.HasPrefix(text, "(000) ") || strings.Count(text, "\n") != 1 {
			t.Errorf("%#x: %q", op, text)
		}
	}
}

// What is printed is read again.
func TestBytecode(t *testing.T) {
	for _, e := range written() {
		p, err := Compile(e, Options{LinkType: Ethernet, LookUp: noHosts})
		if err != nil {
			continue
		}
		q, err := ParseBytecode(p.Bytecode())
		if err != nil || !slices.Equal(p, q) {
			t.Errorf("%q: %v", e, err)
		}
	}
}

// "ip", as tcpdump -ddd prints it.
const bytecodeIP = "4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n"

func TestBadBytecodeIsRefused(t *testing.T) {
	if p, err := ParseBytecode(bytecodeIP); err != nil || len(p) != 4 {
		t.Error(p, err)
	}
	if p, err := ParseBytecode("2,40 0 0 12, 6 0 0 1"); err != nil || len(p) != 2 {
		t.Error(p, err)
	}
	for text, want := range map[string]bool{bytecodeIP: true, "2,40 0 0 12,6 0 0 1": true, " 1 \n6 0 0 0": true, "ip": false, "4": false, "1 = 1": false, "": false, "ip,6": false} {
		if IsBytecode(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
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
		if _, err := ParseBytecode(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
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
		program, err := ParseBytecode(text)
		if err != nil {
			return
		}
		again, err := ParseBytecode(program.Bytecode())
		if err != nil || !slices.Equal(program, again) {
			t.Errorf("%q became %v, and that %v, %v", text, program, again, err)
		}
	})
}

// What the machine refuses would go wrong, and it says why.
func TestMachineRefuses(t *testing.T) {
	ret := bpf.RawInstruction{Op: 6, K: 1}
	for what, c := range map[string]struct {
		p    Program
		want string
	}{
		"empty":                {nil, "0 instructions: 1 to 4096"},
		"too long":             {slices.Repeat(Program{ret}, 4097), "4097 instructions"},
		"no return":            {Program{{Op: 0x28, K: 12}}, "instruction 0 of the program (code 40, jt 0, jf 0, k 12): it is the last one"},
		"jump beyond":          {Program{{Op: 0x15, Jt: 1}, ret}, "jumps beyond"},
		"long jump beyond":     {Program{{Op: 5, K: 1}, ret}, "jumps beyond"},
		"jump backward":        {Program{{Op: 5, K: 0xFFFFFFFF}, ret}, "jumps beyond"},
		"division by zero":     {Program{{Op: 0x34}, ret}, "divides by zero"},
		"remainder by zero":    {Program{{Op: 0x94}, ret}, "divides by zero"},
		"long shift":           {Program{{Op: 0x64, K: 32}, ret}, "more than 31 bits"},
		"memory":               {Program{{Op: 2, K: 16}, ret}, "16 words"},
		"memory from X":        {Program{{Op: 3, K: 16}, ret}, "16 words"},
		"memory to X":          {Program{{Op: 0x61, K: 99}, ret}, "16 words"},
		"VLAN tag":             {Program{{Op: 0x30, K: 0xFFFFF030}, ret}, "only the kernel knows"},
		"no such load":         {Program{{Op: 0x38, K: 1}, ret}, "no such instruction"},
		"no such operation":    {Program{{Op: 0xF4}, ret}, "no such instruction"},
		"no such jump":         {Program{{Op: 0x55}, ret}, "no such instruction"},
		"no such return":       {Program{{Op: 0x0E}}, "no such instruction"},
		"no such code":         {Program{{Op: 0xFFFF}, ret}, "no such instruction"},
		"no such code of MISC": {Program{{Op: 0x17}, ret}, "no such instruction"},
	} {
		if m, err := NewMachine(c.p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want something with %q", what, m, err, c.want)
		}
	}
}

// The machine does what the judge does, with every program of the corpus.
func TestMachine(t *testing.T) {
	frames := etherFrames(4, 200, 100, 2)
	w := newWriter(4)
	n := 0
	for _, e := range append(written(), w.expressions(500)...) {
		if p, err := Compile(e, Options{LinkType: Ethernet, LookUp: noHosts}); err == nil {
			agree(t, p, frames)
			n++
		}
	}
	if n < 500 {
		t.Errorf("only %d programs", n)
	}
}

func TestMachineAllocatesNothing(t *testing.T) {
	p, err := Compile("tcp port 80 and ip[2:2] - ((ip[0] & 0xf) << 2) > tcp[12] / tcp[13]", Options{LinkType: Ethernet})
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMachine(p)
	if err != nil {
		t.Fatal(err)
	}
	f := ordinary["ack"]
	if n := testing.AllocsPerRun(100, func() { m.Run(f, 100) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// Any program is refused, or runs to its end as the judge says.
func FuzzMachine(f *testing.F) {
	add := func(p Program) {
		var b []byte
		for _, i := range p {
			b = append(b, byte(i.Op), byte(i.Op>>8), i.Jt, i.Jf, byte(i.K), byte(i.K>>8), byte(i.K>>16), byte(i.K>>24))
		}
		f.Add(b, ordinary["syn"])
	}
	for _, e := range []string{"ip", "tcp port 80", "ip[0] * 3 + ip[1] % 5 > len", "geneve and ip[8] / ip[9] = 1", "ip[8] ^ -ip[9] << ip[2] | 7 = 3 >> ip[1]",
		"ip[ip[8] - 70] = 1", "vxlan 11 and (tcp[13] & 2 != 0 or ip6 host 2001:db8::1)", "(ip[0] + ip[1]) * (ip[2] + ip[3]) - (ip[4] + 1) * ip[9] = len % 7"} {
		p, err := Compile(e, Options{LinkType: Ethernet})
		if err != nil {
			f.Fatal(err)
		}
		add(p)
	}
	f.Fuzz(func(t *testing.T, code, data []byte) {
		var p Program
		for ; len(code) >= 8; code = code[8:] {
			k := uint32(code[4]) | uint32(code[5])<<8 | uint32(code[6])<<16 | uint32(code[7])<<24
			p = append(p, bpf.RawInstruction{Op: uint16(code[0]) | uint16(code[1])<<8, Jt: code[2], Jf: code[3], K: k})
		}
		m, err := NewMachine(p)
		if err != nil {
			return
		}
		fr := &frame{data: data, length: uint32(len(data)) + 1}
		if got, want := m.Run(data, fr.length), judge(p, fr); got != want {
			t.Errorf("%d, want %d: %v", got, want, p)
		}
	})
}

// Any text is refused with an error that points into it, or compiled to a
// program that is in order.
func FuzzCompile(f *testing.F) {
	for _, e := range written() {
		f.Add(e, uint8(0))
	}
	w := newWriter(8)
	for i, e := range w.expressions(200) {
		f.Add(e, uint8(i))
		f.Add(w.damage(e), uint8(i))
	}
	for i, e := range []string{"vxlan", "vxlan 11 and tcp port 80", "vlan 5 and vxlan and vlan and ip6", "not vxlan 0x1000000", "geneve and vxlan (5) and arp"} {
		f.Add(e, uint8(i))
	}
	frames := []*frame{{}, {data: ordinary["syn"], length: 60}, {data: ordinary["geneve"], length: 200}, {data: ordinary["vlan6"], tag: true, tci: 5}}
	f.Fuzz(func(t *testing.T, expression string, how uint8) {
		if len(expression) > 2000 {
			return // longer ones only take longer
		}
		o := Options{LinkType: linkTypes[int(how>>1)%len(linkTypes)].number, Live: how&1 != 0, LookUp: noHosts}
		p, err := Compile(expression, o)
		if err != nil {
			if e, ok := err.(*Error); ok && (e.Offset < 0 || e.Offset+e.Length > len(expression) || e.Pointer() == "" || e.Text == "") {
				t.Errorf("%q: %+v", expression, e)
			}
			return
		}
		checked := slices.Clone(p)
		for i, in := range checked {
			if o.Live && in.Op&^0x18 == classLD|modeABS && in.K >= adBase {
				checked[i].K = 0
			}
		}
		if _, err := NewMachine(checked); err != nil {
			t.Errorf("%q: %v\n%v", expression, err, p)
		}
		for _, f := range frames {
			judge(p, f)
		}
		_ = p.String()
	})
}
