// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
)

// wantedOf returns the outputs and taps that a file and flags want.
func wantedOf(t *testing.T, text string, args ...string) (collector.Outputs, []configTap, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var (
		routes routeFlags
		file   = configFlag{taps: routes.known}
		c      = &cobra.Command{Use: "collector"}
	)
	routes.add(c)
	file.add(c, notInFile...)
	if err := c.ParseFlags(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	if err := file.load(c); err != nil {
		return collector.Outputs{}, nil, err
	}
	outs, err := routes.wanted(c, file.given)
	for i := range file.given.taps {
		file.given.taps[i].line = 0
	}
	return outs, file.given.taps, err
}

// A file with nothing in it, which it had at the start, changes nothing when it is
// read again: it may be being written just then. All outputs used to end, and ntap0
// to be made. One that was always empty, beside flags, is as good as before.
func TestConfigEmptied(t *testing.T) {
	for _, c := range []struct {
		at, then string
		want     string // of the error
	}{
		{"port: 5678\noutputs:\n- write: x\n", "", "there is nothing in it"},
		{"outputs:\n- write: x\n", "# to be done\n", "there is nothing in it"},
		{"port: 5678\n", "", "there is nothing in it"},
		{"", "", ""},
		{"# none yet", "outputs:\n- write: x\n", ""},
		{"outputs:\n- write: x\n", "port: 5678\n", ""},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		write := func(text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(c.at)
		var (
			routes routeFlags
			file   = configFlag{taps: routes.known}
			cmd    = newCollector()
		)
		cmd.ResetFlags()
		cmd.Flags().String("port", "", "")
		routes.add(cmd)
		file.add(cmd, notInFile...)
		if err := errors.Join(cmd.ParseFlags([]string{"--config", path}), file.load(cmd)); err != nil {
			t.Fatal(err)
		}
		write(c.then)
		_, _, err := routes.again(cmd, &file, new(collector.Config))
		if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%q, and then %q: %v", c.at, c.then, err)
		}
	}
}

// outputSamples say each field of each kind of output, as the file does and as
// --set does.
var outputSamples = map[string]struct {
	flags  []string // that make the output x
	file   string
	fields map[string][2]string
}{
	"interface": {[]string{"-i", "x"}, "interface: x", map[string][2]string{
		"isolate": {"isolate: false", "isolate=false"}, "persist": {"persist: true", "persist=true"}, "netns": {"netns: blue", "netns=blue"},
	}},
	"write": {[]string{"--no-tap", "-w", "x"}, "write: x", map[string][2]string{
		"rotate-size": {"rotate-size: 5m", "rotate-size=5m"}, "rotate-seconds": {"rotate-seconds: 60", "rotate-seconds=60"},
		"rotate-keep": {"rotate-keep: 3\n  rotate-seconds: 9", "rotate-seconds=9 rotate-keep=3"}, "direct": {"direct: true", "direct=true"},
		"buffer": {"buffer: 1048577", "buffer=1048577"},
	}},
	"vxlan": {[]string{"--no-tap", "--vxlan", "192.0.2.1"}, "vxlan: 192.0.2.1", map[string][2]string{
		"vni": {"vni: {berlin: 5, 8: 6, others: tap}", "vni=berlin=5,8=6,tap"}, "oversize": {"oversize: slice", "oversize=slice"},
		"mtu": {"mtu: 1600", "mtu=1600"}, "ports": {"ports: 4", "ports=4"},
	}},
	"pcap-over-ip": {[]string{"--no-tap", "--pcap-over-ip", "1234"}, "pcap-over-ip: 1234", map[string][2]string{
		"format": {"format: pcap", "format=pcap"}, "clients": {"clients: 3", "clients=3"}, "buffer": {"buffer: 1048577", "buffer=1048577"},
		"tls": {"tls: {cert: a, key: b, client-ca: c}", "tls.cert=a tls.key=b tls.client-ca=c"},
	}},
	"balance": {[]string{"-i", "s0", "-i", "s1", "--balance", "x s0 s1"}, "balance: x\n  over: [{interface: s0}, {interface: s1}]", nil},
}

// Every field that the file has can be said by flags, and means the same there:
// those of single outputs by --set, of all kinds and of the members of groups.
func TestConfigFlagTwins(t *testing.T) {
	const taps = "taps: [{id: 7, name: berlin}, {id: 8}]\n"
	tapFlags := []string{"--tap", "7 name=berlin", "--tap", "8"}
	any := map[string][2]string{
		"taps": {"taps: [berlin, 3-5]", "taps=berlin,3-5"}, "snaplen": {"snaplen: 96", "snaplen=96"},
		"filter": {"filter: udp port 53 or icmp", "filter=udp port 53 or icmp"},
	}
	same := func(file string, flags ...string) {
		t.Helper()
		a, _, err := wantedOf(t, taps+file)
		if err != nil {
			t.Errorf("%s\n%v", file, err)
		}
		b, _, err := wantedOf(t, "", append(slices.Clone(tapFlags), flags...)...)
		if err != nil {
			t.Errorf("%q: %v", flags, err)
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s\nis %+v\n%q is\n%+v", file, a, flags, b)
		}
	}
	for _, kind := range outputKinds {
		s := outputSamples[kind]
		var outs collector.Outputs
		r := &outputReader{configReader: new(configReader), file: new(configFile)}
		switch kind {
		case "interface":
			outs.TAPs = make([]collector.TAP, 1)
		case "write":
			outs.Files = make([]collector.File, 1)
		case "vxlan":
			outs.VXLAN = make([]collector.VXLAN, 1)
		case "pcap-over-ip":
			outs.Serve = make([]collector.Serve, 1)
		case "balance":
			outs.Balance = make([]collector.Balance, 1)
		}
		to := targets(&outs)[0]
		for name := range to.fields(r, "").known {
			sample, ok := s.fields[name]
			if !ok {
				t.Errorf("%s: no sample of %s", kind, name)
			}
			same("outputs:\n- "+s.file+"\n  "+sample[0], append(slices.Clone(s.flags), "--set", kind+" "+sample[1])...)
		}
		for name := range r.selection("", to.takes) {
			same("outputs:\n- "+s.file+"\n  "+any[name][0], append(slices.Clone(s.flags), "--set", kind+" "+any[name][1])...)
		}
	}
	same("outputs:\n- balance: x\n  snaplen: 50\n  over: [{interface: s0, persist: true}, {interface: s1}]", "-i", "s0", "-i", "s1", "--balance", "x s0 s1",
		"--set", "s0 persist=true", "--set", "x snaplen=50")
	same("outputs:\n- pcap-over-ip: 0.0.0.0:1234\n  tls: {cert: a, key: b, client-ca: c}\n- pcap-over-ip: 0.0.0.0:1235\n  tls: {cert: a, key: b, client-ca: d}",
		"--no-tap", "--pcap-over-ip", "0.0.0.0:1234", "--pcap-over-ip", "0.0.0.0:1235", "--tls-cert", "a", "--tls-key", "b", "--tls-client-ca", "c", "--set", "0.0.0.0:1235 tls.client-ca=d")
	same("outputs:\n- pcap-over-ip: 0.0.0.0:1234\n  tls: {cert: a, key: b, client-ca: c}", "--no-tap", "--pcap-over-ip", "0.0.0.0:1234", "--set", "pcap-over-ip tls.cert=a tls.key=b tls.client-ca=c")
	same("outputs:\n- write: a b\n  snaplen: 50\n- write: a b c\n  taps: [berlin]\n  buffer: 1048577\n- write: a", // names were cut at the first blank
		"--no-tap", "-w", "a b", "-w", "a b c", "-w", "a", "--select", "a b snaplen=50", "--set", "a b c taps=berlin buffer=1048577")

	// Of groups: names were cut at blanks there, too, and --select's short ones were
	// not known.
	same("outputs:\n- balance: g\n  over: [{write: /data/a b}, {write: c}, {write: /data/a}]", "--no-tap", "-w", "/data/a", "-w", "/data/a b", "-w", "c",
		"--balance", " g  /data/a b  c /data/a ")
	same("outputs:\n- balance: g\n  over: [{pcap-over-ip: 57012}, {pcap-over-ip: 57013}]\n- balance: h\n  over: [{vxlan: 192.0.2.1}, {vxlan: 192.0.2.2}]", "--no-tap",
		"--pcap-over-ip", "57012", "--pcap-over-ip", "57013", "--vxlan", "192.0.2.1", "--vxlan", "192.0.2.2", "--balance", "g 57012 127.0.0.1:57013", "--balance", "h 192.0.2.1:4789 192.0.2.2")
	for balance, want := range map[string]string{"g": "want NAME and the outputs", "g x y": `no output "x"`, "g a b a b": `no output "a b"`, "g a b": "2 to 64"} {
		if _, _, err := wantedOf(t, "", "--no-tap", "-w", "a b", "-w", "c", "--balance", balance); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--balance %q: %v, want %q", balance, err, want)
		}
	}

	// Of taps, and of settings.
	_, a, err := wantedOf(t, "taps: [{id: 1, name: a, key-file: f}, {id: 2, public-key: "+goodPublicKey+"}]")
	_, b, err2 := wantedOf(t, "", "--tap", "1 name=a key-file=f", "--tap", "2 public-key="+goodPublicKey)
	if err != nil || err2 != nil || !reflect.DeepEqual(a, b) || len(a) != 2 {
		t.Errorf("%v, %v\n%+v\n%+v", err, err2, a, b)
	}
	c := newCollector()
	for name := range collectorSettings() {
		if c.Flags().Lookup(name) == nil {
			t.Errorf("there is no flag --%s", name)
		}
	}
}

