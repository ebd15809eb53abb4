// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
)

// forward allocates nothing: blocks of a real ring go through packing and
// sealing to a real socket.
func TestForwardAllocates(t *testing.T) {
	iface, peer := testnet.Veth(t)
	sink, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	key, err := crypto.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tp, err := newTap(Config{
		Interfaces: []string{iface}, Collector: sink.LocalAddr().String(), Keys: crypto.FromMaster(key), Suite: crypto.AES256GCM,
		MTU: 1500, Retire: time.Millisecond, BlockSize: 1 << 16, RingBytes: 16 << 20, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	shards, closeAll, err := tp.open()
	defer closeAll()
	if err != nil {
		t.Fatal(err)
	}
	s := shards[0]
	const sent = 5000
	testnet.Send(t, peer, sent, 900)
	blocks := 0
	if n := testing.AllocsPerRun(20, func() {
		b, err := s.ring.Take(time.Second)
		if err != nil || b == nil {
			t.Fatal("no block", err)
		}
		if err := s.forward(b); err != nil {
			t.Fatal(err)
		}
		blocks++
	}); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
	if err := s.drain(); err != nil {
		t.Fatal(err)
	}
	a := s.account
	if in, out := a.Captured.Load(), a.KernelDrops.Load()+a.Sealed.Load(); in != sent || in != out || blocks < 20 {
		t.Errorf("%d captured of %d in more than %d blocks, %d accounted for", in, sent, blocks, out)
	}
	if d := s.out.Stats().Datagrams.Load(); d != s.seal.data.Counter() {
		t.Errorf("%d datagrams sent, %d sealed", d, s.seal.data.Counter())
	}
}
