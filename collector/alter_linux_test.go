// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A VXLAN output of which the VNIs change under traffic, and then its source
// ports, loses no frame of any tap, and keeps their order: it used to be closed,
// and frames were refused until it was open again.
func TestRerouteVNI(t *testing.T) {
	to, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	testnet.Bound(t, to)
	roomy(t, to)
	vni := func(text string, ports int) Outputs {
		v, err := ParseVNI(text)
		if err != nil {
			t.Fatal(err)
		}
		return Outputs{VXLAN: []VXLAN{{To: to.LocalAddr().String(), VNI: v, Ports: ports}}}
	}
	keys := testKeys(t)
	r := reroute(t, keys, vni("1=101,2=102", 4))
	type got struct {
		packets []testnet.Packet
		vnis    []uint32
	}
	done := make(chan got, 1)
	go func() {
		var g got
		buf := make([]byte, 1<<16)
		for {
			n, err := to.Read(buf)
			if err != nil || n == 1 {
				done <- g
				return
			}
			vni, frame, _ := proto.ParseVXLAN(buf[:n])
			g.packets, g.vnis = append(g.packets, testnet.Packet{Data: bytes.Clone(frame)}), append(g.vnis, vni)
		}
	}()
	f := flowing(t, keys, 2, r.addr)
	goOn := func() {
		n := r.unpacked()
		r.until("frames went on", func() bool { return r.unpacked() > n+500 })
	}
	goOn()
	r.to(vni("1=201,2=102", 4), nil)
	goOn()
	r.to(vni("tap", 4), nil)
	goOn()
	r.to(vni("tap", 8), nil)
	goOn()
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	lastDatagram(t, to)
	g := testnet.Receive(t, "the datagram that ends it", done)
	if s := r.sum(to.LocalAddr().String()); s.Refused != 0 || s.Delivered != uint64(all) || s.NoVNI != 0 {
		t.Errorf("of %d frames: %+v", all, s)
	}
	if len(g.packets) != all {
		t.Errorf("%d frames came of %d", len(g.packets), all)
	}
	for tap, want := range [][]uint32{1: {101, 201, 1}, 2: {102, 2}} {
		var seen []uint32
		for i, p := range g.packets {
			if flow, _ := flowAndNumber(p.Data); flow/100 == tap && (len(seen) == 0 || seen[len(seen)-1] != g.vnis[i]) {
				seen = append(seen, g.vnis[i])
			}
		}
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("tap %d had VNIs %v, want %v", tap, seen, want)
		}
	}
	flows := map[int][]int{}
	for _, p := range g.packets {
		flow, n := flowAndNumber(p.Data)
		flows[flow] = append(flows[flow], n)
	}
	for flow, all := range flows {
		for i, n := range all {
			if i > 0 && n != all[i-1]+8 {
				t.Errorf("flow %d: frame %d behind %d", flow, n, all[i-1])
				break
			}
		}
	}
	if log := fmt.Sprint(r.log.all()); strings.Count(log, `\"changed\":1`)+strings.Count(log, `"changed":1`) != 2 {
		t.Errorf("two of the changes were to be made in place:\n%s", log)
	}
}

// A PCAP over IP server of which format, clients and buffer change keeps its
// address and its clients, which get every frame; new ones get what it says now.
func TestRerouteServe(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	outs := func(s Serve) Outputs {
		s.Addr = "127.0.0.1:0"
		return Outputs{Files: []File{{Path: filepath.Join(dir, "x.pcapng")}}, Serve: []Serve{s}}
	}
	r := reroute(t, keys, outs(Serve{Queue: 64 << 20}))
	addr := r.serves()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	client := (&stall{t: t}).greet(conn)
	f := flowing(t, keys, 2, r.addr)
	read := make(chan []testnet.Packet, 1)
	go func() {
		var got []testnet.Packet
		_, packets, _ := blocks(t, client.all())
		for _, p := range packets {
			got = append(got, testnet.Packet{Data: p.Data})
		}
		read <- got
	}()
	r.until("frames came", func() bool { return r.unpacked() > 500 })
	r.to(outs(Serve{Queue: 1 << 20, Pcap: true, Clients: 2}), nil)
	second, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.SetReadDeadline(time.Now().Add(time.Minute))
	head := make([]byte, 4)
	if _, err := second.Read(head); err != nil || !bytes.Equal(head, []byte{0x4D, 0x3C, 0xB2, 0xA1}) {
		t.Errorf("the new client got %x (%v), want pcap with ns", head, err)
	}
	go io.Copy(io.Discard, second) // one that went with frames on their way would be refused those
	third, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	third.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := third.Read(head); err == nil {
		t.Errorf("a third client got %x", head[:n])
	}
	n := r.unpacked()
	r.until("frames went on", func() bool { return r.unpacked() > n+500 })
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	inOrder(t, "the client", testnet.Receive(t, "the client's end", read), f.sent)
	if s := r.sum(addr); s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

// A PCAP over IP server of which the snap length becomes shorter keeps its clients, and
// tells new ones the length that is in force: it used to tell that from before. One that
// becomes longer again ends those that were told the shorter one.
func TestRerouteServeSnapLen(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	probe, err := net.Listen("tcp", "127.0.0.9:0") // where no other program takes the port once it is free
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.Addr().String()
	probe.Close()
	outs := func(snap int) Outputs {
		return Outputs{Files: []File{{Path: filepath.Join(dir, "x.pcapng")}}, Serve: []Serve{{Addr: addr, Queue: 64 << 20, Select: Selection{SnapLen: snap}}}}
	}
	r := reroute(t, keys, outs(96))
	read := make([]chan []byte, 2)
	for i, snap := range []int{96, 60} {
		if i > 0 {
			r.to(outs(snap), nil)
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		client := (&stall{t: t}).greet(conn)
		read[i] = make(chan []byte, 1)
		go func() { read[i] <- client.all() }()
	}
	f := flowing(t, keys, 1, r.addr)
	r.until("frames came", func() bool { return r.unpacked() > 500 })
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.to(outs(96), nil)
	for i, snap := range []int{96, 60} {
		ifs, packets, _ := blocks(t, testnet.Receive(t, "the client's end", read[i]))
		if want := fmt.Sprintf("frames cut at %d bytes", snap); len(ifs) == 0 || !strings.Contains(ifs[0].Description, want) {
			t.Errorf("client %d: %+v, want %q", i, ifs, want)
		}
		for _, p := range packets {
			if len(p.Data) > 60 {
				t.Fatalf("client %d got %d bytes", i, len(p.Data))
			}
		}
		if len(packets) < 500 {
			t.Errorf("client %d got %d frames", i, len(packets))
		}
	}
	r.end()
}