const goodPublicKey = "GZq0QZyjF6zJ2CMpW1L1ZcVYY+vQcw/ysI4TT2hDKgE="

// Taps of --tap are known to outputs of the file, by their names, too, and to
// --vni and --select. An ID or a name that is not among them is a mistake
// everywhere.
func TestConfigKnownTaps(t *testing.T) {
	outs, _, err := wantedOf(t, "taps: [{id: 7, name: berlin, key-file: f}]\noutputs:\n- interface: a\n  taps: [rome, berlin]\n- vxlan: 192.0.2.9\n  vni: {rome: 9}",
		"--tap", "8 name=rome", "--vxlan", "192.0.2.1", "--vni", "rome=1001,berlin=1002,tap", "--tap", "7 public-key="+goodPublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got := outs.TAPs[0].Select.Taps.String(); got != "7-8" {
		t.Errorf("taps %s", got)
	}
	if vni, err := outs.VXLAN[1].VNI.Of(8); vni != 1001 || err != nil {
		t.Errorf("%d, %v", vni, err)
	}
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{"outputs:\n- interface: a\n  taps: 9", []string{"--tap", "8"}, "tap 9 is not among taps:"},
		{"outputs:\n- vxlan: h\n  vni: {9: 1}", []string{"--tap", "8"}, "tap 9 is not among taps:"},
		{"", []string{"--tap", "8", "--select", "ntap0 taps=9"}, "tap 9 is not among taps:"},
		{"taps: [{id: 8}]", []string{"--select", "ntap0 taps=1-5,9"}, "tap 9 is not among taps:"},
		{"taps: [{id: 8}]", []string{"--set", "ntap0 taps=9"}, "tap 9 is not among taps:"},
		{"taps: [{id: 8}]", []string{"--vxlan", "h", "--vni", "9=1"}, "--vni: tap 9 is not among taps:"},
		{"", []string{"--vxlan", "h", "--vni", "rome=1"}, `--vni: unknown tap "rome"`},
		{"", []string{"--set", "ntap0 ioslate=true"}, "is it isolate?"},
		{"", []string{"--set", "ntap0 isolate=1"}, "want true or false"},
		{"", []string{"--set", "ntap0 isolate=true isolate=false"}, "each field once"},
		{"", []string{"--set", "ntap0"}, "nothing is set"},
		{"", []string{"--select", ""}, `there is no output ""`},
		{"", []string{"--set", "ntap1 isolate=true"}, `there is no output "ntap1"`},
		{"", []string{"--set", "ntap0 filter=tcp prot 80"}, "did you mean port or proto?"},
		{"", []string{"-w", "x", "--set", "x rotate-keep=3"}, "a file never ends"},
		{"", []string{"--pcap-over-ip", "0.0.0.0:1"}, "frames in clear go to this machine only"},
		{"", []string{"--pcap-over-ip", "0.0.0.0:1", "--set", "0.0.0.0:1 tls.cert=a"}, "go together"},
	} {
		if _, _, err := wantedOf(t, c.file, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n%q: %v; want %q", c.file, c.args, err, c.want)
		}
	}
}

