// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"cmp"
	"net"
	"testing"

	"github.com/ntap-project/ntap/crypto"
)

// openSink opens a socket of this host that remotes send to, until the test ends.
func openSink(t *testing.T) *net.UDPConn {
	t.Helper()
	sink, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

// testTap makes a tap of what cfg has, a new key, datagrams for an MTU of 1500
// and small rings. It sends to a socket that nobody reads, if cfg names none.
func testTap(t *testing.T, cfg Config) *tap {
	t.Helper()
	key, err := crypto.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Keys, cfg.Suite, cfg.MTU, cfg.BlockSize = crypto.FromMaster(key), crypto.AES256GCM, 1500, 1<<16
	cfg.RingBytes = cmp.Or(cfg.RingBytes, 1<<20)
	if cfg.Collector == "" {
		cfg.Collector = openSink(t).LocalAddr().String()
	}
	tp, err := newTap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// openTap opens the shards of a tap until the test ends.
func openTap(t *testing.T, tp *tap) []*shard {
	t.Helper()
	shards, closeAll, err := tp.open()
	t.Cleanup(closeAll)
	if err != nil {
		t.Fatal(err)
	}
	return shards
}

// openAnew opens a shard's ring anew.
func openAnew(t *testing.T, s *shard) {
	t.Helper()
	s.ring.Close()
	var err error
	if s.ring, s.epoch, err = s.capture.reopen(s.member, s.epoch); err != nil {
		t.Fatal(err)
	}
}
