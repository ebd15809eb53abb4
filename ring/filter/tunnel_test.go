// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
)

// A tunnelled frame is one in others, with the words that lead an expression
// to it.
type tunnelled struct {
	words string // with an and behind each
	kind  string // of the innermost: what the inner frame is depends on it
	outer []byte
	inner []byte
	link  uint16 // of inner
}

// into puts an Ethernet frame into one more encapsulation. Of those that only IP
// packets can be in, and of Geneve without an inner Ethernet header, inner is
// what is in them.
func (m maker) into(kind string, frame []byte) (out tunnelled, ok bool) {
	typ := binary.BigEndian.Uint16(frame[12:])
	isIP := typ == etherIP || typ == etherIPv6
	out = tunnelled{kind: kind, inner: frame, link: Ethernet}
	number := func(word string, n uint32) string {
		switch m.IntN(3) {
		case 0:
			return word + " and "
		case 1:
			return fmt.Sprintf("%s %#x and ", word, n)
		}
		return fmt.Sprintf("%s %d and ", word, n)
	}
	switch kind {
	case "vlan":
		id := uint16(pick(m, []int{0, 1, 5, 4095}))
		out.words = number("vlan", uint32(id))
		out.outer = join(frame[:12], be16(pick(m, []uint16{0x8100, 0x88A8, 0x9100})), be16(id|uint16(m.IntN(16))<<12), frame[12:])
	case "mpls":
		if !isIP {
			return out, false
		}
		label := uint32(pick(m, []int{0, 16, 1024, 1<<20 - 1}))
		labels := be32(label<<12 | 0x1FF)
		out.words = number("mpls", label)
		for range m.IntN(3) {
			label := uint32(pick(m, []int{0, 5, 100000}))
			labels = join(be32(label<<12|0xE3F), labels)
			out.words = number("mpls", label) + out.words
		}
		out.inner, out.link = frame[14:], Raw
		out.outer = m.ether(0x8847, join(labels, out.inner))
	case "pppoes":
		if !isIP {
			return out, false
		}
		session := uint32(pick(m, []int{0, 7, 0xFFFF}))
		out.words = number("pppoes", session)
		out.inner, out.link = frame[14:], Raw
		protocol := map[uint16]uint16{etherIP: 0x21, etherIPv6: 0x57}[typ]
		out.outer = m.ether(0x8864, join([]byte{0x11, 0}, be16(uint16(session)), be16(uint16(len(out.inner)+2)), be16(protocol), out.inner))
	case "vxlan":
		vni := uint32(pick(m, []int{0, 11, 1<<24 - 1}))
		out.words = number("vxlan", vni)
		out.outer = m.inUDP(4789, join([]byte{8, byte(m.IntN(256)), 0, 0}, be32(vni<<8|uint32(m.IntN(256))), frame))
	case "geneve", "geneve without Ethernet":
		vni := uint32(pick(m, []int{0, 11, 1<<24 - 1}))
		out.words = number("geneve", vni)
		protocol, carried := uint16(0x6558), frame
		if kind != "geneve" {
			protocol, carried = typ, frame[14:]
		}
		words := m.IntN(64)
		out.outer = m.inUDP(6081, join([]byte{byte(words), byte(m.IntN(4)) << 6}, be16(protocol), be32(vni<<8|uint32(m.IntN(256))), bytes.Repeat([]byte{7}, 4*words), carried))
	}
	return out, true
}

// inUDP is a frame with a datagram to that port.
func (m maker) inUDP(port uint16, payload []byte) []byte {
	if m.IntN(2) == 0 {
		return m.ether(0x86DD, m.ip6(17, m.udp(port, payload)))
	}
	return m.ether(0x0800, m.ip4(17, m.IntN(11), pick(m, []uint16{0, 0x4000, 0x2000}), m.udp(port, payload)))
}

// tunnelled puts a frame into one to three encapsulations, the innermost of
// which is of that kind.
func (m maker) tunnelled(kind string, frame []byte) (tunnelled, bool) {
	out, ok := m.into(kind, frame)
	for n := m.IntN(3); n > 0 && ok; {
		around, ok := m.into(pick(m, []string{"vlan", "mpls", "pppoes", "vxlan", "geneve"}), out.outer)
		if !ok {
			continue // what goes into it is no IP packet
		}
		if regexp.MustCompile(`^(mpls|pppoes)`).MatchString(around.words) && regexp.MustCompile(`^(vlan|mpls|pppoes)`).MatchString(out.words) {
			continue // these are not said of what is in those
		}
		out.outer, out.words = around.outer, around.words+out.words
		n--
	}
	return out, ok
}

