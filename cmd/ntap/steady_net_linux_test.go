// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
)

// A livePair is a remote that taps one end of a veth and a collector with a
// TAP, both in this process and in the test's namespace.
type livePair struct {
	t         *testing.T
	source    int    // packet socket on the other end
	tap       string // the collector's
	account   *collector.Account
	remote    *remote.Account
	stopAll   func()
	stopFirst func() // the remote
	ended     []chan error
}

// startPair starts one. The test is in a namespace of its own afterwards.
func startPair(t *testing.T, changeRemote func(*remote.Config), changeCollector func(*collector.Config)) *livePair {
	t.Helper()
	tapped, source := testnet.Veth(t)
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(here) })
	inside := func(do func() error) chan error { // a goroutine in the test's namespace
		result := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked
			if err := unix.Setns(here, unix.CLONE_NEWNET); err != nil {
				result <- err
				return
			}
			result <- do()
		}()
		return result
	}
	ctx, stop := context.WithCancel(context.Background())
	remoteCtx, stopRemote := context.WithCancel(ctx)
	t.Cleanup(stop)
	p := &livePair{t: t, tap: "live0", stopAll: stop, stopFirst: stopRemote}
	keys, log := masterKey(t), zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)

	at := make(chan netip.AddrPort, 1)
	cc := collector.Config{
		Listen: "127.0.0.1:0", Keys: keys, Outputs: collector.Outputs{TAPs: []collector.TAP{{Name: p.tap, Isolate: true}}}, Once: true, Log: log,
		Ready: func(a netip.AddrPort, acc *collector.Account) { p.account = acc; at <- a },
	}
	if changeCollector != nil {
		changeCollector(&cc)
	}
	collected := inside(func() error { _, err := collector.Run(ctx, cc); return err })
	var to netip.AddrPort
	select {
	case to = <-at:
	case err := <-collected:
		t.Fatal(err)
	case <-time.After(testnet.Patience):
		t.Fatal("the collector does not start")
	}
	started := make(chan struct{})
	rc := remote.Config{
		Interfaces: []string{tapped}, Collector: to.String(), Keys: keys, Tap: 1, Suite: crypto.AES256GCM, MTU: 1500, Log: log,
		Started: func(a *remote.Account) { p.remote = a; close(started) },
	}
	if changeRemote != nil {
		changeRemote(&rc)
	}
	sent := inside(func() error { _, err := remote.Run(remoteCtx, rc); return err })
	select {
	case <-started:
	case err := <-sent:
		t.Fatal(err)
	case <-time.After(testnet.Patience):
		t.Fatal("the remote does not start")
	}
	p.ended = []chan error{sent, collected}
	iface, err := net.InterfaceByName(source)
	if err != nil {
		t.Fatal(err)
	}
	if p.source, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.source) })
	if err := unix.Bind(p.source, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
		t.Fatal(err)
	}
	return p
}

// end stops the remote, and waits until both have ended in order.
func (p *livePair) end() {
	p.t.Helper()
	p.stopFirst()
	for _, c := range p.ended {
		select {
		case err := <-c:
			if err != nil {
				p.t.Error(err)
			}
		case <-time.After(testnet.Patience):
			p.stopAll()
			p.t.Fatalf("no end: %v", testnet.Receive(p.t, "the end when all are told to", c))
		}
	}
}

// In steady state no garbage is collected, and what is allocated comes by the
// clock, not by the frame: remote and collector in one process, with traffic.
func TestSteadyStateCollectsNothing(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer engine.Settle(2)()
	p := startPair(t, nil, nil)
	frame := testnet.Numbered(1, 300)
	traffic := func(length time.Duration) {
		for start := time.Now(); time.Since(start) < length; {
			for range 64 {
				if _, err := unix.Write(p.source, frame); err != nil && err != unix.ENOBUFS {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Millisecond)
		}
	}
	measure := func() (m runtime.MemStats, frames uint64) {
		frames = p.account.Workers[0].Unpacked.Load()
		runtime.ReadMemStats(&m)
		return
	}
	traffic(1500 * time.Millisecond) // keys, streams, first reports
	m0, f0 := measure()
	traffic(4 * time.Second)
	m1, f1 := measure()
	frames, mallocs := f1-f0, m1.Mallocs-m0.Mallocs
	t.Logf("%d frames, %d allocations of %d bytes, %d collections", frames, mallocs, m1.TotalAlloc-m0.TotalAlloc, m1.NumGC-m0.NumGC)
	if m1.NumGC != m0.NumGC {
		t.Errorf("%d collections", m1.NumGC-m0.NumGC)
	}
	if frames < 5000 {
		t.Fatalf("only %d frames came: nothing was tested", frames)
	}
	if mallocs > 2000 {
		t.Errorf("%d allocations in 4 s", mallocs)
	}
	p.end()
}

// With --low-latency on both sides every frame comes, whatever its size, and the
// account adds up. That none waits, ring's TestImmediateDoesNotWait shows.
func TestLowLatency(t *testing.T) {
	p := startPair(t, func(c *remote.Config) { c.LowLatency = true }, func(c *collector.Config) { c.LowLatency = true })
	const sent = 3000
	for i := range sent {
		size := 60 + i%7*200
		for {
			_, err := unix.Write(p.source, testnet.Numbered(i, size))
			if err == nil {
				break
			} else if err != unix.ENOBUFS {
				t.Fatal(err)
			}
		}
	}
	testnet.Eventually(t, "all frames are there", func() bool { return p.account.Workers[0].Unpacked.Load() >= sent })
	p.end()
	if n := p.remote.Total(); n.Captured != sent || n.KernelDrops != 0 || n.Sealed != sent {
		t.Errorf("%+v", n)
	}
	if taps := p.account.Taps(); len(taps) != 1 || taps[0].Unpacked != sent || taps[0].Lost != 0 {
		t.Errorf("%+v", taps)
	}
}
