// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Chosen.
const (
	lookupTimeout = 10 * time.Second
	leastResolve  = time.Second // however often it is wanted
)

// resolve looks a HOST:PORT up; what says what is there.
func resolve(what, to string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", to)
	var unknown *net.DNSError
	if errors.As(err, &unknown) {
		return netip.AddrPort{}, fmt.Errorf("batch: %s %q: %w; is the name right, and does this host's resolver answer (getent hosts %s)? An address needs neither", what, to, err, unknown.Name)
	} else if err != nil {
		return netip.AddrPort{}, fmt.Errorf("batch: %s %q: %w; want HOST:PORT, as in 192.0.2.1:5678, [2001:db8::1]:5678 or tap.example.org:5678", what, to, err)
	}
	ap := a.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if !ap.Addr().IsValid() || ap.Addr().IsUnspecified() || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("batch: %s %q: host and port are both needed, as in 192.0.2.1:5678", what, to)
	}
	return ap, nil
}

// look resolves the host's name again, aside: it can take seconds.
func (t *trouble) look() {
	to, err := resolve(t.what, t.name)
	if err != nil {
		to = netip.AddrPort{}
	}
	t.found.Store(&to)
}

// follow looks the name up each so often, aside, while all goes well: datagrams
// go one way, so that nothing else tells that the host has moved. A name that
// has several addresses is not left for another as long as it has the one in
// use. What is an address already is not followed.
func (t *trouble) follow(every time.Duration) {
	every = cmp.Or(every, DefaultResolve)
	host, _, err := net.SplitHostPort(t.name)
	if _, not := netip.ParseAddr(host); err != nil || not == nil || every < 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.unwatch = cancel
	go func() {
		tick := time.NewTicker(max(every, leastResolve))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			t.peek(ctx, host)
		}
	}()
}

// peek looks the name up once.
func (t *trouble) peek(ctx context.Context, host string) {
	at := t.at.Load()
	if at == nil || !at.IsValid() {
		return // it was not known yet, which is a failure: look looks
	}
	limited, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(limited, "ip", host)
	if err != nil || slices.ContainsFunc(all, func(a netip.Addr) bool { return a.Unmap() == at.Addr() }) {
		return // a name that nobody knows now may stand for what it stood for
	}
	if to, err := resolve(t.what, t.name); err == nil && ctx.Err() == nil {
		t.found.Store(&to)
	}
}

func (t *trouble) unfollow() {
	if t.unwatch != nil {
		t.unwatch()
	}
}
