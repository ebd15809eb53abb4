// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/remote"
)

// Every frame of the source is what it says to be: its layers decode, lengths
// and checksums are right, and the mix has the sizes, flows and tags asked for.
func TestTraffic(t *testing.T) {
	for _, frame := range []string{"60", "64", "300", "1514", "9000", "imix", "gso"} {
		tr := Mixed(frame)
		f, err := tr.frames()
		if err != nil {
			t.Fatal(err)
		}
		kinds, tags, total := map[string]int{}, 0, 0
		flows := map[string]bool{}
		for _, b := range f.all {
			p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
			if p.ErrorLayer() != nil || p.TransportLayer() == nil {
				t.Fatalf("%s: %v", frame, p)
			}
			switch l := p.TransportLayer().(type) {
			case *layers.UDP:
				l.SetNetworkLayerForChecksum(p.NetworkLayer())
			case *layers.TCP:
				l.SetNetworkLayerForChecksum(p.NetworkLayer())
			}
			if frame != "gso" {
				if bad, mismatch := p.VerifyChecksums(); bad != nil || len(mismatch) > 0 {
					t.Fatalf("%s: %v %v %v", frame, bad, mismatch, p)
				}
			}
			if p.Layer(layers.LayerTypeDot1Q) != nil {
				tags++
			}
			kinds[p.NetworkLayer().LayerType().String()+p.TransportLayer().LayerType().String()]++
			flows[fmt.Sprint(p.NetworkLayer().NetworkFlow(), p.TransportLayer().TransportFlow())] = true
		}
		for _, i := range f.order {
			total += len(f.all[i])
		}
		mean, err := MeanLength(frame)
		if got := float64(total) / float64(len(f.order)); err != nil || got != mean {
			t.Errorf("%s: mean length %v, want %v (%v)", frame, got, mean, err)
		}
		if frame == "imix" && len(kinds) != 4 || frame == "1514" && (len(kinds) != 4 || tags < 20 || len(flows) != 256) {
			t.Errorf("%s: kinds %v, %d tags of %d, %d flows", frame, kinds, tags, len(f.all), len(flows))
		}
	}
}

func TestTrafficRefused(t *testing.T) {
	for _, tr := range []Traffic{{Frame: "59"}, {Frame: "65536"}, {Frame: "x"}, {Frame: ""}, {Frame: "64", Flows: -1}, {Frame: "64", Flows: 1 << 20},
		{Frame: "64", Kinds: []string{"sctp"}}, {Frame: "64", VLAN: 101}} {
		if _, err := tr.frames(); err == nil {
			t.Errorf("%+v is taken", tr)
		} else {
			t.Log(err)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{4, 1, 3}, Spread{3, 1, 4, 3}},
		{[]float64{4, 1, 2, 3}, Spread{2.5, 1, 4, 4}},
	} {
		if got := SpreadOf(c.v...); got != c.want {
			t.Errorf("%v: %v, want %v", c.v, got, c.want)
		}
	}
	if r := Ratio([]float64{2, 6, 9}, []float64{1, 2, 3}); r != (Spread{3, 2, 3, 3}) {
		t.Error(r)
	}
}

// Of traffic that is kept, a remote that samples leaves out no flow, and there are as many
// flows as without.
func TestKeptTraffic(t *testing.T) {
	for _, frame := range []string{"60", "imix"} {
		f, err := Traffic{Frame: frame, Kept: 16}.frames()
		if err != nil {
			t.Fatal(err)
		}
		flows := map[string]bool{}
		for _, b := range f.all {
			flows[string(b[etherLen+12:etherLen+24])] = true
			if !remote.Kept(b, 16) {
				t.Fatalf("%s: a frame is left out: %x", frame, b[:42])
			}
		}
		if len(flows) != 256 {
			t.Errorf("%s: %d flows", frame, len(flows))
		}
	}
	if _, err := (Traffic{Frame: "60", Kept: 1000}).frames(); err == nil {
		t.Error("256 flows of one in a thousand are not to be had")
	}
	if _, err := (Traffic{Frame: "60", Kept: 2, Kinds: []string{TCP6}}).frames(); err == nil {
		t.Error("a flow of one kind at one size and of another at another is not one flow")
	}
}