// --check-config says all that is wrong with the files that a configuration
// names, each with its line, as a start does; it used to say nothing of them.
func TestConfigFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(`port: 5678
cpus: banana
key-file: DIR/no.key
key-pair: DIR/no.pair
allow: DIR/no.list
state: DIR/none/state
taps:
- id: 7
  key-file: DIR/no7.key
outputs:
- pcap-over-ip: 0.0.0.0:57013
  tls: {cert: DIR/no.pem, key: DIR/no.pem, client-ca: DIR/no.pem}
- write: x
  snaplen: -1
`, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		root := newRoot()
		root.SetArgs(append([]string{"collector"}, args...))
		root.SetOut(new(strings.Builder))
		root.SetErr(new(strings.Builder))
		err := root.Execute()
		if err == nil {
			t.Fatalf("%q: found good", args)
		}
		return err.Error()
	}
	text := run("--check-config", path)
	for line, want := range map[string]string{"2": `cpus: "banana"`, "3": "key-file: ", "4": "key-pair: ", "5": "allow: ", "6": "state: ", "8": "taps: tap 7: ", "12": "TLS: certificate", "14": "snaplen"} {
		if !strings.Contains(text, path+":"+line+": ") || !strings.Contains(text, want) {
			t.Errorf("line %s: want %q:\n%s", line, want, text)
		}
	}
	if text := run("--config", path); !strings.Contains(text, path+":3: key-file") || strings.Contains(text, path+":12:") {
		t.Errorf("at the start certificates are the output's matter, keys are not:\n%s", text)
	}
	if text := run("--check-config", path, "--key-file", filepath.Join(dir, "other")); strings.Contains(text, path+":3:") {
		t.Errorf("the file's key file is not used, and looked at all the same:\n%s", text)
	}
	// What flags say is looked at, too.
	empty := filepath.Join(dir, "e.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if text := run("--check-config", empty, "--cpus", "banana", "--key-file", filepath.Join(dir, "other")); !strings.Contains(text, "banana") || !strings.Contains(text, "other") {
		t.Errorf("%s", text)
	}
}
