// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// Chosen, beyond what the packages below refuse.
const (
	maxTaps    = 65536 // as many as the state file has
	maxOutputs = 256
	maxClients = 4096
)

// A configFile is what a collector's configuration file says.
type configFile struct {
	path     string
	settings map[string]setting // flags by their long names
	taps     []configTap
	outputs  collector.Outputs
	given    bool // outputs are in the file
}

// A setting is what the file says in the place of a flag.
type setting struct {
	values []string // one, or a list where the flag may be given again
	line   int
}

// A configTap is a tap that is known.
type configTap struct {
	id        uint32
	name      string
	keyFile   string // its own keys, in place of that which the master key gives it
	publicKey string // of its remote, in public-key mode
	line      int
}

// parseConfig reads the text of a configuration file: all of it, or all that is
// wrong with it. flags are those that it may set; routes says that it has taps and
// outputs, too.
func parseConfig(path string, text []byte, flags map[string]settable, routes bool) (*configFile, error) {
	r := &configReader{path: path}
	f := &configFile{path: path, settings: make(map[string]setting)}
	root := r.parse(text)
	if root == nil {
		return f, r.err()
	}
	var taps, outputs *yaml.Node
	known := map[string]field{}
	if routes {
		known["taps"], known["outputs"] = func(v *yaml.Node) { taps = v }, func(v *yaml.Node) { outputs = v }
	}
	for name, flag := range flags {
		known[name] = func(v *yaml.Node) {
			given := setting{line: v.Line}
			one := func(v *yaml.Node) {
				text := r.text(v, name)
				if err := flag.wrong(text); text != "" && err != nil {
					r.fail(v, "%s: %s: %v", name, kindOf(v), err)
				}
				given.values = append(given.values, text)
			}
			if flag.list && v.Kind == yaml.SequenceNode {
				r.each(v, name, maxOutputs, one)
			} else {
				one(v)
			}
			f.settings[name] = given
		}
	}
	r.fields(root, "configuration", known)
	if taps != nil {
		r.each(taps, "taps", maxTaps, func(v *yaml.Node) { f.tap(r, v) })
	}
	if outputs != nil {
		o := outputReader{configReader: r, file: f, lines: make(map[string]int)}
		r.each(outputs, "outputs", maxOutputs, func(v *yaml.Node) { o.read(v, &f.outputs, nil) })
		f.given = true
	}
	return f, r.err()
}

