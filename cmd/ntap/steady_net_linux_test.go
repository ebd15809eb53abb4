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

// In steady state no garbage is collected, and what is allocated comes by the
// clock, not by the frame: remote and collector in one process, with traffic.
func TestSteadyStateCollectsNothing(t *testing.T) {
	tapped, source := testnet.Veth(t)
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(here)
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
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer engine.Settle(2)()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	keys, log := masterKey(t), zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)

	at := make(chan netip.AddrPort, 1)
	var account *collector.Account
	collected := inside(func() error {
		_, err := collector.Run(ctx, collector.Config{
			Listen: "127.0.0.1:0", Keys: keys, TAP: "steady0", Isolate: true, Once: true, Log: log,
			Ready: func(a netip.AddrPort, acc *collector.Account) { account = acc; at <- a },
		})
		return err
	})
	var to netip.AddrPort
	select {
	case to = <-at:
	case err := <-collected:
		t.Fatal(err)
	}
	started := make(chan struct{})
	remoteCtx, stopRemote := context.WithCancel(ctx)
	defer stopRemote()
	sent := inside(func() error {
		_, err := remote.Run(remoteCtx, remote.Config{
			Interfaces: []string{tapped}, Collector: to.String(), Keys: keys, Tap: 1, Suite: crypto.AES256GCM, MTU: 1500, Log: log,
			Started: func(*remote.Account) { close(started) },
		})
		return err
	})
	select {
	case <-started:
	case err := <-sent:
		t.Fatal(err)
	}

	iface, err := net.InterfaceByName(source)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
		t.Fatal(err)
	}
	frame := testnet.Numbered(1, 300)
	traffic := func(length time.Duration) {
		for start := time.Now(); time.Since(start) < length; {
			for range 64 {
				if _, err := unix.Write(fd, frame); err != nil && err != unix.ENOBUFS {
					t.Fatal(err)
				}
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	}
	measure := func() (m runtime.MemStats, frames uint64) {
		frames = account.Workers[0].Unpacked.Load()
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
	stopRemote()
	for _, c := range []chan error{sent, collected} {
		select {
		case err := <-c:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			stop()
			t.Fatalf("no end: %v", <-c)
		}
	}
}
