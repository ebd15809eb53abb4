// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

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
	l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + i>>11)
	}
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
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
	c.SetDeadline(time.Now().Add(time.Minute))
	_, end := io.Copy(io.Discard, c) // until the other side closed, too
	c.Close()
	if err := errors.Join(<-got, end); err != nil {
		w.t.Fatal(fmt.Errorf("a transfer to %s: %w", address, err))
	}
}
