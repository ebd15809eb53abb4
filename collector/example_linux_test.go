// SPDX-License-Identifier: Apache-2.0

package collector_test

import (
	"context"
	"fmt"
	"log"
	"slices"
	"sync/atomic"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
)

// Counts the frames of each flow with gopacket. Frames are copies: the program
// may keep them.
func ExampleReceiver_Frames() {
	key, err := crypto.NewKey()
	if err != nil {
		log.Fatal(err)
	}
	keys := crypto.FromMaster(key) // or crypto.LoadKeyFile("master.key")

	r, err := collector.Listen(context.Background(), collector.Config{
		Listen: "127.0.0.1:0", // or ":5678"
		Keys:   keys,
		Once:   true, // end with the taps; else with the context
	})
	if err != nil {
		log.Fatal(err)
	}
	// A remote on this machine, of a capture file.
	go collector.PlayForExample(keys, 7, r.Addr(), "edns-opts.pcap")

	flows := make(map[string]int)
	for frame := range r.Frames() {
		p := gopacket.NewPacket(frame.Data, layers.LinkType(frame.LinkType), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		if ip, udp := p.NetworkLayer(), p.TransportLayer(); ip != nil && udp != nil {
			flows[fmt.Sprintf("tap %d: %v %v", frame.Tap, ip.NetworkFlow(), udp.TransportFlow())]++
		}
	}
	if err := r.Err(); err != nil {
		log.Fatal(err)
	}
	lines := make([]string, 0, len(flows))
	for flow, frames := range flows {
		lines = append(lines, fmt.Sprintf("%s: %d", flow, frames))
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
	// Output:
	// tap 7: 192.0.0.1->192.0.0.2 46225->53: 21
	// tap 7: 192.0.0.2->192.0.0.1 53->46225: 21
}

// Prints the names that DNS questions ask for. The function sees frames where
// they were received, nothing is copied, and with more workers it runs on as
// many threads.
func ExampleReceiver_Run() {
	key, err := crypto.NewKey()
	if err != nil {
		log.Fatal(err)
	}
	keys := crypto.FromMaster(key)

	r, err := collector.Listen(context.Background(), collector.Config{
		Listen: "127.0.0.1:0", Keys: keys, Workers: 2, Once: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	go collector.PlayForExample(keys, 7, r.Addr(), "dns_udp_2.pcap")

	// Each worker has a decoder of its own.
	type worker struct {
		eth   layers.Ethernet
		ip    layers.IPv4
		udp   layers.UDP
		dns   layers.DNS
		parse *gopacket.DecodingLayerParser
		found []gopacket.LayerType
	}
	workers := make([]worker, 2)
	for i := range workers {
		w := &workers[i]
		w.parse = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &w.eth, &w.ip, &w.udp, &w.dns)
		w.parse.IgnoreUnsupported = true
	}
	var frames atomic.Int64
	err = r.Run(func(b *collector.Batch) error {
		w := &workers[b.Worker]
		for i := range b.Frames {
			if w.parse.DecodeLayers(b.Frames[i].Data, &w.found) != nil || !slices.Contains(w.found, layers.LayerTypeDNS) || w.dns.QR {
				continue
			}
			for _, q := range w.dns.Questions {
				fmt.Printf("tap %d: %v asks for %s\n", b.Tap, w.ip.SrcIP, q.Name)
			}
		}
		frames.Add(int64(len(b.Frames)))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(frames.Load(), "frames")
	// Output:
	// tap 7: 192.168.1.11 asks for www.tcpdump.org
	// 2 frames
}
