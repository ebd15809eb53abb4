// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/ntap-project/ntap/ring"
)

// The link of the demo, in namespaces where nothing else is.
var (
	hostA = netip.MustParseAddr("10.97.0.1")
	hostB = netip.MustParseAddr("10.97.0.2")
)

const (
	linkA    = "demo-a"
	linkB    = "demo-b"
	demoPort = 5678
	httpPort = 8080
	page     = 256 << 10 // bytes of the HTTP transfer
)

// A host is a network namespace without a name: it goes with the process,
// however that ends.
type host struct{ ns netns.NsHandle }

// do runs f on a thread in the host. Sockets that f opens stay there.
func (h host) do(f func() error) error {
	return ring.Apart(func() error {
		if err := netns.Set(h.ns); err != nil {
			return err
		}
		return f()
	})
}

type hosts struct{ a, b host }

// newHosts makes two hosts and a link between them.
func newHosts() (_ *hosts, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("not root")
	}
	h := &hosts{a: host{netns.None()}, b: host{netns.None()}}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	for _, one := range []*host{&h.a, &h.b} {
		if err := ring.Apart(func() (err error) { one.ns, err = netns.New(); return }); err != nil {
			return nil, fmt.Errorf("unshare: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkA
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: linkB, PeerNamespace: netlink.NsFd(h.b.ns)}
	if err := h.a.do(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return nil, fmt.Errorf("veth: %w", err)
	}
	for _, end := range []struct {
		host host
		link string
		addr netip.Addr
	}{{h.a, linkA, hostA}, {h.b, linkB, hostB}} {
		if err := end.host.do(func() error { return setUp(end.link, end.addr) }); err != nil {
			return nil, fmt.Errorf("%s: %w", end.link, err)
		}
	}
	return h, nil
}

func setUp(name string, addr netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(netip.PrefixFrom(addr, 24).String())
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}

func (h *hosts) close() {
	h.a.ns.Close()
	h.b.ns.Close()
}

// traffic makes real traffic for a while: page after page over HTTP, and a
// stream of UDP datagrams, 100 a second.
func (h *hosts) traffic(ctx context.Context, length time.Duration) error {
	ctx, stop := context.WithTimeout(ctx, length)
	defer stop()
	var l net.Listener
	err := h.b.do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(hostB, httpPort).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	content := make([]byte, page)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }), ReadHeaderTimeout: time.Second}
	go server.Serve(l)
	defer server.Close()
	var udp net.Conn
	err = h.a.do(func() (err error) {
		udp, err = net.Dial("udp", netip.AddrPortFrom(hostB, 9).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer udp.Close()
	stream := make(chan struct{})
	go func() {
		defer close(stream)
		for n := 0; ctx.Err() == nil; n++ {
			udp.Write(content[:n%1400]) // nobody listens: the answers are traffic too
			time.Sleep(10 * time.Millisecond)
		}
	}()
	defer func() { <-stream }()
	for ctx.Err() == nil {
		if err := h.fetch(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("demo: HTTP: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// fetch gets the page once.
func (h *hosts) fetch(ctx context.Context) error {
	var conn net.Conn
	err := h.a.do(func() (err error) {
		conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(hostB, httpPort).String(), 2*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	client := &http.Client{Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://demo/", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && n != page {
		err = fmt.Errorf("%d bytes of %d", n, page)
	}
	return err
}
