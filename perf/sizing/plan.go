// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// What the plans assume.
const (
	// Between two frames Ethernet has preamble (8), FCS (4) and gap (12), bytes:
	// IEEE 802.3.
	gap = 24
	// load is how busy a core may be: at that, soak tests lose nothing.
	load = 0.8
	// ringHolds and socketHolds are the time that memory bridges while a thread
	// does not run.
	ringHolds   = 0.1  // s
	socketHolds = 0.05 // s
	ringFrame   = 96   // bytes that a ring has for a frame beyond its own, about
	skb         = 2    // memory that a socket's buffer is charged for a byte, about

	leastRing   = 64 << 20 // bytes: the defaults
	leastSocket = 64 << 20
	mostRing    = 4 << 30 // what one shard's ring can have, and a socket
	mostSocket  = 1 << 30

	datagram      = 1472             // bytes of payload at MTU 1500
	perDatagram   = 24 + 10 + 16     // header, prologue and tag: proto/WIRE.md
	perRecord     = 5                // bytes before a frame, about: proto/WIRE.md
	outerHeaders  = 14 + 20 + 8      // Ethernet, IPv4, UDP
	vxlanOverhead = outerHeaders + 8 // and VXLAN
)

// imix is 7:4:1 of 64, 594 and 1518.
var imix = []struct{ bytes, part float64 }{{64, 7. / 12}, {594, 4. / 12}, {1518, 1. / 12}}

// Rates that make sense, bit/s.
const (
	leastRate = 1e3
	mostRate  = 10e12
)

// An Ask is what is to be sized.
type Ask struct {
	Rate   float64 // bit/s of a link that is full
	Frame  string  // bytes of a frame, without FCS; or imix
	Role   Role
	Cipher string // auto, or a suite
}

// A Plan is what it takes.
type Plan struct {
	Ask
	Suite  string
	Bytes  float64 // of a frame, mean
	Frames float64 // a second
	Cost   Cost
	Cores  int     // for shards or workers, each one thread
	IRQ    int     // for the kernel's part, of CPUs that serve the network card
	Ring   int     // bytes, of each shard; remotes only
	Socket int     // bytes, of each worker's buffer; collectors only
	Out    float64 // bit/s that leave the host, 0 to a TAP
	In     float64 // bit/s that enter
}

// Plan makes a plan. Errors name what is wrong with the Ask.
func (m *Model) Plan(a Ask) (p Plan, err error) {
	if !(a.Rate >= leastRate && a.Rate <= mostRate) {
		return p, fmt.Errorf("a rate of %v bit/s: 1k to 10T, as in 10G", a.Rate)
	}
	if _, known := own[a.Role]; !known {
		return p, fmt.Errorf("role %q: %s, %s or %s", a.Role, Remote, Collector, CollectorVXLAN)
	}
	p.Ask = a
	if p.Suite, err = m.Suite(a.Cipher); err != nil {
		return p, err
	}
	sizes, err := mixOf(a.Frame)
	if err != nil {
		return p, err
	}
	for _, s := range sizes {
		c := m.Cost(a.Role, p.Suite, s.bytes)
		p.Bytes += s.part * s.bytes
		p.Cost.Own += s.part * c.Own
		p.Cost.Kernel += s.part * c.Kernel
	}
	p.Frames = a.Rate / 8 / (p.Bytes + gap)
	p.Cores = cores(p.Frames * p.Cost.Own)
	p.IRQ = cores(p.Frames * p.Cost.Kernel)
	sealed := p.Frames * (p.Bytes + perRecord) / (datagram - perDatagram) // datagrams a second
	sealed *= (datagram + outerHeaders + gap) * 8                         // bit/s of a link
	each := p.Frames / float64(p.Cores)
	switch a.Role {
	case Remote:
		p.In, p.Out = a.Rate, sealed
		p.Ring = power(each*(p.Bytes+ringFrame)*ringHolds, leastRing, mostRing)
	case Collector:
		p.In = sealed
	case CollectorVXLAN:
		p.In, p.Out = sealed, p.Frames*(p.Bytes+vxlanOverhead+gap)*8
	}
	if a.Role != Remote {
		p.Socket = power(sealed/8/float64(p.Cores)*skb*socketHolds, leastSocket, mostSocket)
	}
	return p, nil
}

func mixOf(frame string) ([]struct{ bytes, part float64 }, error) {
	if frame == "imix" {
		return imix, nil
	}
	n, err := strconv.Atoi(frame)
	if err != nil || n < 60 || n > 65535 {
		return nil, fmt.Errorf("frames of %q bytes: 60 to 65535, or imix", frame)
	}
	return []struct{ bytes, part float64 }{{float64(n), 1}}, nil
}

// cores returns how many it takes for so many ns of work a second.
func cores(ns float64) int { return max(1, int(math.Ceil(ns/1e9/load))) }

// power returns the power of two from least to most that is n or more.
func power(n float64, least, most int) int {
	p := least
	for float64(p) < n && p < most {
		p *= 2
	}
	return p
}

// Settings returns the lines to paste on the host, for an interface.
func (p *Plan) Settings(iface string) []string {
	var s []string
	add := func(format string, args ...any) { s = append(s, fmt.Sprintf(format, args...)) }
	queues := max(p.Cores, p.IRQ)
	add("sysctl -w net.core.netdev_max_backlog=%d", 1000*max(1, min(300, int(p.Frames/10e3))))
	add("sysctl -w net.core.netdev_budget=600")
	if p.Role == Remote {
		add("sysctl -w net.core.wmem_max=%d", 4<<20)
	} else {
		add("sysctl -w net.core.rmem_max=%d", p.Socket)
	}
	add("ethtool -L %s combined %d", iface, queues)
	add("ethtool -G %s rx 4096", iface)
	add("ethtool -C %s adaptive-rx off rx-usecs 50", iface)
	if p.Role == Remote {
		add("ethtool -K %s lro off", iface)
		add("ntap remote -i %s --workers %d --ring %d -c HOST:5678 --key-file tap.key", iface, p.Cores, p.Ring)
		return s
	}
	add("ethtool -N %s rx-flow-hash udp4 sdfn", iface)
	out := "-i ntap0"
	if p.Role == CollectorVXLAN {
		out = "--no-tap --vxlan HOST"
	}
	add("ntap collector -p 5678 --workers %d --receive-buffer %d --key-file master.key %s", p.Cores, p.Socket, out)
	return s
}

// Bits writes a rate with three digits, as in 2.5 Gbit/s.
func Bits(rate float64) string {
	for _, u := range []struct {
		factor float64
		name   string
	}{{1e12, "Tbit/s"}, {1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if rate >= u.factor {
			return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", rate/u.factor), "0"), ".") + " " + u.name
		}
	}
	return fmt.Sprintf("%.0f bit/s", rate)
}
