// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// An Error says what is wrong with an expression, and where.
type Error struct {
	Expression string
	Offset     int    // of the word that is wrong in Expression, bytes
	Length     int    // of that word, bytes; 0: the expression ends too early
	Text       string // what is wrong, and what would be right
}

// Line and column of the word, from 1; columns are characters.
func (e *Error) place() (line, column int) {
	before := e.Expression[:e.Offset]
	line = 1 + strings.Count(before, "\n")
	return line, 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
}

func (e *Error) Error() string {
	line, column := e.place()
	if strings.Contains(e.Expression, "\n") {
		return fmt.Sprintf("filter: line %d, column %d: %s", line, column, e.Text)
	}
	return fmt.Sprintf("filter: column %d: %s", column, e.Text)
}

// maxPointed is how much of a line Pointer shows before and after the word,
// bytes.
const maxPointed = 60

// Pointer returns the line of the expression and, below, a mark under the word
// that is wrong.
func (e *Error) Pointer() string {
	begin := strings.LastIndexByte(e.Expression[:e.Offset], '\n') + 1
	end := len(e.Expression)
	if i := strings.IndexByte(e.Expression[e.Offset:], '\n'); i >= 0 {
		end = e.Offset + i
	}
	word := e.Expression[e.Offset:min(e.Offset+e.Length, end)]
	before, after := e.Expression[begin:e.Offset], e.Expression[e.Offset+len(word):end]
	if len(before) > maxPointed {
		before = "…" + strings.ToValidUTF8(before[len(before)-maxPointed:], "")
	}
	if len(after) > maxPointed {
		after = strings.ToValidUTF8(after[:maxPointed], "") + "…"
	}
	clean := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7F {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(s, "?"))
	}
	before, word, after = clean(before), clean(word), clean(after)
	return before + word + after + "\n" +
		strings.Repeat(" ", utf8.RuneCountInString(before)) + strings.Repeat("^", max(1, utf8.RuneCountInString(word)))
}

// quoted is a word as messages show it.
func quoted(word string) string {
	if len(word) > 40 {
		word = strings.ToValidUTF8(word[:40], "") + "…"
	}
	return fmt.Sprintf("%q", word)
}

// maxDistance is how many letters may be wrong in a word for which another is
// proposed.
const maxDistance = 2

// nearest returns those of words that are most like word, or nothing.
func nearest(word string, words []string) []string {
	best := maxDistance + 1
	var found []string
	for _, w := range words {
		// Of a short word not all letters may be wrong.
		d := distance(strings.ToLower(word), w)
		if d > best || d >= len(w) || d >= len(word) && d > 0 {
			continue
		}
		if d < best {
			best, found = d, nil
		}
		if d <= maxDistance && !slices.Contains(found, w) {
			found = append(found, w)
		}
	}
	slices.SortFunc(found, cmp.Compare[string])
	return found[:min(len(found), 3)]
}

// distance is how many letters have to be put in, left out, changed or
// exchanged with the next to make a word of another; long words are 9 apart.
func distance(a, b string) int {
	const long = 9
	if len(a) > 40 || max(len(a)-len(b), len(b)-len(a)) > maxDistance {
		return long
	}
	var two, one, row [64]int
	for j := range len(b) + 1 {
		one[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			d := one[j]
			if a[i] != b[j] {
				d = 1 + min(one[j], one[j+1], row[j])
				if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
					d = min(d, 1+two[j-1])
				}
			}
			row[j+1] = d
		}
		two, one = one, row
	}
	return one[len(b)]
}

// list joins words as a sentence does.
func list(words []string, last string) string {
	switch len(words) {
	case 0:
		return ""
	case 1:
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}
