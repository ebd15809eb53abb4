// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/proto"
)

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
	name := ""
	if kind.Value != "pcap-over-ip" || target.Kind == yaml.ScalarNode {
		name = o.text(target, what)
	}
	var by collector.Selection
	known := map[string]field{}
	if group == nil {
		known = o.selection(what, &by)
	}
	known[kind.Value] = func(*yaml.Node) {}
	var check error
	switch kind.Value {
	case "interface":
		t := collector.TAP{Name: name, Isolate: true}
		o.all(n, what, known, o.ofTAP(what, &t))
		check, t.Select = t.Check(), by
		all.TAPs = append(all.TAPs, t)
	case "write":
		f := collector.File{Path: name}
		o.all(n, what, known, o.ofFile(what, &f))
		check, f.Select = f.Check(), by
		all.Files = append(all.Files, f)
	case "vxlan":
		v := collector.VXLAN{To: name, Ports: vxlanPorts}
		o.all(n, what, known, o.ofVXLAN(what, &v))
		check, v.Select = v.Check(), by
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
		b := o.balance(what, name, n, known)
		b.Select = by
		all.Balance = append(all.Balance, b)
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

// fieldsOf are the fields of an output. done, if not nil, sees to what is wrong
// with them together.
type fieldsOf struct {
	known map[string]field
	done  func(n *yaml.Node)
}

// all reads the fields of an output, those that are known and more.
func (o *outputReader) all(n *yaml.Node, what string, known map[string]field, more fieldsOf) {
	maps.Copy(known, more.known)
	o.fields(n, what, known)
	if more.done != nil {
		more.done(n)
	}
}

// selection are the fields about what an output takes.
func (o *outputReader) selection(what string, s *collector.Selection) map[string]field {
	return map[string]field{
		"taps":    func(v *yaml.Node) { s.Taps = o.tapList(v, what) },
		"snaplen": func(v *yaml.Node) { s.SnapLen = o.number(v, what+": snaplen", 0, proto.MaxFrame) },
		"filter": func(v *yaml.Node) {
			s.Filter = o.text(v, what+": filter")
			o.check(v.Line, collector.Selection{Filter: s.Filter}.Check())
		},
	}
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
			if _, err := o.file.tapSet([]string{word}); err != nil {
				o.fail(v, "%s: %v", what, err)
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

func (o *outputReader) ofTAP(what string, t *collector.TAP) fieldsOf {
	return fieldsOf{known: map[string]field{
		"isolate": func(v *yaml.Node) { t.Isolate = o.boolean(v, what+": isolate") },
		"persist": func(v *yaml.Node) { t.Persist = o.boolean(v, what+": persist") },
		"netns":   func(v *yaml.Node) { t.NetNS = o.text(v, what+": netns") },
	}}
}

func (o *outputReader) ofFile(what string, f *collector.File) fieldsOf {
	flags := outputFlags{every: int(f.Rotate.Every / time.Second), keep: f.Rotate.Keep}
	was := f.Rotate.Size
	return fieldsOf{map[string]field{
		"rotate-size":    func(v *yaml.Node) { flags.size, was = o.text(v, what+": rotate-size"), 0 },
		"rotate-seconds": func(v *yaml.Node) { flags.every = o.number(v, what+": rotate-seconds", 0, maxRotate) },
		"rotate-keep":    func(v *yaml.Node) { flags.keep = o.number(v, what+": rotate-keep", 0, maxKeep) },
		"direct":         func(v *yaml.Node) { f.Direct = o.boolean(v, what+": direct") },
		"buffer":         func(v *yaml.Node) { f.Buffer = o.bytes(v, what+": buffer", 1<<20, maxMemory) },
	}, func(n *yaml.Node) {
		var err error
		if f.Rotate, err = flags.rotation(was, [3]string{"rotate-size", "rotate-seconds", "rotate-keep"}); err != nil {
			o.fail(n, "%s: %v", what, err)
			f.Rotate = collector.Rotation{} // it is said once
		}
	}}
}

func (o *outputReader) ofVXLAN(what string, v *collector.VXLAN) fieldsOf {
	return fieldsOf{map[string]field{
		"vni": func(n *yaml.Node) {
			text := o.vni(n, what+": vni")
			if text == "" {
				return
			}
			var err error
			if v.VNI, err = o.file.vnis(text); err != nil {
				o.fail(n, "%s: vni: %v", what, err)
			}
		},
		"oversize": func(n *yaml.Node) {
			var err error
			if v.Oversize, err = proto.ParseOversize(n.Value); err != nil {
				o.fail(n, "%s: oversize: %v", what, err)
			}
		},
		"mtu":   func(n *yaml.Node) { v.MTU = o.number(n, what+": mtu", 576, 65535) },
		"ports": func(n *yaml.Node) { v.Ports = o.number(n, what+": ports", 1, batch.MaxPorts) },
	}, func(n *yaml.Node) {
		if v.Oversize == proto.OversizeFragment && v.MTU != 0 {
			o.fail(n, "%s: mtu and oversize: fragment exclude each other: fragments are made for the route's MTU (ip route change … mtu N)", what)
		}
	}}
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
		id, err := o.file.one(k.Value)
		if err != nil {
			o.fail(k, "%s: %s is no tap, as in 7: 1001, and not others: %v", what, kindOf(k), err)
			return ""
		}
		if number, err := strconv.ParseUint(v.Value, 10, 32); err != nil || number > proto.MaxVNI {
			o.fail(v, "%s: %s is no VNI: 0 to %d, 24 bits", what, kindOf(v), proto.MaxVNI)
			return ""
		}
		rules = append(rules, fmt.Sprintf("%d=%s", id, v.Value))
	}
	return strings.Join(rules, ",")
}

func (o *outputReader) serve(what, addr string, n *yaml.Node, known map[string]field) collector.Serve {
	s := collector.Serve{Queue: serveBuffer, Clients: serveClients}
	loopback := false
	if addr != "" {
		if s.Addr, loopback = serveAddress(addr); s.Addr == "" {
			o.fail(n, "%s: %q: want [HOST:]PORT, as in %d, 192.0.2.1:%d or [::1]:%d", what, clipText(addr), collector.ServePort, collector.ServePort, collector.ServePort)
		}
	}
	o.all(n, what, known, o.ofServe(what, &s))
	if s.Addr != "" && !loopback && s.TLS == nil {
		o.fail(n, "%s: frames in clear go to this machine only: give tls: with cert, key and client-ca, or listen on 127.0.0.1", what)
		s.Addr = ""
	}
	return s
}

func (o *outputReader) ofServe(what string, s *collector.Serve) fieldsOf {
	return fieldsOf{known: map[string]field{
		"format": func(v *yaml.Node) {
			if s.Pcap = v.Value == "pcap"; !s.Pcap && v.Value != "pcapng" {
				o.fail(v, "%s: format: pcap or pcapng, not %s", what, kindOf(v))
			}
		},
		"clients": func(v *yaml.Node) { s.Clients = o.number(v, what+": clients", 1, maxClients) },
		"buffer":  func(v *yaml.Node) { s.Queue = o.bytes(v, what+": buffer", 1<<20, maxMemory) },
		"tls": func(v *yaml.Node) {
			var files collector.TLSFiles
			if s.TLS != nil {
				files = *s.TLS // of which flags say another part
			}
			s.TLS = &files
			o.fields(v, what+": tls", o.ofTLS(what, &files))
			if files.Cert == "" || files.Key == "" || files.ClientCA == "" {
				o.fail(v, "%s: tls: cert, key and client-ca go together: clients prove who they are, too", what)
				return
			}
			o.file.tls = append(o.file.tls, configTLS{files, what, v.Line})
		},
	}}
}

func (o *outputReader) ofTLS(what string, files *collector.TLSFiles) map[string]field {
	set := func(to *string, name string) field {
		return func(v *yaml.Node) { *to = o.text(v, what+": tls: "+name) }
	}
	return map[string]field{"cert": set(&files.Cert, "cert"), "key": set(&files.Key, "key"), "client-ca": set(&files.ClientCA, "client-ca")}
}

func (o *outputReader) balance(what, name string, n *yaml.Node, known map[string]field) collector.Balance {
	b := collector.Balance{Name: name}
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