// tap reads one item of taps.
func (f *configFile) tap(r *configReader, n *yaml.Node) {
	t := configTap{line: n.Line}
	id := int64(-1)
	r.fields(n, "taps", map[string]field{
		"id": func(v *yaml.Node) {
			u, err := strconv.ParseUint(v.Value, 10, 32)
			if id = int64(u); err != nil {
				r.fail(v, "taps: id: want a tap ID, 0 to %d, not %s", uint32(1<<32-1), kindOf(v))
			}
		},
		"name": func(v *yaml.Node) {
			t.name = r.text(v, "taps: name")
			if t.name != "" && !goodName(t.name) {
				r.fail(v, "taps: name %q: want a word that begins with a letter, without commas, blanks and =, and not all", t.name)
			}
		},
		"key-file": func(v *yaml.Node) { t.keyFile = r.text(v, "taps: key-file") },
		"public-key": func(v *yaml.Node) {
			t.publicKey = r.text(v, "taps: public-key")
			if _, err := crypto.ParsePublicKey(t.publicKey); err != nil && t.publicKey != "" {
				r.fail(v, "taps: public-key: %v; want what ntap key identity printed last", err)
			}
		},
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	if t.keyFile != "" && t.publicKey != "" {
		r.fail(n, "taps: a key-file and a public-key: a tap has one of them")
	}
	if id < 0 {
		r.fail(n, "taps: a tap without an id: give it that of its remote (ntap remote --tap), as in id: 7")
		return
	}
	t.id = uint32(id)
	for _, other := range f.taps {
		if other.id == t.id {
			r.fail(n, "taps: tap %d comes twice, first in line %d", t.id, other.line)
		}
		if t.name != "" && other.name == t.name {
			r.fail(n, "taps: the name %s is that of tap %d in line %d", t.name, other.id, other.line)
		}
	}
	f.taps = append(f.taps, t)
}

// named returns the ID of a tap by its name.
func (f *configFile) named(name string) (uint32, bool) {
	for _, t := range f.taps {
		if t.name == name {
			return t.id, true
		}
	}
	return 0, false
}

// tapSet reads a list of IDs, ranges and names: the taps of an output. nil: all.
func (f *configFile) tapSet(words []string) (collector.TapSet, error) {
	if len(words) == 1 && words[0] == "all" {
		return nil, nil
	}
	ids := make([]string, len(words))
	for i, w := range words {
		ids[i] = w
		if w == "" || w[0] >= '0' && w[0] <= '9' {
			continue
		}
		id, ok := f.named(w)
		if !ok {
			return nil, fmt.Errorf("unknown tap %q; %s", clipText(w), f.known())
		}
		ids[i] = strconv.FormatUint(uint64(id), 10)
	}
	return collector.ParseTapSet(strings.Join(ids, ","))
}

// byID returns a selection in which taps are called by their IDs.
func (f *configFile) byID(text string) (string, error) {
	head, _, _ := strings.Cut(text, "filter=")
	words := strings.Fields(head)
	for i, word := range words {
		list, ok := strings.CutPrefix(word, "taps=")
		if !ok {
			continue
		}
		set, err := f.tapSet(strings.Split(list, ","))
		if err != nil {
			return "", err
		}
		if words[i] = "taps=" + set.String(); set == nil {
			words[i] = ""
		}
	}
	if rest := text[len(head):]; rest != "" {
		words = append(words, rest)
	}
	return strings.TrimSpace(strings.Join(words, " ")), nil
}

// known says which taps have a name.
func (f *configFile) known() string {
	var names []string
	for _, t := range f.taps {
		if t.name != "" && len(names) < 20 {
			names = append(names, t.name)
		}
	}
	if names == nil {
		return "no tap has a name here: give IDs, or names under taps:"
	}
	return "those with a name are " + strings.Join(names, ", ")
}

// An outputReader reads outputs.
type outputReader struct {
	*configReader
	file  *configFile
	lines map[string]int // of outputs by their names
}

// outputKinds are the fields that say what an output is.
var outputKinds = []string{"interface", "write", "vxlan", "pcap-over-ip", "balance"}

// read reads one item of outputs into all; or, of a group's outputs, which is
// of the kind of the others.
func (o *outputReader) read(n *yaml.Node, all *collector.Outputs, group *yaml.Node) {
	what := "outputs"
	if group != nil {
		what = "over"
	}
	var kind, target *yaml.Node
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; slices.Contains(outputKinds, k.Value) && (group == nil || k.Value != "balance") {
			if kind != nil && kind.Value != k.Value {
				o.fail(k, "%s: an output is one thing: %s in line %d, or %s; give each an item of its own, behind a dash", what, kind.Value, kind.Line, k.Value)
				return
			}
			kind, target = k, n.Content[i+1]
		}
	}
	if n.Kind != yaml.MappingNode || kind == nil {
		o.fail(n, "%s: want an output, which begins with one of %s, as in interface: ntap0; not %s", what, strings.Join(outputKinds, ", "), kindOf(n))
		return
	}
	what += ": " + kind.Value
	known := map[string]field{kind.Value: func(*yaml.Node) {}}
	var by collector.Selection
	if group == nil {
		by = o.selection(n, what, known)
	}
	name := ""
	if kind.Value != "pcap-over-ip" || target.Kind == yaml.ScalarNode {
		name = o.text(target, what)
	}
	var check error
	switch kind.Value {
	case "interface":
		t := collector.TAP{Name: name, Isolate: true}
		known["isolate"] = func(v *yaml.Node) { t.Isolate = o.boolean(v, what+": isolate") }
		known["persist"] = func(v *yaml.Node) { t.Persist = o.boolean(v, what+": persist") }
		known["netns"] = func(v *yaml.Node) { t.NetNS = o.text(v, what+": netns") }
		o.fields(n, what, known)
		check = t.Check()
		t.Select = by
		all.TAPs = append(all.TAPs, t)
	case "write":
		var direct bool
		known["direct"] = func(v *yaml.Node) { direct = o.boolean(v, what+": direct") }
		f := collector.File{Path: name, Rotate: o.rotation(what, n, known)}
		f.Direct = direct
		check = f.Check()
		f.Select = by
		all.Files = append(all.Files, f)
	case "vxlan":
		v := o.vxlan(what, name, n, known)
		check = v.Check()
		v.Select = by
		all.VXLAN = append(all.VXLAN, v)
		name = cmp.Or(addressOf(name), name)
	case "pcap-over-ip":
		s := o.serve(what, name, n, known)
		if s.Addr != "" {
			check = s.Check()
		}
		s.Select = by
		all.Serve = append(all.Serve, s)
		if name = s.Addr; strings.HasSuffix(name, ":0") {
			name = "" // as many as one likes
		}
	case "balance":
		all.Balance = append(all.Balance, o.balance(what, name, by, n, known))
	}
	if name == "" {
		return
	}
	o.check(target.Line, check)
	if line := o.lines[kind.Value+name]; line != 0 {
		o.fail(kind, "%s %s is given twice, first in line %d", what, name, line)
	}
	o.lines[kind.Value+name] = kind.Line
}

func addressOf(to string) string {
	a, err := proto.VXLANAddress(to)
	if err != nil {
		return ""
	}
	return a
}

// selection reads what an output takes, and adds those fields to known.
func (o *outputReader) selection(n *yaml.Node, what string, known map[string]field) (s collector.Selection) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		v := n.Content[i+1]
		switch n.Content[i].Value {
		case "taps":
			s.Taps = o.tapList(v, what)
		case "snaplen":
			s.SnapLen = o.number(v, what+": snaplen", 0, proto.MaxFrame)
		case "filter":
			s.Filter = o.text(v, what+": filter")
			o.check(v.Line, collector.Selection{Filter: s.Filter}.Check())
		}
	}
	for _, name := range []string{"taps", "snaplen", "filter"} {
		known[name] = func(*yaml.Node) {}
	}
	return s
}

