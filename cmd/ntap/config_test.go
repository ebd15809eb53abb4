// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// collectorSettings are the settings of the collector's file.
func collectorSettings() map[string]settable {
	var s configFlag
	c := newCollector()
	s.except = append(append(s.except, notSettings...), notInFile...)
	return s.settings(c)
}

// errorsAt reads the lines and texts of errors.
func errorsAt(t *testing.T, err error) (lines []int, text string) {
	t.Helper()
	if err == nil {
		return nil, ""
	}
	for _, m := range regexp.MustCompile(`(?m)^f:(\d+): (.*)$`).FindAllStringSubmatch(err.Error(), -1) {
		n, _ := strconv.Atoi(m[1])
		lines = append(lines, n)
	}
	var usage usageError
	if !errors.As(err, &usage) || len(lines) == 0 {
		t.Errorf("no usage error with lines: %v", err)
	}
	return lines, err.Error()
}

// Everything that is wrong is said at once, each with its line and what to do.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		want map[int]string // by line
	}{
		{"port: 5678\nwrokers: 2", map[int]string{2: `unknown field "wrokers"; is it workers?`}},
		{"passphrase: x", map[int]string{1: `unknown field "passphrase"`}}, // no secrets in the file
		{"interface: ntap0", map[int]string{1: "unknown field"}},
		{"port: 70000\nworkers: many\nreorder: 0\nreorder-wait: soon\nstats: perhaps\nio: magic\nclock-window: -1s", map[int]string{
			1: "1 to 65535", 2: "want auto, or a number from 1", 3: "from 1 to 4096", 4: "as in 10ms", 5: "want true or false", 6: "auto, uring or mmsg", 7: "want a time from 0s"}},
		{"cpus: banana\nmerge: 2m\nmerge-buffer: 1\ncpus: 0", map[int]string{1: "\"banana\": ", 2: "want a time from 0s to 1m", 3: "want a number from 8388608", 4: "cpus comes twice"}},
		{"port: [1]", map[int]string{1: "want one value, not a list"}},
		{"port:", map[int]string{1: "not nothing"}},
		{"port: 1\nport: 2", map[int]string{2: "port comes twice, first in line 1"}},
		{"- port", map[int]string{1: "want fields"}},
		{"a: b: c", map[int]string{1: "no YAML"}},
		{"port: 1\n\t: x", map[int]string{2: "no YAML"}},
		{"port: 1\n---\nport: 2", map[int]string{2: "a second document"}},
		{"[x]: 1", map[int]string{1: "the name of a field is a word"}},
		{"outputs: &x\n- interface: a\ntaps: *x", map[int]string{3: "aliases are not used here"}},

		{"taps:\n- id: 7\n- id: 7\n- id: 99999999999\n- name: x\n- 7\n- id: 8\n  nmae: y", map[int]string{
			3: "tap 7 comes twice, first in line 2", 4: "want a tap ID", 5: "a tap without an id", 6: "want fields", 8: "is it name?"}},
		{"taps:\n- id: 1\n  name: a\n- id: 2\n  name: a\n- {id: 3, name: 3d}", map[int]string{4: "the name a is that of tap 1 in line 2", 6: "begins with a letter"}},
		{"taps:\n- id: 1\n  name: others\n- id: 2\n  name: all\nd: 1", map[int]string{ // of others vni says something; for d it said: is it io?
			3: "neither all nor others", 5: "neither all nor others", 6: `unknown field "d"; there are allow,`}},
		{"taps: 7", map[int]string{1: "want a list"}},
		{"taps:\n- id: 1\n  public-key: AAAA\n- id: 2\n  key-file: x\n  public-key: MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqo!", map[int]string{
			3: "4 characters; want 44", 4: "a tap has one of them", 6: "the key is not base64"}},

		{"outputs: x", map[int]string{1: "want a list"}},
		{"outputs:\n- x\n- taps: 1\n- interface: a\n  write: b", map[int]string{2: "want an output, which begins with", 3: "want an output", 5: "an output is one thing: interface in line 4, or write"}},
		{"outputs:\n- interface: aratherlongname0\n- interface: a/b\n  isolate: 1\n- interface: ok\n  ioslate: true", map[int]string{
			2: "at most 15", 3: "has a /", 4: "want true or false", 6: "is it isolate?"}},
		{"outputs:\n- interface: a\n  taps: berlin\n  snaplen: -1\n  filter: tcp prot 80\n- interface: b\n  taps: [1, 5-3]\n- interface: c\n  taps: []", map[int]string{
			3: `unknown tap "berlin"; no tap has a name here`, 4: "from 0 to 262144", 5: "did you mean port or proto?", 7: `"5-3" is no tap ID`, 9: "leave the field out for all"}},
		{"taps:\n- id: 7\n  name: berlin\noutputs:\n- interface: a\n  taps: munich\n- interface: b\n  taps: 8\n- interface: c\n  taps: [all, 7]", map[int]string{
			6: `unknown tap "munich"; those with a name are berlin`, 8: "tap 8 is not among taps:", 10: "all are all"}},
		{"taps:\n- id: 7\n  name: berlin\noutputs:\n- vxlan: h\n  vni: {99: 5}\n- vxlan: i\n  vni: {berlin: 5}\n- vxlan: j\n  vni: rome=5,tap", map[int]string{
			6: "tap 99 is not among taps:", 10: `unknown tap "rome"`}},
		{"outputs:\n- interface: a\n- write: a\n- interface: a", map[int]string{4: "interface a is given twice, first in line 2"}},
		{"outputs:\n- write: '%q'\n- write: x\n  rotate-keep: 3\n- write: y\n  rotate-size: 1x\n  rotate-seconds: -1\n- write: '-'\n  rotate-seconds: 60", map[int]string{
			2: "after % comes", 3: "rotate-keep 3 without rotate-size and rotate-seconds: a file never ends", 5: "want a size", 7: "want a number from 0", 8: "one stream"}},
		{"outputs:\n- vxlan: h\n  vni: 16777216\n- vxlan: a:b:c\n- vxlan: i\n  vni: {x: 1}\n- vxlan: j\n  vni: {7: 16777216}\n  oversize: cut\n  mtu: 1\n- vxlan: k\n  oversize: fragment\n  mtu: 1500\n- vxlan: h:4789", map[int]string{
			3: "16777216\" is no VNI: 0 to 16777215", 4: "want HOST[:PORT]", 6: "is no tap", 8: "24 bits", 9: "drop, slice, fragment", 10: "from 576", 11: "exclude each other", 14: "given twice, first in line 2"}},
		{"outputs:\n- pcap-over-ip: 0.0.0.0:1\n- pcap-over-ip: x:y\n- pcap-over-ip: 1\n  format: erf\n  buffer: 1\n- pcap-over-ip: 2\n  tls: {cert: a}\n- pcap-over-ip: 127.0.0.1:1", map[int]string{
			2: "give tls: with cert, key and client-ca", 3: "want [HOST:]PORT", 5: "pcap or pcapng", 6: "from 1048576", 8: "go together", 9: "given twice, first in line 4"}},
		{"outputs:\n- balance: a\n- balance: b\n  over:\n  - interface: x\n- balance: c\n  over:\n  - interface: y\n  - write: z\n- balance: d\n  over:\n  - interface: x\n    taps: 1\n  - balance: e", map[int]string{
			2: "no outputs: give them under over:", 5: "1 outputs share the frames: 2 to 64", 8: "several kinds", 12: "given twice, first in line 5", 13: `unknown field "taps"`, 14: "want an output"}},
	} {
		_, err := parseConfig("f", []byte(c.text), collectorSettings(), true)
		lines, text := errorsAt(t, err)
		got := map[int]bool{}
		for _, n := range lines {
			got[n] = true
		}
		for line, want := range c.want {
			if !regexp.MustCompile(fmt.Sprintf(`(?m)^f:%d: .*%s`, line, regexp.QuoteMeta(want))).MatchString(text) {
				t.Errorf("%s\nline %d: want %q, got\n%v", c.text, line, want, text)
			}
			delete(got, line)
		}
		if len(got) > 0 {
			t.Errorf("%s\nnot wanted in lines %v:\n%v", c.text, got, text)
		}
	}
}

