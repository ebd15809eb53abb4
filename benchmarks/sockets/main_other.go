// SPDX-License-Identifier: Apache-2.0

//go:build !linux || giouring

package main

import "fmt"

func main() { fmt.Println("sockets: Linux only, and without the build tag giouring") }