// tapList reads the taps of an output. Only of those that taps: names, if it
// does.
func (o *outputReader) tapList(n *yaml.Node, what string) (set collector.TapSet) {
	what += ": taps"
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		if items = n.Content; len(items) == 0 || len(items) > maxTaps {
			o.fail(n, "%s: an empty list, or one of more than %d: want taps, or leave the field out for all", what, maxTaps)
			return nil
		}
	}
	var words []string
	for _, v := range items {
		text := o.text(v, what)
		if text == "" {
			return nil
		}
		for word := range strings.SplitSeq(text, ",") {
			word = strings.TrimSpace(word)
			one, err := o.file.tapSet([]string{word})
			if err != nil {
				o.fail(v, "%s: %v", what, err)
			} else if len(o.file.taps) > 0 && len(one) == 1 && one[0].First == one[0].Last &&
				!slices.ContainsFunc(o.file.taps, func(t configTap) bool { return t.id == one[0].First }) {
				o.fail(v, "%s: tap %s is not among taps:; add it there, as in - id: %s", what, word, word)
			}
			words = append(words, word)
		}
	}
	if len(words) > 1 && slices.Contains(words, "all") {
		o.fail(n, "%s: all, and others besides: all are all", what)
	}
	set, _ = o.file.tapSet(words)
	return set
}

func (o *outputReader) rotation(what string, n *yaml.Node, known map[string]field) collector.Rotation {
	var flags outputFlags
	known["rotate-size"] = func(v *yaml.Node) { flags.size = o.text(v, what+": rotate-size") }
	known["rotate-seconds"] = func(v *yaml.Node) { flags.every = o.number(v, what+": rotate-seconds", 0, maxRotate) }
	known["rotate-keep"] = func(v *yaml.Node) { flags.keep = o.number(v, what+": rotate-keep", 0, maxKeep) }
	o.fields(n, what, known)
	roll, err := flags.rotation()
	if err != nil {
		o.fail(n, "%s: %v", what, err)
	}
	return roll
}

func (o *outputReader) vxlan(what, to string, n *yaml.Node, known map[string]field) collector.VXLAN {
	v := collector.VXLAN{To: to, Ports: 16}
	known["vni"] = func(n *yaml.Node) {
		text := o.vni(n, what+": vni")
		if text == "" {
			return
		}
		var err error
		if v.VNI, err = collector.ParseVNI(text); err != nil {
			o.fail(n, "%s: vni: %v", what, err)
		}
	}
	known["oversize"] = func(n *yaml.Node) {
		var err error
		if v.Oversize, err = proto.ParseOversize(n.Value); err != nil {
			o.fail(n, "%s: oversize: %v", what, err)
		}
	}
	known["mtu"] = func(n *yaml.Node) { v.MTU = o.number(n, what+": mtu", 576, 65535) }
	known["ports"] = func(n *yaml.Node) { v.Ports = o.number(n, what+": ports", 1, batch.MaxPorts) }
	o.fields(n, what, known)
	if v.Oversize == proto.OversizeFragment && v.MTU != 0 {
		o.fail(n, "%s: mtu and oversize: fragment exclude each other: fragments are made for the route's MTU (ip route change … mtu N)", what)
	}
	return v
}

