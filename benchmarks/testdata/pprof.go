// SPDX-License-Identifier: Apache-2.0

// With PPROF=DIR path.sh builds this file into cmd/ntap (go build -overlay), of
// any commit: SIGUSR2 begins a CPU profile, and another one ends it.

package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

func init() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	go func() {
		<-asked
		f, err := os.Create(os.Getenv("PPROF_FILE"))
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		<-asked
		pprof.StopCPUProfile()
		if err != nil {
			fmt.Fprintln(os.Stderr, "no profile:", err)
		}
	}()
}
