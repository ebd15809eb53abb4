// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// timeout(1) signals a program and then its group. The second one ended the
// program at once: no account, and what had been captured was not sent.
func TestSignalsCloseTogetherAreOne(t *testing.T) {
	c, over := make(chan os.Signal), make(chan time.Time)
	ended, atOnce := make(chan struct{}), make(chan struct{})
	go endOn(c, func() <-chan time.Time { return over }, func() { close(ended) }, func() { close(atOnce) })
	c <- syscall.SIGINT
	<-ended
	c <- syscall.SIGINT // returns when it was taken: nothing is buffered
	c <- syscall.SIGTERM
	over <- time.Time{}
	select {
	case <-atOnce:
		t.Fatal("ended at once by a signal that came right behind the first")
	default:
	}
	c <- syscall.SIGINT
	<-atOnce
}
