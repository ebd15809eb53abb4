// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// tagged returns numbered frame i with tags behind its addresses.
func tagged(i int, tags ...byte) []byte {
	f := testnet.Numbered(i, 200)
	return append(append(bytes.Clone(f[:12]), tags...), f[12:]...)
}

// Frames sent with tags come with the same bytes: 802.1Q, 802.1ad, QinQ,
// priority tags. The receiver's kernel takes the outer tag out; where they are
// sent they still have it.
func TestRingPutsTagsBack(t *testing.T) {
	r, iface, peer := testRing(t, nil)
	out, err := Open(plenty(peer))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	frames := [][]byte{
		tagged(0), tagged(1, 0x81, 0, 0x20, 100), tagged(2, 0x81, 0, 0xE0, 0), tagged(3, 0x81, 0, 0, 0), tagged(4, 0x88, 0xA8, 0x0F, 0xFF),
		tagged(5, 0x88, 0xA8, 0, 200, 0x81, 0, 0, 100), tagged(6, 0x81, 0, 0, 1, 0x81, 0, 0, 2), tagged(7, 0x91, 0, 0, 1),
	}
	testnet.SendFrames(t, peer, frames...)
	for name, r := range map[string]*Ring{iface: r, peer: out} {
		i := 0
		take(t, r, len(frames), func(f Frame) {
			if !bytes.Equal(f.Data, frames[i]) || int(f.WireLen) != len(frames[i]) || f.Outgoing != (name == peer) {
				t.Errorf("%s: frame %d, outgoing %v, %d bytes on the wire: %x, want %x", name, i, f.Outgoing, f.WireLen, f.Data[:30], frames[i][:30])
			}
			i++
		})
	}
}

// Tags that the sender leaves to the hardware come back on both sides: such a
// tag is in the descriptor of the frame, where bpf_skb_vlan_push puts it. With
// the offload off, the kernel puts it into the frame before the device.
func TestRingPutsOffloadedTagsBack(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	for _, offload := range []string{"on", "off"} {
		for _, tpid := range []uint16{0x8100, 0x88A8} {
			t.Run(fmt.Sprintf("%s/%x", offload, tpid), func(t *testing.T) {
				r, _, peer := testRing(t, nil)
				testnet.Run(t, "ethtool -K vb tx-vlan-hw-insert "+offload+" tx-vlan-stag-hw-insert "+offload)
				pushTag(t, peer, tpid, 0x6123)
				out, err := Open(plenty(peer))
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				testnet.SendFrames(t, peer, tagged(0), tagged(1, 0x81, 0, 0, 9))
				outer := []byte{byte(tpid >> 8), byte(tpid), 0x61, 0x23}
				want := [][]byte{tagged(0, outer...), tagged(1, append(outer, 0x81, 0, 0, 9)...)}
				for name, r := range map[string]*Ring{"received": r, "sent": out} {
					i := 0
					take(t, r, len(want), func(f Frame) {
						if !bytes.Equal(f.Data, want[i]) || int(f.WireLen) != len(want[i]) {
							t.Errorf("%s: frame %d, %d bytes on the wire: %x, want %x", name, i, f.WireLen, f.Data[:30], want[i][:30])
						}
						i++
					})
				}
			})
		}
	}
}

// pushTag has the kernel tag all that an interface sends, before it gives the
// frames to the device (clsact, egress).
func pushTag(t *testing.T, iface string, tpid, tci uint16) {
	t.Helper()
	big := int32(tpid<<8 | tpid>>8) // the helper takes network order
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.SchedCLS,
		License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm32(asm.R2, big),
			asm.Mov.Imm32(asm.R3, int32(tci)),
			asm.FnSkbVlanPush.Call(),
			asm.Mov.Imm(asm.R0, 0), // TC_ACT_OK
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	i, err := net.InterfaceByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: i.Index, Handle: netlink.MakeHandle(0xFFFF, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: i.Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:           prog.FD(),
		Name:         "push",
		DirectAction: true,
	}); err != nil {
		t.Fatal(err)
	}
}
