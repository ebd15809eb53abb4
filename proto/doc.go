// SPDX-License-Identifier: Apache-2.0

// Package proto is the wire: the header of a datagram, the stream of records
// in data datagrams, announces and reports, and the blocks of pcapng files.
//
// WIRE.md beside this file is the normative text; comments cite its sections.
// The package is pure: it reads and writes []byte, and knows neither sockets
// nor keys. What is parsed aliases its input.
package proto
