// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// inTunnels are frames that are sent into tunnels.
var inTunnels = []synthetic{
	{payload: 20000, gso: 1358}, // with all headers, by IPv6 the largest that the MTU allows
	{payload: 20000, gso: 1338, v6: true},
	{payload: 20000, gso: 1360, udp: true},
	{payload: 700},
	{payload: 700, udp: true, v6: true},
	{payload: 5000, gso: 1000, id: 0xFFFE},
}

// A tunnelWire is a veth, from which frames in tunnels come.
type tunnelWire struct {
	t    *testing.T
	a, b string
	ring *ring.Ring // on b
}

func newTunnelWire(t *testing.T) *tunnelWire {
	w := &tunnelWire{t: t}
	w.a, w.b = testnet.Veth(t)
	r, err := ring.Open(ring.Config{Interface: w.b, Blocks: 32, BlockSize: 1 << 20, Retire: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	w.ring = r
	return w
}

// offloads says what the network card can do.
func (w *tunnelWire) offloads(to string) {
	line := "ethtool -K " + w.a
	for _, f := range []string{"sg", "tx", "gso", "tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation",
		"tx-gre-segmentation", "tx-gre-csum-segmentation", "tx-ipxip4-segmentation", "tx-ipxip6-segmentation"} { // one needs those before it
		line += " " + f + " " + to
	}
	testnet.Run(w.t, line)
}

// compare sends a frame out of a device whose frames leave in a tunnel: once with
// all that a network card could do, so that it crosses whole and the ring says
// what it was, and once without, so that the kernel cuts it. Cut here, the first
// must be the second; ip is where the outer IPv4 header is, 0: there is none.
// (A virtio_net_hdr does not speak of tunnels: it says what the inner frame is,
// and where its checksum is, which is all that cutting needs.)
//
// Masked where it is captured, it must be what the kernel makes of the same frame
// with zeros for a payload.
func (w *tunnelWire) compare(name, device string, s synthetic, ip int) {
	t := w.t
	t.Helper()
	for _, mask := range []bool{false, true} {
		name := fmt.Sprintf("%s, %+v, masked %v", name, s, mask)
		w.offloads("on")
		if err := sendUnfinished(device, s.record()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		whole := capturedRecords(t, w.ring, 1)
		if len(whole) != 1 || !whole[0].NeedsCsum || (whole[0].GSOType != 0) != (s.gso > 0) {
			t.Fatalf("%s: the ring gave %d frames, the first %+v", name, len(whole), whole)
		}
		again := s.record()
		if int(whole[0].CsumStart) < int(again.CsumStart)+20 {
			t.Fatalf("%s: it is in no tunnel: %x", name, head(whole[0].Data))
		}
		if mask {
			if got := whole[0].Mask(); got != proto.Masked {
				t.Fatalf("%s: %d", name, got)
			}
			clear(again.Data[len(again.Data)-s.payload:])
		}
		ours := finished(t, whole[0])
		w.offloads("off")
		if err := sendUnfinished(device, again); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kernel := captured(t, w.ring, len(ours))
		if want := max(1, (s.payload+max(s.gso, 1)-1)/max(s.gso, 1)); len(kernel) != len(ours) || s.gso > 0 && len(ours) != want {
			t.Fatalf("%s: the kernel made %d frames, we %d", name, len(kernel), len(ours))
		}
		for _, run := range [][][]byte{ours, kernel} {
			sameIDs(t, name, run, ip)
		}
		for i := range ours {
			if !bytes.Equal(ours[i], kernel[i]) {
				t.Fatalf("%s: frame %d of %d:\nours   %x\nkernel %x", name, i, len(ours), head(ours[i]), head(kernel[i]))
			}
		}
	}
}

// sameIDs takes the outer IP ID, which a device chooses anew in each run, and
// the sum over it out of frames: that it goes up by one within a run is what
// there is to be seen.
func sameIDs(t *testing.T, name string, run [][]byte, ip int) {
	t.Helper()
	if ip == 0 {
		return
	}
	first := binary.BigEndian.Uint16(run[0][ip+4:])
	for i, d := range run {
		if id := binary.BigEndian.Uint16(d[ip+4:]); id != first+uint16(i) {
			t.Fatalf("%s: outer IP ID %d in frame %d, %d in the first", name, id, i, first)
		}
		if got := sum(d[ip:ip+20], 0); got != 0xFFFF {
			t.Fatalf("%s: the outer IP header sums up to %#x in frame %d", name, got, i)
		}
		clear(d[ip+4 : ip+6])
		clear(d[ip+10 : ip+12])
	}
}

// TestCutsWhatARingCaptured sends GSO frames into a VXLAN device, over IPv4 and
// IPv6, so that they leave the veth below in a tunnel. What comes of them is what
// the kernel makes.
func TestCutsWhatARingCaptured(t *testing.T) {
	for _, v6 := range []bool{false, true} { // no t.Run: another goroutine is in another namespace
		w := newTunnelWire(t)
		local, remote, more, ip := "10.1.0.1/32", "10.1.0.2", " udpcsum", 14
		if v6 {
			local, remote, more, ip = "fd01::1/128", "fd01::2", " local fd01::1", 0
		}
		testnet.Run(t, "ip link set lo up")
		testnet.Run(t, "ip addr add "+local+" dev lo") // there no multicast report comes of it
		testnet.Run(t, "ip route add "+remote+" dev "+w.a)
		testnet.Run(t, "ip neigh add "+remote+" lladdr 02:00:00:00:00:99 dev "+w.a)
		testnet.Run(t, "ip link add vx type vxlan id 7 remote "+remote+" dstport 4789 dev "+w.a+more)
		testnet.Run(t, "ip link set vx addrgenmode none")
		testnet.Run(t, "ip link set vx up")
		for _, s := range append([]synthetic{{payload: 5000, gso: 1000, tags: 1}}, inTunnels...) {
			w.compare("vxlan", "vx", s, ip)
		}
	}
}

// A tunnelHead says what a program puts between the Ethernet header of a frame
// and its IP header.
type tunnelHead struct {
	name     string
	protocol byte   // of the outer IP header; 0: IP in IP
	udp      uint16 // port, if that is UDP
	rest     []byte // behind the outer IP and UDP header
	ethernet bool   // an inner Ethernet header ends it
	flags    uint64 // BPF_F_ADJ_ROOM_, linux/bpf.h
}

// From linux/bpf.h.
const (
	roomMAC      = 1      // BPF_ADJ_ROOM_MAC
	roomFixedGSO = 1 << 0 // BPF_F_ADJ_ROOM_FIXED_GSO
	roomIPv4     = 1 << 1 // BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
	roomIPv6     = 1 << 2
	roomGRE      = 1 << 3 // BPF_F_ADJ_ROOM_ENCAP_L4_GRE
	roomUDP      = 1 << 4
	roomEthernet = 14<<56 | 1<<6 // BPF_F_ADJ_ROOM_ENCAP_L2(14), _ENCAP_L2_ETH
)

// bytes returns all of it, over a frame of so many bytes behind its Ethernet
// header.
func (h tunnelHead) bytes(outer6, inner6 bool, inside int) []byte {
	be := binary.BigEndian
	rest, protocol := slices.Clone(h.rest), h.protocol
	kind := map[bool]uint16{false: etherIPv4, true: etherIPv6}[inner6]
	if h.ethernet {
		rest = append(rest, 2, 0, 0, 0, 7, 2, 2, 0, 0, 0, 7, 1)
		rest = be.AppendUint16(rest, kind)
	} else if len(rest) > 0 {
		be.PutUint16(rest[2:], kind) // of GRE and Geneve
	}
	if h.udp > 0 {
		u := be.AppendUint16(be.AppendUint16(nil, 50000), h.udp)
		u = be.AppendUint16(u, uint16(udpLen+len(rest)+inside))
		rest = append(append(u, 0, 0), rest...)
	}
	if protocol == 0 {
		protocol = map[bool]byte{false: 4, true: 41}[inner6]
	}
	if outer6 {
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7], ip[8], ip[23], ip[24], ip[39] = 0x60, protocol, 64, 0xFD, 1, 0xFD, 2
		be.PutUint16(ip[4:], uint16(len(rest)+inside))
		return append(ip, rest...)
	}
	ip := []byte{0x45, 0, 0, 0, 0xFF, 0xFE, 0x40, 0, 64, protocol, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2}
	be.PutUint16(ip[2:], uint16(20+len(rest)+inside))
	be.PutUint16(ip[10:], ^sum(ip, 0))
	return append(ip, rest...)
}

// TestCutsTunnelsAsTheKernelDoes has a program of the kernel's put frames into
// tunnels, as overlays of containers do, and as the devices for them do: Geneve,
// GRE, GRE with Ethernet, IP in IP, over IPv4 and IPv6. (There is no device for
// them in every kernel; the cutting is the same.) What comes of them is what the
// kernel makes.
func TestCutsTunnelsAsTheKernelDoes(t *testing.T) {
	w := newTunnelWire(t)
	testnet.Run(t, "ip link set "+w.a+" mtu 1600")
	testnet.Run(t, "ip link set "+w.b+" mtu 1600")
	wrap := newWrapper(t, w.a)
	for _, h := range []tunnelHead{
		{"geneve", protoUDP, 6081, []byte{3, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 0x80, 2, 1, 2, 3, 4, 5, 6, 7, 8}, true, roomUDP | roomEthernet},
		{"gre", 47, 0, []byte{0, 0, 0, 0}, false, roomGRE},
		{"gre with a key", 47, 0, []byte{0x20, 0, 0, 0, 1, 2, 3, 4}, false, roomGRE},
		{"ethernet in gre", 47, 0, []byte{0, 0, 0x65, 0x58}, true, roomGRE | roomEthernet},
		{"ip in ip", 0, 0, nil, false, 0},
	} {
		for _, outer6 := range []bool{false, true} {
			for _, s := range inTunnels {
				size := len(s.record().Data) - 14
				h, ip := h, 14
				h.flags |= roomFixedGSO | roomIPv4
				if outer6 {
					h.flags, ip = h.flags&^roomIPv4|roomIPv6, 0
				}
				if err := wrap(h.bytes(outer6, s.v6, size), h.flags); err != nil {
					t.Fatalf("%s: %v", h.name, err)
				}
				w.compare(fmt.Sprintf("%s, outer IPv6 %v", h.name, outer6), w.a, s, ip)
			}
		}
	}
}

// newWrapper returns what has the kernel put a header into all that an interface
// sends, behind the Ethernet header (clsact, egress).
func newWrapper(t *testing.T, iface string) func(header []byte, flags uint64) error {
	t.Helper()
	link, err := ring.LookUp(iface)
	if err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	if err := h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Index, Handle: netlink.MakeHandle(0xFFFF, 0), Parent: netlink.HANDLE_CLSACT,
	}}); err != nil {
		t.Fatal(err)
	}
	return func(header []byte, flags uint64) error {
		size := int32(len(header))
		kind := int32(0x0008) // ETH_P_IP, in network order
		if header[0]>>4 == 6 {
			kind = 0xDD86
		}
		code := asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.Mov.Imm(asm.R2, size),
			asm.Mov.Imm(asm.R3, roomMAC),
			asm.LoadImm(asm.R4, int64(flags), asm.DWord),
			asm.FnSkbAdjustRoom.Call(),
			asm.JNE.Imm(asm.R0, 0, "drop"),
			asm.StoreImm(asm.RFP, -104, int64(kind), asm.Half),
		}
		at := int16(-100)
		for i := range header {
			code = append(code, asm.StoreImm(asm.RFP, at+int16(i), int64(header[i]), asm.Byte))
		}
		for _, store := range []struct{ to, from, n int32 }{{12, -104, 2}, {14, -100, size}} {
			code = append(code,
				asm.Mov.Reg(asm.R1, asm.R6),
				asm.Mov.Imm(asm.R2, store.to),
				asm.Mov.Reg(asm.R3, asm.RFP),
				asm.Add.Imm(asm.R3, store.from),
				asm.Mov.Imm(asm.R4, store.n),
				asm.Mov.Imm(asm.R5, 0),
				asm.FnSkbStoreBytes.Call(),
				asm.JNE.Imm(asm.R0, 0, "drop"))
		}
		code = append(code,
			asm.Mov.Imm(asm.R0, 0), // TC_ACT_OK
			asm.Return(),
			asm.Mov.Imm(asm.R0, 2).WithSymbol("drop"), // TC_ACT_SHOT
			asm.Return())
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
		if err != nil {
			return err
		}
		defer p.Close() // the filter holds it
		return h.FilterReplace(&netlink.BpfFilter{
			FilterAttrs:  netlink.FilterAttrs{LinkIndex: link.Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:           p.FD(),
			Name:         "wrap",
			DirectAction: true,
		})
	}
}
