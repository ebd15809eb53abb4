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
