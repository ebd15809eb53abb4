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
	doubled     = 2    // what the kernel takes for a byte of SO_RCVBUF that it is asked for (socket(7)): what a received byte is charged, about

	leastRing   = 64 << 20 // bytes: the defaults
	leastSocket = 64 << 20
	mostRing    = 4 << 30 // what one shard's ring can have, and a socket
	mostSocket  = 1 << 30
	process     = 64 << 20 // of Go's and the program,
	workerTakes = 8 << 20  // and of each worker's arenas at the most: received, joined, cut

	datagram      = 1472             // bytes of payload at MTU 1500
	perDatagram   = 24 + 10 + 16     // header, prologue and tag: proto/WIRE.md
	perRecord     = 5                // bytes before a frame, about: proto/WIRE.md
	outerHeaders  = 14 + 20 + 8      // Ethernet, IPv4, UDP
	vxlanOverhead = outerHeaders + 8 // and VXLAN
)

const (
	leastFrame = 60 // bytes: IEEE 802.3, without FCS
	mostFrame  = 9216

	// A captured byte is written by the card, read and written by the kernel's copy
	// and by ours, read and written by the cipher's socket or TAP, and read by what
	// comes next: 8 times at the most. What the caches hold is not.
	touches   = 8
	tapQueues = 256 // MAX_TAP_QUEUES, drivers/net/tun.c
	manyCores = 128
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
	Cores  int // for shards or workers, each one thread
	IRQ    int // for the kernel's part, of CPUs that serve the network card
	Ring   int // bytes, of each shard; remotes only
	Socket int // bytes that each socket's buffer is asked to have; collectors only,
	// with so many sockets a worker: one more than one for what comes from
	// strangers, where datagrams prove where they come from.
	Sockets int
	Out     float64 // bit/s that leave the host, 0 to a TAP
	In      float64 // bit/s that enter
	Queues  int     // receive queues of the network card
	Memory  float64 // bytes a second that go to and from memory at the most: if no cache held any
	Notes   []string
}

// Busy returns how many cores' time the threads of ntap take.
func (p *Plan) Busy() float64 { return p.Frames * p.Cost.Own / 1e9 }

// Buffers returns the bytes that the rings of a remote take, or that the buffers
// of a worker's sockets hold when all are full; and how many shards or workers
// there are.
func (p *Plan) Buffers() (each, of int) { return p.Ring + p.Sockets*doubled*p.Socket, p.Cores }

// Process returns the bytes that the process takes besides, at the most.
func (p *Plan) Process() int {
	if p.Role == Remote {
		return process
	}
	return process + p.Cores*workerTakes
}

// BusyIRQ returns how many the kernel takes on CPUs that serve the network card.
func (p *Plan) BusyIRQ() float64 { return p.Frames * p.Cost.Kernel / 1e9 }

// Check says what of an Ask can be in no plan.
func Check(a Ask) error {
	if !(a.Rate >= leastRate && a.Rate <= mostRate) {
		return fmt.Errorf("a rate of %v bit/s: 1k to 10T, as in 10G", a.Rate)
	}
	if _, known := own[a.Role]; !known {
		return fmt.Errorf("role %q: %s, %s or %s", a.Role, Remote, Collector, CollectorVXLAN)
	}
	_, err := mixOf(a.Frame)
	return err
}

// Plan makes a plan. Errors name what is wrong with the Ask.
func (m *Model) Plan(a Ask) (p Plan, err error) {
	if err := Check(a); err != nil {
		return p, err
	}
	p.Ask = a
	if p.Suite, err = m.Suite(a.Cipher); err != nil {
		return p, err
	}
	if p.Cost, err = m.Cost(a.Role, p.Suite, a.Frame); err != nil {
		return p, err
	}
	sizes, _ := mixOf(a.Frame)
	for _, one := range sizes {
		p.Bytes += one.part * one.bytes
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
		p.Socket = power(sealed/8/float64(p.Cores)*socketHolds, leastSocket, mostSocket)
		if p.Sockets = 2; p.Suite == Clear {
			p.Sockets = 1
		}
	}
	p.Queues = max(p.Cores, p.IRQ)
	p.Memory = touches * p.Frames * p.Bytes
	m.note(&p)
	return p, nil
}

// note says what the numbers of a plan do not.
func (m *Model) note(p *Plan) {
	add := func(format string, args ...any) { p.Notes = append(p.Notes, fmt.Sprintf(format, args...)) }
	most, points := 0.0, m.Profile.Points
	for _, q := range points {
		most = max(most, q.Bytes)
	}
	if len(points) > 0 && p.Bytes > most {
		add("frames of %.0f bytes are longer than any that was measured (%.0f): the line goes on straight, which nobody held against a measurement", p.Bytes, most)
	}
	if p.Role == Collector && p.Cores > tapQueues {
		add("a TAP device has %d queues at the most: take several devices (-i ntap%%t), or collectors", tapQueues)
	}
	if p.Role != Remote && p.Cores > 1 {
		add("a shard of a remote always meets the same worker: %d workers want the shards of remotes to be several times as many", p.Cores)
	}
	if p.Cores+p.IRQ > manyCores {
		add("%d cores are more than most hosts have: divide the traffic among several (remotes by filter or by port, collectors by tap)", p.Cores+p.IRQ)
	}
	if p.Role == Remote && p.Out > p.In {
		add("towards the collector goes %.0f %% more than is captured: the link there has to have it", 100*(p.Out/p.In-1))
	}
}

func mixOf(frame string) ([]struct{ bytes, part float64 }, error) {
	if frame == "imix" {
		return imix, nil
	}
	n, err := strconv.Atoi(frame)
	if err != nil || n < leastFrame || n > mostFrame {
		return nil, fmt.Errorf("frames of %q bytes: %d to %d, or imix (64, 594 and 1518 bytes as 7:4:1)", frame, leastFrame, mostFrame)
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
