// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// flood sends numbered frames of size bytes out of an interface, as pour does.
func (w *world) flood(ns, iface string, size int) (sent *atomic.Int64, stop func() int) {
	return w.pour(ns, iface, func(n int) []byte { return testnet.Numbered(n, size) })
}

// pour sends frames out of an interface, some thousand a second, until it is
// stopped, which returns how many there were.
func (w *world) pour(ns, iface string, frame func(n int) []byte) (sent *atomic.Int64, stop func() int) {
	var wire *testnet.Wire
	w.inside(ns, func() (err error) {
		wire, err = testnet.OpenWire(iface)
		return err
	})
	end, done := make(chan struct{}), make(chan struct{})
	sent = new(atomic.Int64)
	go func() {
		defer close(done)
		defer wire.Close()
		for {
			select {
			case <-end:
				return
			case <-time.After(2 * time.Millisecond):
			}
			for range 10 {
				if err := wire.Send(frame(int(sent.Load()))); err != nil {
					w.t.Errorf("out of %s: %v", iface, err)
					return
				}
				sent.Add(1)
			}
		}
	}()
	ended := false
	stop = func() int {
		if !ended {
			close(end)
			ended = true
		}
		testnet.Receive(w.t, "the end of the traffic on "+iface, done)
		return int(sent.Load())
	}
	w.t.Cleanup(func() { stop() })
	return sent, stop
}

// exchange sends size bytes over TCP from a host to another, of that address, and
// waits until both sides of the connection have ended.
func (w *world) exchange(from, to, address string, size int) {
	w.t.Helper()
	var l net.Listener
	w.inside(to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	defer l.Close()
	testnet.Bound(w.t, l.(*net.TCPListener))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + i>>11)
	}
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(testnet.Patience))
			h := sha256.New()
			if _, err = io.Copy(h, c); err == nil && [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
				err = errors.New("what came is not what was sent")
			}
		}
		got <- err
	}()
	var c net.Conn
	w.inside(from, func() (err error) {
		if c, err = net.DialTimeout("tcp", l.Addr().String(), time.Minute); err == nil {
			_, err = c.Write(data)
		}
		return err
	})
	c.(*net.TCPConn).CloseWrite()
	testnet.Bound(w.t, c)
	_, end := io.Copy(io.Discard, c) // until the other side closed, too
	c.Close()
	if err := errors.Join(testnet.Receive(w.t, "the other side's end", got), end); err != nil {
		w.t.Fatal(fmt.Errorf("a transfer to %s: %w", address, err))
	}
}
