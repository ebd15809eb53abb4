// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A ring has whole blocks, and two at the least. One of another size than was
// asked for, as 10 bytes, used to be made without a word.
func TestRingSizeIsSaid(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for _, v := range []struct {
		asked, got int
	}{
		{10, 2 << 16},
		{1<<20 - 1, 15 << 16},
		{1 << 20, 1 << 20},
	} {
		var said bytes.Buffer
		tp := testTap(t, Config{Interfaces: []string{iface}, RingBytes: v.asked, Log: zerolog.New(&said)})
		shards := openTap(t, tp)
		if cfg := shards[0].capture.cfg; cfg.Blocks*cfg.BlockSize != v.got {
			t.Errorf("--ring %d: %d blocks of %d bytes, not %d in all", v.asked, cfg.Blocks, cfg.BlockSize, v.got)
		}
		tp.footing()
		if other := strings.Contains(said.String(), "another size"); other != (v.asked != v.got) {
			t.Errorf("--ring %d, which made %d bytes: %s", v.asked, v.got, said.String())
		}
	}
}

// Where the first of several collectors cannot be reached yet, what is said of
// sockets is of one that has one: a small buffer and no mark were said of a socket
// that was not there.
func TestFootingOfCollectorThatIsNotReached(t *testing.T) {
	iface, _ := testnet.Veth(t)
	var said bytes.Buffer
	tp := testTap(t, Config{Interfaces: []string{iface}, Collector: "192.0.2.1:5678", Others: []string{openSink(t).LocalAddr().String()}, Mark: 5, Log: zerolog.New(&said)})
	shards := openTap(t, tp)
	if shards[0].all[0].out.Astray() == nil {
		t.Fatal("the first collector can be reached")
	}
	tp.footing()
	if text := said.String(); strings.Contains(text, "limits the socket's buffer") || strings.Contains(text, "has no mark") || !strings.Contains(text, "socket_buffers") {
		t.Errorf("%s", text)
	}
}
