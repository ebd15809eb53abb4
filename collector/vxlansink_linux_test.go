// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A vtep is a socket that VXLAN comes to.
type vtep struct {
	t testing.TB
	*net.UDPConn
}

func newVTEP(t testing.TB, address string) *vtep {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		t.Fatal(err)
	}
	roomy(t, c)
	t.Cleanup(func() { c.Close() })
	return &vtep{t, c}
}

// next returns the next frame with its VNI and source port; a frame of nil: none
// came in the time.
func (v *vtep) next(wait time.Duration) (frame []byte, vni uint32, port int) {
	v.t.Helper()
	buf := make([]byte, 1<<16)
	v.SetReadDeadline(time.Now().Add(wait))
	n, from, err := v.ReadFromUDP(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, 0, 0
	} else if err != nil {
		v.t.Fatal(err)
	}
	vni, frame, ok := proto.ParseVXLAN(buf[:n])
	if !ok || len(buf) < n {
		v.t.Fatalf("no VXLAN: %x", buf[:n])
	}
	return frame, vni, from.Port
}

// vxlanTo returns the sink of a VXLAN output, and where its warnings go.
func vxlanTo(t testing.TB, cfg VXLAN) (s *vxlanSink, warnings *[]string) {
	t.Helper()
	warnings = new([]string)
	set, err := newVXLANSet(cfg, 1, func(err error) { *warnings = append(*warnings, err.Error()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.close() })
	return set.sink(0), warnings
}

// flush ends a batch, and wants every record of given accounted for.
func flushed(t *testing.T, s *vxlanSink, given uint64) {
	t.Helper()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	o := OutputAccount{}
	o.add(s.Counts())
	if n := o.Sum().in(); n != given {
		t.Errorf("%d frames given, but %d accounted for: %+v", given, n, o.Sum())
	}
}

// udpFlow returns a frame of size bytes, the n-th of a UDP flow that goes there
// or back.
func udpFlow(flow, n, size int, back bool) []byte {
	f := make([]byte, size)
	for i := range f {
		f[i] = byte(i + n)
	}
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(f[34:], uint16(1000+flow))
	binary.BigEndian.PutUint16(f[36:], 53)
	if back {
		copy(f[26:], []byte{10, 0, 0, 2, 10, 0, 0, 1, 0, 53})
		binary.BigEndian.PutUint16(f[36:], uint16(1000+flow))
	}
	binary.BigEndian.PutUint32(f[42:], uint32(flow))
	binary.BigEndian.PutUint32(f[46:], uint32(n))
	return f
}

// Every frame comes byte for byte, under its tap's VNI, each flow in order and
// both its directions from one source port, flows from all ports; over IPv4 and
// IPv6.
func TestVXLANSinkDelivers(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			v := newVTEP(t, net.JoinHostPort(host, "0"))
			vnis, err := ParseVNI("tap,9=16777215")
			if err != nil {
				t.Fatal(err)
			}
			s, warnings := vxlanTo(t, VXLAN{To: v.LocalAddr().String(), VNI: vnis})
			taps := []*Origin{{Tap: 7}, {Tap: 8}, {Tap: 9}}
			sizes := []int{60, 60, 1514, 1514, 1514, 300, 9000, 64}
			want := map[[2]int][]byte{} // by flow and number
			next, ports, given := map[int]int{}, map[int]int{}, uint64(0)
			for batch := range 20 {
				for i := range 100 {
					flow := (batch*31 + i*i) % 90
					o := taps[flow%3]
					n := next[flow]
					next[flow]++
					f := udpFlow(flow, n, sizes[(i+batch)%len(sizes)], n%2 == 1)
					want[[2]int{flow, n}] = f
					s.Write(o, ethernet(f))
					given++
				}
				flushed(t, s, given)
			}
			came := map[int]int{}
			for range given {
				f, vni, port := v.next(time.Minute)
				if f == nil {
					t.Fatalf("%d frames of %d", len(came), given)
				}
				flow, n := int(binary.BigEndian.Uint32(f[42:])), int(binary.BigEndian.Uint32(f[46:]))
				if !bytes.Equal(f, want[[2]int{flow, n}]) || n != came[flow] {
					t.Fatalf("flow %d, frame %d: %d bytes, want number %d", flow, n, len(f), came[flow])
				}
				came[flow]++
				if vni != []uint32{7, 8, 16777215}[flow%3] {
					t.Fatalf("flow %d of tap %d: VNI %d", flow, taps[flow%3].Tap, vni)
				}
				if p := ports[flow]; p != 0 && p != port {
					t.Fatalf("flow %d: source ports %d and %d", flow, p, port)
				}
				ports[flow] = port
			}
			seen := map[int]bool{}
			for _, p := range ports {
				seen[p] = true
			}
			if len(seen) < vxlanPorts*3/4 || len(*warnings) != 0 {
				t.Errorf("%d source ports for %d flows; warnings %q", len(seen), len(ports), *warnings)
			}
			if c := s.Counts(); c.Delivered.Load() != given {
				t.Errorf("%d delivered of %d", c.Delivered.Load(), given)
			}
		})
	}
}