// vni reads VNIs as ParseVNI does, or as fields: each a tap or others.
func (o *outputReader) vni(n *yaml.Node, what string) string {
	if n.Kind != yaml.MappingNode {
		return o.text(n, what)
	}
	var rules []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Value == "others" {
			rules = append(rules, v.Value)
			continue
		}
		set, err := o.file.tapSet([]string{k.Value})
		if err != nil || len(set) != 1 || set[0].First != set[0].Last {
			o.fail(k, "%s: %s is no tap, as in 7: 1001, and not others", what, kindOf(k))
			return ""
		}
		if number, err := strconv.ParseUint(v.Value, 10, 32); err != nil || number > proto.MaxVNI {
			o.fail(v, "%s: %s is no VNI: 0 to %d, 24 bits", what, kindOf(v), proto.MaxVNI)
			return ""
		}
		rules = append(rules, fmt.Sprintf("%d=%s", set[0].First, v.Value))
	}
	return strings.Join(rules, ",")
}

func (o *outputReader) serve(what, addr string, n *yaml.Node, known map[string]field) collector.Serve {
	s := collector.Serve{Queue: 8 << 20}
	loopback := false
	if addr != "" {
		if s.Addr, loopback = serveAddress(addr); s.Addr == "" {
			o.fail(n, "%s: %q: want [HOST:]PORT, as in %d, 192.0.2.1:%d or [::1]:%d", what, clipText(addr), collector.ServePort, collector.ServePort, collector.ServePort)
		}
	}
	known["format"] = func(v *yaml.Node) {
		if s.Pcap = v.Value == "pcap"; !s.Pcap && v.Value != "pcapng" {
			o.fail(v, "%s: format: pcap or pcapng, not %s", what, kindOf(v))
		}
	}
	known["clients"] = func(v *yaml.Node) { s.Clients = o.number(v, what+": clients", 1, maxClients) }
	known["buffer"] = func(v *yaml.Node) { s.Queue = o.number(v, what+": buffer", 1<<20, maxMemory) }
	known["tls"] = func(v *yaml.Node) {
		s.TLS = new(collector.TLSFiles)
		set := func(to *string, name string) field {
			return func(v *yaml.Node) { *to = o.text(v, what+": tls: "+name) }
		}
		o.fields(v, what+": tls", map[string]field{
			"cert": set(&s.TLS.Cert, "cert"), "key": set(&s.TLS.Key, "key"), "client-ca": set(&s.TLS.ClientCA, "client-ca"),
		})
		if s.TLS.Cert == "" || s.TLS.Key == "" || s.TLS.ClientCA == "" {
			o.fail(v, "%s: tls: cert, key and client-ca go together: clients prove who they are, too", what)
		}
	}
	o.fields(n, what, known)
	if s.Addr != "" && !loopback && s.TLS == nil {
		o.fail(n, "%s: frames in clear go to this machine only: give tls: with cert, key and client-ca, or listen on 127.0.0.1", what)
		s.Addr = ""
	}
	return s
}

func (o *outputReader) balance(what, name string, by collector.Selection, n *yaml.Node, known map[string]field) collector.Balance {
	b := collector.Balance{Name: name, Select: by}
	var over *yaml.Node
	known["over"] = func(v *yaml.Node) { over = v }
	o.fields(n, what, known)
	if over == nil {
		o.fail(n, "%s: no outputs: give them under over:, two or more of one kind", what)
		return b
	}
	before := len(o.errs)
	o.each(over, what+": over", collector.MaxBalanced, func(v *yaml.Node) { o.read(v, &b.Over, over) })
	if len(o.errs) == before {
		o.check(over.Line, b.Check())
	}
	return b
}

// Chosen.
const (
	maxRotate = 366 * 24 * 3600 // seconds
	maxKeep   = 1e6             // files
)

// sorted returns the settings by name.
func (f *configFile) sorted() []string { return slices.Sorted(maps.Keys(f.settings)) }
