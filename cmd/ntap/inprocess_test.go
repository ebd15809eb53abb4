// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
	"github.com/ntap-project/ntap/ring"
)

// A running collector, in this process.
type running struct {
	addr    netip.AddrPort
	account *collector.Account
	stop    context.CancelFunc
	result  chan error
}

// listen starts a collector on loopback without a TAP, which needs no rights.
func listen(t *testing.T, cfg collector.Config) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, result: make(chan error, 1)}
	ready := make(chan struct{})
	cfg.Listen, cfg.Log = "127.0.0.1:0", zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	cfg.Ready = func(a netip.AddrPort, account *collector.Account) { r.addr, r.account = a, account; close(ready) }
	go func() {
		_, err := collector.Run(ctx, cfg)
		r.result <- err
	}()
	select {
	case <-ready:
	case err := <-r.result:
		t.Fatal(err)
	case <-time.After(testnet.Patience):
		t.Fatal("the collector does not start")
	}
	t.Cleanup(stop)
	return r
}

// end waits for the collector's end.
func (r *running) end(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.result:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(testnet.Patience):
		r.stop()
		var b strings.Builder
		r.account.Print(&b)
		t.Fatalf("the collector does not end: %v\n%s", testnet.Receive(t, "its end when it is told to", r.result), b.String())
	}
}

func masterKey(t *testing.T) *crypto.KeyFile {
	t.Helper()
	k, err := crypto.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return crypto.FromMaster(k)
}

// send runs a remote on a capture file to its end.
func send(t *testing.T, keys *crypto.KeyFile, file string, to netip.AddrPort, change func(*remote.Config)) *remote.Account {
	t.Helper()
	cfg := remote.Config{
		File: file, Pace: remote.PaceMax, Collector: to.String(), Keys: keys, Tap: 1, Name: "file",
		Suite: crypto.AES256GCM, MTU: 1500, Log: zerolog.Nop(),
	}
	if change != nil {
		change(&cfg)
	}
	ctx, stop := context.WithTimeout(context.Background(), testnet.Patience)
	defer stop()
	a, err := remote.Run(ctx, cfg)
	if err == nil && ctx.Err() != nil {
		err = errors.New("the remote does not end")
	}
	if err != nil {
		t.Errorf("%s: %v", file, err)
	}
	return a
}

// Every real capture goes through remote and collector, over loopback, and
// comes out with the same bytes, lengths, link types and times, in order.
func TestCapturesComeOutAsTheyWentIn(t *testing.T) {
	t.Parallel()
	keys := masterKey(t)
	suites := []crypto.Suite{crypto.AES256GCM, crypto.ChaCha20Poly1305}
	mtus := []int{576, 1500, 9000, 65535}
	for i, file := range testnet.Captures(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out.pcapng")
			c := listen(t, collector.Config{Keys: keys, Write: out, Once: true})
			a := send(t, keys, file, c.addr, func(cfg *remote.Config) {
				cfg.Suite, cfg.MTU = suites[i%2], mtus[i%4]
			})
			c.end(t)
			want, got := testnet.ReadCapture(t, file), testnet.ReadCapture(t, out)
			if d := testnet.DiffPackets(got, want); d != "" {
				t.Error(d)
			}
			if n := a.Total().Sealed; n != uint64(len(want)) {
				t.Errorf("%d frames sealed of %d", n, len(want))
			}
			if taps := c.account.Taps(); len(taps) != 1 || taps[0].Unpacked != uint64(len(want)) || taps[0].Lost != 0 || !taps[0].Ended {
				t.Errorf("%+v", taps)
			}
		})
	}
}

// numbered writes a pcap file of n frames that begin with their number.
func numbered(t *testing.T, n, size int, apart time.Duration) string {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xA1B23C4D) // ns
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, 262144)
	b = le.AppendUint32(b, 1)
	for i := range n {
		at := time.Duration(i) * apart
		length := size + i%7*100
		b = le.AppendUint32(b, uint32(1_700_000_000+at/time.Second))
		b = le.AppendUint32(b, uint32(at%time.Second))
		b = le.AppendUint32(b, uint32(length))
		b = le.AppendUint32(b, uint32(length))
		frame := make([]byte, length)
		binary.BigEndian.PutUint32(frame, uint32(i))
		for k := 4; k < length; k++ {
			frame[k] = byte(i + k)
		}
		b = append(b, frame...)
	}
	path := filepath.Join(t.TempDir(), "numbered.pcap")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Through a relay that loses, repeats, reorders and damages, no wrong frame
