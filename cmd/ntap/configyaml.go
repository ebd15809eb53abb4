// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfig bounds a configuration file, bytes. Chosen.
const maxConfig = 1 << 20

// A configReader reads a configuration file, and notes all that is wrong with
// it, each with its line.
type configReader struct {
	path string
	errs []lineError
}

type lineError struct {
	line int
	text string
}

// fail notes what is wrong at n.
func (r *configReader) fail(n *yaml.Node, format string, args ...any) {
	r.at(n.Line, format, args...)
}

func (r *configReader) at(line int, format string, args ...any) {
	r.errs = append(r.errs, lineError{line, fmt.Sprintf(format, args...)})
}

// check notes err, if there is one, at a line.
func (r *configReader) check(line int, err error) {
	if err != nil {
		for text := range strings.Lines(err.Error()) {
			r.at(line, "%s", strings.TrimSpace(text))
		}
	}
}

// err returns all that was noted, by line.
func (r *configReader) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b lineError) int { return cmp.Compare(a.line, b.line) })
	var all []error
	for _, e := range r.errs {
		if e.line == 0 { // of a flag
			all = append(all, errors.New(e.text))
			continue
		}
		all = append(all, fmt.Errorf("%s:%d: %s", r.path, e.line, e.text))
	}
	if len(all) > 1 && r.path != "" {
		all = append([]error{fmt.Errorf("%s: %d errors", r.path, len(all))}, all...)
	}
	return usageError{errors.Join(all...)}
}

// readConfig returns the text of a configuration file.
func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; docs/CONFIG.md says what is in such a file", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("configuration: %s: more than %d bytes", path, maxConfig)
	}
	return text, nil
}

// parse returns the mapping that the text is; nil if there is nothing in it, or
// if it is none, which is noted.
func (r *configReader) parse(text []byte) *yaml.Node {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
		if rest, ok := strings.CutPrefix(text, "line "); ok {
			number, what, _ := strings.Cut(rest, ": ")
			if n, err := strconv.Atoi(number); err == nil {
				line, text = n, what
			}
		}
		r.at(line, "no YAML: %s", text)
		return nil
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		r.at(max(more.Line, 1), "a second document: a configuration is one")
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil
	}
	return doc.Content[0]
}

// A field reads the value of one field.
type field func(v *yaml.Node)

// fields reads a mapping. A field that is not known, or comes twice, is noted.
func (r *configReader) fields(n *yaml.Node, what string, known map[string]field) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s: want fields, as in %s: …, not %s", what, first(known), kindOf(n))
		return
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		read, ok := known[k.Value]
		switch {
		case k.Kind != yaml.ScalarNode:
			r.fail(k, "%s: the name of a field is a word, not %s", what, kindOf(k))
		case !ok:
			r.fail(k, "%s: unknown field %q%s", what, clipText(k.Value), suggest(k.Value, known))
		case lines[k.Value] != 0:
			r.fail(k, "%s: %s comes twice, first in line %d; keep one", what, k.Value, lines[k.Value])
		default:
			read(v)
		}
		lines[k.Value] = cmp.Or(lines[k.Value], k.Line)
	}
}

func first(known map[string]field) string { return slices.Sorted(keysOf(known))[0] }

func keysOf(m map[string]field) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// suggest says which field was meant, or which there are.
func suggest(word string, known map[string]field) string {
	names := slices.Sorted(keysOf(known))
	if best := nearest(word, names); best != "" {
		return "; is it " + best + "?"
	}
	return "; there are " + strings.Join(names, ", ")
}

// nearest returns the name that was meant by a word; "": none of these.
func nearest(word string, names []string) (best string) {
	least := min(3, max(len(word), 1)) // of a word of which nothing is left, none was meant
	for _, name := range names {
		if d := distance(strings.ToLower(word), name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is the number of letters to change, add or leave out to make a word
// of another (V. Levenshtein, 1966); 99 for long ones.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 99
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// each calls f for the items of a list.
func (r *configReader) each(n *yaml.Node, what string, most int, f func(v *yaml.Node)) {
	switch {
	case n.Tag == "!!null":
		return
	case n.Kind != yaml.SequenceNode:
		r.fail(n, "%s: want a list, each item behind a dash, not %s", what, kindOf(n))
	case len(n.Content) > most:
		r.fail(n, "%s: %d items: at most %d", what, len(n.Content), most)
	default:
		for _, v := range n.Content {
			f(v)
		}
	}
}

// text returns the text of a scalar. "": it is none, or empty, which is noted.
func (r *configReader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		r.fail(n, "%s: want one value, not %s", what, kindOf(n))
		return ""
	}
	return n.Value
}

// number returns a whole number.
func (r *configReader) number(n *yaml.Node, what string, least, most int) int {
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < least || v > most {
		r.fail(n, "%s: want a number from %d to %d, not %s", what, least, most, kindOf(n))
		return least
	}
	return v
}

// bytes is number, of bytes, where k, m and g may stand behind it.
func (r *configReader) bytes(n *yaml.Node, what string, least, most int) int {
	v, err := parseBytes(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < least || v > most {
		r.fail(n, "%s: want a number of bytes from %d to %d, or as in 64m, not %s", what, least, most, kindOf(n))
		return least
	}
	return v
}

// boolean returns true or false.
func (r *configReader) boolean(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
		r.fail(n, "%s: want true or false, not %s", what, kindOf(n))
	}
	return n.Value == "true"
}

// kindOf says what stands there.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "*" + clipText(n.Value) + ": aliases are not used here, write it out"
	}
	if n.Tag == "!!null" || n.Value == "" {
		return "nothing"
	}
	return strconv.Quote(clipText(n.Value))
}

func clipText(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
