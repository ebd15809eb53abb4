// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A deviation is where this package and libpcap 1.10.3 differ, and why.
type deviation struct {
	name    string
	why     string
	example string         // an expression that shows it
	when    *regexp.Regexp // expressions that may
	and     *regexp.Regexp // if set, they match this too
	links   []uint16       // empty: all
	accepts bool           // one of them takes the expression, the other does not
	says    *regexp.Regexp // then: what tcpdump says
	ours    *regexp.Regexp // then: what we say
	live    bool           // only live
	unless  *regexp.Regexp // part of the expression: frames that match it are no exception

	frames func(f *frame, ended bool) bool // those that may; ended: a load beyond the end ends one of the programs
}

// Conditions on OSI protocols, and on those that an LLC header can carry.
const (
	osi = `\b(clnp|es-?is|is-?is|l[12]|iih|lsp|[cp]?snp|iso proto)\b`
	llc = `\b(iso|stp|ipx|netbeui|atalk|aarp)\b|ether proto (0x0*[0-5]?[0-9a-f]{1,2}|\d{1,3}|1[0-4]\d\d|1500)\b`
)

// cooked are the cooked frames of these protocols: 4 is that of LLC, and more
// than 1535 are Ethernet types.
func cooked(at int, of func(protocol uint16) bool) func(*frame, bool) bool {
	return func(f *frame, _ bool) bool {
		return len(f.data) >= at+2 && of(binary.BigEndian.Uint16(f.data[at:]))
	}
}

// geneveWithoutEthernet are frames with a Geneve header that no Ethernet header
// follows.
func geneveWithoutEthernet(f *frame, _ bool) bool {
	for at := range f.data {
		if port, ok := bytes.CutPrefix(f.data[at:], be16(geneveUDP)); ok && len(port) >= 8 && binary.BigEndian.Uint16(port[6:]) != etherTEB {
			return true
		}
	}
	return false
}

var deviations = []deviation{
	{
		name: "protochain", example: "ip6 protochain 6", accepts: true, when: regexp.MustCompile(`protochain`),
		why: "libpcap makes a loop, which the kernel refuses",
	},
	{
		name: "direction in files", example: "inbound", accepts: true, when: regexp.MustCompile(`inbound|outbound|ifindex`),
		links: []uint16{Ethernet, Raw, LinuxSLL, IPv4, IPv6},
		why:   "libpcap compiles it for -d, and refuses it when it reads a file, which has no direction",
	},
	{
		name: "first number of a shift or division", example: "1 << ip[40] > 0", accepts: true,
		says: regexp.MustCompile(`shift by more|division by zero|modulus by zero`), when: regexp.MustCompile(`<<|>>|/|%`),
		why: "libpcap takes the first number of what is on the right for all of it",
	},
	{
		name: "computed shift or division", example: "not udp[4:2]=pim[0] and tcp src port 22 and ip[8:2] << - 1 != udp[12]", accepts: true,
		ours: regexp.MustCompile(`a shift by|division by zero`), when: regexp.MustCompile(`<<|>>|/|%`),
		why: "libpcap does not always see that the shift is by more than 31 bits, or the division by zero",
	},
	{
		name: "byte &, byte |", example: "byte 0 & 2", when: regexp.MustCompile(`byte \w+ [&|]`),
		why: "libpcap leaves out the load of the byte",
	},
	{
		name: "LLC in cooked v2", example: "stp", links: []uint16{LinuxSLL2},
		when: regexp.MustCompile(osi + `|` + llc), frames: cooked(0, func(p uint16) bool { return p <= 1535 || p == etherIPX }),
		why: "libpcap compares the access point with the protocol field, as if it were an Ethernet type",
	},
	{
		name: "OSI in cooked v1", example: "esis", links: []uint16{LinuxSLL}, when: regexp.MustCompile(osi), frames: cooked(14, func(p uint16) bool { return p == 4 }),
		why: "libpcap looks for the OSI packet where the LLC header is",
	},
	{
		name: "words that the mask leaves out", example: "dst net 2001:db8::/33 and not geneve", when: regexp.MustCompile(`net ([0-9a-f]*:[0-9a-f:]*|0\.0\.0\.0)/`), and: regexp.MustCompile(`geneve`),
		frames: func(_ *frame, ended bool) bool { return ended },
		why:    "libpcap loads all of an address, unless its optimiser sees that it need not, which it does not try with geneve; we never look at what is not compared",
	},
	{
		name: "vlan behind arithmetic, live", live: true, when: regexp.MustCompile(`(=|[^<]<[^<]|[^>]>[^>]).*\bvlan\b.*( and | or |&&|\|\|)`),
		example: "64 & icmp6[2:2] >= (1 - 0x4000) || (pim and vlan or host ::1) && tcp port 4789",
		why:     "libpcap keeps where the payload begins in a word of memory that the arithmetic before it overwrites",
	},
	{
		name: "block-local jumps, live", live: true, accepts: true, says: regexp.MustCompile(`block-local relative jump`), when: regexp.MustCompile(`vlan`),
		example: "dst net ::/0 and vlan 0 and net 2001:db8::/32", why: "libpcap's optimiser loses the end of a jump of its own",
	},
	{
		name: "where no tunnel is", example: "1 + len < 100 and geneve or llc i", unless: regexp.MustCompile(`geneve( \w+)?`), when: regexp.MustCompile(`geneve( \w+)?\)* ?(and |or |&&|\|\|)`), and: regexp.MustCompile(`\bor\b|\|\||\bnot\b|![^=]`),
		why: "what is behind geneve is looked for in frames that are not Geneve too, at a place that libpcap leaves to chance: words of memory that were not set; ours are 0",
	},
	{
		name: "tag right behind Geneve", example: "geneve and vlan and ip", when: regexp.MustCompile(`geneve.*vlan`), frames: geneveWithoutEthernet,
		why: "libpcap looks for what is behind the tag in the header of Geneve, where no Ethernet header is between the two",
	},
}

