// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/net/bpf"
)

// linkTypes says what a packet socket of type SOCK_RAW gives on interfaces of a
// hardware type (ARPHRD_, linux/if_arp.h), as map_arphrd_to_dlt of libpcap's
// pcap-linux.c has it. Types that libpcap reads by other sockets are left out.
var linkTypes = map[uint16]uint16{
	hardwareEther:    linkEthernet,
	hardwareLoopback: linkEthernet, // addresses are 0
	0xFFFE:           linkRaw,      // ARPHRD_NONE: TUN, WireGuard
	519:              linkRaw,      // ARPHRD_RAWIP
	512:              linkRaw,      // ARPHRD_PPP: ppp_generic.c shows packets without their PPP header
	768:              linkRaw,      // ARPHRD_TUNNEL
	769:              linkRaw,      // ARPHRD_TUNNEL6
	776:              linkRaw,      // ARPHRD_SIT
	778:              linkRaw,      // ARPHRD_IPGRE
	823:              linkRaw,      // ARPHRD_IP6GRE
	hardwareWiFi:     linkWiFi,
	hardwareRadiotap: linkRadiotap,
}

// LinkTypes returns those that frames of a ring on all interfaces may have, in
// rising order.
func LinkTypes() []uint16 {
	return []uint16{linkEthernet, linkRaw, linkWiFi, linkRadiotap}
}

// SKF_AD_OFF of linux/filter.h, where a BPF program finds what is not in the
// frame, and what of that is looked at here: SKF_AD_PKTTYPE, the packet type of
// sockaddr_ll; SKF_AD_IFINDEX; SKF_AD_HATYPE.
const (
	adPktType  = 1<<32 - 0x1000 + 4
	adIndex    = 1<<32 - 0x1000 + 8
	adHardware = 1<<32 - 0x1000 + 28
)

// Opcodes of linux/bpf_common.h, and of linux/filter.h.
const (
	bpfLoad    = 0x20 // BPF_LD | BPF_W | BPF_ABS
	bpfJump    = 0x05 // BPF_JMP | BPF_JA
	bpfEqual   = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	bpfAtLeast = 0x35 // BPF_JMP | BPF_JGE | BPF_K
)

// A Part is what a filter for several interfaces has for some of them.
type Part struct {
	Programs map[uint16][]bpf.RawInstruction // by link type: frames of one that has none are dropped
	Indexes  []int                           // of the interfaces; of the last Part: all others
}

// Several returns the filter for a ring on all interfaces. If only is not nil,
// those are the interfaces whose frames are taken, by index; frames of the
// interfaces in except are dropped. A loopback shows what it sends a second time
// as received: the sent copy is left out.
//
// An interface is found by bisection: 500 of them cost 10 comparisons.
func Several(parts []Part, only, except []int) ([]bpf.RawInstruction, error) {
	var out []bpf.RawInstruction
	drop := bpf.RawInstruction{Op: bpfReturn}
	if only != nil {
		out = append(out, bpf.RawInstruction{Op: bpfLoad, K: adIndex})
		out = append(out, among(only, bpf.RawInstruction{Op: bpfJump, K: onward}, drop)...)
	}
	if len(except) > 0 {
		out = append(out, bpf.RawInstruction{Op: bpfLoad, K: adIndex})
		out = append(out, among(except, drop, bpf.RawInstruction{Op: bpfJump, K: onward})...)
	}
	named := len(only) + len(except)
	for i, p := range parts {
		programs := byKind(p.Programs)
		if i < len(parts)-1 {
			named += len(p.Indexes)
			// Found, it goes on behind the jump to the next part.
			next := bpf.RawInstruction{Op: bpfJump, K: uint32(len(programs))}
			programs = append([]bpf.RawInstruction{next}, programs...)
			list := among(p.Indexes, bpf.RawInstruction{Op: bpfJump, K: beyond}, bpf.RawInstruction{Op: bpfJump, K: onward})
			out = append(append(out, bpf.RawInstruction{Op: bpfLoad, K: adIndex}), list...)
		}
		out = append(out, programs...)
	}
	const most = 4096 // BPF_MAXINSNS, linux/bpf_common.h
	if len(out) > most {
		return nil, fmt.Errorf("ring: a filter of %d instructions for %d interfaces; the kernel takes %d: name fewer interfaces, or shorten the filter", len(out), named, most)
	}
	return out, nil
}

// byKind returns what finds the program of a frame by its interface's hardware
// type, and the programs.
func byKind(programs map[uint16][]bpf.RawInstruction) []bpf.RawInstruction {
	out := []bpf.RawInstruction{{Op: bpfLoad, K: adHardware}}
	// By hardware type to its program. The jumps are filled in behind.
	kinds := slices.SortedFunc(maps.Keys(linkTypes), func(a, b uint16) int {
		rank := func(h uint16) int { // what is common comes first
			if h == hardwareEther {
				return -1
			}
			return int(h)
		}
		return rank(a) - rank(b)
	})
	jumps := map[uint16][]int{}
	for _, kind := range kinds {
		link := linkTypes[kind]
		if programs[link] == nil {
			continue
		}
		if kind == hardwareLoopback {
			out = append(out,
				bpf.RawInstruction{Op: bpfEqual, Jf: 4, K: hardwareLoopback},
				bpf.RawInstruction{Op: bpfLoad, K: adPktType},
				bpf.RawInstruction{Op: bpfEqual, Jf: 1, K: packetOutgoing},
				bpf.RawInstruction{Op: bpfReturn})
		} else {
			out = append(out, bpf.RawInstruction{Op: bpfEqual, Jf: 1, K: uint32(kind)})
		}
		jumps[link] = append(jumps[link], len(out))
		out = append(out, bpf.RawInstruction{Op: bpfJump})
	}
	out = append(out, bpf.RawInstruction{Op: bpfReturn})
	for _, link := range LinkTypes() {
		for _, at := range jumps[link] {
			out[at].K = uint32(len(out) - at - 1)
		}
		out = append(out, programs[link]...)
	}
	return out
}

// among looks for the accumulator among the indexes, and goes on with found or
// missed: a return, or a jump onward or beyond.
func among(indexes []int, found, missed bpf.RawInstruction) []bpf.RawInstruction {
	sorted := slices.Compact(slices.Sorted(slices.Values(indexes)))
	out := bisect(sorted, found, missed)
	for i := range out {
		if out[i].Op == bpfJump && out[i].K >= beyond {
			out[i].K = uint32(len(out)-i-1) + onward - out[i].K
		}
	}
	return out
}

// Places of jumps: right behind what bisect returns, and one instruction further.
const (
	onward = 1<<32 - 1
	beyond = onward - 1
)

func bisect(sorted []int, found, missed bpf.RawInstruction) []bpf.RawInstruction {
	if n := len(sorted); n > 2 {
		left, right := bisect(sorted[:n/2], found, missed), bisect(sorted[n/2:], found, missed)
		out := []bpf.RawInstruction{
			{Op: bpfAtLeast, Jf: 1, K: uint32(sorted[n/2])},
			{Op: bpfJump, K: uint32(len(left))},
		}
		return append(append(out, left...), right...)
	}
	var out []bpf.RawInstruction
	for _, index := range sorted {
		out = append(out, bpf.RawInstruction{Op: bpfEqual, Jf: 1, K: uint32(index)}, found)
	}
	return append(out, missed)
}
