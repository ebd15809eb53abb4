// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "net"

// roomy gives a socket room for what is sent while nobody reads.
func roomy(conn *net.UDPConn) { conn.SetReadBuffer(16 << 20) }