func (d *deviation) covers(expression string, link uint16, live bool) bool {
	if !d.when.MatchString(expression) || d.and != nil && !d.and.MatchString(expression) || d.live && !live {
		return false
	}
	for _, l := range d.links {
		if l == link {
			return true
		}
	}
	return len(d.links) == 0
}

// A trial compares one expression after the other with tcpdump.
type trial struct {
	link    uint16
	options Options
	tcpdump []string // flags
	frames  []*frame
	workers int
	enter   func() // called by each worker at its start, if set

	mu       sync.Mutex
	taken    int
	refused  int
	deviated map[string]int
	verdicts int      // frames × expressions that were compared
	matches  int      // of those that matched
	short    int      // where libpcap's optimiser changes what becomes of frames that are too short: we agree with tcpdump -O
	moved    []string // expressions to which it does worse; we agree with tcpdump -O
	ours     int      // instructions, of expressions that have a program longer than one
	theirs   int
	ratio    float64
	ratios   int
	longest  string
	worst    float64
}

// compare compiles an expression with both and runs it on all frames.
func (r *trial) compare(t *testing.T, expression string) {
	note := func(accepts bool, text string, f *frame, ended bool) bool {
		for _, d := range deviations {
			if d.accepts == accepts && d.covers(expression, r.link, r.options.Live) && (d.says == nil || d.says.MatchString(text)) && (d.ours == nil || d.ours.MatchString(text)) &&
				(d.frames == nil || d.frames(f, ended)) &&
				(d.unless == nil || !matches(t, geneveTerm(d.unless.FindString(expression)), r.options, f)) {
				r.mu.Lock()
				r.deviated[d.name]++
				r.mu.Unlock()
				return true
			}
		}
		return false
	}
	theirs, theirErr := byTcpdump(expression, true, r.tcpdump...)
	var refused refusal
	if theirErr != nil && !errors.As(theirErr, &refused) {
		t.Error(theirErr)
		return
	}
	ours, err := Compile(expression, r.options)
	switch {
	case (err == nil) != (theirErr == nil):
		if !note(true, fmt.Sprint(err, theirErr), nil, false) {
			t.Errorf("%q: ours says %v, tcpdump %v", expression, err, theirErr)
		}
		return
	case err != nil:
		r.mu.Lock()
		r.refused++
		r.mu.Unlock()
		return
	}
	var plain []bpf.RawInstruction // by tcpdump -O
	matched, short, moved, wrong := 0, 0, 0, 0
	for _, f := range r.frames {
		got, ended := verdict(ours, f)
		want, theirsEnded := verdict(theirs, f)
		if got != 0 {
			matched++
		}
		if got == want {
			continue
		}
		if plain == nil {
			if plain, err = byTcpdump(expression, false, r.tcpdump...); err != nil {
				t.Error(err)
				return
			}
		}
		if v, plainEnded := verdict(plain, f); v == got {
			// The optimiser changed the order of loads, one of which ends the
			// program, or it did worse.
			if plainEnded || theirsEnded {
				short++
			} else {
				moved++
			}
			continue
		}
		if note(false, "", f, ended || theirsEnded) {
			continue
		}
		if wrong++; wrong == 1 {
			t.Errorf("%q: ours returns %d, tcpdump's %d, of %s: %x (length %d, tag %v %#x)\n%v\n%v\n%v",
				expression, got, want, f.name, f.data, f.length, f.tag, f.tci, ours, Program(theirs), Program(plain))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken++
	r.verdicts += len(r.frames)
	r.matches += matched
	r.short += short
	if moved > 0 {
		r.moved = append(r.moved, expression)
	}
	if len(theirs) > 1 && len(theirs) < MaxInstructions {
		r.ours += len(ours)
		r.theirs += len(theirs)
		q := float64(len(ours)) / float64(len(theirs))
		r.ratio += q
		r.ratios++
		if q > r.worst {
			r.worst, r.longest = q, expression
		}
	}
}

// geneveTerm is a term without the operator that the pattern may have taken for
// an identifier.
func geneveTerm(s string) string {
	for _, op := range []string{" and", " or"} {
		s = strings.TrimSuffix(s, op)
	}
	return s
}

func matches(t *testing.T, expression string, o Options, f *frame) bool {
	p, err := Compile(expression, o)
	if err != nil {
		t.Error(err)
		return false
	}
	return judge(p, f) != 0
}

// all compares expressions on all CPUs: most of the time goes to tcpdump.
func (r *trial) all(t *testing.T, expressions []string) {
	t.Helper()
	r.deviated = map[string]int{}
	work := make(chan string)
	var wg sync.WaitGroup
	for range r.workers {
		wg.Go(func() {
			if r.enter != nil {
				r.enter()
			}
			for e := range work {
				r.compare(t, e)
			}
		})
	}
	for _, e := range expressions {
		work <- e
	}
	close(work)
	testnet.Await(t, "all expressions are compared", wg.Wait)
	if r.taken == 0 || r.matches == 0 || r.ratios == 0 {
		t.Fatalf("%d of %d expressions compiled, %d matches: nothing was compared", r.taken, len(expressions), r.matches)
	}
	t.Logf("%d expressions, %d refused by both, %d with a known deviation %v; %d frames, %d verdicts, %d of them matches; %d on frames too short where only tcpdump -O agrees",
		r.taken, r.refused, len(expressions)-r.taken-r.refused, r.deviated, len(r.frames), r.verdicts, r.matches, r.short)
	if len(r.moved) > 0 {
		t.Logf("%d expressions are changed by libpcap's optimiser, which tcpdump -O is not; for example %q", len(r.moved), r.moved[:min(5, len(r.moved))])
		if !r.options.Live {
			t.Error("that is known for vlan in live capture only")
		}
	}
	t.Logf("instructions: %d, tcpdump's %d; on average %.3f times tcpdump's, at most %.2f: %q",
		r.ours, r.theirs, r.ratio/float64(r.ratios), r.worst, r.longest)
	if most := 1.2; r.ratio/float64(r.ratios) > most {
		t.Errorf("programs are on average %.3f times as long as tcpdump's; at most %.1f is promised", r.ratio/float64(r.ratios), most)
	}
}

// What an expression means is what it means to tcpdump, on every frame of the
// captures and on made-up ones, whole, changed and cut short.
func TestMeaning(t *testing.T) {
	testnet.RequireTool(t, "tcpdump")
	for _, l := range []struct {
		link      uint16
		generated int // expressions
	}{{Ethernet, 3000}, {Raw, 400}, {LinuxSLL, 400}, {LinuxSLL2, 400}, {IPv4, 100}, {IPv6, 100}} {
		var name string
		for _, n := range linkTypes {
			if n.number == l.link {
				name = n.name
			}
		}
		t.Run(name, func(t *testing.T) {
			r := &trial{link: l.link, options: Options{LinkType: l.link}, tcpdump: []string{"-y", name}, workers: runtime.GOMAXPROCS(0)}
			r.frames = append(captured(t, l.link), asLink(l.link, etherFrames(uint64(l.link), 1500, 1000, 20))...)
			w := newWriter(uint64(l.link))
			expressions := append(written(), w.expressions(l.generated)...)
			for _, e := range w.expressions(l.generated / 5) {
				expressions = append(expressions, w.damage(e))
			}
			r.all(t, expressions)
		})
	}
}

// isSo says whether the example of a deviation shows it, on some of these
// frames.
func (d *deviation) isSo(t *testing.T, o Options, frames []*frame, tcpdump ...string) {
	t.Helper()
	theirs, theirErr := byTcpdump(d.example, true, tcpdump...)
	ours, err := Compile(d.example, o)
	differ := 0
	if (err == nil) != (theirErr == nil) {
		differ++
	} else if err == nil {
		for _, f := range frames {
			got, ended := verdict(ours, f)
			want, theirsEnded := verdict(theirs, f)
			if got != want && (d.frames == nil || d.frames(f, ended || theirsEnded)) {
				differ++
			}
		}
	}
	if differ == 0 || d.why == "" || !d.covers(d.example, o.LinkType, o.Live) {
		t.Errorf("%s: %q is no example of it: %v, %v", d.name, d.example, err, theirErr)
	}
}

// The table of deviations says nothing that is not so any more.
// TestLiveDeviationsAreTrue has those of live capture.
func TestDeviationsAreTrue(t *testing.T) {
	testnet.RequireTool(t, "tcpdump")
	for _, d := range deviations {
		if d.live {
			continue
		}
		link, name := uint16(Ethernet), "EN10MB"
		if len(d.links) == 1 {
			link = d.links[0]
			name = map[uint16]string{LinuxSLL: "LINUX_SLL", LinuxSLL2: "LINUX_SLL2"}[link]
		}
		d.isSo(t, Options{LinkType: link}, asLink(link, etherFrames(9, 3000, 0, 30)), "-y", name)
	}
}