// What is wrong with a rotation is said once, in the words of the file: it used to
// be said twice, and of -W, -C and -G.
func TestConfigSaysOnce(t *testing.T) {
	for _, text := range []string{"rotate-keep: 3", "rotate-size: 1x", "rotate-size: 1k"} {
		_, err := parseConfig("f", []byte("outputs:\n- write: x\n  "+text), collectorSettings(), true)
		lines, said := errorsAt(t, err)
		if word, _, _ := strings.Cut(text, ":"); len(lines) != 1 || !strings.Contains(said, "write: "+word+" ") {
			t.Errorf("%s: %s", text, said)
		}
	}
}

// The example in docs says everything that can be said, and means what its
// comments say.
func TestConfigExample(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "collector.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseConfig("f", text, collectorSettings(), true)
	if err != nil {
		t.Fatal(err)
	}
	o := f.outputs
	if len(f.taps) != 4 || len(o.TAPs) != 1 || len(o.Files) != 1 || len(o.VXLAN) != 1 || len(o.Serve) != 2 || len(o.Balance) != 1 || len(o.Balance[0].Over.TAPs) != 3 {
		t.Errorf("%+v", f)
	}
	if o.TAPs[0].Select.Taps.String() != "7-8" || !o.TAPs[0].Isolate || o.Files[0].Rotate.Size != 512<<20 || o.Files[0].Select.SnapLen != 256 ||
		o.VXLAN[0].MTU != 1600 || o.Serve[1].TLS.ClientCA != "/etc/ntap/ca.pem" || o.Serve[0].Addr != "127.0.0.1:57012" || o.Balance[0].Select.Taps != nil {
		t.Errorf("%+v", o)
	}
	if vni, err := o.VXLAN[0].VNI.Of(7); vni != 1001 || err != nil {
		t.Errorf("VNI %d, %v", vni, err)
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "CONFIG.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range collectorSettings() {
		if !bytes.Contains(doc, []byte("`"+name+"`")) {
			t.Errorf("docs/CONFIG.md does not say that %s can be set", name)
		}
	}
}

