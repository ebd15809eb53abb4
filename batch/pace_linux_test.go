// SPDX-License-Identifier: Apache-2.0

package batch

import (
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

// A VLAN has no queue of its own: what is below it counts.
func TestPaceBelowVLAN(t *testing.T) {
	testnet.Veth(t)
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "va.7", ParentIndex: index(t, "va")}, VlanId: 7}); err != nil {
		t.Skip("no VLAN devices in this kernel: ", err)
	}
	l, err := netlink.LinkByName("va.7")
	if err != nil {
		t.Fatal(err)
	}
	if paces(l, 4) {
		t.Error("nothing below it paces")
	}
}

func index(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}
