// SPDX-License-Identifier: Apache-2.0

//go:build !linux

// Command bench measures ntap on Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: it takes Linux")
	os.Exit(1)
}