// What an expression says behind the word of an encapsulation it says of the
// frame in it: "vxlan 11 and tcp port 80" takes those frames that carry one
// which "tcp port 80" takes. Nobody else judges vxlan: libpcap knows it from
// 1.11 on. Tags right behind a Geneve header were looked for, as libpcap does, in
// that header.
func TestTunnelsAreAsTheFramesInThem(t *testing.T) {
	const generated, ways, frames = 400, 2, 25
	var (
		outside = regexp.MustCompile(`\bbyte\b`)                                           // of the frame, wherever it stands
		fields  = regexp.MustCompile(`\b(ether|link|ppp|slip|fddi|tr|wlan)\s*\[|\[[^]]*-`) // vlan, mpls and pppoes have no header of their own, or before them
		header  = regexp.MustCompile(fields.String() + `|ether (src|dst|host)|(^|[^p6] )(broad|multi)cast`)
	)
	for i, k := range []struct {
		kind string
		has  *regexp.Regexp // expressions with it are about what this kind has not
		head int            // bytes of the inner frame that lead to it, and are always there
	}{
		{"vlan", fields, 14}, {"mpls", fields, 0}, {"pppoes", fields, 1}, {"vxlan", outside, 0}, {"geneve", outside, 0}, {"geneve without Ethernet", header, 14},
	} {
		t.Run(k.kind, func(t *testing.T) {
			r := tunnelTrial{kind: k.kind, head: k.head, maker: maker{rand.New(rand.NewPCG(uint64(i), 99))}}
			for _, e := range append(written(), newWriter(uint64(100+i)).expressions(generated)...) {
				if !outside.MatchString(e) && !k.has.MatchString(e) {
					for range ways {
						r.compare(t, e, frames)
					}
				}
			}
			t.Logf("%d times compiled, %d refused; %d verdicts, %d of them matches", r.compiled, r.refused, r.verdicts, r.matched)
			if r.compiled < 400 || r.verdicts < 10000 || r.matched < 1500 {
				t.Error("that is too few")
			}
		})
	}
}

// A tunnelTrial compares expressions about frames with those about what tunnels
// carry.
type tunnelTrial struct {
	maker
	kind                                 string
	head                                 int
	compiled, refused, verdicts, matched int
}

// compare holds an expression against itself behind the words of one way into
// tunnels of the kind.
func (r *tunnelTrial) compare(t *testing.T, expression string, frames int) {
	way := r.Uint64()
	var inner, behind, live Program
	for range frames {
		data := r.ether(r.any(1))
		if r.kind == "mpls" || r.kind == "pppoes" {
			data = r.ether(r.ip())
		} else if r.IntN(3) == 0 {
			data = r.mutate(data)
		}
		x, ok := maker{rand.New(rand.NewPCG(way, 1))}.tunnelled(r.kind, data) // the same words each time
		if !ok {
			t.Fatal("no tunnel")
		}
		text := x.words + "(" + expression + ")"
		if inner == nil {
			var err, errBehind, errLive error
			inner, err = Compile(expression, Options{LinkType: x.link, LookUp: noHosts})
			behind, errBehind = Compile(text, Options{LinkType: Ethernet, LookUp: noHosts})
			live, errLive = Compile(text, Options{LinkType: Ethernet, LookUp: noHosts, Live: true})
			if err != nil || errBehind != nil || errLive != nil {
				r.refused++ // mostly it is no expression
				return
			}
			r.compiled++
		}
		cut := 0
		if r.IntN(2) == 0 {
			cut = r.IntN(len(x.inner) - r.head + 1)
		}
		in := &frame{data: x.inner[:len(x.inner)-cut], length: uint32(len(x.outer))}
		out := &frame{data: x.outer[:len(x.outer)-cut], length: in.length}
		want := judge(inner, in)
		if r.verdicts++; want != 0 {
			r.matched++
		}
		for _, p := range []Program{behind, live} {
			if got := judge(p, out); got != want {
				t.Errorf("%q takes %d, but %q %d: %x in %x\n%v\n%v", expression, want, text, got, in.data, out.data, inner, p)
				return
			}
		}
	}
}
