// SPDX-License-Identifier: Apache-2.0

package collector_test

import (
	"context"
	"fmt"
	"log"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/remote"
)

// queries is a capture file: put one of yours here.
const queries = "../internal/testnet/testdata/captures/edns-opts.pcap"

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
	go play(keys, r.Addr().String(), queries) // else remotes on other hosts send

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

// play is a remote on this machine, as ntap remote -r FILE is: it sends the frames
// of a capture file as tap 7.
func play(keys *crypto.KeyFile, to, file string) {
	_, err := remote.Run(context.Background(), remote.Config{
		File: file, Pace: remote.PaceMax, Collector: to, Keys: keys, Tap: 7, Suite: crypto.AES256GCM,
	})
	if err != nil {
		log.Fatal(err)
	}
}
