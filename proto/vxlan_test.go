// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// The header is that of RFC 7348, section 5, and comes back.
func TestVXLAN(t *testing.T) {
	for vni, want := range map[uint32]string{
		0: "0800000000000000", 7: "0800000000000700", 0x123456: "0800000012345600", MaxVNI: "08000000ffffff00",
	} {
		frame := []byte("a frame")
		d := append(AppendVXLAN(nil, vni), frame...)
		if got := hex.EncodeToString(d[:VXLANHeaderLen]); got != want {
			t.Errorf("VNI %d: %s, want %s", vni, got, want)
		}
		if got, in, ok := ParseVXLAN(d); !ok || got != vni || !bytes.Equal(in, frame) {
			t.Errorf("VNI %d: parsed to %d, %q, %v", vni, got, in, ok)
		}
		for n := range VXLANHeaderLen {
			if _, _, ok := ParseVXLAN(d[:n]); ok {
				t.Errorf("%d bytes are a header", n)
			}
		}
	}
	if _, _, ok := ParseVXLAN(make([]byte, 100)); ok {
		t.Error("without the I flag there is no VNI")
	}
	// What is reserved is ignored when it comes.
	if vni, _, ok := ParseVXLAN([]byte{0xFF, 1, 2, 3, 0, 0, 7, 9}); !ok || vni != 7 {
		t.Errorf("VNI %d, %v", vni, ok)
	}
	defer func() {
		if recover() == nil {
			t.Error("a VNI of 25 bits")
		}
	}()
	AppendVXLAN(nil, MaxVNI+1)
}

// Ethernet goes as it is, raw IP behind a header of its own, and nothing else.
// The hash is that of the frame as it comes out.
func TestVXLANHeads(t *testing.T) {
	h := NewVXLANHeads(0x123456)
	v4, v6 := flowFrame(false, 0, 1, 2, 3, 4), flowFrame(true, 0, 1, 2, 3, 4)
	for _, c := range []struct {
		link  LinkType
		data  []byte
		added string // in hex, behind the VXLAN header; -: it does not go
	}{
		{LinkTypeEthernet, v4, ""},
		{LinkTypeRaw, v4[14:], "026e74617002026e746170010800"},
		{LinkTypeRaw, v6[14:], "026e74617002026e7461700186dd"},
		{228, v4[14:], "026e74617002026e746170010800"},
		{229, v6[14:], "026e74617002026e7461700186dd"},
		{LinkTypeRaw, []byte{0x50}, "-"},
		{LinkTypeRaw, nil, "-"},
		{105, v4, "-"},
	} {
		head, flow := h.Of(&Record{LinkType: c.link, Data: c.data})
		if c.added == "-" {
			if head != nil {
				t.Errorf("link type %d: %x", c.link, head)
			}
			continue
		}
		vni, frame, ok := ParseVXLAN(append(bytes.Clone(head), c.data...))
		if !ok || vni != 0x123456 || hex.EncodeToString(frame[:len(frame)-len(c.data)]) != c.added || flow != FlowHash(frame) || flow != FlowHash(v4) && flow != FlowHash(v6) {
			t.Errorf("link type %d: VNI %x, %x, hash %08x", c.link, vni, frame, flow)
		}
	}
}

func TestVXLANAddress(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:4789", "192.0.2.1:8472": "192.0.2.1:8472", "host.example.org": "host.example.org:4789",
		"2001:db8::1": "[2001:db8::1]:4789", "[2001:db8::1]": "[2001:db8::1]:4789", "[2001:db8::1]:1": "[2001:db8::1]:1",
		"fe80::1%eth0": "[fe80::1%eth0]:4789", "": "", ":4789": "", "h:": "", "h:0": "", "h:70000": "", "h:x": "", "[]": "", "a:b:c": "", "[h]": "", "h:1:2": "",
	} {
		if got, err := VXLANAddress(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseOversize(t *testing.T) {
	for _, o := range []Oversize{OversizeDrop, OversizeSlice, OversizeFragment} {
		if got, err := ParseOversize(o.String()); got != o || err != nil {
			t.Errorf("%v: %v, %v", o, got, err)
		}
	}
	if _, err := ParseOversize("cut"); err == nil {
		t.Error("cut")
	}
}

// What parses is told again with the same VNI and frame.
func FuzzVXLAN(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0, 0, 7, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, d []byte) {
		vni, frame, ok := ParseVXLAN(d)
		if !ok {
			return
		}
		again, in, ok := ParseVXLAN(append(AppendVXLAN(nil, vni), frame...))
		if !ok || again != vni || !bytes.Equal(in, frame) {
			t.Errorf("%x: VNI %d, then %d", d, vni, again)
		}
	})
}
