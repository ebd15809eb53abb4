// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
)

// Chosen, beyond what the packages below refuse.
const (
	maxTaps    = 65536 // as many as the state file has
	maxOutputs = 256
	maxClients = 4096

	serveBuffer  = 8 << 20 // bytes that wait for a slow client, if nothing else is said
	serveClients = 64      // programs at once, if nothing else is said
	vxlanPorts   = 16      // source ports, if nothing else is said
)

// A configFile is what a collector's configuration file says.
type configFile struct {
	path     string
	settings map[string]setting // flags by their long names
	taps     []configTap
	outputs  collector.Outputs
	given    bool // outputs are in the file
	empty    bool // nothing is in the file
	tls      []configTLS
}

// A configTLS is what an output has under tls.
type configTLS struct {
	files collector.TLSFiles
	what  string
	line  int
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
	f, err := r.config(text, flags, routes, nil)
	return f, errors.Join(err, r.err())
}

// config reads the text of a configuration file, and notes what is wrong with
// it. more, if not nil, adds those that flags give, before outputs call them by
// their names.
func (r *configReader) config(text []byte, flags map[string]settable, routes bool, more func(*configFile) error) (*configFile, error) {
	f := &configFile{path: r.path, settings: make(map[string]setting)}
	root := r.parse(text)
	if root == nil {
		root = &yaml.Node{Kind: yaml.MappingNode}
	}
	f.empty = len(root.Content) == 0
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
	if more != nil {
		if err := more(f); err != nil {
			return f, err
		}
	}
	if outputs != nil {
		o := outputReader{configReader: r, file: f, lines: make(map[string]int)}
		r.each(outputs, "outputs", maxOutputs, func(v *yaml.Node) { o.read(v, &f.outputs, nil) })
		f.given = true
	}
	return f, nil
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
				r.fail(v, "taps: name %q: want a word that begins with a letter, without commas, blanks and =, and neither all nor others", t.name)
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
// A tap alone has to be one of those that are known, if any are.
func (f *configFile) tapSet(words []string) (collector.TapSet, error) {
	if len(words) == 1 && words[0] == "all" {
		return nil, nil
	}
	ids := make([]string, len(words))
	for i, w := range words {
		ids[i] = w
		if w == "" || w[0] >= '0' && w[0] <= '9' {
			if id, err := strconv.ParseUint(w, 10, 32); err == nil && len(f.taps) > 0 && !f.has(uint32(id)) {
				return nil, fmt.Errorf("tap %s is not among taps:; add it there, as in - id: %s, or by --tap %s", w, w, w)
			}
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

// has says that a tap is known.
func (f *configFile) has(id uint32) bool {
	return slices.ContainsFunc(f.taps, func(t configTap) bool { return t.id == id })
}

// one returns the ID of a tap, given by that or by its name.
func (f *configFile) one(word string) (uint32, error) {
	set, err := f.tapSet([]string{word})
	if err == nil && (len(set) != 1 || set[0].First != set[0].Last) {
		err = fmt.Errorf("%q is not one tap", clipText(word))
	}
	if err != nil {
		return 0, err
	}
	return set[0].First, nil
}

// vnis is collector.ParseVNI, in which taps may be called by their names.
func (f *configFile) vnis(text string) (collector.VNIs, error) {
	words := strings.Split(text, ",")
	for i, word := range words {
		if tap, to, single := strings.Cut(strings.TrimSpace(word), "="); single {
			id, err := f.one(tap)
			if err != nil {
				return collector.VNIs{}, err
			}
			words[i] = fmt.Sprintf("%d=%s", id, to)
		}
	}
	return collector.ParseVNI(strings.Join(words, ","))
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

// sorted returns the settings by name.
func (f *configFile) sorted() []string { return slices.Sorted(maps.Keys(f.settings)) }