// Packets without a link-layer header get one of Ethernet.
func TestVXLANSinkRawIP(t *testing.T) {
	v := newVTEP(t, "127.0.0.1:0")
	s, _ := vxlanTo(t, VXLAN{To: v.LocalAddr().String(), MTU: 1500, Oversize: proto.OversizeSlice})
	for _, size := range []int{100, 1464, 1465} {
		whole := udpFlow(1, 1, size, false)
		raw := ethernet(whole[14:])
		raw.LinkType = proto.LinkTypeRaw
		s.Write(&Origin{Tap: 5}, raw)
		s.Flush()
		f, vni, _ := v.next(time.Minute)
		if vni != 5 || len(f) != min(size, 1464) || !bytes.Equal(f[12:], whole[12:len(f)]) {
			t.Errorf("%d bytes came as %d, VNI %d", size, len(f), vni)
		}
	}
	if c := s.Counts(); c.Delivered.Load() != 3 || c.Sliced.Load() != 1 || c.NotEthernet.Load() != 0 {
		t.Errorf("%d delivered, %d cut", c.Delivered.Load(), c.Sliced.Load())
	}
}

// What cannot go is counted under its reason, and told once.
func TestVXLANSinkCounts(t *testing.T) {
	v := newVTEP(t, "127.0.0.1:0")
	vnis, err := ParseVNI("7=1001,8=1002")
	if err != nil {
		t.Fatal(err)
	}
	s, warnings := vxlanTo(t, VXLAN{To: v.LocalAddr().String(), VNI: vnis, MTU: 1500})
	seven, other := &Origin{Tap: 7}, &Origin{Tap: 9}
	for range 3 {
		s.Write(seven, ethernet(udpFlow(1, 1, 1464, false))) // 1500 - 20 - 8 - 8
		s.Write(seven, ethernet(udpFlow(1, 2, 1465, false)))
		s.Write(other, ethernet(udpFlow(1, 3, 60, false)))
		s.Write(seven, ethernet(make([]byte, 13)))
		s.Write(seven, ethernet(nil))
		radio := ethernet(udpFlow(1, 3, 60, false))
		radio.LinkType = 127
		s.Write(seven, radio)
	}
	flushed(t, s, 18)
	c := s.Counts()
	if c.Delivered.Load() != 3 || c.DeliveredBytes.Load() != 3*1464 || c.TooLong.Load() != 3 || c.NoVNI.Load() != 3 || c.Refused.Load() != 6 || c.NotEthernet.Load() != 3 {
		t.Errorf("delivered %d, too long %d, no VNI %d, refused %d, not Ethernet %d",
			c.Delivered.Load(), c.TooLong.Load(), c.NoVNI.Load(), c.Refused.Load(), c.NotEthernet.Load())
	}
	if w := *warnings; len(w) != 3 || !strings.Contains(w[0], "1465 bytes does not fit the path's MTU of 1500, which leaves 1464: such frames are dropped; raise the MTU to 1501") ||
		!strings.Contains(w[1], "tap 9 has no VNI") || !strings.Contains(w[2], "link type 127 fit no Ethernet") {
		t.Errorf("warnings %q", w)
	}
	var b strings.Builder
	a := Account{outputs: []*OutputAccount{{Name: "VXLAN x"}}}
	a.outputs[0].add(c)
	if a.Print(&b); !strings.Contains(b.String(), "3 frames written to VXLAN x, 6 refused, 0 without room, 3 not Ethernet, 3 too long for the path, 3 of taps without a VNI\n") {
		t.Errorf("printed %q", b.String())
	}
}

