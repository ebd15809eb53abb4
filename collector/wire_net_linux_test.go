// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// TestCutAsTheKernelDoes sends frames with a virtio_net_hdr out of a veth that
// can do nothing in hardware: the kernel completes checksums and cuts GSO
// frames before they leave. The same frames, cut and completed here, must be
// the same bytes in the same order.
func TestCutAsTheKernelDoes(t *testing.T) {
	a, b := testnet.Veth(t)
	for _, f := range []string{"tx", "tso", "gso", "tx-udp-segmentation", "sg"} {
		testnet.Run(t, "ethtool -K "+a+" "+f+" off")
	}
	testnet.Run(t, "ip link set "+a+" mtu 9000")
	testnet.Run(t, "ip link set "+b+" mtu 9000")
	r, err := ring.Open(ring.Config{Interface: b, Blocks: 32, BlockSize: 1 << 20, Retire: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	failed := 0
	for _, c := range unfinished() { // no t.Run: another goroutine is in another namespace
		ours := finished(t, c.record())
		if err := sendUnfinished(a, c.record()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		kernel := captured(t, r, len(ours))
		if len(kernel) != len(ours) {
			t.Errorf("%s: the kernel made %d frames, we %d", c.name, len(kernel), len(ours))
			failed++
		}
		for i := range min(len(ours), len(kernel)) {
			if !bytes.Equal(ours[i], kernel[i]) {
				t.Errorf("%s: frame %d of %d:\nours   %x\nkernel %x", c.name, i, len(ours), head(ours[i]), head(kernel[i]))
				failed++
				break
			}
		}
		if failed > 3 {
			t.FailNow()
		}
	}
}

// finished returns what the outputs would be given of r.
func finished(t *testing.T, r *proto.Record) (frames [][]byte) {
	t.Helper()
	w := &worker{shared: &shared{}, account: new(WorkerAccount), sinks: []sink{&keeper{frames: &frames}}}
	w.finish(&Origin{}, r)
	if w.account.Uncut.Load() > 0 {
		t.Errorf("not cut: %+v", r)
	}
	if n := w.account.Cut.Load(); int(n) != len(frames)-1 {
		t.Fatalf("%d frames are counted beyond the first of %d", n, len(frames))
	}
	return frames
}

// captured returns the next n frames of the ring, and more if there are.
func captured(t *testing.T, r *ring.Ring, n int) (frames [][]byte) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		b, err := r.Take(50 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			if len(frames) >= n {
				return frames
			}
			continue
		}
		for f, ok := b.Next(); ok; f, ok = b.Next() {
			frames = append(frames, bytes.Clone(f.Data))
		}
		b.Release()
	}
	return frames
}

// sendUnfinished sends r with its virtio_net_hdr (packet(7), PACKET_VNET_HDR).
func sendUnfinished(iface string, r *proto.Record) error {
	link, err := ring.LookUp(iface)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	var h [10]byte
	if r.NeedsCsum {
		h[0] = 1
		binary.NativeEndian.PutUint16(h[6:], r.CsumStart)
		binary.NativeEndian.PutUint16(h[8:], r.CsumOffset)
	}
	if r.GSOType != 0 {
		h[1] = r.GSOType // and a length of headers of 0: it is a hint
		binary.NativeEndian.PutUint16(h[4:], r.GSOSize)
	}
	return unix.Sendto(fd, append(h[:], r.Data...), 0, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: 0x0300})
}

// TestCutsWhatARingCaptured sends GSO frames into a VXLAN device, over IPv4 and
// IPv6, so that they leave the veth below in a tunnel: once with all that a
// network card could do,
// so that they cross whole and the ring says what they were, and once without,
// so that the kernel cuts them. Cut here, the first must be the second. (A
// virtio_net_hdr does not speak of tunnels: it says what the inner frame is, and
// where its checksum is, which is all that cutting needs.)
func TestCutsWhatARingCaptured(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		cutsWhatARingCaptured(t, v6) // no t.Run: another goroutine is in another namespace
	}
}

