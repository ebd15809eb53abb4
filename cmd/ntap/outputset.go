// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ntap-project/ntap/collector"
)

// A target is an output that --select and --set may be about.
type target struct {
	kind, name, other string // other is its name, too
	takes             *collector.Selection
	member            bool // of a group, which selects for it
	fields            func(o *outputReader, what string) fieldsOf
}

// is says that word means the output.
func (t *target) is(word string) bool {
	return word != "" && (word == t.kind || word == t.name || word == t.other)
}

// about splits what --select or --set says into the output, whose name may have
// blanks in it, and the rest.
func about(all []target, text string) (word, rest string) {
	text = strings.TrimSpace(text)
	word, rest, _ = strings.Cut(text, " ")
	for _, t := range all {
		for _, name := range []string{t.name, t.other} {
			if behind, ok := strings.CutPrefix(text, name); ok && len(name) > len(word) && (behind == "" || behind[0] == ' ') {
				word, rest = name, behind
			}
		}
	}
	return word, strings.TrimSpace(rest)
}

// targets returns all outputs.
func targets(outs *collector.Outputs) (all []target) {
	for i := range outs.TAPs {
		t := &outs.TAPs[i]
		all = append(all, target{kind: "interface", name: t.Name, takes: &t.Select, fields: func(o *outputReader, what string) fieldsOf { return o.ofTAP(what, t) }})
	}
	for i := range outs.Files {
		f := &outs.Files[i]
		all = append(all, target{kind: "write", name: f.Path, takes: &f.Select, fields: func(o *outputReader, what string) fieldsOf { return o.ofFile(what, f) }})
	}
	for i := range outs.VXLAN {
		v := &outs.VXLAN[i]
		all = append(all, target{kind: "vxlan", name: v.To, other: addressOf(v.To), takes: &v.Select, fields: func(o *outputReader, what string) fieldsOf { return o.ofVXLAN(what, v) }})
	}
	for i := range outs.Serve {
		s := &outs.Serve[i]
		_, port, _ := strings.Cut(s.Addr, "127.0.0.1:")
		all = append(all, target{kind: "pcap-over-ip", name: s.Addr, other: port, takes: &s.Select, fields: func(o *outputReader, what string) fieldsOf { return o.ofServe(what, s) }})
	}
	for i := range outs.Balance {
		b := &outs.Balance[i]
		all = append(all, target{kind: "balance", name: b.Name, takes: &b.Select, fields: func(*outputReader, string) fieldsOf { return fieldsOf{} }})
		for _, m := range targets(&b.Over) {
			m.member = true
			all = append(all, m)
		}
	}
	return all
}

// change gives outputs what --set says of them, in the words of the file.
func (o *outputFlags) change(outs *collector.Outputs, file *configFile) error {
	all := targets(outs)
	for _, text := range o.sets {
		word, rest := about(all, text)
		n, err := setNode(rest)
		if err != nil {
			return usagef("--set %q: %w", text, err)
		}
		found := false
		for _, t := range all {
			if !t.is(word) {
				continue
			}
			found = true
			r := &outputReader{configReader: new(configReader), file: file}
			known := map[string]field{}
			if !t.member {
				known = r.selection(t.kind, t.takes)
			}
			r.all(n, t.kind, known, t.fields(r, t.kind))
			if err := r.err(); err != nil {
				return usagef("--set %q: %w", text, err)
			}
		}
		if !found {
			return usagef("--set %q: there is no output %q; want interface, write, vxlan, pcap-over-ip, balance, or the name, file or address of one", text, word)
		}
	}
	return nil
}

// setNode reads words FIELD=VALUE, and filter= with all that follows, as the
// fields that they would be in a file; GROUP.FIELD is one under GROUP.
func setNode(text string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	seen := map[string]bool{}
	for rest := strings.TrimSpace(text); rest != ""; {
		var word string
		if strings.HasPrefix(rest, "filter=") {
			word, rest = rest, ""
		} else {
			word, rest, _ = strings.Cut(rest, " ")
			rest = strings.TrimLeft(rest, " ")
		}
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" || seen[key] {
			return nil, usagef("%q: want words FIELD=VALUE, each field once, as the configuration file has them, and at the end filter=FILTER", word)
		}
		seen[key] = true
		in := n
		if group, name, under := strings.Cut(key, "."); under {
			in, key = fieldsUnder(n, group), name
		}
		in.Content = append(in.Content, scalar(key), scalar(value))
	}
	if len(n.Content) == 0 {
		return nil, usagef("nothing is set: want words FIELD=VALUE, as the configuration file has them")
	}
	return n, nil
}

// fieldsUnder returns the fields under name, which may be new.
func fieldsUnder(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name && n.Content[i+1].Kind == yaml.MappingNode {
			return n.Content[i+1]
		}
	}
	in := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	n.Content = append(n.Content, scalar(name), in)
	return in
}

func scalar(value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	if value == "true" || value == "false" {
		n.Tag = "!!bool"
	}
	return n
}

// setsTLS says that --set gives the server at addr its certificates.
func (o *outputFlags) setsTLS(addr string) bool {
	s := collector.Outputs{Serve: []collector.Serve{{Addr: addr}}}
	t := targets(&s)[0]
	return slices.ContainsFunc(o.sets, func(text string) bool {
		word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		return t.is(word) && strings.Contains(" "+rest, " tls.")
	})
}
