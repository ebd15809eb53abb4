// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Without an fq qdisc the sender keeps to the rate itself: what it sends takes
// at least as long as the rate says, less what a burst may make up for.
func TestPaceOwn(t *testing.T) {
	testnet.Namespace(t)
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	const rate = 32 << 20 // bytes a second
	s := sender(t, SenderConfig{To: r.Addr().String(), Datagram: 1472, Pace: rate})
	if got, byKernel, device := s.Paced(); got != rate || byKernel || device != "lo" {
		t.Fatalf("rate %d, by the kernel %v, on %q", got, byKernel, device)
	}
	const n = 5000
	start := time.Now()
	for i := range n {
		fill(s, i, 1472)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	// The last flight may go as soon as the one before it is paid for.
	least := time.Duration(n*(1472+42)-rate/4000)*time.Second/rate - 2*paceBurst
	if took < least {
		t.Errorf("%d datagrams in %v, at least %v", n, took, least)
	}
	if flight := s.Stats().Bytes.Load() / s.Stats().Calls.Load(); flight > rate/4000 {
		t.Errorf("flights of %d bytes, more than 250 µs of the rate", flight)
	}
	if got := drain(t, r, func(int, []byte) {}); got != n {
		t.Errorf("%d of %d came", got, n)
	}
}

// SO_MAX_PACING_RATE is set, in 64 bits, where the kernel is to pace.
func TestPaceByKernel(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const rate = 100e9 / 8
	if err := setPacingRate(fd, rate); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE); err != nil || got != rate {
		t.Errorf("the kernel has %d, %v; want %d", got, err, uint64(rate))
	}
}

// A device that has fq paces, whatever it is: really so, where this kernel has
// it.
func TestPaceFindsFQ(t *testing.T) {
	testnet.Veth(t)
	testnet.Run(t, "ip addr add 10.90.0.1/24 dev va")
	testnet.Run(t, "ip neigh add 10.90.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent")
	s := sender(t, SenderConfig{To: "10.90.0.2:5678", Pace: 1e9})
	if _, byKernel, device := s.Paced(); byKernel || device != "va" {
		t.Errorf("by the kernel %v, on %q", byKernel, device)
	}
	l, err := netlink.LinkByName("va")
	if err != nil {
		t.Fatal(err)
	}
	fq := netlink.NewFq(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	if err := netlink.QdiscAdd(fq); err != nil {
		t.Logf("no fq in this kernel (%v): the choice alone is tested, in TestPacing", err)
		return
	}
	s = sender(t, SenderConfig{To: "10.90.0.2:5678", Pace: 1e9})
	if _, byKernel, device := s.Paced(); !byKernel || device != "va" {
		t.Errorf("with fq: by the kernel %v, on %q", byKernel, device)
	}
}

func TestPacing(t *testing.T) {
	q := func(kind string, handle, parent uint32) netlink.Qdisc {
		return &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{Handle: handle, Parent: parent}, QdiscType: kind}
	}
	const root = netlink.HANDLE_ROOT
	for _, c := range []struct {
		name       string
		all        []netlink.Qdisc
		fair, none bool
	}{
		{"nothing", nil, false, true},
		{"noqueue", []netlink.Qdisc{q("noqueue", 0, root)}, false, true},
		{"pfifo_fast", []netlink.Qdisc{q("pfifo_fast", 0, root)}, false, false},
		{"fq", []netlink.Qdisc{q("fq", 0x80010000, root)}, true, false},
		{"fq_codel", []netlink.Qdisc{q("fq_codel", 0x80010000, root)}, false, false},
		{"fq and clsact", []netlink.Qdisc{q("fq", 0x80010000, root), q("clsact", 0xFFFF0000, netlink.HANDLE_CLSACT)}, true, false},
		{"clsact alone", []netlink.Qdisc{q("noqueue", 0, root), q("clsact", 0xFFFF0000, netlink.HANDLE_CLSACT)}, false, true},
		{"mq of fq", []netlink.Qdisc{q("mq", 0x10000, root), q("fq", 0, 0x10001), q("fq", 0, 0x10002)}, true, false},
		{"mq of both", []netlink.Qdisc{q("mq", 0x10000, root), q("fq", 0, 0x10001), q("fq_codel", 0, 0x10002)}, false, false},
		{"mq of nothing", []netlink.Qdisc{q("mq", 0x10000, root)}, false, false},
		{"the default mq", []netlink.Qdisc{q("mq", 0, root), q("fq", 0, 1), q("fq", 0, 2)}, true, false},
	} {
		if fair, none := pacing(c.all); fair != c.fair || none != c.none {
			t.Errorf("%s: %v, %v", c.name, fair, none)
		}
	}
}