// comes out, every one that is missing is counted, and the account adds up.
func TestThroughBadRelay(t *testing.T) {
	t.Parallel()
	keys := masterKey(t)
	file := numbered(t, 20000, 100, 100*time.Microsecond)
	want := testnet.ReadCapture(t, file)
	for _, v := range []struct {
		name                              string
		loss, duplicate, reorder, corrupt float64
	}{
		{"clean", 0, 0, 0, 0},
		{"loss", 0.02, 0, 0, 0},
		{"duplicates", 0, 0.1, 0, 0},
		{"reordering", 0, 0, 0.1, 0},
		{"all", 0.02, 0.05, 0.05, 0.02},
	} {
		t.Run(v.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.pcapng")
			c := listen(t, collector.Config{Keys: keys, Write: out})
			relay := newRelay(t, c.addr, v.loss, v.duplicate, v.reorder, v.corrupt)
			a := send(t, keys, file, relay.addr(), func(cfg *remote.Config) { cfg.Pace = remote.PaceReal })
			relay.drain(t, a.Total().Sent, c.account)
			c.stop()
			c.end(t)
			got := testnet.ReadCapture(t, out)
			last := -1
			for _, p := range got {
				n := int(binary.BigEndian.Uint32(p.Data))
				if n <= last || n >= len(want) || !bytes.Equal(p.Data, want[n].Data) || p.Time != want[n].Time {
					t.Fatalf("frame %d came after %d, %d bytes", n, last, len(p.Data))
				}
				last = n
			}
			taps := c.account.Taps()
			if len(taps) != 1 {
				t.Fatalf("%d taps", len(taps))
			}
			s := taps[0]
			if s.Sealed != uint64(len(want)) || s.Unpacked != uint64(len(got)) || s.Lost != uint64(len(want)-len(got)) || a.Total().Sealed != s.Sealed {
				t.Errorf("%d frames of %d came; the account says %+v", len(got), len(want), s)
			}
			relay.check(t, c.account, s)
		})
	}
}

// A thousand taps at once on one collector: each its own session, none
// disturbs another.
func TestThousandTaps(t *testing.T) {
	const count, frames = 1000, 100
	keys := masterKey(t)
	file := numbered(t, frames, 60, 30*time.Millisecond) // 3 s in real pace: all run at once
	out := filepath.Join(t.TempDir(), "out.pcapng")
	c := listen(t, collector.Config{Keys: keys, Write: out, Once: true, Workers: 2, State: filepath.Join(t.TempDir(), "state")})
	var all sync.WaitGroup
	for id := range uint32(count) {
		all.Go(func() {
			send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.Tap, cfg.Pace, cfg.SendBuffer = id+1, remote.PaceReal, 64<<10 })
		})
	}
	testnet.Await(t, "the end of a thousand remotes", all.Wait)
	c.end(t)
	taps := c.account.Taps()
	if len(taps) != count {
		t.Fatalf("%d taps of %d", len(taps), count)
	}
	for _, s := range taps {
		if s.Unpacked != frames || s.Lost != 0 || !s.Ended {
			t.Fatalf("%+v", s)
		}
	}
	if got := len(testnet.ReadCapture(t, out)); got != count*frames {
		t.Errorf("%d frames in the file, want %d", got, count*frames)
	}
}

// Both ways of input and output, on either side, bring every frame.
func TestWaysOfIO(t *testing.T) {
	t.Parallel()
	if ok, why := ring.UringReceives(); !ok {
		testnet.Missing(t, why.String())
	}
	keys := masterKey(t)
	file := numbered(t, 30000, 300, time.Microsecond)
	want := testnet.ReadCapture(t, file)
	for _, sender := range []string{"uring", "mmsg", "zerocopy"} {
		for _, receiver := range []string{"uring", "mmsg"} {
			out := filepath.Join(t.TempDir(), "out.pcapng")
			c := listen(t, collector.Config{Keys: keys, Write: out, Once: true, IO: receiver, Workers: 2})
			send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.IO = sender })
			c.end(t)
			if d := testnet.DiffPackets(testnet.ReadCapture(t, out), want); d != "" {
				t.Errorf("%s to %s: %s", sender, receiver, d)
			}
		}
	}
}
