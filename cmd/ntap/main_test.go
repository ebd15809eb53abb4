// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// timeout(1) signals a program and then its group. The second one ended the
// program at once: no account, and what had been captured was not sent.
func TestSignalsCloseTogetherAreOne(t *testing.T) {
	c, over := make(chan os.Signal), make(chan time.Time)
	ended, atOnce := make(chan struct{}), make(chan struct{})
	go endOn(c, func() <-chan time.Time { return over }, func() { close(ended) }, func() { close(atOnce) })
	send := func(what string, do func()) { testnet.Await(t, what+" is taken", do) } // nothing is buffered
	send("the first signal", func() { c <- syscall.SIGINT })
	testnet.Receive(t, "the end", ended)
	send("the second signal", func() { c <- syscall.SIGINT })
	send("the third signal", func() { c <- syscall.SIGTERM })
	send("the end of the time", func() { over <- time.Time{} })
	select {
	case <-atOnce:
		t.Fatal("ended at once by a signal that came right behind the first")
	default:
	}
	send("the last signal", func() { c <- syscall.SIGINT })
	testnet.Receive(t, "the end at once", atOnce)
}