// Outputs of flags are beside those of the file, and win where both have the
// same; so do selections. Without outputs in the file there is ntap0.
func TestConfigAndFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(`
taps: [{id: 7, name: berlin}]
outputs:
- interface: t0
  snaplen: 100
- write: a.pcapng
  rotate-seconds: 60
- balance: g
  over: [{interface: s0}, {interface: s1}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flags, want string }{
		{"", `outputs:
  interface t0: all taps; 100 bytes of each frame
  write a.pcapng: all taps
  balance g (interface s0, interface s1): all taps
taps:
  7 berlin -> interface t0, write a.pcapng, balance g
  others, but for those that an output names -> interface t0, write a.pcapng, balance g
`},
		{"-i t1 -w a.pcapng|--select|t0 taps=berlin filter=udp|--select|g taps=3,9-10|--tap|9|--tap|3", `outputs:
  interface t0: taps 7; filter udp
  interface t1: all taps
  write a.pcapng: all taps
  balance g (interface s0, interface s1): taps 3,9-10
taps:
  7 berlin -> interface t0, interface t1, write a.pcapng
  9 -> interface t1, write a.pcapng, balance g
  3 -> interface t1, write a.pcapng, balance g
  others, but for those that an output names -> interface t1, write a.pcapng
`},
		{"--no-tap --vxlan 192.0.2.1|--tap|7 name=rome|--select|vxlan taps=rome", `outputs:
  write a.pcapng: all taps
  vxlan 192.0.2.1:4789: taps 7
taps:
  7 rome -> write a.pcapng, vxlan 192.0.2.1:4789
  others, but for those that an output names -> write a.pcapng
`},
		{"-i x -i y|--balance|h x y", `outputs:
  interface t0: all taps; 100 bytes of each frame
  write a.pcapng: all taps
  balance g (interface s0, interface s1): all taps
  balance h (interface x, interface y): all taps
taps:
  7 berlin -> interface t0, write a.pcapng, balance g, balance h
  others, but for those that an output names -> interface t0, write a.pcapng, balance g, balance h
`},
	} {
		args := splitFlags(c.flags)
		root := newRoot()
		var out strings.Builder
		root.SetOut(&out)
		root.SetArgs(append([]string{"collector", "--check-config", path}, args...))
		if err := root.Execute(); err != nil || out.String() != c.want {
			t.Errorf("%q: %v\n%s\nwant\n%s", args, err, out.String(), c.want)
		}
	}
}

// splitFlags splits at |, and at blanks in words before the first and those
// that begin with a dash.
func splitFlags(s string) (args []string) {
	for i, part := range strings.Split(s, "|") {
		if i == 0 || strings.HasPrefix(part, "--") {
			args = append(args, strings.Fields(part)...)
		} else {
			args = append(args, part)
		}
	}
	return args
}

// Defaults give way to the file, that to the environment, and that to flags.
func TestConfigPrecedence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("reorder: 10\nreceive-buffer: 20\nstate: here\nreorder-wait: 30ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NTAP_RECEIVE_BUFFER", "21")
	t.Setenv("NTAP_STATE", "there")
	t.Setenv("NTAP_CONFIG", path)
	c := newCollector()
	var s configFlag
	if err := c.ParseFlags([]string{"--state", "flag"}); err != nil {
		t.Fatal(err)
	}
	s.path = path
	s.except = notSettings
	if err := s.load(c); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"reorder": "10", "receive-buffer": "21", "state": "flag", "reorder-wait": "30ms", "io": "auto", "config": path} {
		if got := c.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	t.Setenv("NTAP_REORDER", "many")
	if err := s.load(newCollector()); err == nil || !strings.Contains(err.Error(), "$NTAP_REORDER") {
		t.Errorf("%v", err)
	}
}

// Whatever the file holds, it is read, or refused with lines that it has.
func FuzzConfig(f *testing.F) {
	for _, file := range []string{filepath.Join("..", "..", "docs", "collector.yaml")} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("outputs:\n- balance: a\n  over: [{vxlan: h, vni: {7: 1}}, {vxlan: i}]\ntaps: [{id: 1, name: x}]\n")
	f.Add("a: &a [*a]\noutputs: *a\n<<: {port: 1}")
	settings := collectorSettings()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "host") || strings.Contains(text, "net") || strings.Contains(text, "filter") {
			return // names of hosts would be looked up
		}
		c, err := parseConfig("f", []byte(text), settings, true)
		if err != nil {
			lines, said := errorsAt(t, err)
			for _, n := range lines {
				if n < 1 || n > strings.Count(text, "\n")+strings.Count(text, "\r")+2 {
					t.Errorf("line %d of %q: %s", n, text, said)
				}
			}
			return
		}
		if len(c.outputs.TAPs)+len(c.outputs.Files)+len(c.outputs.VXLAN)+len(c.outputs.Serve)+len(c.outputs.Balance) == 0 {
			return
		}
		if err := c.outputs.Check(); err != nil {
			t.Errorf("%q was found good, and is not: %v", text, err)
		}
		printRoutes(new(bytes.Buffer), c, &c.outputs)
	})
}

// A --fanout of a file is one that there is.
func TestConfigFanout(t *testing.T) {
	for text, want := range map[string]string{"fanout: qm": "", "fanout: random": `fanout: "random": want hash, cpu or qm`} {
		var s configFlag
		_, err := parseConfig("x", []byte(text), s.settings(newRemote()), false)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A wrong --io in a file is refused with what the command takes: since it
// differs by command, a file of the collector's panicked.
func TestConfigIO(t *testing.T) {
	for _, v := range []struct {
		command *cobra.Command
		io      string
		good    bool
	}{{newRemote(), "zerocopy", true}, {newRemote(), "magic", false}, {newCollector(), "uring", true}, {newCollector(), "zerocopy", false}} {
		var s configFlag
		_, err := parseConfig("x", []byte("io: "+v.io), s.settings(v.command), false)
		if (err == nil) != v.good || err != nil && !strings.Contains(err.Error(), "auto, uring") {
			t.Errorf("%s: io: %s: %v", v.command.Name(), v.io, err)
		}
	}
}
