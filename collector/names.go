// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// partSuffix ends the name of a file that is still written.
const partSuffix = ".part"

// A namePattern makes the names of recorded files: text with verbs of
// strftime(3), %t for the tap ID and %n for the number of the file.
type namePattern struct {
	text  string
	parts []namePart
}

// A namePart is literal text, or one verb.
type namePart struct {
	text string
	verb byte // 0: none
}

// nameVerbs are the verbs, with what matches them. Times are UTC.
var nameVerbs = map[byte]string{
	't': `(?:0|[1-9]\d*)`, 'n': `\d{5,}`,
	'Y': `\d{4}`, 'm': `\d\d`, 'd': `\d\d`, 'H': `\d\d`, 'M': `\d\d`, 'S': `\d\d`, 's': `\d+`,
}

func parseNamePattern(text string) (p namePattern, err error) {
	p.text = text
	for rest := text; rest != ""; {
		literal, after, verb := strings.Cut(rest, "%")
		for verb && strings.HasPrefix(after, "%") {
			var more string
			more, after, verb = strings.Cut(after[1:], "%")
			literal += "%" + more
		}
		if literal != "" {
			p.parts = append(p.parts, namePart{text: literal})
		}
		if rest = after; !verb {
			break
		}
		if after == "" || nameVerbs[after[0]] == "" {
			return p, fmt.Errorf("%q: after %% comes t (tap ID), n (number of the file), or Y, m, d, H, M, S, s (time, UTC); %%%% is a %% itself", text)
		}
		p.parts = append(p.parts, namePart{verb: after[0]})
		rest = after[1:]
	}
	return p, nil
}

// has says whether one of the verbs is in the pattern.
func (p *namePattern) has(verbs string) bool {
	for _, part := range p.parts {
		if part.verb != 0 && strings.IndexByte(verbs, part.verb) >= 0 {
			return true
		}
	}
	return false
}

// plain says that the pattern is a name.
func (p *namePattern) plain() bool { return !p.has("tnYmdHMSs") }

// numbered returns the pattern with -%n before the extension.
func (p namePattern) numbered() namePattern {
	more := []namePart{{text: "-"}, {verb: 'n'}}
	last := len(p.parts) - 1
	ext := ""
	if last >= 0 && p.parts[last].verb == 0 {
		ext = filepath.Ext(p.parts[last].text)
	}
	if ext == "" {
		p.parts = append(p.parts[:last+1:last+1], more...)
		return p
	}
	head := namePart{text: strings.TrimSuffix(p.parts[last].text, ext)}
	p.parts = append(append(p.parts[:last:last], head), append(more, namePart{text: ext})...)
	return p
}

// name returns the name of a file.
func (p *namePattern) name(tap uint32, at time.Time, number int) string {
	var b strings.Builder
	at = at.UTC()
	for _, part := range p.parts {
		switch part.verb {
		case 0:
			b.WriteString(part.text)
		case 't':
			b.WriteString(strconv.FormatUint(uint64(tap), 10))
		case 'n':
			fmt.Fprintf(&b, "%05d", number)
		case 's':
			b.WriteString(strconv.FormatInt(at.Unix(), 10))
		default:
			layout := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05"}[part.verb]
			b.WriteString(at.Format(layout))
		}
	}
	return b.String()
}

// again returns the name that stands in for one that is taken.
func again(name string, n int) string {
	ext := filepath.Ext(name)
	return fmt.Sprintf("%s~%d%s", strings.TrimSuffix(name, ext), n, ext)
}

// files returns the files with names of the pattern, and the numbers of those
// that have one; of one tap or, if anyTap, of all. They include those that are
// still written.
func (p *namePattern) files(tap uint32, anyTap bool) (names []string, numbers []int, err error) {
	var glob, re strings.Builder
	re.WriteString("^")
	for i, part := range p.parts {
		text := part.text
		if part.verb == 't' && !anyTap {
			text = strconv.FormatUint(uint64(tap), 10)
		}
		if part.verb == 'n' {
			re.WriteString("(" + nameVerbs['n'] + ")")
		} else if text == "" {
			re.WriteString(nameVerbs[part.verb])
		}
		if text == "" {
			glob.WriteString("*")
			continue
		}
		ext := ""
		if i == len(p.parts)-1 {
			ext = filepath.Ext(text)
		}
		head := strings.TrimSuffix(text, ext)
		glob.WriteString(globQuote(head) + "*" + globQuote(ext))
		re.WriteString(regexp.QuoteMeta(head))
		if i == len(p.parts)-1 {
			re.WriteString(`(?:~\d+)?` + regexp.QuoteMeta(ext))
		}
	}
	if n := len(p.parts); n == 0 || p.parts[n-1].verb != 0 {
		re.WriteString(`(?:~\d+)?`)
	}
	found, err := filepath.Glob(glob.String() + "*")
	if err != nil {
		return nil, nil, err
	}
	match, err := regexp.Compile(re.String() + `(?:\.part)?$`)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range found {
		if m := match.FindStringSubmatch(name); m != nil {
			number := 0
			if len(m) > 1 {
				number, _ = strconv.Atoi(m[1])
			}
			names, numbers = append(names, name), append(numbers, number)
		}
	}
	return names, numbers, nil
}

var globQuote = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace

// directories makes the folders of a name, if the pattern names folders by tap
// or time.
func (p *namePattern) directories(name string) error {
	dir := false
	for _, part := range p.parts {
		if part.verb != 0 {
			dir = true
		} else if dir && strings.Contains(part.text, "/") {
			return os.MkdirAll(filepath.Dir(name), 0o755)
		}
	}
	return nil
}

// probe says whether files can be made where the pattern says, as far as that
// is known before a tap is.
func (p *namePattern) probe() error {
	base := ""
	if len(p.parts) > 0 && p.parts[0].verb == 0 {
		base = p.parts[0].text
	}
	if i := strings.LastIndexByte(base, '/'); i >= 0 {
		base = base[:i+1]
	} else {
		base = "."
	}
	f, err := os.CreateTemp(base, ".ntap-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