// A frame that does not fit may be cut, or go whole, as the kernel's fragments.
func TestVXLANSinkOversize(t *testing.T) {
	v := newVTEP(t, "127.0.0.1:0")
	sizes := []int{100, 1464, 1465, 9000, 65499}
	for _, o := range []proto.Oversize{proto.OversizeSlice, proto.OversizeFragment} {
		cfg := VXLAN{To: v.LocalAddr().String(), Oversize: o}
		if o == proto.OversizeSlice {
			cfg.MTU = 1500
		}
		s, warnings := vxlanTo(t, cfg)
		for n, size := range append(sizes, 65500) {
			s.Write(&Origin{}, ethernet(udpFlow(1, n, size, false)))
		}
		flushed(t, s, 6)
		want := 6
		if o == proto.OversizeFragment {
			want = 5
		}
		for n := range want {
			f, _, _ := v.next(time.Minute)
			whole := udpFlow(1, n, append(sizes, 65500)[n], false)
			if o == proto.OversizeSlice {
				whole = whole[:min(len(whole), 1464)]
			}
			if !bytes.Equal(f, whole) {
				t.Fatalf("%v: frame %d has %d bytes, want %d", o, n, len(f), len(whole))
			}
		}
		if c := s.Counts(); o == proto.OversizeSlice && (c.Sliced.Load() != 4 || c.TooLong.Load() != 0) || o == proto.OversizeFragment && (c.Sliced.Load() != 0 || c.TooLong.Load() != 1) || len(*warnings) != 1 {
			t.Errorf("%v: %d cut, %d too long, %q", o, c.Sliced.Load(), c.TooLong.Load(), *warnings)
		}
	}
}

// Nobody at the other end, a firewall: told once, counted, and nothing ends.
func TestVXLANSinkTrouble(t *testing.T) {
	v := newVTEP(t, "127.0.0.1:0")
	to := v.LocalAddr().String()
	v.Close()
	s, warnings := vxlanTo(t, VXLAN{To: to})
	given := uint64(0)
	testnet.Eventually(t, "it is said that nobody is there", func() bool {
		for range 50 {
			s.Write(&Origin{}, ethernet(udpFlow(1, int(given), 100, false)))
			given++
			flushed(t, s, given)
		}
		return s.Counts().Nobody.Load() > 0
	})
	if c := s.Counts(); c.Delivered.Load() != given || len(*warnings) != 1 || !strings.Contains((*warnings)[0], "connection refused") {
		t.Errorf("%d delivered, %d times nobody, %q", c.Delivered.Load(), c.Nobody.Load(), *warnings)
	}

	testnet.RequireTool(t, "nft")
	testnet.Namespace(t)
	newVTEP(t, "127.0.0.1:4789")
	s, warnings = vxlanTo(t, VXLAN{To: "127.0.0.1"})
	testnet.Run(t, "nft add table ip f; add chain ip f o { type filter hook output priority 0 ; policy drop ; }")
	for n := range uint64(50) {
		s.Write(&Origin{}, ethernet(udpFlow(int(n), 1, 100, false)))
		flushed(t, s, n+1)
	}
	if c := s.Counts(); c.Refused.Load() != 50 || len(*warnings) != 1 || !strings.Contains((*warnings)[0], "operation not permitted") {
		t.Errorf("%d refused, %q", c.Refused.Load(), *warnings)
	}
}

func TestVXLANOutputsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		to   []string
		want string
	}{
		{[]string{"127.0.0.1", "127.0.0.1:4789"}, "VXLAN 127.0.0.1:4789 is given twice"},
		{[]string{"nosuch.invalid"}, "nosuch.invalid"},
		{[]string{"a:b:c"}, "want HOST[:PORT]"},
	} {
		sh := &shared{cfg: Config{Keys: testKeys(t), Workers: 1}}
		for _, to := range c.to {
			sh.cfg.VXLAN = append(sh.cfg.VXLAN, VXLAN{To: to})
		}
		o, err := openOutputs(t.Context(), sh, new(Account))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, %v; want %q", c.to, o, err, c.want)
		}
	}
}

// Write and Flush allocate nothing once a tap is known.
func TestVXLANSinkAllocates(t *testing.T) {
	v := newVTEP(t, "127.0.0.1:0")
	s, _ := vxlanTo(t, VXLAN{To: v.LocalAddr().String()})
	o, other := &Origin{Tap: 1}, &Origin{Tap: 2}
	var records []*proto.Record
	for n := range 200 {
		records = append(records, ethernet(udpFlow(n, n, 60+n%3*500, false)))
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, r := range records {
			s.Write(o, r)
			s.Write(other, r)
		}
		s.Flush()
	}); n != 0 {
		t.Errorf("%v allocations for 400 frames", n)
	}
}
