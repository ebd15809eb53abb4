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
	"github.com/ntap-project/ntap/remote"
)

// questions is a capture file: put one of yours here.
const questions = "../internal/testnet/testdata/captures/dns_udp_2.pcap"

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
	go replay(keys, r.Addr().String(), questions) // else remotes on other hosts send

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

// replay is a remote on this machine, as ntap remote -r FILE is: it sends the frames
// of a capture file as tap 7.
func replay(keys *crypto.KeyFile, to, file string) {
	_, err := remote.Run(context.Background(), remote.Config{
		File: file, Pace: remote.PaceMax, Collector: to, Keys: keys, Tap: 7, Suite: crypto.AES256GCM,
	})
	if err != nil {
		log.Fatal(err)
	}
}
