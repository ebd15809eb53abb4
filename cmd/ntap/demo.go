// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/remote"
)

func newDemo() *cobra.Command {
	var length time.Duration
	c := &cobra.Command{
		Use:   "demo",
		Short: "remote and collector on this machine, live, with the numbers",
		Long: `Two hosts in network namespaces of their own, real traffic between them, a
remote and a collector that tap it live, and the account at the end. Without
root: a capture made up on the spot, sent over loopback.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if length < time.Second || length > time.Hour {
				return usagef("demo: --for %v: 1s to 1h", length)
			}
			d := &demo{out: c.OutOrStdout(), length: length}
			return d.run(c.Context())
		},
	}
	c.Flags().DurationVar(&length, "for", 6*time.Second, "how long the traffic runs")
	return c
}

// A demo is one run of `ntap demo`.
type demo struct {
	out    io.Writer
	length time.Duration
	lines  int // of the table, as drawn last
}

func (d *demo) run(ctx context.Context) error {
	protect(zerolog.Nop())
	master, err := crypto.NewKey()
	if err != nil {
		return err
	}
	keys := crypto.FromMaster(master)
	defer keys.Wipe()
	defer master.Wipe()
	suite, _ := crypto.Pick()
	hosts, err := newHosts()
	if err != nil {
		fmt.Fprintf(d.out, "No network namespaces here (%v): a made-up capture over loopback instead. As root the demo is live.\n", err)
		return d.replay(ctx, keys, suite)
	}
	defer hosts.close()
	err = d.live(ctx, hosts, keys, suite)
	if no := (noDevice{}); errors.As(err, &no) {
		fmt.Fprintf(d.out, "No virtual interfaces here (%v): a made-up capture over loopback instead.\n", no)
		return d.replay(ctx, keys, suite)
	}
	return err
}

// noDevice is why the collector of the live demo did not start: in a container
// there may be no /dev/net/tun.
type noDevice struct{ error }

// A session of the demo: a collector and a remote, each with its account.
type pair struct {
	collector *collector.Account
	remote    *remote.Account
	ended     chan error // the collector's end
}

// live taps the link between two hosts, on the very interface that the tap
// sends on.
func (d *demo) live(ctx context.Context, hosts *hosts, keys *crypto.KeyFile, suite crypto.Suite) error {
	fmt.Fprintf(d.out, "Host A (%v) fetches over HTTP from host B (%v) and sends it a stream of UDP.\n"+
		"A remote on A taps the link between them, and sends what it sees over the same link to a collector on B,\n"+
		"sealed with %v. There it comes out of the interface ntap0.\n\n", hostA, hostB, suite)
	p := &pair{ended: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		p.ended <- hosts.b.do(func() error {
			_, err := collector.Run(context.WithoutCancel(ctx), collector.Config{
				Listen: netip.AddrPortFrom(hostB, demoPort).String(), Keys: keys, IO: "auto", Once: true, Log: zerolog.Nop(),
				Outputs: collector.Outputs{TAPs: []collector.TAP{{Name: "ntap0", Isolate: true}}},
				Ready:   func(_ netip.AddrPort, a *collector.Account) { p.collector = a; close(ready) },
			})
			return err
		})
	}()
	select {
	case <-ready:
	case err := <-p.ended:
		return noDevice{err}
	}
	capturing, stop := context.WithCancel(ctx)
	defer stop()
	started, remoteEnded := make(chan struct{}), make(chan error, 1)
	go func() {
		remoteEnded <- hosts.a.do(func() error {
			_, err := remote.Run(capturing, remote.Config{
				Interfaces: []string{linkA}, Collector: netip.AddrPortFrom(hostB, demoPort).String(), Keys: keys, Tap: 7, Name: "demo",
				Suite: suite, Mark: defaultMark, Promiscuous: true, Log: zerolog.Nop(),
				Started: func(a *remote.Account) { p.remote = a; close(started) },
			})
			return err
		})
	}()
	select {
	case <-started:
	case err := <-remoteEnded:
		return err
	}
	traffic := make(chan error, 1)
	go func() { traffic <- hosts.traffic(ctx, d.length) }()
	err := d.watch(p, traffic)
	stop()
	err = errors.Join(err, <-remoteEnded, <-p.ended)
	return errors.Join(err, d.verdict(p))
}

// watch redraws the table each second until the traffic ends.
func (d *demo) watch(p *pair, traffic <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case err := <-traffic:
			return err
		case <-tick.C:
			d.draw(p, n)
		}
	}
}

// draw draws the table, over the last one if the output is a terminal.
func (d *demo) draw(p *pair, seconds int) {
	if d.lines > 0 && terminal(d.out) {
		fmt.Fprintf(d.out, "\x1b[%dA", d.lines)
	}
	r := p.remote.Total()
	var delivered, lost uint64
	for _, t := range p.collector.Taps() {
		delivered, lost = t.Unpacked, t.Lost
	}
	rows := []struct {
		name  string
		value uint64
	}{
		{"frames captured", r.Captured}, {"dropped by the kernel", r.KernelDrops}, {"frames sealed", r.Sealed},
		{"datagrams sent", r.Sent}, {"datagrams received", p.collector.Received()}, {"frames delivered", delivered}, {"frames lost", lost},
	}
	fmt.Fprintf(d.out, "── after %2d s ─────────────────────\n", seconds)
	for _, row := range rows {
		fmt.Fprintf(d.out, "%-22s %12d\n", row.name, row.value)
	}
	d.lines = len(rows) + 1
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// verdict prints both accounts, and is an error if anything was lost.
func (d *demo) verdict(p *pair) error {
	fmt.Fprintln(d.out, "\nThe remote's account:")
	p.remote.Print(d.out)
	fmt.Fprintln(d.out, "\nThe collector's account:")
	p.collector.Print(d.out)
	captured := p.remote.Total().Captured
	var delivered uint64
	for _, t := range p.collector.Taps() {
		delivered += t.Unpacked
	}
	for _, o := range p.collector.Outputs() { // which have more: a GSO frame is several there
		s := o.Sum()
		delivered -= min(delivered, s.Refused+s.Full+s.NotEthernet)
	}
	fmt.Fprintf(d.out, "\ndelivered %d of %d\n", delivered, captured)
	if delivered != captured || captured == 0 {
		return fmt.Errorf("demo: %d frames captured, %d delivered: see the accounts above", captured, delivered)
	}
	return nil
}

// replay sends a made-up capture over loopback into a pcapng file.
func (d *demo) replay(ctx context.Context, keys *crypto.KeyFile, suite crypto.Suite) error {
	dir, err := os.MkdirTemp("", "ntap-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "in.pcap"), filepath.Join(dir, "out.pcapng")
	if err := os.WriteFile(in, madeUp(d.length), 0o600); err != nil {
		return err
	}
	p := &pair{ended: make(chan error, 1)}
	var addr netip.AddrPort
	ready := make(chan struct{})
	go func() {
		_, err := collector.Run(context.WithoutCancel(ctx), collector.Config{
			Listen: "127.0.0.1:0", Keys: keys, Write: out, Once: true, Log: zerolog.Nop(),
			Ready: func(a netip.AddrPort, account *collector.Account) { addr, p.collector = a, account; close(ready) },
		})
		p.ended <- err
	}()
	select {
	case <-ready:
	case err := <-p.ended:
		return err
	}
	started, traffic := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := remote.Run(ctx, remote.Config{
			File: in, Collector: addr.String(), Keys: keys, Tap: 7, Name: "demo", Suite: suite, MTU: 1500, Log: zerolog.Nop(),
			Started: func(a *remote.Account) { p.remote = a; close(started) },
		})
		traffic <- err
	}()
	select {
	case <-started:
	case err := <-traffic:
		return err
	}
	err = errors.Join(d.watch(p, traffic), <-p.ended)
	return errors.Join(err, d.verdict(p))
}

// madeUp returns a pcap file (https://www.tcpdump.org/manpages/pcap-savefile.5.html)
// of UDP frames of growing size, 1,000 a second.
func madeUp(length time.Duration) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xA1B23C4D) // ns
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(le.AppendUint32(b, 65535), 1)
	start := time.Now()
	for at := time.Duration(0); at < length; at += time.Millisecond {
		frame := make([]byte, 60+int(at/time.Millisecond)%1455)
		copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 0, 9})
		binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
		binary.BigEndian.PutUint16(frame[38:], uint16(len(frame)-34))
		t := start.Add(at)
		b = le.AppendUint32(le.AppendUint32(b, uint32(t.Unix())), uint32(t.Nanosecond()))
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(frame))), uint32(len(frame)))
		b = append(b, frame...)
	}
	return b
}