func cutsWhatARingCaptured(t *testing.T, underlay6 bool) {
	a, b := testnet.Veth(t)
	local, remote, more, ip := "10.1.0.1/32", "10.1.0.2", " udpcsum", 14
	if underlay6 {
		local, remote, more = "fd01::1/128", "fd01::2", " local fd01::1"
	}
	testnet.Run(t, "ip link set lo up")
	testnet.Run(t, "ip addr add "+local+" dev lo") // there no multicast report comes of it
	testnet.Run(t, "ip route add "+remote+" dev "+a)
	testnet.Run(t, "ip neigh add "+remote+" lladdr 02:00:00:00:00:99 dev "+a)
	testnet.Run(t, "ip link add vx type vxlan id 7 remote "+remote+" dstport 4789 dev "+a+more)
	testnet.Run(t, "ip link set vx addrgenmode none")
	testnet.Run(t, "ip link set vx up")
	r, err := ring.Open(ring.Config{Interface: b, Blocks: 32, BlockSize: 1 << 20, Retire: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	features := []string{"sg", "tx", "gso", "tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"}
	set := func(to string) { // one needs those before it
		line := "ethtool -K " + a
		for _, f := range features {
			line += " " + f + " " + to
		}
		testnet.Run(t, line)
	}
	for _, s := range []synthetic{
		{payload: 20000, gso: 1378}, // with all headers, by IPv6 the largest that the MTU allows
		{payload: 20000, gso: 1358, v6: true},
		{payload: 20000, gso: 1380, udp: true},
		{payload: 700},
		{payload: 700, udp: true, v6: true},
		{payload: 5000, gso: 1000, tags: 1},
	} {
		set("on")
		if err := sendUnfinished("vx", s.record()); err != nil {
			t.Fatal(err)
		}
		var ours [][]byte
		whole := capturedRecords(t, r, 1)
		if len(whole) != 1 || !whole[0].NeedsCsum || (whole[0].GSOType != 0) != (s.gso > 0) {
			t.Fatalf("%+v: the ring gave %d frames, the first %+v", s, len(whole), whole)
		}
		ours = finished(t, whole[0])
		set("off")
		if err := sendUnfinished("vx", s.record()); err != nil {
			t.Fatal(err)
		}
		kernel := captured(t, r, len(ours))
		if len(kernel) != len(ours) {
			t.Fatalf("%+v: the kernel made %d frames, we %d", s, len(kernel), len(ours))
		}
		for i := range ours {
			// The outer IP ID is another one in each run; that it goes up by one
			// within a run is what there is to be seen.
			for _, run := range [][][]byte{ours, kernel} {
				if underlay6 {
					break // which has none
				}
				if first, id := binary.BigEndian.Uint16(run[0][18:]), binary.BigEndian.Uint16(run[i][18:]); id != first+uint16(i) {
					t.Fatalf("%+v: outer IP ID %d in frame %d, %d in the first", s, id, i, first)
				}
			}
			without := func(d []byte) []byte {
				d = bytes.Clone(d)
				if !underlay6 {
					clear(d[ip+4 : ip+6])
					clear(d[ip+10 : ip+12])
				}
				return d
			}
			if !bytes.Equal(without(ours[i]), without(kernel[i])) {
				t.Fatalf("%+v: frame %d of %d:\nours   %x\nkernel %x", s, i, len(ours), head(ours[i]), head(kernel[i]))
			}
		}
	}
}

// capturedRecords is captured with what the ring says of the frames.
func capturedRecords(t *testing.T, r *ring.Ring, n int) (all []*proto.Record) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && len(all) < n; {
		b, err := r.Take(50 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			continue
		}
		for f, ok := b.Next(); ok; f, ok = b.Next() {
			all = append(all, &proto.Record{
				Data: bytes.Clone(f.Data), OrigLen: f.WireLen, LinkType: proto.LinkTypeEthernet,
				NeedsCsum: f.NeedsCsum, CsumStart: f.CsumStart, CsumOffset: f.CsumOffset, GSOType: f.GSOType, GSOSize: f.GSOSize,
			})
		}
		b.Release()
	}
	return all
}
