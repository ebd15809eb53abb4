// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// onTheWire is what an expression about a frame whose outer tag the kernel keeps
// beside it is about the frame as it was on the wire. Before the word vlan an
// expression means the frame without that tag, and behind the word it does too:
// only the tag is looked for beside the frame. On the wire that is one behind a
// vlan, with a look into the tag in place of the word. ok is false where a field
// of the link-layer header reaches over the tag's place.
func onTheWire(t *testing.T, expression string) (wire string, ok bool) {
	t.Helper()
	tokens, err := split(expression)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("vlan and (")
	carried, seen := false, false
	if regexp.MustCompile(`\[[^]]*-`).MatchString(expression) {
		return "", false // a field before a header's beginning
	}
	for i := 0; tokens[i].kind != tokEnd; i++ {
		x := tokens[i]
		text := expression[x.at : x.at+x.size]
		number := func() (n uint32, taken int) { // that follows the word, maybe in parentheses
			for ; tokens[i+taken+1].is("("); taken++ {
			}
			n = tokens[i+taken+1].num
			return n, 2*taken + 1
		}
		switch {
		case x.among("geneve", "vxlan", "pppoes"):
			carried = true
		case x.is("vlan") && !carried && !seen:
			seen, text = true, "1 = 1"
			follows := i + 1
			for ; tokens[follows].is("("); follows++ {
			}
			if tokens[follows].kind == tokNumber {
				id, n := number()
				text, i = fmt.Sprintf("ether[14:2] & 0xfff = %d", id), i+n
			}
		case x.is("len"):
			text = "(len - 4)"
		case x.among("less", "greater"):
			n, taken := number()
			text, i = fmt.Sprintf("%s %d", x.text, n+4), i+taken
		case x.is("byte"):
			at, _ := number()
			if i++; at >= 12 {
				at += 4
			}
			text = fmt.Sprintf("byte %d", at)
		case x.is("ether") && tokens[i+1].is("[") && !carried:
			at, size := tokens[i+2], uint32(1)
			if at.kind != tokNumber || !tokens[i+3].among(":", "]") {
				return "", false
			}
			if tokens[i+3].is(":") {
				size = tokens[i+4].num
			}
			if at.num < 12 && at.num+size > 12 {
				return "", false
			}
			if at.num >= 12 && at.num < nowhere {
				text, i = fmt.Sprintf("ether[%d", at.num+4), i+2
			}
		}
		b.WriteString(text + " ")
	}
	return b.String() + ")", true
}

// nowhere is an offset that no frame has.
const nowhere = 123456789

// withoutVLAN is an expression in which the first vlan, if it is about the
// frame itself, ends the program.
func withoutVLAN(t *testing.T, expression string) string {
	t.Helper()
	end := fmt.Sprintf("ether[%d] = 0", nowhere)
	tokens, err := split(expression)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range tokens {
		if x.among("geneve", "vxlan", "pppoes") {
			break
		}
		if !x.is("vlan") {
			continue
		}
		for i++; tokens[i].is("("); i++ {
		}
		after := x.at + x.size
		if tokens[i].kind == tokNumber {
			for after = tokens[i].at + tokens[i].size; tokens[i+1].is(")") && strings.Count(expression[x.at:after], "(") > strings.Count(expression[x.at:after], ")"); i++ {
				after = tokens[i+1].at + 1
			}
		}
		return expression[:x.at] + end + expression[after:]
	}
	return expression
}

// asItStands compiles an expression without the optimiser, which leaves out what
// cannot change the result.
func asItStands(t *testing.T, expression string, o Options) Program {
	t.Helper()
	x, err := parse(expression)
	if err != nil {
		t.Fatal(err)
	}
	c := &compiler{graph: newGraph(newValues()), text: expression, o: o, l: layersOf(o.LinkType)}
	c.names.lookup = o.LookUp
	f, err := c.formula(x)
	if err != nil {
		t.Fatalf("%q: %v", expression, err)
	}
	p, err := c.generate(c.build(f, c.accept, c.reject), defaultReturn)
	if err != nil {
		t.Fatalf("%q: %v", expression, err)
	}
	return p
}

