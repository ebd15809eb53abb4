// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A token is one word of an expression.
type token struct {
	kind tokenKind
	text string // a name without the backslash before it
	at   int    // offset in the expression, bytes
	size int    // bytes there
	num  uint32 // of a number
	addr netip.Addr
	mac  [6]byte
}

type tokenKind uint8

const (
	tokEnd    tokenKind = iota
	tokWord             // of the language
	tokSign             // ( ) [ ] : and operators
	tokName             // any other word: a host, a service, a protocol
	tokNumber           // num
	tokDotted           // 2 to 4 decimal numbers with dots between them
	tokIPv6             // addr
	tokMAC              // mac
)

// is reports whether t is that word or sign.
func (t token) is(text string) bool {
	return (t.kind == tokWord || t.kind == tokSign) && t.text == text
}

// among reports whether t is one of these words or signs.
func (t token) among(texts ...string) bool {
	for _, s := range texts {
		if t.is(s) {
			return true
		}
	}
	return false
}

// isID reports whether t names something: an address, a number, a name.
func (t token) isID() bool { return t.kind >= tokName }

// maxExpression bounds an expression, bytes.
const maxExpression = 256 << 10

// signs, longest first.
var signs = []string{
	"&&", "||", "<<", ">>", "<=", ">=", "==", "!=",
	"!", "<", ">", "=", "+", "-", "*", "/", "%", "&", "|", "^", "(", ")", "[", "]", ":",
}

// sameWord are words and signs with the same meaning.
var sameWord = map[string]string{
	"&&": "and", "||": "or", "!": "not", "==": "=",
	"length": "len", "dir": "direction", "ifname": "on", "ruleset": "rset", "rulenum": "rnr", "subrulenum": "srnr",
	"es-is": "esis", "is-is": "isis",
	"link": "ether", "fddi": "ether", "tr": "ether", "wlan": "ether", "ppp": "ether", "slip": "ether",
}

// split makes tokens of an expression; the last is tokEnd.
func split(expr string) ([]token, error) {
	if len(expr) > maxExpression {
		return nil, fmt.Errorf("filter: the expression has %d bytes, %d are allowed; a long list of hosts is shorter as networks", len(expr), maxExpression)
	}
	tokens := make([]token, 0, len(expr)/4+2)
	for at := 0; ; {
		for at < len(expr) && strings.IndexByte(" \t\r\n", expr[at]) >= 0 {
			at++
		}
		if at == len(expr) {
			return append(tokens, token{at: at}), nil
		}
		t, err := next(expr, at)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
		at += t.size
	}
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

func hexByte(c byte) bool {
	return c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c >= '0' && c <= '9'
}

// next reads the token at an offset.
func next(expr string, at int) (token, error) {
	t := token{at: at}
	fail := func(size int, format string, args ...any) (token, error) {
		return t, &Error{Expression: expr, Offset: at, Length: size, Text: fmt.Sprintf(format, args...)}
	}
	rest := expr[at:]
	if rest[0] == '\\' { // a name, even if it is a word of the language
		n := 1
		for n < len(rest) && strings.IndexByte(" !()\n\t\r", rest[n]) < 0 {
			n++
		}
		if n == 1 {
			return fail(1, "a name has to follow the backslash, as in \\tcp")
		}
		t.kind, t.text, t.size = tokName, rest[1:n], n
		return t, nil
	}
	if n := addressRun(rest); n > 0 {
		t.size, t.text = n, rest[:n]
		if mac, ok := parseMAC(t.text); ok {
			t.kind, t.mac = tokMAC, mac
			return t, nil
		}
		if addr, err := netip.ParseAddr(t.text); err == nil {
			t.kind, t.addr = tokIPv6, addr
			return t, nil
		}
		return fail(n, "%s is neither an IPv6 nor an Ethernet address", quoted(t.text))
	}
	if c := rest[0]; wordByte(c) && strings.IndexByte("-_.", c) < 0 {
		n := 1
		for n < len(rest) && wordByte(rest[n]) {
			n++
		}
		for rest[n-1] == '-' || rest[n-1] == '_' { // a minus, more likely
			n--
		}
		return word(expr, at, n)
	}
	for _, s := range signs {
		if strings.HasPrefix(rest, s) {
			t.kind, t.text, t.size = tokSign, s, len(s)
			if w, ok := sameWord[s]; ok {
				t.text = w
			}
			if t.among("and", "or", "not") {
				t.kind = tokWord
			}
			return t, nil
		}
	}
	size := 1
	for size < len(rest) && rest[size]&0xC0 == 0x80 {
		size++
	}
	return fail(size, "%s has no meaning here", quoted(rest[:size]))
}

// addressRun returns the length of what looks like an address with colons at
// the beginning of s, or 0. One colon is that of ip[2:2].
func addressRun(s string) int {
	n, colons := 0, 0
	for n < len(s) && (hexByte(s[n]) || s[n] == ':' || s[n] == '.') {
		if s[n] == ':' {
			colons++
		}
		n++
	}
	if colons < 2 || n < len(s) && wordByte(s[n]) {
		return 0
	}
	return n
}

// word makes a token of the n bytes at an offset, which are letters, digits,
// dots, dashes and underscores.
func word(expr string, at, n int) (token, error) {
	text := expr[at : at+n]
	t := token{kind: tokName, text: text, at: at, size: n}
	if mac, ok := parseMAC(text); ok {
		t.kind, t.mac = tokMAC, mac
		return t, nil
	}
	if isNumber(text) {
		t.kind = tokNumber
		v, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			why := "does not fit 32 bits"
			if text[0] == '0' && strings.ContainsAny(text, "89") && !strings.HasPrefix(strings.ToLower(text), "0x") {
				why = "begins with 0, so it is octal, and has a digit that octal numbers have not"
			}
			return t, &Error{Expression: expr, Offset: at, Length: n, Text: fmt.Sprintf("the number %s %s", quoted(text), why)}
		}
		t.num = uint32(v)
		return t, nil
	}
	if isDotted(text) {
		t.kind = tokDotted
		return t, nil
	}
	if v, ok := constants[text]; ok {
		t.kind, t.num = tokNumber, v
		return t, nil
	}
	if keywords[text] {
		t.kind = tokWord
		if w, ok := sameWord[text]; ok {
			t.text = w
		}
	}
	return t, nil
}

func isNumber(s string) bool {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		return hex != "" && strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(s, "0123456789") == ""
}

// isDotted reports whether s is 2 to 4 decimal numbers.
func isDotted(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return false
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

// parseMAC reads an Ethernet address: six bytes of one or two digits with
// colons, dots or dashes between them, three groups of four digits with dots,
// or twelve digits.
func parseMAC(s string) (mac [6]byte, ok bool) {
	digits := ""
	switch {
	case len(s) == 12:
		digits = s
	case len(s) == 14 && s[4] == '.' && s[9] == '.':
		digits = s[:4] + s[5:9] + s[10:]
	default:
		for _, sep := range []string{":", ".", "-"} {
			parts := strings.Split(s, sep)
			if len(parts) != 6 {
				continue
			}
			for _, p := range parts {
				if len(p) == 1 {
					p = "0" + p
				}
				if len(p) != 2 {
					return mac, false
				}
				digits += p
			}
		}
	}
	if len(digits) != 12 {
		return mac, false
	}
	for i := range mac {
		v, err := strconv.ParseUint(digits[2*i:2*i+2], 16, 8)
		if err != nil {
			return mac, false
		}
		mac[i] = byte(v)
	}
	return mac, true
}
