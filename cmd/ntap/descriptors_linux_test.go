// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A collector that may open no more files says so once, with the limit and what
// raises it, while connections wait, and takes those that wait once others have
// gone. It used to say "too many open files" alone, 20 times a second.
func TestNoDescriptorsLeft(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "prlimit")
	_, master, _ := keyFiles(t)
	l := startProgram(t, "prlimit", "--nofile=50", ntapBinary, "collector", "-p", "127.0.0.1:0", "--key-file", master, "--state", "none", "--no-tap", "--pcap-over-ip", "0", "--stats")
	addr := l.find(`pcap over IP address=(\S+)`)
	var conns []net.Conn
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		testnet.Bound(t, c)
		return c
	}
	for range 50 {
		conns = append(conns, dial())
	}
	l.find(`connections cannot be taken, and wait .*too many open files: this process may have 50 open.*LimitNOFILE=`)
	rounds := strings.Count(l.text(), "socket full")
	testnet.Eventually(t, "it printed the account twice", func() bool { return strings.Count(l.text(), "socket full") >= rounds+2 })
	if n := strings.Count(l.text(), "too many open files"); n != 1 {
		t.Errorf("it said so %d times", n)
	}
	for _, c := range conns[:40] {
		c.Close()
	}
	l.find(`connections are taken again`)
	for i, c := range append(conns[40:], dial()) {
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil || binary.LittleEndian.Uint32(b) != proto.PcapngTypeSection {
			t.Errorf("client %d, which waited: %x, %v", i, b, err)
		}
	}
	l.stop()
}
