// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "fmt"

func main() { fmt.Println("latency: Linux only") }
