// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// Tagged frames come out of the collector byte for byte as tcpdump has them at
// the other end of the cable, with the direction in which they passed, whether
// VLAN offloads are on or off. Three ways: received; sent with the tag in the
// frame; and forwarded by a bridge, which leaves the outer tag beside the frame,
// as VLAN devices do, for the sending card to put in.
func TestTagsComeOutAsThePeerSawThem(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "ethtool")
	w := newWorld(t)
	for _, line := range [][]string{
		{"link", "add", "q0", "type", "veth", "peer", "name", "q1"},
		{"link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0"},
		{"link", "set", "q0", "master", "br0"},
		{"link", "set", "t0", "master", "br0"},
		{"link", "set", "br0", "up"}, {"link", "set", "q0", "up"}, {"link", "set", "q1", "up"},
	} {
		w.in(w.sender, "ip", line...)
	}
	w.waitUp(w.sender, "q0")
	w.waitUp(w.sender, "q1")
	w.waitUp(w.sender, "br0")

	out, wire := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "wire.pcap")
	dump := w.startTcpdump(w.peer, "p0", wire)
	c := w.startCollector("--no-tap", "-w", out)
	r := w.startRemote("-i", "t0")
	send := func(ns, iface string, frames ...[]byte) {
		w.inside(ns, func() error {
			testnet.SendFrames(t, iface, frames...)
			return nil
		})
	}
	ways := []struct {
		name, ns, iface string
		direction       uint8 // epb_flags
	}{{"received", w.peer, "p0", 1}, {"sent", w.sender, "t0", 2}, {"forwarded", w.sender, "q1", 2}}
	sent := map[byte][][]byte{} // by the last byte of the source address
	for i, offload := range []string{"on", "off"} {
		for ns, iface := range map[string]string{w.sender: "t0", w.peer: "p0"} {
			w.in(ns, "ethtool", "-K", iface, "rxvlan", offload, "txvlan", offload, "rx-vlan-stag-hw-parse", offload, "tx-vlan-stag-hw-insert", offload)
		}
		for j, way := range ways {
			id := byte(0x10*(i+1) + j)
			sent[id] = taggedFrames(id)
			end := marker(way.name + " " + offload)
			send(way.ns, way.iface, append(sent[id], end)...)
			dump.until(way.name+" passed the cable", func() bool { return fileHas(wire, end) })
			r.until(way.name+" came out", func() bool { return fileHas(out, end) })
		}
	}
	r.stop()
	dump.stop()
	if text := c.stop(); account(text, "frames lost") != 0 {
		t.Errorf("frames were lost:\n%s", text)
	}

	onWire, cameOut := bySender(testnet.ReadCapture(t, wire)), bySender(testnet.ReadCapture(t, out))
	for i, offload := range []string{"on", "off"} {
		for j, way := range ways {
			id := byte(0x10*(i+1) + j)
			judge, got := onWire[id], cameOut[id]
			if len(judge) != len(sent[id]) || len(got) != len(sent[id]) {
				t.Errorf("%s, offload %s: %d frames, tcpdump has %d, of %d", way.name, offload, len(got), len(judge), len(sent[id]))
				continue
			}
			for k, f := range sent[id] {
				if g := got[k]; !bytes.Equal(judge[k].Data, f) || !bytes.Equal(g.Data, f) || g.OrigLen != judge[k].OrigLen || g.Direction != way.direction {
					t.Errorf("%s, offload %s, frame %d: %d bytes, direction %d: %x, tcpdump has %d: %x, sent %x",
						way.name, offload, k, g.OrigLen, g.Direction, head(g.Data), judge[k].OrigLen, head(judge[k].Data), head(f))
				}
			}
		}
	}
}

// taggedFrames returns frames from 02:00:00:00:01:id: untagged, 802.1Q, with
// priority and DEI, priority tags, 802.1ad, QinQ of both kinds, three tags, and
// the 0x9100 of before 802.1ad.
func taggedFrames(id byte) (frames [][]byte) {
	for _, size := range []int{60, 1400} {
		for n, tags := range [][]byte{
			{}, {0x81, 0, 0, 100}, {0x81, 0, 0xBF, 0xFE}, {0x81, 0, 0, 0}, {0x81, 0, 0xE0, 0}, {0x88, 0xA8, 0, 200}, {0x88, 0xA8, 0xE0, 0},
			{0x88, 0xA8, 0, 200, 0x81, 0, 0, 100}, {0x88, 0xA8, 0, 200, 0x88, 0xA8, 0, 100}, {0x81, 0, 0, 1, 0x81, 0, 0, 2},
			{0x88, 0xA8, 0, 3, 0x81, 0, 0, 2, 0x81, 0, 0, 1}, {0x91, 0, 0, 9, 0x81, 0, 0, 8},
		} {
			f := append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 1, id}, tags...)
			f = binary.BigEndian.AppendUint16(f, 0x88B6)
			for i := len(f); i < size; i++ {
				f = append(f, byte(i*7+n))
			}
			frames = append(frames, f)
		}
	}
	return frames
}

// bySender sorts the frames of taggedFrames by their id, in order.
func bySender(packets []testnet.Packet) map[byte][]testnet.Packet {
	m := map[byte][]testnet.Packet{}
	for _, p := range packets {
		if len(p.Data) > 12 && bytes.Equal(p.Data[6:11], []byte{2, 0, 0, 0, 1}) {
			m[p.Data[11]] = append(m[p.Data[11]], p)
		}
	}
	return m
}