// liveExpressions are those of testdata and generated ones, and those with tags
// in all places.
func liveExpressions(seed uint64, n int) []string {
	w := newWriter(seed)
	out := append(written(), w.expressions(n)...)
	for range n {
		e := w.encapsulation()
		if w.IntN(2) == 0 {
			e = w.primitive() + w.pick(" and ", " or ") + e
		}
		if w.IntN(3) == 0 {
			e = w.comparison() + w.pick(" and ", " or ") + e
		}
		out = append(out, e)
	}
	return out
}

// As the kernel gives a frame, its tag beside it, the live program of an
// expression says of it what the program for files says of the frame on the
// wire. Tcpdump is no judge of that: its own live programs are wrong in places
// (the table of deviations has them).
func TestLiveIsAsOnTheWire(t *testing.T) {
	frames := etherFrames(41, 1500, 700, 12)
	kernel := stripped(frames)
	known := regexp.MustCompile(`\b(inbound|outbound|ifindex)\b`)
	expressions := append(liveExpressions(77, 400), liveExpressions(41, 1100)...) // the first are those of TestMeaningLive
	for _, d := range deviations {
		if len(d.links) == 0 || slices.Contains(d.links, Ethernet) {
			expressions = append(expressions, d.example)
		}
	}
	for _, e := range expressions {
		if strings.Contains(e, "geneve") {
			expressions = append(expressions, strings.ReplaceAll(e, "geneve", "vxlan"))
		}
	}
	o := Options{LinkType: Ethernet, LookUp: noHosts}
	compared, tagged, skipped, matched, excused := 0, 0, 0, 0, 0
	for _, e := range expressions {
		if known.MatchString(e) {
			continue
		}
		file, errFile := Compile(e, o)
		live, errLive := Compile(e, Options{LinkType: Ethernet, LookUp: noHosts, Live: true})
		if (errFile == nil) != (errLive == nil) {
			t.Errorf("%q: live %v, for files %v", e, errLive, errFile)
		}
		if errFile != nil || errLive != nil {
			continue
		}
		var wire, without Program
		wireText, ok := onTheWire(t, e)
		if ok {
			if wire, errFile = Compile(wireText, o); errFile != nil {
				t.Fatalf("%q, of %q: %v", wireText, e, errFile)
			}
		}
		without = asItStands(t, withoutVLAN(t, e), o)
		for _, d := range deviations {
			if !d.accepts && d.covers(e, Ethernet, true) {
				excused++
				break
			}
		}
		compared++
		for i, f := range kernel {
			var want uint32
			switch {
			case f.tag && !ok:
				continue
			case f.tag:
				tagged++
				want = judge(wire, frames[i])
			default:
				// Where the word vlan is not come to, since what is before it
				// decides, nothing moves, as with tcpdump. For files what
				// follows the word moves in any case.
				var end int
				if want, end = trace(without, f); end != returned && without[end].K == nowhere {
					want = judge(file, f)
				} else {
					skipped++
				}
			}
			if want != 0 {
				matched++
			}
			if got := judge(live, f); got != want {
				t.Errorf("%q: live %d, want %d, of %s: %x (tag %v %#x)\n%v\n%q\n%v", e, got, want, f.name, f.data, f.tag, f.tci, live, wireText, wire)
				break
			}
		}
	}
	t.Logf("%d expressions, %d of them where tcpdump is no judge; %d verdicts on tagged frames, %d where vlan was not come to, %d matches", compared, excused, tagged, skipped, matched)
	if compared < 2000 || excused < 50 || tagged < 100000 || matched < 100000 {
		t.Error("that is too few")
	}
}