// A VLAN, a bond and a bridge have no queue of their own: what is below them
// counts, all of it.
func TestPaceBelow(t *testing.T) {
	link := func(name string, index, parent, master int) netlink.Link {
		return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index, ParentIndex: parent, MasterIndex: master}}
	}
	links := []netlink.Link{
		link("fair", 1, 0, 10), link("plain", 2, 0, 11), link("fair too", 3, 0, 10), link("fair, with plain", 4, 0, 11),
		link("bond of fair", 10, 0, 0), link("bond of both", 11, 0, 0), link("bond of none", 12, 0, 0),
		link("vlan on fair", 20, 1, 0), link("vlan on plain", 21, 2, 0), link("vlan on a bond", 22, 10, 0), link("vlan on that", 23, 22, 0),
		link("loop", 30, 31, 0), link("loop too", 31, 30, 0),
	}
	qdiscs := func(l netlink.Link) ([]netlink.Qdisc, error) {
		kind := "noqueue"
		switch name := l.Attrs().Name; {
		case strings.HasPrefix(name, "fair"):
			kind = "fq"
		case name == "plain":
			kind = "pfifo_fast"
		}
		return []netlink.Qdisc{&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{Parent: netlink.HANDLE_ROOT}, QdiscType: kind}}, nil
	}
	want := map[string]bool{"fair": true, "fair too": true, "fair, with plain": true, "bond of fair": true, "vlan on fair": true, "vlan on a bond": true, "vlan on that": true}
	for _, l := range links {
		if got := paces(l, links, qdiscs, 4); got != want[l.Attrs().Name] {
			t.Errorf("%s: %v", l.Attrs().Name, got)
		}
	}
}

// The kernel's own links say what is below a device as paces reads it.
func TestPaceBelowAsTheKernelSays(t *testing.T) {
	testnet.Veth(t)
	for _, made := range []struct{ add, name string }{
		{"link add above link va type macvlan", "above"},
		{"link add bridge type bridge\nlink set vb master bridge", "bridge"},
	} {
		for line := range strings.Lines(made.add) {
			testnet.Run(t, "ip "+line)
		}
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		l, err := netlink.LinkByName(made.name)
		if err != nil {
			t.Fatal(err)
		}
		asked := map[string]bool{}
		paces(l, links, func(l netlink.Link) ([]netlink.Qdisc, error) {
			asked[l.Attrs().Name] = true
			return netlink.QdiscList(l)
		}, 4)
		if below := map[string]string{"above": "va", "bridge": "vb"}[made.name]; !asked[below] || !asked[made.name] {
			t.Errorf("%s: looked at %v, not at %s", made.name, asked, below)
		}
	}
}

// The rate of a Sender changes while it sends: flights become as large as the
// new one allows, and what it waits is counted.
func TestPaceChanges(t *testing.T) {
	testnet.Namespace(t)
	r := listen(t, ListenConfig{Addr: "127.0.0.1:0"})[0]
	const slow, fast = 4 << 20, 64 << 20 // bytes a second: less than a datagram in 250 µs, and eleven
	s := sender(t, SenderConfig{To: r.Addr().String(), Datagram: 1472, Pace: slow})
	send := func(rate uint64, per int) {
		t.Helper()
		const n = 200
		before, calls := s.stats.Datagrams.Load(), s.stats.Calls.Load()
		spent, waited := s.Spent()
		start := time.Now()
		for i := range n {
			fill(s, i, 1472)
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		if least := time.Duration(n*(1472+42)-rate/4000-1514)*time.Second/time.Duration(rate) - 2*paceBurst; took < least {
			t.Errorf("at %d: %d datagrams in %v, at least %v", rate, n, took, least)
		}
		if got := int(s.stats.Datagrams.Load()-before) / int(s.stats.Calls.Load()-calls); got != per && got != per-1 {
			t.Errorf("at %d: %d datagrams in a flight, want %d", rate, got, per)
		}
		if more, longer := s.Spent(); more-spent != n*(1472+42) || longer <= waited {
			t.Errorf("at %d: %d bytes used, and %v waited", rate, more-spent, longer-waited)
		}
		drain(t, r, func(int, []byte) {})
	}
	send(slow, 1)
	s.Pace(fast)
	send(fast, fast/4000/1472)
	s.Pace(slow)
	send(slow, 1)
	if got, _, _ := s.Paced(); got != slow {
		t.Errorf("a rate of %d", got)
	}
	unpaced := sender(t, SenderConfig{To: r.Addr().String(), Datagram: 1472})
	unpaced.Pace(slow)
	if got, _, _ := unpaced.Paced(); got != 0 || unpaced.slots < 40 {
		t.Errorf("one without a rate was given %d, %d in a flight", got, unpaced.slots)
	}
}
